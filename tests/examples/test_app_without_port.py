"""The example of an app without a port, as a program of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from wsproto.events import CloseConnection, TextMessage

import app_without_port

from ..e2e.apps import WebSocketSide
from ..e2e.by_hand import caller_side
from ..e2e.tunnel import TOKEN, open_ends

pytestmark = pytest.mark.anyio

SCRIPT = Path(app_without_port.__file__)


async def test_it_serves_requests_streams_and_websockets(anyio_backend_name: str) -> None:
    async with open_ends() as ends:
        command = [sys.executable, str(SCRIPT), ends.server.url, TOKEN, anyio_backend_name]
        async with await anyio.open_process(command, stderr=None) as process:
            try:
                assert process.stdout is not None
                with anyio.fail_after(30):
                    said = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 1000)
                assert said.startswith(b"ready http://")
                assert TOKEN.encode() not in said
                assert (await ends.get("/"))[2] == b'{"hello":"127.0.0.1"}'
                async with caller_side(ends) as caller:
                    await caller.send(f"GET {ends.path('/ticks')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    await caller.until(b"data: 2\n\n\r\n0\r\n\r\n")
                async with WebSocketSide.open(ends, "/echo") as caller_websocket:
                    await caller_websocket.send(TextMessage("hello"))
                    assert await caller_websocket.event() == TextMessage("hello")
                    await caller_websocket.send(CloseConnection(1000))
                    assert await caller_websocket.event() == CloseConnection(1000, "")
            finally:
                process.terminate()
