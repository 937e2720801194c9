"""Requests that are begun where their bytes came in, while their connection's task sleeps on. On real sockets: memory
has no loop that calls back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import HeadError
from tunnelkit.heads import ResponseHead
from tunnelkit.http.caller import FrontRequest
from tunnelkit.http.front import Front
from tunnelkit.net.listen import Listener
from tunnelkit.net.peer import Peer
from tunnelkit.net.stream import ByteStream
from tunnelkit.net.tcp import connect_tcp
from tunnelkit.net.timers import Timers

pytestmark = pytest.mark.anyio

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"


def answer(request: FrontRequest, body: bytes) -> None:
    request.send_head(ResponseHead(200, [(b"Content-Length", b"%d" % len(body))], b"OK"))
    request.try_send_body(body)
    request.send_end()


def answered(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Exchange:
    """A request that was begun. ``answer`` may be called from anywhere; ``finish`` waits for it."""

    def __init__(self, request: FrontRequest) -> None:
        self.request = request
        self.done = self.dropped = self.finished = False

    def answer(self, body: bytes) -> None:
        answer(self.request, body)
        self.done = True
        if not self.request.rest():
            self.request.wake()

    async def finish(self) -> None:
        self.finished = True
        while not (self.done or self.request.gone):
            await self.request.wait(readable=True)

    def drop(self) -> None:
        self.dropped = True


class Begins:
    """Begins what comes; with ``at_once`` it answers it, too."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.exchanges: list[Exchange] = []
        self.handled: list[bytes] = []
        self.news = anyio.Event()

    def begin(self, request: FrontRequest) -> Exchange | None:
        exchange = Exchange(request)
        self.exchanges.append(exchange)
        if self.at_once:
            exchange.answer(b"begun " + request.head.target)
        self.news.set()
        return exchange

    async def handle(self, request: FrontRequest) -> None:
        body = b""
        while (data := request.receive_body_nowait()) != b"":
            if data is None:
                await request.wait(readable=True)
            else:
                body += data
        self.handled.append(request.head.target)
        answer(request, b"handled " + request.head.target + body)

    async def next(self) -> Exchange:
        while not self.exchanges:
            self.news = anyio.Event()
            await self.news.wait()
        return self.exchanges.pop(0)


