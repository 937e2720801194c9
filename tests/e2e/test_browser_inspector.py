"""A real browser at the inspector's page: it sees a request arrive live, opens it, and replays it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tunnelkit import Request, Response
from tunnelkit.inspector import Inspector
from tunnelkit.inspector_page import serve_inspector

from .devtools import open_browser
from .tunnel import open_ends, until

pytestmark = [pytest.mark.anyio, pytest.mark.programs]

SECRET = "a-secret-value"
MARKUP = "<b>not markup</b>"


@asynccontextmanager
async def served(inspector: Inspector) -> AsyncIterator[str]:
    async with anyio.create_task_group() as group:
        yield await group.start(serve_inspector, inspector, "127.0.0.1:0")
        group.cancel_scope.cancel()


async def test_chromium_sees_a_request_arrive_live_opens_it_and_replays_it() -> None:
    asked: list[bytes] = []

    async def app(request: Request) -> Response:
        asked.append(await request.read())
        return Response(200, [("Content-Type", "text/html"), ("Set-Cookie", f"id={SECRET}")], MARKUP)

    inspector = Inspector()
    async with (
        open_ends() as ends,
        ends.join(origin=app, inspector=inspector),
        served(inspector) as url,
        open_browser(url) as page,
    ):
        with anyio.fail_after(60):
            await page.until("document.getElementById('live')?.textContent === 'live'")
            assert await page.evaluate("document.getElementById('rows').children.length") == 0
            await ends.get("/first?a=1")
            await page.until("document.getElementById('row-1')?.textContent.includes('200')")  # without a reload
            assert "/first?a=1" in await page.evaluate("document.getElementById('row-1').textContent")
            await page.evaluate("document.getElementById('row-1').click()")
            await page.until("document.getElementById('replay')")
            shown: Any = await page.evaluate("document.getElementById('detail').textContent")
            assert MARKUP in shown
            assert "[redacted]" in shown
            assert SECRET not in shown
            await page.evaluate("document.getElementById('replay').click()")
            await page.until("document.getElementById('row-2')?.textContent.includes('200')")
            await until(lambda: len(asked) == 2)
            for number in (90, 70, 80):  # as after a time without a connection
                await page.evaluate(f"show({{...kept.get(1), number: {number}}})")
            order = "[...document.getElementById('rows').children].map((line) => line.id).join()"
            assert await page.evaluate(order) == "row-90,row-80,row-70,row-2,row-1"
            await page.evaluate(
                "const box = document.getElementById('filter'); box.value = 'nothing like it';"
                " box.dispatchEvent(new Event('input'))"
            )
            assert await page.evaluate("[...document.getElementById('rows').children].every((line) => line.hidden)")
    assert json.dumps(inspector.har())
