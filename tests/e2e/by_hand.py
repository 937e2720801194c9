"""An origin that a test plays itself, byte by byte, behind a tunnel."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from tunnelkit.errors import StreamBroken
from tunnelkit.net.listen import Listener
from tunnelkit.net.stream import ByteStream

from .tunnel import Ends, open_ends

__all__ = ["ByHand", "Side", "caller_side", "open_by_hand"]


class Side:
    """One end of a connection; everything waits at most ten seconds."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.data = b""  # received, and not taken

    async def send(self, data: bytes) -> None:
        with anyio.fail_after(10):
            await self._stream.send(data)

    async def end(self) -> None:
        with anyio.fail_after(10):
            await self._stream.send_eof()

    def reset(self) -> None:
        """RST, as from a process that was killed with bytes unread."""
        self._stream.abort()

    async def until(self, mark: bytes) -> bytes:
        """What comes up to and with ``mark``."""
        with anyio.fail_after(10):
            while mark not in self.data:
                piece = await self._stream.receive()
                assert piece, f"the end instead of {mark!r}, after {self.data!r}"
                self.data += piece
        taken, _, self.data = self.data.partition(mark)
        return taken + mark

    async def more(self) -> bytes:
        """Whatever comes next."""
        taken, self.data = self.data, b""
        with anyio.fail_after(10):
            return taken or await self._stream.receive()

    async def fill(self, size: int) -> bool:
        """Send up to ``size`` bytes for as long as they are taken; whether that came to an end before."""
        with anyio.move_on_after(0.2) as stuck:
            for _ in range(size // 65536):
                await self._stream.send(b"x" * 65536)
        return stuck.cancelled_caught

    def peek(self) -> int | None:
        """The status of an answer, if one has come."""
        self.data += self._stream.receive_nowait() or b""
        return int(self.data.split(b" ")[1]) if b"\r\n" in self.data else None

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """All that still comes until the end. Raises what a connection that is broken off raises."""
        with anyio.fail_after(10):
            while piece := await self._stream.receive():
                self.data += piece
        taken, self.data = self.data, b""
        return taken

    async def broken(self) -> bytes:
        """Wait for the connection to be broken off, rather than ended; what came before that."""
        with anyio.fail_after(10), suppress(StreamBroken):
            while piece := await self._stream.receive():
                self.data += piece
            raise AssertionError(f"an end in order after {self.data!r}")
        return self.data


class ByHand:
    def __init__(self, url: str, accepted: MemoryObjectReceiveStream[ByteStream]) -> None:
        self.url = url
        self._accepted = accepted

    async def accept(self) -> Side:
        """The next connection that the tunnel client makes."""
        with anyio.fail_after(10):
            return Side(await self._accepted.receive())

    @property
    def waiting(self) -> int:
        """Connections that were not asked for."""
        return self._accepted.statistics().current_buffer_used


@asynccontextmanager
async def open_by_hand(
    *, client_options: dict[str, Any] | None = None, **server_options: Any
) -> AsyncIterator[tuple[Ends, ByHand]]:
    listener = Listener.bind("127.0.0.1:0")
    give, accepted = anyio.create_memory_object_stream[ByteStream](math.inf)

    async def keep(stream: ByteStream) -> None:
        give.send_nowait(stream)
        try:
            await anyio.sleep_forever()
        finally:
            stream.abort()

    async with give, accepted, anyio.create_task_group() as group:
        await group.start(listener.serve, keep)
        origin = ByHand(listener.urls[0], accepted)
        async with open_ends(**server_options) as ends, ends.join(origin=origin.url, **(client_options or {})):
            yield ends, origin
        group.cancel_scope.cancel()


@asynccontextmanager
async def caller_side(ends: Ends) -> AsyncIterator[Side]:
    """A caller's connection."""
    async with ends.caller() as stream:
        yield Side(stream)
