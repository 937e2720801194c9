"""Workers that wait at connections to an origin: what comes whole is passed on without waking them, all else by them.

The origin's connections are sockets here, since only their streams let a taker take what comes.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from tunnelkit import TunnelClient
from tunnelkit import agent_workers as workers_module
from tunnelkit.agent_exchange import AgentExchange
from tunnelkit.agent_workers import Served, Workers
from tunnelkit.core.events import Opened
from tunnelkit.core.frames import ResetCode, StreamKind
from tunnelkit.errors import StreamBroken
from tunnelkit.heads import RequestHead, encode_request
from tunnelkit.http.writing import Outgoing
from tunnelkit.net.stream import ByteStream
from tunnelkit.origins.base import Begun, Perch
from tunnelkit.origins.url_exchange import UrlExchange
from tunnelkit.request_events import RequestFinished
from tunnelkit.tunnel_stream import Stream

from .tunnels import TOKEN, Caller, Tunnel, eventually, tunnel

pytestmark = pytest.mark.anyio

PATH = f"/_token/{TOKEN}/"
HEAD, BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"fine"
OK = HEAD + BODY
BROKEN = anyio.BrokenResourceError, anyio.ClosedResourceError


class Origin:
    """Its connections, in the order they came; a test answers on them."""

    def __init__(self) -> None:
        self.connections: list[SocketStream] = []
        self.requests = 0
        self._arrived = anyio.Event()

    async def accept(self, stream: SocketStream) -> None:
        self.connections.append(stream)
        reader = BufferedByteReceiveStream(stream)
        async with stream:
            with suppress(anyio.IncompleteRead, *BROKEN):
                while True:
                    await reader.receive_until(b"\r\n\r\n", 10_000)
                    self.requests += 1
                    self._arrived.set()
                    self._arrived = anyio.Event()

    async def until(self, requests: int) -> SocketStream:
        """The connection made last, when so many requests came on all of them."""
        with anyio.fail_after(10):
            while self.requests < requests:
                await self._arrived.wait()
        return self.connections[-1]

    def reset(self, stream: SocketStream) -> None:
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


class There:
    """A tunnel to ``origin``, and a caller whose first request was answered: a worker waits at the connection."""

    def __init__(self, tunnel: Tunnel, client: TunnelClient, origin: Origin, caller: Caller) -> None:
        self.tunnel = tunnel
        self.client = client
        self.origin = origin
        self.caller = caller
        self.woken = 0  # exchanges that a task served, from now on

    @property
    def workers(self) -> Workers:
        return self.client._agent._workers

    async def ask(self, method: str = "GET", *, number: int) -> SocketStream:
        """The next request; the connection it came on, when it did."""
        await self.caller.send(method, PATH)
        return await self.origin.until(number)

    async def perched(self) -> None:
        await eventually(lambda: self.workers.perched)

    async def works(self, *, number: int) -> None:
        """Whatever became of the exchanges before, the next one is well."""
        self.caller = self.tunnel.call()
        stream = await self.ask(number=number)
        await stream.send(OK)
        assert await self.caller.answer() == (200, b"fine")
        await self.clean()

    async def clean(self) -> None:
        await self.tunnel.clean()
        await eventually(lambda: not self.client._agent.active)
        session = self.client._supervisor._session
        assert session is not None
        await eventually(lambda: not session.link.mux.active_streams)
        await eventually(lambda: self.client._supervisor._budget.used == 0)


async def broken_off(stream: SocketStream) -> None:
    """Wait until the client's end of it is gone."""
    with suppress(*BROKEN), anyio.fail_after(10):
        while True:
            await stream.send(b"x")
            await anyio.sleep(0.002)


