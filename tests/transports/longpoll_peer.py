"""A server's end that a test plays by hand: every request of a long-poll client as it arrives, to be answered as the
test likes, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

import anyio
from anyio.abc import TaskGroup

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import DialError, StreamBroken
from tunnelkit.handshake import Grant, Handshake
from tunnelkit.heads import Fields, field_values
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.stream import ByteStream
from tunnelkit.transports.base import Connection, ForwardProxy
from tunnelkit.transports.longpoll.client import Lessons, dial_longpoll
from tunnelkit.transports.longpoll.wire import (
    PURPOSES,
    STREAM_ANSWER_FIELDS,
    Op,
    answer_fields,
    opened_fields,
    refused,
)

from .stubs import PROVER, dial_request

__all__ = ["CONNECTION_ID", "GRANT", "HANDSHAKE", "QUICK", "Arrived", "Client", "Peer", "client_of", "granted"]

HANDSHAKE: Final = Handshake(token="0123456789abcdef")
GRANT: Final = Grant(
    session_id="n-1", resume_key=bytes(32), replay_window=4096, stream_floor=1024, max_streams=10, grace=30.0
)
CONNECTION_ID: Final = "0123456789abcdef" * 2

# Everything sooner, for tests in which time has to pass.
QUICK: Final = replace(DEFAULT_LIMITS, poll_hold_idle=0.2, poll_hold_active=0.1, poll_answer_timeout=0.2)


class Arrived:
    """A request, and the stream that it came over."""

    def __init__(self, target: bytes, fields: Fields, body: bytes, stream: MemoryStream) -> None:
        self.target = target
        self.fields = fields
        self.body = body
        self.stream = stream
        self.op = next(op for op in Op if target.endswith(op.encode()))

    def __repr__(self) -> str:
        return f"<Arrived {self.op} {self.number}>"

    def value(self, name: bytes) -> bytes:
        (found,) = field_values(self.fields, name) or [b""]
        return found

    @property
    def number(self) -> int:
        return int(self.value(b"tunnelkit-number") or 0)

    @property
    def hold(self) -> float:
        return float(self.value(b"tunnelkit-hold"))

    @property
    def streamed(self) -> bool:
        return self.value(b"tunnelkit-mode") == b"stream"

    @property
    def proven(self) -> bool:
        tag = bytes.fromhex(self.value(b"tunnelkit-proof").decode())
        return PROVER.check(tag, PURPOSES[self.op], self.number, len(self.body))

    # -- answers -------------------------------------------------------------------------------

    async def answer(self, body: bytes = b"") -> None:
        """The server's own."""
        await self.say(200, answer_fields(self.number), body)

    def begin_answer(self, body: bytes, *, size: int) -> None:
        """One whose body should have ``size`` bytes; some of them, which the stream has room for."""
        fields = [*answer_fields(self.number), (b"Content-Length", b"%d" % size)]
        beginning = self.head(200, fields) + body
        assert self.stream.try_send(beginning) == len(beginning)

    async def refuse(self, status: int, code: str, detail: str = "so it is") -> None:
        refusal = refused(status, code, detail)
        await self.say(refusal.status, refusal.fields, refusal.body)

    async def say(self, status: int, fields: Fields, body: bytes = b"") -> None:
        await self.stream.send(self.head(status, [*fields, (b"Content-Length", b"%d" % len(body))]) + body)

    async def start_stream(self) -> None:
        fields = [*answer_fields(self.number), *STREAM_ANSWER_FIELDS, (b"Transfer-Encoding", b"chunked")]
        await self.stream.send(self.head(200, fields))

    async def chunk(self, data: bytes) -> None:
        await self.stream.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.chunk(b"\xff\xff\xff\xff")
        await self.stream.send(b"0\r\n\r\n")

    def head(self, status: int, fields: Fields) -> bytes:
        lines = [b"HTTP/1.1 %d X" % status, *(name + b": " + value for name, value in fields), b"", b""]
        return b"\r\n".join(lines)

    def cut(self) -> None:
        """Reset the TCP connection."""
        self.stream.abort()

    async def ended(self) -> None:
        """Wait until the client has closed the connection."""
        with suppress(StreamBroken):
            assert await self.stream.receive() == b""


