"""wsp's client, played: what the running one puts on the wire, quirks included."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from tunnelkit.errors import StreamBroken
from tunnelkit.net.dial import connect_tcp
from tunnelkit.net.stream import ByteStream

from ..e2e.tunnel import read_head

__all__ = ["Asked", "WspClient", "WspConnection"]

FRAGMENT = 4096  # gorilla's buffer: a frame each time that it is full, and what is left as the last one


@dataclass
class Asked:
    """A request as their client reads it; ``WspConnection.body`` has the rest."""

    method: str
    url: str
    header: dict[str, list[str]]
    length: int


Respond: TypeAlias = "Callable[[WspConnection, Asked], Coroutine[Any, Any, None]]"


class WspConnection:
    """One of their websockets: idle, or with one request."""

    def __init__(self, stream: ByteStream, early: bytes, rung: Callable[[], None]) -> None:
        self.idle = True
        self.pongs = 0
        self.pinged = 0
        self._stream = stream
        self._frames = Connection(ConnectionType.CLIENT, trailing_data=early)
        self._events = self._frames.events()
        self._rung = rung
        self._writing = anyio.Lock()
        self.body_ended = True

    # -- reading -------------------------------------------------------------------------------

    async def receive(self) -> tuple[bytes, bool]:
        """A piece of a message, and whether it is the last one. Raises ``StreamBroken``."""
        while True:
            event = next(self._events, None)
            if event is None:
                data = await self._stream.receive()
                if not data:
                    raise StreamBroken("the server closed")
                self._frames.receive_data(data)
                self._events = self._frames.events()
            elif isinstance(event, TextMessage):
                return event.data.encode(), event.message_finished
            elif isinstance(event, BytesMessage):
                return bytes(event.data), event.message_finished
            elif isinstance(event, Ping):
                self.pinged += 1
                await self._write(self._frames.send(Pong(event.payload)))
            elif isinstance(event, Pong):
                self.pongs += 1
            elif isinstance(event, CloseConnection):
                raise StreamBroken("the server said goodbye")
            self._rung()

    async def message(self) -> bytes:
        whole, last = b"", False
        while not last:
            data, last = await self.receive()
            whole += data
        return whole

    async def body(self) -> bytes:
        """Of the request, whole."""
        self.body_ended = True
        return await self.message()

    async def asked(self) -> Asked:
        text = await self.message()
        members = json.loads(text)
        self.body_ended = False
        return Asked(members["Method"], members["URL"], members["Header"], members["ContentLength"])

    # -- writing -------------------------------------------------------------------------------

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            await self._stream.send(data)

    async def ping(self) -> None:
        await self._write(self._frames.send(Ping(b"")))

    async def text(self, text: str) -> None:
        await self._write(self._frames.send(TextMessage(text)))

    async def raw(self, data: bytes) -> None:
        """Bytes that need not be websocket frames."""
        await self._write(data)

    async def piece(self, data: bytes, *, last: bool) -> None:
        await self._write(self._frames.send(BytesMessage(data, message_finished=last)))

    async def head(self, status: int, header: dict[str, list[str]] | None, length: int) -> None:
        await self.text(json.dumps({"StatusCode": status, "Header": header, "ContentLength": length}))

    async def reply(
        self, body: bytes = b"", *, status: int = 200, header: dict[str, list[str]] | None = None, length: int = 0
    ) -> None:
        """A response as theirs goes out. ``length`` 0: that of the body."""
        await self.head(status, header, length or len(body))
        whole = len(body) // FRAGMENT * FRAGMENT
        for start in range(0, whole, FRAGMENT):
            await self.piece(body[start : start + FRAGMENT], last=False)
        await self.piece(body[whole:], last=True)  # empty after a body of whole fragments

    def drop(self) -> None:
        """Gone, without a close frame, as theirs."""
        self._stream.abort()


class WspClient:
    """``wsp_client``: a pool that grows as theirs does. ``tick`` is a second there; pings go each 30 s."""

    def __init__(
        self, port: int, respond: Respond, *, client_id: str, size: int, most: int, key: str, path: str, tick: float
    ) -> None:
        self.asked: list[Asked] = []
        self.connections: list[WspConnection] = []
        self.refused: list[tuple[int, bytes]] = []
        self.dials = 0
        self.greeting = f"{client_id}_{size}"
        self._port = port
        self._respond = respond
        self._size = size
        self._most = most
        self._key = key
        self._path = path
        self.tick = tick
        self._connecting = 0
        self._tasks: TaskGroup | None = None
        self._news = anyio.Event()

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        port: int,
        respond: Respond,
        *,
        client_id: str = "client-A",
        size: int = 2,
        most: int = 100,
        key: str = "",
        path: str = "/register",
        tick: float = 0.05,
        ready: bool = True,
    ) -> AsyncIterator[WspClient]:
        client = cls(port, respond, client_id=client_id, size=size, most=most, key=key, path=path, tick=tick)
        async with anyio.create_task_group() as tasks:
            client._tasks = tasks
            tasks.start_soon(client._connect)
            if ready:
                await client.until(lambda: len(client.connections) >= min(size, most))
            try:
                yield client
            finally:
                tasks.cancel_scope.cancel()
                for connection in client.connections:
                    connection.drop()

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(20):
            while not condition():
                await self._news.wait()

    def ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    # -- the pool, by their arithmetic -----------------------------------------------------------

    async def _connect(self) -> None:
        while True:
            self._grow()
            await anyio.sleep(self.tick)

    def _grow(self) -> None:
        total = len(self.connections) + self._connecting
        idle = sum(connection.idle for connection in self.connections)
        wanted = 1 if total == 0 else self._size - idle - self._connecting
        self.dial(min(wanted, self._most - total))

    def dial(self, count: int) -> None:
        assert self._tasks is not None
        for _ in range(count):
            self._connecting += 1
            self._tasks.start_soon(self._serve)

    async def _serve(self) -> None:
        self.dials += 1
        connection = None
        try:
            try:
                connection = await self._dial()
            finally:
                self._connecting -= 1
            if connection is not None:
                self.connections.append(connection)
                self.ring()
                while True:
                    await self._one_request(connection)
        except StreamBroken:
            pass
        finally:
            if connection in self.connections:
                self.connections.remove(connection)
            if connection is not None:
                connection.drop()
            self.ring()

    async def _dial(self) -> WspConnection | None:
        stream = await connect_tcp("127.0.0.1", self._port, timeout=5)
        try:
            connection = await self._register(stream)
        except BaseException:
            stream.abort()
            raise
        if connection is None:
            stream.abort()
        return connection

    async def _register(self, stream: ByteStream) -> WspConnection | None:
        nonce = base64.b64encode(os.urandom(16)).decode()
        await stream.send(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUser-Agent: Go-http-client/1.1\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\n"
            f"Upgrade: websocket\r\nX-SECRET-KEY: {self._key}\r\n\r\n".encode()
        )
        status, fields, early = await read_head(stream)
        if status != 101:
            length = int({name.lower(): value for name, value in fields}["content-length"])
            while len(early) < length:
                early += await stream.receive()
            self.refused.append((status, early))
            return None
        connection = WspConnection(stream, early, self.ring)
        await connection.text(self.greeting)
        return connection

    async def _one_request(self, connection: WspConnection) -> None:
        asked = await connection.asked()
        connection.idle = False
        self.asked.append(asked)
        self._grow()
        self.ring()
        await self._respond(connection, asked)
        if not connection.body_ended:  # the next reader passes over what is left of a message
            await connection.body()
        connection.idle = True
        self.ring()