class Serving:
    def __init__(self, front: Front, address: tuple[str, int]) -> None:
        self.front = front
        self.address = address
        self.streams: list[ByteStream] = []

    async def connect(self) -> ByteStream:
        """A connection whose task waits for a head."""
        stream = await connect_tcp(*self.address)
        self.streams.append(stream)
        while not self.front.connections:
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        return stream

    async def has_read(self, size: int) -> None:
        """Until the one connection has read so much."""
        while [connection.received for connection in self.front._connections] != [size]:
            await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(begins: Begins, *, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[Serving]:
    timers = Timers()
    front = Front(begins.handle, begin=begins.begin, timers=timers, limits=limits)

    async def serve(stream: ByteStream) -> None:
        await front.serve_connection(stream, Peer())

    listener = Listener.bind("127.0.0.1:0")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(timers.run)
            await group.start(listener.serve, serve)
            served = Serving(front, listener.addresses[0])
            try:
                yield served
            finally:
                for stream in served.streams:
                    stream.abort()
                group.cancel_scope.cancel()


async def read(stream: ByteStream, expected: bytes) -> None:
    received = b""
    while len(received) < len(expected) and (data := await stream.receive()):
        received += data
    assert received == expected


async def rest_of(stream: ByteStream) -> bytes:
    received = b""
    while data := await stream.receive():
        received += data
    return received


async def test_request_after_request_is_begun_and_no_task_finishes_them() -> None:
    begins = Begins()
    async with serving(begins) as served:
        stream = await served.connect()
        for number in range(20):
            await stream.send(GET % number)
            await read(stream, answered(b"begun /%d" % number))
        assert len(begins.exchanges) == 20
        assert not begins.handled
        await stream.send_eof()
        assert await stream.receive() == b""
        await anyio.wait_all_tasks_blocked()
        assert not any(exchange.finished for exchange in begins.exchanges[:-1])
        assert not served.front.connections


async def test_an_answer_may_come_later_from_elsewhere() -> None:
    begins = Begins(at_once=False)
    async with serving(begins) as served:
        stream = await served.connect()
        for number in range(5):
            await stream.send(GET % number)
            exchange = await begins.next()
            exchange.answer(b"later")
            await read(stream, answered(b"later"))
            assert exchange.request.rested
            assert not exchange.finished


async def test_a_body_that_comes_with_its_head_is_there() -> None:
    begins = Begins(at_once=False)
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(POST % 0 + b"body")
        exchange = await begins.next()
        assert exchange.request.receive_body_nowait() == b"body"
        assert exchange.request.receive_body_nowait() == b""
        exchange.answer(b"")
        await read(stream, answered(b""))


async def test_a_body_that_is_not_all_there_is_the_handlers_and_the_next_is_begun_again() -> None:
    begins = Begins()
    async with serving(begins) as served:
        stream = await served.connect()
        sent = 0
        for number in range(0, 6, 2):
            await stream.send(GET % number)
            await read(stream, answered(b"begun /%d" % number))
            sent += len(GET % number + POST % (number + 1) + b"bo")
            await stream.send(POST % (number + 1) + b"bo")
            await served.has_read(sent)
            await stream.send(b"dy")
            sent += len(b"dy")
            await read(stream, answered(b"handled /%dbody" % (number + 1)))
            await anyio.wait_all_tasks_blocked()
        assert begins.handled == [b"/1", b"/3", b"/5"]
        assert len(begins.exchanges) == 3


async def test_a_head_in_pieces_is_begun_with_its_last() -> None:
    begins = Begins()
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        await read(stream, answered(b"begun /0"))
        request = GET % 1
        for index in range(len(request)):
            await stream.send(request[index : index + 1])
            await served.has_read(len(GET % 0) + index + 1)
        data = await stream.receive()
        assert data == answered(b"begun /1")


async def test_pipelined_requests_are_answered_in_order() -> None:
    begins = Begins()
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(b"".join(GET % number for number in range(10)))
        handled = b"".join(answered(b"handled /%d" % number) for number in range(9))
        await read(stream, handled + answered(b"begun /9"))
        await anyio.wait_all_tasks_blocked()
        await stream.send(GET % 10)
        await read(stream, answered(b"begun /10"))


async def test_a_connection_rests_on_one_that_its_task_read_too() -> None:
    begins = Begins()
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0 + GET % 1)  # the taker leaves more than one to the task
        await read(stream, answered(b"handled /0") + answered(b"begun /1"))
        await anyio.wait_all_tasks_blocked()
        head = GET % 2
        await stream.send(head[:9])
        await served.has_read(len(GET % 0 + GET % 1) + 9)
        await stream.send(head[9:])
        await read(stream, answered(b"begun /2"))
        await anyio.wait_all_tasks_blocked()
        assert not any(exchange.finished for exchange in begins.exchanges)


async def test_what_comes_while_one_is_under_way_waits_its_turn() -> None:
    begins = Begins(at_once=False)
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        exchange = await begins.next()
        await stream.send(GET % 1)
        await served.has_read(len(GET % 0 + GET % 1))
        exchange.answer(b"first")
        await read(stream, answered(b"first"))
        (await begins.next()).answer(b"second")
        await read(stream, answered(b"second"))


