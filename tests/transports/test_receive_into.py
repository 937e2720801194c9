"""``Connection.receive_into``: messages given as they come. On websockets over sockets it is the loop's own callback
that gives them, over memory and for other transports a task."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from tunnelkit.errors import ConnectionLost
from tunnelkit.net.adopt import adopt
from tunnelkit.net.memory import memory_pair
from tunnelkit.net.stream import ByteStream
from tunnelkit.transports import base
from tunnelkit.transports.base import SHORT_TURN, SHORTEST_TURN, TURN, Connection
from tunnelkit.transports.websocket.connection import WebSocketConnection
from tunnelkit.transports.websocket.frames import MAX_MESSAGE

from .test_websocket_frames import BINARY, PING, frame

pytestmark = pytest.mark.anyio


class Taking:
    """Receives into a list, in a task of its own; ``then`` sees each message, too."""

    def __init__(self, connection: Connection, then: Callable[[bytes], None] = lambda message: None) -> None:
        self.connection = connection
        self.messages: list[bytes] = []
        self.error: Exception | None = None
        self._then = then
        self._news = anyio.Event()

    def _take(self, message: bytes) -> None:
        self.messages.append(message)
        self._news.set()
        self._then(message)

    async def run(self) -> None:
        try:
            await self.connection.receive_into(self._take)
        except Exception as error:
            self.error = error

    async def has(self, count: int) -> list[bytes]:
        while len(self.messages) < count:
            self._news = anyio.Event()
            await self._news.wait()
        return self.messages


@pytest.fixture(params=["sockets", "memory"])
async def streams(request: pytest.FixtureRequest) -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    if request.param == "memory":
        yield memory_pair()
        return
    pair = socket.socketpair()
    for one in pair:
        one.setblocking(False)
    ours, theirs = await adopt(pair[0]), await adopt(pair[1])
    yield ours, theirs
    ours.abort()
    theirs.abort()


@asynccontextmanager
async def taking(
    connection: Connection, then: Callable[[bytes], None] = lambda message: None
) -> AsyncIterator[Taking]:
    taking = Taking(connection, then)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(taking.run)
            await anyio.wait_all_tasks_blocked()
            yield taking
            tasks.cancel_scope.cancel()


async def test_a_pong_that_finds_no_room_leaves_as_soon_as_there_is_some(
    streams: tuple[ByteStream, ByteStream],
) -> None:
    ours, theirs = streams
    async with taking(WebSocketConnection(ours, client=False)):
        sent = 0
        while taken := ours.try_send(bytes(10_000)):
            sent += taken
        await theirs.send(frame(PING, b"there?"))
        await anyio.wait_all_tasks_blocked()
        received = b""
        while len(received) < sent + 8:
            received += await theirs.receive()
        assert received.endswith(b"\x8a\x06there?")


async def test_messages_come_in_order_to_the_end(streams: tuple[ByteStream, ByteStream]) -> None:
    server, client = WebSocketConnection(streams[0], client=False), WebSocketConnection(streams[1], client=True)
    sizes = [1, 125, 126, MAX_MESSAGE, 65_000, 7, *range(1, 200)]
    async with taking(server) as taken:
        for size in sizes:
            await client.ready()
            await client.send(bytes([size % 256]) * size)
        assert await taken.has(len(sizes)) == [bytes([size % 256]) * size for size in sizes]
        await client.aclose()
        while taken.error is None:
            await anyio.lowlevel.checkpoint()
    assert isinstance(taken.error, ConnectionLost)
    assert taken.error.clean
    server.abort()


async def test_both_ends_at_once(streams: tuple[ByteStream, ByteStream]) -> None:
    """Sends find the receiver asleep or at work, as it happens."""
    ends = [WebSocketConnection(streams[0], client=False), WebSocketConnection(streams[1], client=True)]

    async def send(connection: Connection) -> None:
        for number in range(100):
            await connection.ready()
            await connection.send(number.to_bytes(2) * 5000)

    async with taking(ends[0]) as one, taking(ends[1]) as other, anyio.create_task_group() as tasks:
        for end in ends:
            tasks.start_soon(send, end)
        for taken in (one, other):
            assert await taken.has(100) == [number.to_bytes(2) * 5000 for number in range(100)]
    for end in ends:
        end.abort()


async def test_what_is_sent_from_within_leaves(streams: tuple[ByteStream, ByteStream]) -> None:
    server, client = WebSocketConnection(streams[0], client=False), WebSocketConnection(streams[1], client=True)

    def echo(message: bytes) -> None:
        assert server.room_now()
        server.send_now(message)

    async with taking(server, echo), taking(client) as taken:
        for size in (1, 60_000, 3):
            await client.ready()
            await client.send(bytes(size))
            await taken.has(len(taken.messages) + 1)
        assert taken.messages == [bytes(1), bytes(60_000), bytes(3)]
    server.abort()
    client.abort()


async def test_a_ping_between_messages_is_answered(streams: tuple[ByteStream, ByteStream]) -> None:
    async with taking(WebSocketConnection(streams[0], client=False)) as taken:
        await streams[1].send(frame(BINARY, b"one") + frame(PING, b"there?") + frame(BINARY, b"two"))
        assert await taken.has(2) == [b"one", b"two"]
        assert await streams[1].receive() == b"\x8a\x06there?"
        await streams[1].send(frame(PING, b"still?"))
        assert await streams[1].receive() == b"\x8a\x06still?"
    taken.connection.abort()


async def test_a_message_in_pieces_is_given_whole(streams: tuple[ByteStream, ByteStream]) -> None:
    data = frame(BINARY, b"a message in pieces")
    async with taking(WebSocketConnection(streams[0], client=False)) as taken:
        for index in range(len(data)):
            assert not taken.messages
            await streams[1].send(data[index : index + 1])
            await anyio.wait_all_tasks_blocked()
        assert await taken.has(1) == [b"a message in pieces"]
    taken.connection.abort()


async def test_more_than_a_turn_of_messages(streams: tuple[ByteStream, ByteStream]) -> None:
    messages = [b"%d" % number for number in range(1000)]
    async with taking(WebSocketConnection(streams[0], client=False)) as taken:
        await streams[1].send(b"".join(frame(PING, b"") + frame(BINARY, message) for message in messages))
        assert await taken.has(1000) == messages
    taken.connection.abort()


@pytest.mark.parametrize("end", ["garbage", "eof", "reset"])
async def test_the_end_is_raised(end: str, streams: tuple[ByteStream, ByteStream]) -> None:
    async with taking(WebSocketConnection(streams[0], client=False)) as taken:
        await streams[1].send(frame(BINARY, b"last"))
        await taken.has(1)
        if end == "garbage":
            await streams[1].send(b"\xff" * 10)
        elif end == "eof":
            await streams[1].send_eof()
        else:
            streams[1].abort()
        while taken.error is None:
            await anyio.lowlevel.checkpoint()
    assert isinstance(taken.error, ConnectionLost)
    assert (taken.error.code == 1002) is (end == "garbage")
    taken.connection.abort()


async def test_what_is_raised_from_within_goes_through(streams: tuple[ByteStream, ByteStream]) -> None:
    def fail(message: bytes) -> None:
        raise ValueError(message)

    async with taking(WebSocketConnection(streams[0], client=False), fail) as taken:
        await streams[1].send(frame(BINARY, b"one") + frame(BINARY, b"two"))
        while taken.error is None:
            await anyio.lowlevel.checkpoint()
    assert isinstance(taken.error, ValueError)
    assert taken.messages == [b"one"]
    assert await taken.connection.receive() == b"two"
    taken.connection.abort()


async def test_aborted_from_within_it_gives_nothing_more(streams: tuple[ByteStream, ByteStream]) -> None:
    connection = WebSocketConnection(streams[0], client=False)
    async with taking(connection, lambda message: connection.abort()) as taken:
        await streams[1].send(frame(BINARY, b"one") + frame(BINARY, b"two"))
        while taken.error is None:
            await anyio.lowlevel.checkpoint()
    assert isinstance(taken.error, ConnectionLost)
    assert taken.messages == [b"one"]


async def test_cancelled_it_loses_nothing(streams: tuple[ByteStream, ByteStream]) -> None:
    async with taking(WebSocketConnection(streams[0], client=False)) as taken:
        await streams[1].send(frame(BINARY, b"one") + frame(BINARY, b"torn")[:3])
        assert await taken.has(1) == [b"one"]
    with anyio.fail_after(10):
        await streams[1].send(frame(BINARY, b"torn")[3:])
        assert await taken.connection.receive() == b"torn"
    assert taken.messages == [b"one"]
    taken.connection.abort()


class Always(Connection):
    """There is always another message."""

    transport = "always"
    max_message = 4096

    async def ready(self) -> int:
        raise NotImplementedError

    async def send(self, message: bytes) -> None:
        raise NotImplementedError

    async def receive(self) -> bytes:
        return b"another"

    @property
    def last_received(self) -> float:
        return 0.0

    async def aclose(self, code: int = 1000, reason: str = "") -> None: ...
    def abort(self) -> None: ...


@pytest.mark.parametrize("turn", [TURN, SHORT_TURN, SHORTEST_TURN])
async def test_the_others_have_their_turn(turn: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or this would never end: nothing in it waits."""
    time, given, turns = 0.0, 0, 0

    def work(message: bytes) -> None:
        nonlocal time, given
        time += turn / 4
        given += 1

    async def count() -> None:
        nonlocal turns
        while turns < 20:
            turns += 1
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    monkeypatch.setattr(base, "loop_clock", lambda: lambda: time)
    connection = Always()
    connection.turn = turn
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            await connection.receive_into(work)
    assert 40 <= given <= 110  # four or five between two turns of the others; trio may give those two at a time


@pytest.mark.parametrize("turn", [TURN, SHORT_TURN, SHORTEST_TURN])
async def test_the_others_have_their_turn_beside_a_websocket(
    turn: float, streams: tuple[ByteStream, ByteStream]
) -> None:
    time, turns = 0.0, 0
    at: list[int] = []  # the others' turns before each message

    def work(message: bytes) -> None:
        nonlocal time
        time += 0.3 * turn
        at.append(turns)

    connection = WebSocketConnection(streams[0], client=False)
    connection._now = lambda: time
    connection.turn = turn
    async with taking(connection, work) as taken:
        await streams[1].send(20 * frame(BINARY, b"m"))
        while len(taken.messages) < 20:
            turns += 1
            await anyio.lowlevel.checkpoint()
    assert 3 <= len(set(at)) <= 5  # of four messages each; trio may let the others wait for two of them
    taken.connection.abort()
