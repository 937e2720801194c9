"""An HTTP origin for the tests, on plain anyio: what it does is chosen by the path.

``/bytes/N[/chunked]``   N bytes of a fixed pattern, sized or chunked
``/sink``                takes a body; answers its length and SHA-256
``/echo``                answers the request as it arrived, as JSON: method, target, fields, body
``/status/N``            an empty answer with that status; 3xx with Location
``/sse``                 five events, each sent when the test calls ``release``, or 0.5 s apart with ``?timed``
``/hold/NAME``           answers when the test calls ``release(NAME)``
``/half/N``              announces N bytes, sends half of them, and breaks off when released ("half")
``/early/N``             answers N without reading the body
``/stall``               takes nothing and answers nothing until released ("stall")
``/raw/NAME``            sends ``raw[NAME]`` as it is, and closes
``/upgrade``             101, some early bytes, then everything back as it came, until the end of it
``/info``                103 and 100, then 200
``/trailers``            a chunked answer with a trailer section

Run as a program, ``python -m tests.e2e.origin PORT`` prints ``serving on PORT`` when it does.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

__all__ = ["BLOCK", "Arrived", "TestOrigin", "pattern_digest", "serve_origin"]

BLOCK = bytes(range(256)) * 256
SEND_BUFFER = 256 * 1024
EARLY = b"early bytes of the origin"


def pattern_digest(size: int) -> str:
    """SHA-256 of what ``/bytes/<size>`` answers."""
    digest = hashlib.sha256()
    for start in range(0, size, len(BLOCK)):
        digest.update(BLOCK[: size - start])
    return digest.hexdigest()


@dataclass
class Arrived:
    """A request as the origin saw it."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body_size: int = 0
    body_complete: bool = False
    gone: bool = False  # its connection ended before the answer was complete

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]