async def test_none_leaves_it_to_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    begins = Begins()
    monkeypatch.setattr(begins, "begin", lambda request: None)
    async with serving(begins) as served:
        stream = await served.connect()
        for number in range(3):
            await stream.send(GET % number)
            await read(stream, answered(b"handled /%d" % number))
            await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("a bug"), b"500"), (HeadError(403, "no", "not this"), b"403")]
)
async def test_what_cannot_be_begun_is_told(
    error: Exception, status: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begins = Begins()

    def fail(request: FrontRequest) -> Exchange | None:
        raise error

    monkeypatch.setattr(begins, "begin", fail)
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        assert (await rest_of(stream)).startswith(b"HTTP/1.1 " + status)
    assert len(caplog.records) == isinstance(error, ValueError)


async def test_a_malformed_head_after_a_begun_request_is_refused() -> None:
    begins = Begins()
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        await read(stream, answered(b"begun /0"))
        await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert (await rest_of(stream)).startswith(b"HTTP/1.1 400 ")


async def test_a_connection_that_is_not_kept_alive_is_closed_after_its_answer() -> None:
    begins = Begins()
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(b"GET /0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = await rest_of(stream)
        assert received.endswith(b"begun /0")
        assert b"Connection: close" in received


async def test_a_caller_that_leaves_wakes_the_task() -> None:
    begins = Begins(at_once=False)
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        exchange = await begins.next()
        stream.abort()
        while served.front.connections:
            await anyio.lowlevel.checkpoint()
        assert exchange.finished
        assert exchange.request.gone


async def test_an_answer_that_its_caller_does_not_take_is_the_tasks_to_finish() -> None:
    begins = Begins(at_once=False)
    body = bytes(4_000_000)

    async def pour(request: FrontRequest) -> None:
        request.send_head(ResponseHead(200, [(b"Content-Length", b"%d" % len(body))], b"OK"))
        for start in range(0, len(body), 60_000):
            while not request.try_send_body(body[start : start + 60_000]):
                await request.wait(writable=True)
        request.send_end()

    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        exchange = await begins.next()
        exchange.finish = lambda: pour(exchange.request)  # type: ignore[method-assign]
        exchange.request.wake()
        await read(stream, answered(body))


async def drained(served: Serving) -> None:
    served.front.drain()
    await served.front.quiet()


async def test_a_drain_waits_for_what_was_begun() -> None:
    begins = Begins(at_once=False)
    async with serving(begins) as served, anyio.create_task_group() as group:
        stream = await served.connect()
        await stream.send(GET % 0)
        exchange = await begins.next()
        group.start_soon(drained, served)
        await anyio.wait_all_tasks_blocked()
        exchange.answer(b"the last")
        received = await rest_of(stream)
        assert received.endswith(b"the last")
        assert b"Connection: close" in received


async def test_what_a_drain_finds_half_answered_does_not_rest_after_it() -> None:
    begins = Begins(at_once=False)
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        exchange = await begins.next()
        exchange.request.send_head(ResponseHead(200, [(b"Content-Length", b"2")], b"OK"))
        exchange.request.flush()
        await read(stream, answered(b"ok")[:-2])
        served.front.drain()
        exchange.request.try_send_body(b"ok")
        exchange.request.send_end()
        exchange.done = True
        assert not exchange.request.rest()
        exchange.request.wake()
        assert await rest_of(stream) == b"ok"


async def test_what_its_caller_does_not_take_whole_does_not_rest() -> None:
    begins = Begins(at_once=False)
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        exchange = await begins.next()
        exchange.request.send_head(ResponseHead(200, [], b"OK"))
        pieces = 0
        while exchange.request.try_send_body(b"x" * 60_000):
            pieces += 1
        exchange.request.send_end()
        exchange.done = True
        assert not exchange.request.rest()
        exchange.request.wake()
        received = b""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += await stream.receive()
        assert received.count(b"x") == pieces * 60_000


async def test_a_drain_ends_what_rests() -> None:
    begins = Begins()
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        await read(stream, answered(b"begun /0"))
        await drained(served)
        assert await stream.receive() == b""


async def test_aborted_what_was_begun_is_finished_with_its_caller_gone() -> None:
    begins = Begins(at_once=False)
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        exchange = await begins.next()
        served.front.abort()
        while served.front.connections:
            await anyio.lowlevel.checkpoint()
        assert exchange.finished


async def test_cancelled_what_was_begun_is_dropped() -> None:
    begins = Begins(at_once=False)
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        exchanges = [await begins.next()]
    assert [(exchange.dropped, exchange.finished) for exchange in exchanges] == [(True, False)]


async def after_a_begun_request(limits: Limits, then: bytes, check: Callable[[bytes], object]) -> None:
    begins = Begins()
    async with serving(begins, limits=limits) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        await read(stream, answered(b"begun /0"))
        await stream.send(then)
        assert check(await rest_of(stream))


async def test_one_that_cannot_be_dropped_is_no_connection_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain would wait for it for ever, and the listener end for it."""

    def fail(_: Exchange) -> None:
        raise ValueError("a log that is full, say")

    monkeypatch.setattr(Exchange, "drop", fail)
    begins = Begins(at_once=False)
    async with serving(begins) as served:
        stream = await served.connect()
        await stream.send(GET % 1)
        await begins.next()
    assert served.front.connections == 0


async def test_the_idle_clock_runs_after_a_begun_request() -> None:
    await after_a_begun_request(Limits(keep_alive_idle=0.05), b"", lambda rest: not rest)


async def test_the_clock_of_a_head_runs_after_a_begun_request() -> None:
    await after_a_begun_request(Limits(head_timeout=0.05), b"GET /", lambda rest: rest.startswith(b"HTTP/1.1 408 "))


async def test_no_clock_runs_while_one_is_under_way() -> None:
    begins = Begins(at_once=False)
    async with serving(begins, limits=Limits(head_timeout=0.05, keep_alive_idle=0.05)) as served:
        stream = await served.connect()
        await stream.send(GET % 0)
        exchange = await begins.next()
        await anyio.sleep(0.2)  # of what must not happen there is no event
        exchange.answer(b"late")
        await read(stream, answered(b"late"))