@pytest.fixture
async def there(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[There]:
    async with perched_client(monkeypatch) as there:
        yield there


@asynccontextmanager
async def perched_client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[There]:
    origin = Origin()
    serve = AgentExchange.serve
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, tunnel() as outer:
        outer.group.start_soon(listener.serve, origin.accept)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with outer.client(f"http://127.0.0.1:{port}") as client:
            await client.wait_ready(10)
            there = There(outer, client, origin, outer.call())
            stream = await there.ask("POST", number=1)
            await stream.send(OK)
            assert await there.caller.answer() == (200, b"fine")
            await there.perched()

            async def counted(exchange: AgentExchange, begun: Begun) -> Perch | None:
                there.woken += 1
                return await serve(exchange, begun)

            monkeypatch.setattr(AgentExchange, "serve", counted)
            yield there


async def test_whole_answers_wake_nobody(there: There) -> None:
    for number in range(2, 7):
        await (await there.ask(number=number)).send(OK)
        assert await there.caller.answer() == (200, b"fine")
    await there.clean()
    assert there.woken == 0
    assert there.client._agent.answered == 6
    assert len(there.origin.connections) == len(there.workers.perched) == 1


@pytest.mark.interpreted
async def test_a_body_that_came_with_its_head_goes_out_with_it(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    flush = Outgoing.flush

    def noted(out: Outgoing, stream: ByteStream) -> bool:
        sent.append(b"".join(out._pieces))
        return flush(out, stream)

    monkeypatch.setattr(Outgoing, "flush", noted)
    await there.caller.send("POST", PATH, body=b"hello")
    await (await there.origin.until(2)).send(OK)
    assert await there.caller.answer() == (200, b"fine")
    await there.clean()
    assert there.woken == 0
    assert [piece[-9:] for piece in sent if b"POST" in piece or piece == b"hello"] == [b"\r\n\r\nhello"]
    await there.perched()
    await there.works(number=3)
    assert len(there.origin.connections) == 1


class Nowhere(Stream):
    """A stream of no link; what happens to it is nobody's concern."""

    def __init__(self) -> None:
        self.open = False


@pytest.mark.interpreted
async def test_a_request_that_is_taken_back_within_one_message_reaches_no_origin(there: There) -> None:
    agent = there.client._agent
    exchange = agent.accept(Nowhere(), Opened(2, StreamKind.HTTP, {}))
    assert exchange is not None
    exchange.on_head(encode_request(RequestHead(b"POST", b"/", [(b"Host", b"caller.test")])), False)
    exchange.on_data(b"some", False)
    exchange.on_reset(ResetCode.CANCEL)
    exchange.on_settled()
    assert not agent.active
    await there.works(number=2)


async def test_whole_answers_leave_no_garbage(there: There) -> None:
    gc.collect()
    gc.disable()
    try:
        for number in range(2, 7):
            await (await there.ask(number=number)).send(OK)
            assert await there.caller.answer() == (200, b"fine")
        await there.clean()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [each for each in gc.garbage if isinstance(each, AgentExchange | UrlExchange)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert found == []


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD, BODY],
        [HEAD[:10], HEAD[10:] + BODY],
        [HEAD + BODY[:1], BODY[1:]],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n", OK],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfi", b"ne\r\n0\r\n\r\n"],
    ],
    ids=["head, body", "half a head", "half a body", "interim", "chunks"],
)
async def test_an_answer_in_two_pieces_is_finished_by_the_task(there: There, pieces: list[bytes]) -> None:
    stream = await there.ask(number=2)
    await stream.send(pieces[0])
    await eventually(lambda: there.woken)
    await anyio.wait_all_tasks_blocked()
    await stream.send(pieces[1])
    if b" 103 " in pieces[0]:
        assert b" 103 " in await there.caller.head()
    if b"chunked" in pieces[0]:
        assert b"chunked" in await there.caller.head()
        await eventually(lambda: not there.client._agent.active)
    else:
        assert await there.caller.answer() == (200, b"fine")
    assert there.woken == 1
    await there.perched()
    await there.works(number=3)
    assert there.woken == 1
    assert len(there.origin.connections) == 1


async def test_an_answer_without_a_length_ends_with_its_connection(there: There) -> None:
    stream = await there.ask(number=2)
    await stream.send(b"HTTP/1.1 200 OK\r\n\r\nto the end")
    await stream.aclose()
    assert b"200 OK" in await there.caller.head()
    await eventually(lambda: not there.client._agent.active)
    assert there.client._agent.answered == 2
    await there.works(number=3)
    assert len(there.origin.connections) == 2


async def test_an_answer_larger_than_the_room_in_the_tunnel(there: There) -> None:
    size = 3_000_000
    stream = await there.ask(number=2)
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    async with anyio.create_task_group() as group:
        group.start_soon(stream.send, b"x" * size)
        assert await there.caller.answer() == (200, b"x" * size)
    await there.works(number=3)
    assert len(there.origin.connections) == 1


