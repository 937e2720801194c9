"""Bare TCP ends for the tests of relay and middlebox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio

from tunnelkit.errors import StreamBroken
from tunnelkit.net.dial import connect_tcp
from tunnelkit.net.listen import Listener
from tunnelkit.net.stream import ByteStream

__all__ = ["Server", "end_of", "near_end", "read_exactly", "serving"]


class Server:
    """What listens far away; ``streams`` are the connections that came."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: list[ByteStream] = []
        self._came = anyio.Event()

    def take(self, stream: ByteStream) -> None:
        self.streams.append(stream)
        came, self._came = self._came, anyio.Event()
        came.set()

    async def stream(self, number: int = 0) -> ByteStream:
        with anyio.fail_after(10):
            while len(self.streams) <= number:
                await self._came.wait()
        return self.streams[number]


@asynccontextmanager
async def serving(handler: Callable[[ByteStream], Awaitable[object]] | None = None) -> AsyncIterator[Server]:
    listener = Listener.bind("127.0.0.1:0")
    server = Server(listener.addresses[0][1])

    async def handle(stream: ByteStream) -> None:
        server.take(stream)
        with suppress(StreamBroken):
            await (anyio.sleep_forever() if handler is None else handler(stream))

    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: listener.serve(handle, task_status=task_status))
        try:
            yield server
        finally:
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def near_end(port: int) -> AsyncIterator[ByteStream]:
    stream = await connect_tcp("127.0.0.1", port, timeout=5)
    try:
        yield stream
    finally:
        stream.abort()


async def read_exactly(stream: ByteStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive(count - len(data))
        assert piece, f"the end after {len(data)} of {count} bytes"
        data += piece
    return data


async def end_of(stream: ByteStream) -> tuple[int, str]:
    """Bytes that still come, and how the stream ends: ``fin`` or ``rst``."""
    count = 0
    try:
        while data := await stream.receive():
            count += len(data)
    except StreamBroken:
        return count, "rst"
    return count, "fin"