class Peer:
    """``dials`` counts the connections; ``down`` lets no more come about; ``deaf``: bodies are not read."""

    def __init__(self, tasks: TaskGroup, *, capacity: int = 64 * 1024, proxy: ForwardProxy | None = None) -> None:
        self.dials = 0
        self.down = False
        self.deaf = False
        self.gate: anyio.Event | None = None  # what dials wait for
        self.streams: list[MemoryStream] = []
        self.backlog: list[Arrived] = []
        self.proxy = proxy
        self._tasks = tasks
        self._capacity = capacity
        self._news = anyio.Event()

    # -- the dialler ---------------------------------------------------------------------------

    async def __call__(self, host: str, port: int, *, tls: bool) -> ByteStream:
        return await self.dial()

    def forward_proxy(self, host: str, port: int) -> ForwardProxy | None:
        return self.proxy

    async def dial(self) -> ByteStream:
        self.dials += 1
        self._ring()
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise DialError("connect", "the connection was refused")
        near, far = memory_pair(self._capacity)
        self.streams.append(far)
        self._tasks.start_soon(self._serve, far)
        return near

    async def dialled(self, count: int) -> None:
        while self.dials < count:
            await self._news.wait()

    # -- requests ------------------------------------------------------------------------------

    async def next(self, op: Op) -> Arrived:
        """The next request of this kind."""
        while True:
            for arrived in self.backlog:
                if arrived.op is op:
                    self.backlog.remove(arrived)
                    return arrived
            await self._news.wait()

    async def poll(self) -> Arrived:
        return await self.next(Op.DOWN)

    async def post(self) -> Arrived:
        return await self.next(Op.UP)

    async def _serve(self, stream: MemoryStream) -> None:
        data = b""
        with suppress(StreamBroken):
            while True:
                while b"\r\n\r\n" not in data:
                    if not (piece := await stream.receive()):
                        return
                    data += piece
                head, _, data = data.partition(b"\r\n\r\n")
                line, *lines = head.split(b"\r\n")
                fields = [(name, value.strip()) for name, _, value in (each.partition(b":") for each in lines)]
                (length,) = field_values(fields, b"content-length")
                while len(data) < int(length):
                    if self.deaf:
                        await anyio.sleep_forever()
                    if not (piece := await stream.receive()):
                        return
                    data += piece
                body, data = data[: int(length)], data[int(length) :]
                self.backlog.append(Arrived(line.split(b" ")[1], fields, body, stream))
                self._ring()

    def _ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()


class Client:
    """A connection to a ``Peer``, and what may be looked at beside."""

    def __init__(self, connection: Connection, peer: Peer, tasks: TaskGroup) -> None:
        self.connection = connection
        self.peer = peer
        self.tasks = tasks  # cancelled in the end

    async def post(self, message: bytes) -> Arrived:
        """Send it, and what the peer sees of it."""
        await self.connection.ready()
        await self.connection.send(message)
        return await self.peer.post()


async def granted(peer: Peer) -> None:
    arrived = await peer.next(Op.OPEN)
    await arrived.say(200, opened_fields(GRANT, CONNECTION_ID))


@asynccontextmanager
async def client_of(
    *,
    mode: str = "strict",
    limits: Limits = DEFAULT_LIMITS,
    lessons: Lessons | None = None,
    capacity: int = 64 * 1024,
    proxy: ForwardProxy | None = None,
) -> AsyncIterator[Client]:
    """An open connection. In the end it is aborted, after which no task of its own may be left."""
    with anyio.fail_after(10):
        async with anyio.create_task_group() as outer:
            peer = Peer(outer, capacity=capacity, proxy=proxy)
            async with anyio.create_task_group() as tasks:
                outer.start_soon(granted, peer)
                request = dial_request(HANDSHAKE, peer, tasks=tasks, user_agent="test/1")
                connection, grant = await dial_longpoll(
                    request, mode=mode, limits=limits, lessons=lessons or Lessons()
                )
                assert grant == GRANT
                try:
                    yield Client(connection, peer, outer)
                finally:
                    connection.abort()
            outer.cancel_scope.cancel()
