"""The example of an app without a port, on both backends."""

from __future__ import annotations

import anyio
import pytest
from wsproto.events import CloseConnection, TextMessage

import app_without_port

from ..e2e.apps import WebSocketSide
from ..e2e.by_hand import caller_side
from ..e2e.tunnel import TOKEN, open_ends, until

pytestmark = pytest.mark.anyio


async def test_it_serves_requests_streams_and_websockets(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def ready() -> bool:
        said.append(capsys.readouterr().out)
        return "\n" in "".join(said)

    async with open_ends() as ends, anyio.create_task_group() as tasks:
        tasks.start_soon(app_without_port.main, ends.server.url, TOKEN)
        await until(ready, 20)
        assert "".join(said).startswith("ready http://")
        assert TOKEN not in "".join(said)
        assert (await ends.get("/"))[2] == b'{"hello":"127.0.0.1"}'
        async with caller_side(ends) as caller:
            await caller.send(f"GET {ends.path('/ticks')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await caller.until(b"data: 2\n\n\r\n0\r\n\r\n")
        async with WebSocketSide.open(ends, "/echo") as caller_websocket:
            await caller_websocket.send(TextMessage("hello"))
            assert await caller_websocket.event() == TextMessage("hello")
            await caller_websocket.send(CloseConnection(1000))
            assert await caller_websocket.event() == CloseConnection(1000, "")
        tasks.cancel_scope.cancel()