async def test_an_answer_that_breaks_off_is_broken_off(there: There) -> None:
    stream = await there.ask(number=2)
    await stream.send(OK[:-1])
    assert b"200 OK" in await there.caller.head()
    there.origin.reset(stream)
    await stream.aclose()
    with pytest.raises((AssertionError, StreamBroken)):
        await there.caller.answer()
    await there.works(number=3)


async def test_an_answer_that_ends_too_early_is_broken_off(there: There) -> None:
    """Part of it and the end are there together, when anybody looks."""
    stream = await there.ask(number=2)
    await stream.send(OK[:-1])
    await stream.send_eof()
    with pytest.raises((AssertionError, StreamBroken)):
        await there.caller.answer()
    await there.works(number=3)


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_connection_that_dies_before_it_answers(there: There, how: str) -> None:
    """Once more on another, where that may be; else 502."""
    for method, number in (("GET", 2), ("POST", 5)):
        stream = await there.ask(method, number=number)
        if how == "reset":
            there.origin.reset(stream)
        await stream.aclose()
        if method == "GET":
            await (await there.origin.until(number + 1)).send(OK)
            assert await there.caller.answer() == (200, b"fine")
            await there.works(number=4)
            await there.perched()
        else:
            assert (await there.caller.answer())[0] == 502
    await there.works(number=6)


async def test_an_answer_with_the_end_behind_it(there: There) -> None:
    stream = await there.ask(number=2)
    await stream.send(OK)
    await stream.send_eof()
    assert await there.caller.answer() == (200, b"fine")
    await eventually(lambda: not there.workers.perched)
    await there.works(number=3)
    assert len(there.origin.connections) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfine",
        OK + b"HTTP/1.1 408 Request Timeout\r\n\r\n",
    ],
    ids=["to be closed", "more behind it"],
)
async def test_a_connection_that_is_not_used_again(there: There, answer: bytes) -> None:
    await (await there.ask(number=2)).send(answer)
    assert await there.caller.answer() == (200, b"fine")
    assert there.woken == 1
    await eventually(lambda: not there.workers.perched)
    await there.works(number=3)
    assert len(there.origin.connections) == 2


@pytest.mark.parametrize("how", ["stray bytes", "end", "reset"])
async def test_what_comes_while_it_is_idle_wakes_the_worker(there: There, how: str) -> None:
    [stream] = there.origin.connections
    if how == "stray bytes":
        await stream.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    elif how == "end":
        await stream.send_eof()
    else:
        there.origin.reset(stream)
        await stream.aclose()
    await eventually(lambda: not there.workers.perched and there.workers.parked)
    await there.works(number=2)
    assert len(there.origin.connections) == 2


async def test_a_malformed_answer(there: There) -> None:
    await (await there.ask("POST", number=2)).send(b"HTTP/1.1 nonsense\r\n\r\n")
    assert (await there.caller.answer())[0] == 502
    await there.works(number=3)


