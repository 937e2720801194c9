"""A pair of ends for users' tests, and the fixtures that hand it out."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tunnelkit import Request, Response
from tunnelkit.testing import tunnel_pair
from tunnelkit.testing.pytest_plugin import OpenPair, PublicUrl

from ..e2e.tunnel import SHORT, exchange, until

pytestmark = pytest.mark.anyio


async def hello(request: Request) -> Response:
    return Response(200, body=f"hello {request.target}".encode())


async def get(url: str, path: str) -> tuple[int, bytes]:
    port, _, base = url.removeprefix("http://127.0.0.1:").partition("/")
    status, _, body = await exchange(int(port), "GET", f"/{base}{path}")
    return status, body


async def test_callers_reach_the_app_by_the_pairs_url() -> None:
    async with tunnel_pair(hello) as pair:
        assert await get(pair.url, "/x?y") == (200, b"hello /x?y")
        assert pair.client.transport == "memory"


async def test_faults_are_switched_on_and_off() -> None:
    async with tunnel_pair(hello, limits=SHORT) as pair, anyio.create_task_group() as group:
        pair.link.reachable = False
        pair.link.cut()
        await until(lambda: not any(session.attached for session in pair.server.sessions()))
        answers: list[tuple[int, bytes]] = []

        async def call() -> None:
            answers.append(await get(pair.url, "/"))

        group.start_soon(call)
        await until(lambda: pair.server.snapshot().req_pending == 1)
        pair.link.reachable = True
        await until(lambda: answers)
        assert answers == [(200, b"hello /")]


async def test_further_arguments_reach_the_ends() -> None:
    token = "a-token-that-the-test-chose"
    async with tunnel_pair(hello, server={"known_tokens": [token]}, client={"token": token}) as pair:
        assert pair.token == token
        assert (await get(pair.url, "/"))[0] == 200


async def test_the_fixture_gives_a_pair(tunnelkit_pair: OpenPair) -> None:
    async with tunnelkit_pair(hello) as pair:
        assert (await get(pair.url, "/a"))[1] == b"hello /a"


async def test_the_fixture_gives_an_apps_url(tunnelkit_url: PublicUrl) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"an app"})

    first, second = await tunnelkit_url(app), await tunnelkit_url(hello)
    assert (await get(first, "/"))[1] == b"an app"
    assert (await get(second, "/"))[1] == b"hello /"
