"""An origin that keeps every byte it gets, and answers what the independent reader finds in them."""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum

import anyio
from anyio.abc import SocketAttribute, SocketStream

from .reader import Ending, Request, read_requests, values

__all__ = ["HOSTILE", "Recorder", "Then", "serve_recorder", "told"]

HOSTILE = b"/hostile"

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def told(request: Request) -> bytes:
    """The body of the answer to ``request``: which request it was, so that answers cannot change places unseen."""
    digest = hashlib.sha256(b"\0".join([request.method, request.path, request.body]))
    return digest.hexdigest().encode()


def _tell(request: Request) -> bytes:
    body = told(request)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head if request.method == b"HEAD" else head + body


class Then(Enum):
    """What the origin does after a hostile answer."""

    GOES_ON = "goes on"
    ENDS = "ends"
    RESETS = "resets"


class _Connection:
    def __init__(self) -> None:
        self.unread = b""  # of a request that is not whole
        self.ignored = False

    def requests(self) -> list[Request]:
        """Those that came whole since the last call."""
        reading = read_requests(self.unread)
        self.unread = reading.rest
        return reading.messages


class Recorder:
    """Requests for HOSTILE are answered with ``hostile``, after which ``then`` happens. One for a path that begins
    with /switch is answered 101 where it asks for an upgrade; what follows it is kept and sent back."""

    def __init__(self) -> None:
        self.port = 0
        self.raw = bytearray()
        self.hostile = b""
        self.then = Then.GOES_ON
        self._whole: list[Request] = []
        self._connections: list[_Connection] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """What came so far, and what may still come of a request that was not whole."""
        self.raw.clear()
        self._whole.clear()
        for connection in self._connections:
            connection.ignored = connection.ignored or bool(connection.unread)

    def requests(self) -> list[Request]:
        """All that the reader finds, with those whose body did not come whole last. Raises ``AssertionError`` for
        bytes that are none."""
        found = list(self._whole)
        for connection in self._connections:
            if connection.unread and not connection.ignored:
                reading = read_requests(connection.unread)
                assert reading.ending is not Ending.REFUSED, f"the origin got {connection.unread!r}"
                found += [reading.begun] if reading.begun is not None else []
        return found

    @staticmethod
    def _switches(request: Request) -> bool:
        return request.path.startswith(b"/switch") and bool(values(request.fields, b"upgrade"))

    async def handle(self, stream: SocketStream) -> None:
        connection = _Connection()
        self._connections.append(connection)
        async with stream:
            while True:
                data = await stream.receive()
                self.raw += data
                connection.unread += data
                begun = read_requests(connection.unread).begun
                if begun is not None and values(begun.fields, b"expect"):
                    await stream.send(CONTINUE)
                for request in connection.requests():
                    if not connection.ignored:
                        self._whole.append(request)
                    if self._switches(request):
                        await self._switch(stream, connection)
                    if request.path != HOSTILE:
                        await stream.send(_tell(request))
                    elif await self._harm(stream):
                        return

    async def _harm(self, stream: SocketStream) -> bool:
        """Whether the connection is over."""
        await stream.send(self.hostile)
        if self.then is Then.RESETS:
            raw: socket.socket = stream.extra(SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return self.then is not Then.GOES_ON

    async def _switch(self, stream: SocketStream, connection: _Connection) -> None:
        """Raw bytes from here on, sent back as they come."""
        await stream.send(SWITCHED + connection.unread)
        connection.unread = b""
        while True:
            data = await stream.receive()
            self.raw += data
            await stream.send(data)


@asynccontextmanager
async def serve_recorder() -> AsyncIterator[Recorder]:
    """Serve on loopback while the context lasts."""
    recorder = Recorder()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    recorder.port = listener.extra(SocketAttribute.local_port)

    async def handle(stream: SocketStream) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await recorder.handle(stream)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield recorder
        group.cancel_scope.cancel()
