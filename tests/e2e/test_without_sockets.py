"""A whole tunnel and its caller in one program, without a socket: memory transport, a handler, httpx."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import httpx
import pytest

from tunnelkit import Request, Response, TunnelClient, TunnelServer
from tunnelkit.transports import MemoryTransport

from .tunnel import TOKEN

pytestmark = pytest.mark.anyio


class NoSocket(socket.socket):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise AssertionError("a socket was opened")


async def test_httpx_calls_an_origin_without_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async def echo(request: Request) -> Response:
        return Response(body=await request.read())

    link = MemoryTransport()
    # Only while it runs: uvloop makes a pair of its own whenever its loop is started.
    with anyio.fail_after(20), monkeypatch.context() as patched:
        patched.setattr(socket, "socket", NoSocket)
        async with (
            TunnelServer((), transports=link) as server,
            TunnelClient("ws://in.memory", token=TOKEN, origin=echo, transport=link) as client,
            httpx.AsyncClient(transport=server.httpx_transport(TOKEN)) as caller,
        ):
            await client.wait_ready(10)
            answer = await caller.post("http://origin/", content=b"x" * 100_000)
            assert (answer.status_code, len(answer.content)) == (200, 100_000)