@dataclass
class TestOrigin:
    """The origin, and what the tests may ask of it."""

    __test__ = False

    port: int = 0
    requests: list[Arrived] = field(default_factory=list)
    raw: dict[str, bytes] = field(default_factory=dict)
    _released: dict[str, anyio.Event] = field(default_factory=dict)
    _news: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def release(self, name: str) -> None:
        """Let what waits under ``name`` go on; what comes later does not wait."""
        self._event(name).set()

    def _event(self, name: str) -> anyio.Event:
        return self._released.setdefault(name, anyio.Event())

    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    async def until(self, condition: object) -> None:
        """Wait until ``condition()`` holds; it is looked at whenever something happened here."""
        assert callable(condition)
        with anyio.fail_after(20):
            while not condition():
                await self._news.wait()

    async def arrived(self, target: str) -> Arrived:
        """Wait for a request with this target, and give it."""
        await self.until(lambda: target in self.targets())
        return next(request for request in self.requests if request.target == target)

    def _happened(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    # -- serving -------------------------------------------------------------------------------

    async def handle(self, stream: SocketStream) -> None:
        async with stream:
            reader = BufferedByteReceiveStream(stream)
            request: Arrived | None = None
            try:
                while True:
                    request = None
                    head = await reader.receive_until(b"\r\n\r\n", 65536)
                    request = self._parse(head)
                    if not await self._answer(request, reader, stream):
                        return
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.IncompleteRead, anyio.ClosedResourceError):
                if request is not None:
                    request.gone = True
            finally:
                self._happened()

    def _parse(self, head: bytes) -> Arrived:
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        fields = [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)]
        request = Arrived(method, target, fields)
        self.requests.append(request)
        self._happened()
        return request

    async def _answer(self, request: Arrived, reader: BufferedByteReceiveStream, stream: SocketStream) -> bool:
        path, _, query = request.target.partition("?")
        _, name, *rest = path.split("/")
        if name == "early":
            await send_head(stream, int(rest[0]), 0, "Connection: close\r\n")
            return False
        if name == "stall":
            await self._event(name).wait()
            return False
        if name == "upgrade":
            return await self._upgrade(request, reader, stream)
        body = bytearray()
        digest = hashlib.sha256()
        async for piece in self._body(request, reader, stream):
            digest.update(piece)
            request.body_size += len(piece)
            if name == "echo":
                body += piece
            self._happened()
        request.body_complete = True
        self._happened()
        match name:
            case "bytes":
                await self._bytes(request, stream, int(rest[0]), chunked=rest[1:] == ["chunked"])
            case "sink":
                answer = json.dumps({"size": request.body_size, "sha256": digest.hexdigest()})
                await send_text(stream, answer)
            case "status":
                location = "Location: http://elsewhere.example/\r\n" if rest[0].startswith("3") else ""
                await send_head(stream, int(rest[0]), 0, location)
            case "sse":
                await self._events(stream, timed=query == "timed")
            case "hold":
                await self._hold(rest[0], stream)
                await send_text(stream, f"held {rest[0]}")
            case "raw":
                await stream.send(self.raw[rest[0]])
                return False
            case "half":
                size = int(rest[0])
                await send_head(stream, 200, size)
                await stream.send(BLOCK[: size // 2])
                await self._event("half").wait()
                return False
            case "info":
                await stream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
                await send_text(stream, "after")
            case "trailers":
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
                await stream.send(head + b"5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n")
            case _:
                echo = {
                    "method": request.method,
                    "target": request.target,
                    "fields": request.fields,
                    "body": body.decode("latin-1"),
                }
                await send_text(stream, json.dumps(echo), bodiless=request.method == "HEAD")
        return True

    async def _body(
        self, request: Arrived, reader: BufferedByteReceiveStream, stream: SocketStream
    ) -> AsyncIterator[bytes]:
        if "100-continue" in request.values("Expect"):
            await stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in request.values("Transfer-Encoding"):
            while size := int(await reader.receive_until(b"\r\n", 100), 16):
                yield await reader.receive_exactly(size)
                await reader.receive_exactly(2)
            while await reader.receive_until(b"\r\n", 8192):
                pass
            return
        left = int((request.values("Content-Length") or ["0"])[0])
        while left:
            piece = await reader.receive(min(left, 65536))
            left -= len(piece)
            yield piece

    async def _bytes(self, request: Arrived, stream: SocketStream, size: int, *, chunked: bool) -> None:
        if chunked:
            await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        else:
            await send_head(stream, 200, size)
        if request.method == "HEAD":
            return
        for start in range(0, size, len(BLOCK)):
            piece = BLOCK[: size - start]
            await stream.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await stream.send(b"0\r\n\r\n")

    async def _events(self, stream: SocketStream, *, timed: bool) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            if timed:
                await anyio.sleep(0.5)  # the tested property is that the events keep this distance
            else:
                await self._event(f"event{number}").wait()
            event = b"data: %d\n\n" % number
            await stream.send(b"%x\r\n%b\r\n" % (len(event), event))
        await stream.send(b"0\r\n\r\n")

    async def _hold(self, name: str, stream: SocketStream) -> None:
        """Until released. Raises when the connection ends meanwhile."""
        failures: list[Exception] = []
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                try:
                    await stream.receive(1)
                except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
                    failures.append(error)
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._event(name).wait()
            group.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _upgrade(self, request: Arrived, reader: BufferedByteReceiveStream, stream: SocketStream) -> bool:
        if not request.values("Upgrade"):
            await send_text(stream, "no upgrade wanted")
            return True
        await stream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n" + EARLY)
        try:
            while True:
                piece = await reader.receive(65536)
                request.body_size += len(piece)
                self._happened()
                await stream.send(piece)
        except anyio.EndOfStream:
            await stream.send(b"bye")
            await stream.send_eof()
        return False


async def send_head(stream: SocketStream, status: int, length: int, more: str = "") -> None:
    await stream.send(f"HTTP/1.1 {status} Reason\r\nContent-Length: {length}\r\n{more}\r\n".encode())


async def send_text(stream: SocketStream, text: str, *, bodiless: bool = False) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    await stream.send((head + ("" if bodiless else text)).encode())


@asynccontextmanager
async def serve_origin(port: int = 0, origin: TestOrigin | None = None) -> AsyncIterator[TestOrigin]:
    """Serve on loopback while the context lasts."""
    origin = TestOrigin() if origin is None else origin
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    origin.port = listener.extra(SocketAttribute.local_port)

    async def handle(stream: SocketStream) -> None:
        # Loopback's kernel would grow to megabytes a connection, and filling those of hundreds keeps this one thread
        # from answering anybody.
        stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        try:
            await origin.handle(stream)
        except* (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        try:
            yield origin
        finally:
            group.cancel_scope.cancel()


async def main(port: int) -> None:
    async with serve_origin(port) as origin:
        print(f"serving on {origin.port}", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]))