async def test_an_upgrade_goes_on_in_the_task(there: There) -> None:
    await there.caller.send("GET", PATH, "Connection: Upgrade", "Upgrade: echo")
    stream = await there.origin.until(2)
    await stream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly")
    assert b" 101 " in await there.caller.head()
    await stream.send_eof()
    with anyio.fail_after(10):
        while not there.caller.read.endswith(b"early"):
            there.caller.read += await there.caller.stream.receive()
    there.caller.stream.abort()
    await there.works(number=3)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_mistake_of_ours_is_a_502_and_the_worker_lives(
    there: There, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(exchange: AgentExchange, *args: object) -> None:
        raise ValueError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(AgentExchange, "send_last" if begun else "send_known", mistaken)
        await (await there.ask(number=2)).send(OK)
        if begun:
            with pytest.raises((AssertionError, StreamBroken)):
                await there.caller.answer()
        else:
            assert (await there.caller.answer())[0] == 502
    assert there.woken == 1
    await there.works(number=3)
    await there.perched()


async def test_a_caller_that_leaves_breaks_the_connection_off(there: There) -> None:
    stream = await there.ask(number=2)
    there.caller.stream.abort()
    await eventually(lambda: not there.client._agent.active)
    await broken_off(stream)
    await there.works(number=3)


async def test_a_caller_that_leaves_while_the_answer_comes(there: There) -> None:
    """Whichever is seen first, nothing stays."""
    for number in range(2, 22, 2):
        stream = await there.ask(number=number)
        async with anyio.create_task_group() as group:
            group.start_soon(stream.send, OK)
            there.caller.stream.abort()
        await eventually(lambda: not there.client._agent.active)
        await there.works(number=number + 1)
        await there.perched()


async def test_one_that_is_gone_when_its_answer_comes(there: There) -> None:
    """Nobody woke the task yet; the origin did its part, and its connection is used again."""
    stream = await there.ask(number=2)
    [exchange] = there.client._agent.active
    exchange._gone = True  # as ``on_reset`` does before it wakes whoever waits
    await stream.send(OK)
    await eventually(lambda: not there.client._agent.active)
    assert there.woken == 0
    there.caller.stream.abort()
    await there.works(number=3)
    assert len(there.origin.connections) == 1


async def test_draining_ends_with_the_last_answer(there: There) -> None:
    stream = await there.ask(number=2)
    there.client._agent.drain()
    assert not there.client._agent.idle.is_set()
    await stream.send(OK)
    assert await there.caller.answer() == (200, b"fine")
    with anyio.fail_after(10):
        await there.client._agent.idle.wait()
    assert there.woken == 0


async def test_listeners_are_told(there: There) -> None:
    events = there.client.events(requests=True)
    await (await there.ask(number=2)).send(OK)
    assert await there.caller.answer() == (200, b"fine")
    with anyio.fail_after(10):
        async for event in events:
            if isinstance(event, RequestFinished):
                break
    assert isinstance(event, RequestFinished)
    assert (event.status, event.outcome, event.sent) == (200, "answered", 4)
    assert there.woken == 0


async def test_what_is_begun_when_the_client_ends_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async with perched_client(monkeypatch) as there:
        stream = await there.ask(number=2)
        await stream.send(HEAD)
        await eventually(lambda: there.woken)
    await broken_off(stream)


@pytest.mark.interpreted
async def test_more_workers_than_may_wait(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their exchanges end all the same, and another makes a new one."""
    stream = await there.ask(number=2)
    monkeypatch.setattr(workers_module, "WORKERS_KEPT", 0)
    await stream.send(OK)
    assert await there.caller.answer() == (200, b"fine")
    assert there.woken == 0
    await there.clean()
    assert not there.workers.perched
    await there.works(number=3)
    assert there.woken == 1
    assert not there.workers.perched
    assert len(there.origin.connections) == 1


async def test_an_exchange_that_its_origin_leaves_unfinished(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    def claims(begun: UrlExchange) -> bool:
        assert begun._connection is not None
        while begun._connection.next_event_nowait() is not None:
            pass
        return begun._pool.keep(begun._connection)

    with monkeypatch.context() as patch:
        patch.setattr(UrlExchange, "advance", claims)
        await (await there.ask(number=2)).send(OK)
        assert (await there.caller.answer())[0] == 502
    await there.works(number=3)


async def test_a_stream_reset_by_its_end_of_the_tunnel(there: There) -> None:
    stream = await there.ask(number=2)
    [exchange] = there.client._agent.active
    exchange._stream.reset(ResetCode.CANCEL)
    exchange.on_reset(ResetCode.CANCEL)
    await stream.send(OK)
    await eventually(lambda: not there.client._agent.active)
    there.caller.stream.abort()
    await there.works(number=3)


class Unfinished(Begun):
    perch = None

    def __init__(self) -> None:
        self.dropped = 0

    async def finish(self) -> Perch | None:
        raise AssertionError("nobody is there any more")

    def drop(self) -> None:
        self.dropped += 1


async def test_what_is_begun_while_the_workers_end_is_dropped() -> None:
    """A group that has just ended takes no task, and its ``give`` must not raise into the link."""
    workers, given = Workers(), [Unfinished() for _ in range(5)]

    async def give() -> None:
        with anyio.CancelScope(shield=True):
            for begun in given:
                await anyio.lowlevel.checkpoint()
                workers.give(cast(Served, None), begun)

    async with anyio.create_task_group() as group:
        await group.start(workers.run)
        group.start_soon(give)
        group.cancel_scope.cancel()
    last = Unfinished()
    workers.give(cast(Served, None), last)
    assert [begun.dropped for begun in (*given, last)] == [1] * 6
