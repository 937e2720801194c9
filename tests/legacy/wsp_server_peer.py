"""wsp's server, played: what the running ones put on the wire, quirks included.

A JSON message and a body in fragments of 4,082 bytes, of which the last may be empty; no close frame; what comes on
an idle connection ends it; the connection that was idle longest is asked first.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Ping, Pong, TextMessage
from wsproto.utilities import generate_accept_token

from tunnelkit.errors import StreamBroken
from tunnelkit.net.listen import Listener
from tunnelkit.net.stream import ByteStream

__all__ = ["Answered", "Joined", "WspServer"]

FRAGMENT = 4082


class Answered:
    """A response as their server reads it."""

    def __init__(self) -> None:
        self.text = b""
        self.received = bytearray()
        self.fragments: list[int] = []
        self.complete = False

    @property
    def body(self) -> bytes:
        return bytes(self.received)

    @property
    def members(self) -> dict[str, Any]:
        members = json.loads(self.text)
        assert isinstance(members, dict)
        return members

    @property
    def status(self) -> int:
        status = self.members["StatusCode"]
        assert isinstance(status, int)
        return status

    @property
    def length(self) -> int:
        length = self.members["ContentLength"]
        assert isinstance(length, int)
        return length

    def values(self, name: str) -> list[str]:
        values = self.members["Header"].get(name, [])
        assert isinstance(values, list)
        return values


class Joined:
    """One connection of a client."""

    def __init__(self, stream: ByteStream, early: bytes, server: WspServer) -> None:
        self.greeting = ""
        self.busy = False
        self.closed = False
        self.pings = 0
        self.pongs = True  # pings are answered
        self.answer = Answered()
        self.reading = anyio.Event()  # cleared by ``stall``
        self.reading.set()
        self._stream = stream
        self._frames = Connection(ConnectionType.SERVER, trailing_data=early)
        self._server = server

    def stall(self) -> None:
        """Read nothing until ``go_on``, as for a caller that takes nothing."""
        self.reading = anyio.Event()

    def go_on(self) -> None:
        self.reading.set()

    async def close(self) -> None:
        """As theirs does: the TCP connection alone."""
        self.closed = True
        await self._stream.aclose()

    # -- writing -------------------------------------------------------------------------------

    async def raw(self, data: bytes) -> None:
        await self._stream.send(data)

    async def text(self, text: str, *, last: bool = True) -> None:
        await self._stream.send(self._frames.send(TextMessage(text, message_finished=last)))

    async def fragment(self, data: bytes, *, last: bool) -> None:
        await self._stream.send(self._frames.send(BytesMessage(data, message_finished=last)))

    async def request(
        self, method: str, url: str, *, length: int = 0, header: dict[str, list[str]] | None = None
    ) -> None:
        self.busy = True
        self.answer = Answered()
        members = {"Method": method, "URL": url, "Header": header, "ContentLength": length}
        await self.text(json.dumps(members, separators=(",", ":")))

    async def body(self, data: bytes) -> None:
        """As theirs goes out: whole fragments, then the rest, which may be none."""
        while len(data) >= FRAGMENT:
            await self.fragment(data[:FRAGMENT], last=False)
            data = data[FRAGMENT:]
        await self.fragment(data, last=True)

    # -- reading -------------------------------------------------------------------------------

    async def read(self) -> None:
        try:
            await self._read_all()
        except StreamBroken:
            pass
        finally:
            self.closed = True
            self._stream.abort()
            self._server.ring()

    async def _read_all(self) -> None:
        while True:
            for event in self._frames.events():
                if isinstance(event, Ping):
                    self.pings += 1
                    if self.pongs:
                        await self._stream.send(self._frames.send(Pong(event.payload)))
                elif not isinstance(event, TextMessage | BytesMessage) or not self._take(event):
                    return
                self._server.ring()
            await self.reading.wait()
            data = await self._stream.receive()
            if not data:
                return
            self._frames.receive_data(data)

    def _take(self, event: TextMessage | BytesMessage) -> bool:
        if not self.greeting:
            self.greeting = str(event.data)
            self._server.take_in(self)
            return not self._server.drops
        if not self.busy:
            return False
        if isinstance(event, TextMessage):
            self.answer.text += event.data.encode()
        else:
            self._take_body(event)
        return True

    def _take_body(self, event: BytesMessage) -> None:
        self.answer.received += event.data
        if event.frame_finished:
            self.answer.fragments.append(len(event.data))
        if event.message_finished:
            self.answer.complete = True
            self.busy = False
            self._server.take_in(self)


class WspServer:
    """``wsp_server``, without callers: a test asks."""

    def __init__(self, key: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.key = key
        self.tls = tls  # of what stands in front of theirs
        self.handshakes: list[dict[str, str]] = []
        self.joined: list[Joined] = []  # every connection that there was
        self.refuse: bytes | None = None  # the whole answer to each handshake
        self.mute = False  # no handshake is answered
        self.drops = False  # every connection, when its greeting has come
        self.blurts = ""  # a text that every connection begins with
        self._idle: list[Joined] = []
        self._news = anyio.Event()
        self._listening: anyio.CancelScope | None = None
        self._tasks: TaskGroup | None = None

    @classmethod
    @asynccontextmanager
    async def running(cls, key: str = "", tls: ssl.SSLContext | None = None) -> AsyncIterator[WspServer]:
        server = cls(key, tls)
        async with anyio.create_task_group() as server._tasks:
            await server.start()
            yield server
            server._tasks.cancel_scope.cancel()

    async def start(self) -> None:
        """Listen: for the second time at the same port."""
        assert self._tasks is not None
        await self._tasks.start(self._listen)

    def stop(self) -> None:
        """All at once, as when the process dies."""
        assert self._listening is not None
        self._listening.cancel()

    async def _listen(self, *, task_status: Any) -> None:
        listener = Listener.bind(f"127.0.0.1:{self.port}", ssl_context=self.tls)
        self.port = listener.addresses[0][1]
        with anyio.CancelScope() as self._listening:
            async with anyio.create_task_group() as tasks:
                await tasks.start(listener.serve, self._serve)
                task_status.started()
                await anyio.sleep_forever()

    @property
    def url(self) -> str:
        return f"{'ws' if self.tls is None else 'wss'}://127.0.0.1:{self.port}/register"

    # -- asking --------------------------------------------------------------------------------

    async def take(self) -> Joined:
        """The connection that was idle longest; waits for one."""
        await self.until(lambda: self.idle)
        taken = self.idle[0]
        self._idle.remove(taken)
        return taken

    async def ask(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        *,
        length: int | None = None,
        header: dict[str, list[str]] | None = None,
    ) -> Answered:
        """One request and its whole answer. Fails when the connection breaks before its end."""
        joined = await self.take()
        await joined.request(method, url, length=len(body) if length is None else length, header=header)
        await joined.body(body)
        answer = joined.answer
        await self.until(lambda: answer.complete or joined.closed)
        assert answer.complete, "the connection broke"
        return answer

    @property
    def idle(self) -> list[Joined]:
        return [joined for joined in self._idle if not joined.closed]

    @property
    def standing(self) -> list[Joined]:
        return [joined for joined in self.joined if not joined.closed]

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(20):
            while not condition():
                await self._news.wait()

    # -- what connections tell -----------------------------------------------------------------

    def take_in(self, joined: Joined) -> None:
        self._idle.append(joined)

    def ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def _serve(self, stream: ByteStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = await stream.receive()
            if not more:  # it was given up
                return
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.handshakes.append({"line": lines[0]} | fields)
        self.ring()
        if self.mute:
            await anyio.sleep_forever()
        refusal = self.refuse
        if fields.get("x-secret-key", "") != self.key:
            refusal = self._wrong_key()
        if refusal is not None:
            await stream.send(refusal)
            return
        accept = generate_accept_token(fields["sec-websocket-key"].encode()).decode()
        await stream.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        joined = Joined(stream, rest, self)
        self.joined.append(joined)
        if self.blurts:
            await joined.text(self.blurts)
        await joined.read()

    def _wrong_key(self) -> bytes:
        return (
            b"HTTP/1.1 526 status code 526\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"X-Content-Type-Options: nosniff\r\nContent-Length: 21\r\n\r\nInvalid X-SECRET-KEY\n"
        )
