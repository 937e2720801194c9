"""A tunnel to the recording origin, and a caller that sends bytes and keeps bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tunnelkit import TunnelClient, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import StreamBroken
from tunnelkit.net.dial import connect_tcp

from ..e2e.ways import Way
from .hostile_requests import TOKEN
from .recorder import Recorder, serve_recorder

__all__ = ["Tunnel", "open_tunnel"]


@dataclass
class Tunnel:
    recorder: Recorder
    port: int

    async def say(self, data: bytes) -> tuple[bytes, bool]:
        """Send ``data`` and the end of it on a connection of its own; what came back, and whether that ended in
        order. Callers that end their half get their answers here, so that everything comes to its end by itself."""
        stream = await connect_tcp("127.0.0.1", self.port, timeout=5)
        answer = b""
        try:
            try:
                await stream.send(data)
                await stream.send_eof()
            except StreamBroken:
                pass  # refused meanwhile: the answer tells
            while piece := await stream.receive():
                answer += piece
        except StreamBroken:
            return answer, False
        finally:
            stream.abort()
        return answer, True


@asynccontextmanager
async def open_tunnel(way: Way, parser: str = "auto") -> AsyncIterator[Tunnel]:
    """``parser``: of both ends."""
    async with (
        serve_recorder() as recorder,
        TunnelServer("127.0.0.1:0", half_close="answer", trusted_proxies=["127.0.0.1"], parser=parser) as server,
        TunnelClient(
            server.url.replace("http", "ws", 1),
            token=TOKEN,
            origin=recorder.url,
            host="preserve",
            allow=["http://10\\.0\\.0\\.2"],
            transport=way.transport(DEFAULT_LIMITS),
            parser=parser,
        ) as client,
    ):
        await client.wait_ready(10)
        yield Tunnel(recorder, int(server.url.rpartition(":")[2]))
