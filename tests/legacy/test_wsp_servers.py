"""A tunnel client of ours at wsp's deployed servers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tunnelkit import TunnelClient
from tunnelkit.legacy.wsp import PoolSize, WspTransport

from ..e2e.origin import TestOrigin, serve_origin
from ..e2e.tunnel import SHORT, TOKEN
from .wsp_server_peer import WspServer

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def joined(
    idle: int = 2, most: int = 6, **options: Any
) -> AsyncIterator[tuple[WspServer, TestOrigin, TunnelClient]]:
    transport = WspTransport(size=PoolSize(poolidlesize=idle, poolmaxsize=most), limits=SHORT)
    async with WspServer.running() as server, serve_origin() as origin:
        known: dict[str, Any] = {"token": TOKEN, "origin": origin.url, "transport": transport, "limits": SHORT}
        async with TunnelClient(server.url, **(known | options)) as client:
            await client.wait_ready(10)
            yield server, origin, client


async def test_a_page_comes_back() -> None:
    async with joined() as (server, origin, _):
        answer = await server.ask("GET", f"{origin.url}/echo?a=%2F", Accept=["*/*"], Cookie=["a=1", "b=2"])
        assert (answer.status, answer.length) == (200, len(answer.body))
        assert json.loads(answer.body)["target"] == "/echo?a=%2F"
