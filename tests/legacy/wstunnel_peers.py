"""WStunnel's programs, played: what the running ones put on the wire, quirks included."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong
from wsproto.utilities import generate_accept_token

from tunnelkit.errors import StreamBroken
from tunnelkit.net.dial import connect_tcp
from tunnelkit.net.listen import Listener
from tunnelkit.net.stream import ByteStream

from ..e2e.tunnel import TOKEN, parse_head, read_head

__all__ = ["Answered", "Asked", "Refused", "WStunnelClient", "WStunnelServer", "answer"]

FRAGMENT = 102_400


@dataclass
class Asked:
    """A request as their client reads it."""

    number: bytes
    line: str
    fields: list[tuple[str, str]]
    body: bytes
    raw: bytes

    def value(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)


class Refused(Exception):
    def __init__(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        super().__init__(f"{status} {body!r}")
        self.status, self.fields, self.body = status, fields, body


Respond: TypeAlias = "Callable[[WStunnelClient, Asked], Coroutine[Any, Any, None]]"


def answer(status: str, body: bytes, *fields: str, length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", *fields]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class WStunnelClient:
    """``wstuncli``. Answers each request by ``respond``, a task a request, as theirs has a goroutine a request."""

    def __init__(self, stream: ByteStream, early: bytes, respond: Respond) -> None:
        self.asked: list[Asked] = []
        self.pongs = 0
        self.pinged = 0
        self.closed: int | None = None
        self._stream = stream
        self._frames = Connection(ConnectionType.CLIENT, trailing_data=early)
        self._respond = respond
        self._muted = False
        self._reading = anyio.Event()
        self._reading.set()
        self._writing = anyio.Lock()
        self._news = anyio.Event()

    @classmethod
    @asynccontextmanager
    async def joined(
        cls, port: int, respond: Respond, *, token: str = TOKEN, password: str | None = None
    ) -> AsyncIterator[WStunnelClient]:
        stream = await connect_tcp("127.0.0.1", port, timeout=5)
        try:
            head = (
                "GET /_tunnel HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\n"
                "Connection: Upgrade\r\n"
                f"Origin: {token}\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
                "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nX-Client-Version: wstunnel_rshade_b689489\r\n"
            )
            if password is not None:
                head += f"Authorization: Basic {base64.b64encode(f'{token}:{password}'.encode()).decode()}\r\n"
            await stream.send(f"{head}\r\n".encode())
            with anyio.fail_after(10):
                status, fields, early = await read_head(stream)
            if status != 101:
                length = int({name.lower(): value for name, value in fields}["content-length"])
                while len(early) < length:
                    early += await stream.receive()
                raise Refused(status, fields, early)
            async with anyio.create_task_group() as tasks:
                client = cls(stream, early, respond)
                await client.ping()
                tasks.start_soon(client._read, tasks)
                yield client
                tasks.cancel_scope.cancel()
        finally:
            stream.abort()

    async def ping(self) -> None:
        await self._stream.send(self._frames.send(Ping(b"")))

    async def raw(self, data: bytes) -> None:
        """One message in one frame, whatever it is."""
        async with self._writing:
            await self._stream.send(self._frames.send(BytesMessage(data)))

    async def wire(self, data: bytes) -> None:
        """Bytes of whatever frames."""
        await self._stream.send(data)

    def stop_reading(self) -> None:
        self._reading = anyio.Event()

    async def ended(self) -> None:
        await self.until(lambda: self.closed)

    def mute(self) -> None:
        """Answer no ping."""
        self._muted = True

    async def reply(self, asked: Asked, message: bytes, *, fragment: int = FRAGMENT) -> None:
        """A response in fragments, as theirs goes out."""
        data = asked.number + message
        async with self._writing:
            for start in range(0, len(data), fragment):
                last = start + fragment >= len(data)
                piece = data[start : start + fragment]
                await self._stream.send(self._frames.send(BytesMessage(piece, message_finished=last)))

    async def begin(self, asked: Asked, data: bytes) -> None:
        """A first fragment, after which more comes (or never does)."""
        await self._stream.send(self._frames.send(BytesMessage(asked.number + data, message_finished=False)))

    async def more(self, data: bytes, *, last: bool = False) -> None:
        await self._stream.send(self._frames.send(BytesMessage(data, message_finished=last)))

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self._news.wait()

    def _ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def _read(self, tasks: TaskGroup) -> None:
        message = bytearray()
        while True:
            for event in self._frames.events():
                if isinstance(event, BytesMessage):
                    message += event.data
                    if event.message_finished:
                        self._take(bytes(message), tasks)
                        message = bytearray()
                elif isinstance(event, Pong):
                    self.pongs += 1
                elif isinstance(event, Ping):
                    self.pinged += 1
                    if not self._muted:
                        await self._stream.send(self._frames.send(Pong(event.payload)))
                elif isinstance(event, CloseConnection):
                    self.closed = int(event.code)
                    self._ring()
                    return
                self._ring()
            await self._reading.wait()
            data = await self._stream.receive()
            if not data:
                self.closed = self.closed or 1006
                self._ring()
                return
            self._frames.receive_data(data)

    def _take(self, message: bytes, tasks: TaskGroup) -> None:
        head, _, body = message[4:].partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        fields = [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)]
        asked = Asked(message[:4], line, fields, body, message)
        self.asked.append(asked)
        tasks.start_soon(self._respond, self, asked)


def _refusal(text: str) -> bytes:
    """As their ``safeError`` writes it."""
    return (
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
        f"Date: Sat, 22 Aug 2026 10:00:00 GMT\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    ).encode()


@dataclass
class Answered:
    """A response as their server reads it."""

    number: bytes
    status: int
    fields: list[tuple[str, str]]
    body: bytes
    fragments: list[int]

    def value(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)


class WStunnelServer:
    """``wstunsrv``: takes one client at a time, and asks it what a test wants."""

    def __init__(self) -> None:
        self.port = 0
        self.handshakes: list[dict[str, str]] = []  # those with a token in Origin
        self.others: list[dict[str, str]] = []  # whatever else came
        self.without_origin = _refusal("Origin header with rendez-vous token required")
        self.pings = 0
        self.muted = False
        self.refuse: bytes | None = None
        self.closed = 0
        self._answers: dict[bytes, Answered] = {}
        self._reading = anyio.Event()
        self._reading.set()
        self._news = anyio.Event()
        self._stream: ByteStream | None = None
        self._frames = Connection(ConnectionType.SERVER)
        self._number = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, port: int = 0) -> AsyncIterator[WStunnelServer]:
        server = cls()
        listener = Listener.bind(f"127.0.0.1:{port}")
        server.port = listener.addresses[0][1]
        async with anyio.create_task_group() as tasks:
            await tasks.start(listener.serve, server._serve)
            yield server
            tasks.cancel_scope.cancel()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def ask(self, request: bytes, *, quirk: bool = True) -> Answered:
        """Send a request, as theirs goes out: long ones as one frame that is not final, and an empty one."""
        return await self.answered(await self.send(request, quirk=quirk))

    async def answered(self, number: bytes) -> Answered:
        await self.until(lambda: number in self._answers)
        return self._answers.pop(number)

    async def send(self, request: bytes, *, quirk: bool = True) -> bytes:
        await self.until(lambda: self._stream is not None)
        assert self._stream is not None
        self._number = (self._number + 1) % 32_000
        number = b"%04x" % self._number
        message = number + request
        if quirk and len(message) > 2 * FRAGMENT:
            data = self._frames.send(BytesMessage(message, message_finished=False))
            data += self._frames.send(BytesMessage(b""))
        else:
            data = self._frames.send(BytesMessage(message))
        await self._stream.send(data)
        return number

    async def raw(self, data: bytes) -> None:
        assert self._stream is not None
        await self._stream.send(self._frames.send(BytesMessage(data)))

    async def wire(self, data: bytes) -> None:
        """Bytes of whatever frames."""
        await self.until(lambda: self._stream is not None)
        assert self._stream is not None
        await self._stream.send(data)

    def stop_reading(self) -> None:
        self._reading = anyio.Event()

    def read_on(self) -> None:
        self._reading.set()

    async def dialled(self, times: int) -> None:
        await self.until(lambda: len(self.handshakes) == times)

    def drop(self) -> None:
        assert self._stream is not None
        self._stream.abort()

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self._news.wait()

    def _ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def _serve(self, stream: ByteStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        theirs = lines[0] == "GET /_tunnel HTTP/1.1" and "origin" in fields
        (self.handshakes if theirs else self.others).append({"line": lines[0]} | fields)
        self._ring()
        if not theirs:
            known = lines[0] == "GET /_tunnel HTTP/1.1"
            await stream.send(self.without_origin if known else _refusal("Missing X-Token header"))
            return
        if self.refuse is not None:
            await stream.send(self.refuse)
            return
        accept = generate_accept_token(fields["sec-websocket-key"].encode()).decode()
        await stream.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        self._frames = Connection(ConnectionType.SERVER, trailing_data=rest)
        self._stream = stream
        self._ring()
        try:
            await self._read(stream)
        except StreamBroken:
            pass
        finally:
            self._stream = None
            self.closed += 1
            self._ring()

    async def _read(self, stream: ByteStream) -> None:
        message, fragments = bytearray(), [0]
        while True:
            for event in self._frames.events():
                if isinstance(event, BytesMessage):
                    message += event.data
                    fragments[-1] += len(event.data)
                    if event.frame_finished:
                        fragments.append(0)
                    if event.message_finished:
                        self._take(bytes(message), fragments[:-1])
                        message, fragments = bytearray(), [0]
                elif isinstance(event, Ping):
                    self.pings += 1
                    if not self.muted:
                        await stream.send(self._frames.send(Pong(event.payload)))
                elif isinstance(event, CloseConnection):
                    return
                self._ring()
            await self._reading.wait()
            data = await stream.receive()
            if not data:
                return
            self._frames.receive_data(data)

    def _take(self, message: bytes, fragments: list[int]) -> None:
        head, _, body = message[4:].partition(b"\r\n\r\n")
        status, fields = parse_head(head)
        self._answers[message[:4]] = Answered(message[:4], status, fields, body, fragments)
