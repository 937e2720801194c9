from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest

from tunnelkit.config import Limits
from tunnelkit.errors import HeadError, StreamBroken
from tunnelkit.heads import RequestHead, ResponseHead
from tunnelkit.http.caller import FrontRequest
from tunnelkit.http.front import Front, plain_error
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.peer import Peer
from tunnelkit.net.prefixed import PrefixedStream
from tunnelkit.net.stream import RELAY_READ, Buffer
from tunnelkit.net.timers import Timers

from .helpers import read_until, serving

pytestmark = pytest.mark.anyio

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


def ok(*fields: tuple[bytes, bytes]) -> ResponseHead:
    return ResponseHead(200, list(fields), b"OK")


def sized(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def body_of(request: FrontRequest) -> bytes:
    body = b""
    while (data := request.receive_body_nowait()) != b"":
        if data is None:
            if request.gone:
                raise StreamBroken("the caller left")
            await request.wait(readable=True)
        else:
            body += data
    return body


def answer(request: FrontRequest, body: bytes) -> None:
    request.send_head(ok((b"Content-Length", b"%d" % len(body))))
    request.try_send_body(body)
    request.send_end()


async def echo(request: FrontRequest) -> None:
    answer(request, request.head.target + await body_of(request))


async def ignore(request: FrontRequest) -> None:
    answer(request, b"ignored")


# -- requests and responses ------------------------------------------------------------------------


async def test_requests_one_after_the_other() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        for number in range(3):
            await caller.send(GET % number)
            assert await read_until(caller, sized(b"/%d" % number)) == sized(b"/%d" % number)
        assert served.front.connections == 1


async def test_pipelined_requests_leave_the_others_their_turns() -> None:
    handled: list[bytes] = []
    turns: list[int] = []

    async def at_once(request: FrontRequest) -> None:
        handled.append(request.head.target)
        answer(request, b"")

    async with serving(at_once) as served:
        caller = served.connect()
        await caller.send(b"".join(GET % number for number in range(100)))
        while len(handled) < 100:
            turns.append(len(handled))
            await anyio.lowlevel.checkpoint()
        assert max(after - before for before, after in pairwise(turns)) <= 2
        caller.abort()


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    running: list[bytes] = []

    async def handler(request: FrontRequest) -> None:
        running.append(request.head.target)
        await anyio.lowlevel.checkpoint()
        assert running == [request.head.target]
        running.clear()
        await echo(request)

    async with serving(handler) as served:
        caller = served.connect()
        chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        await caller.send(GET % 1 + chunked + POST + b"Content-Length: 3\r\n\r\nxyz" + GET % 2)
        expected = sized(b"/1") + sized(b"/abc") + sized(b"/xyz") + sized(b"/2")
        assert await read_until(caller, sized(b"/2")) == expected


async def test_interim_responses_do_not_pile_up_for_a_caller_that_does_not_read() -> None:
    hint = ResponseHead(103, [(b"Link", b"x" * 1000)], b"Early Hints")
    sent = anyio.Event()

    async def handler(request: FrontRequest) -> None:
        for _ in range(1000):
            request.send_info(hint)
        sent.set()
        request.send_head(ok((b"Content-Length", b"7")))
        while not request.try_send_body(b"the end"):
            await request.wait(writable=True)
        request.send_end()

    async with serving(handler) as served:
        caller = served.connect(capacity=10_000)
        await caller.send(GET % 1)
        await sent.wait()
        got = await read_until(caller, sized(b"the end"))
        assert 5 < got.count(b"HTTP/1.1 103 Early Hints") < 100


async def test_byte_by_byte() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        for byte in POST + b"Content-Length: 3\r\n\r\nxyz" + GET % 7:
            await caller.send(bytes([byte]))
            await anyio.wait_all_tasks_blocked()
        assert await read_until(caller, b"/7") == sized(b"/xyz") + sized(b"/7")


async def test_what_a_request_tells() -> None:
    seen: list[FrontRequest] = []

    async def handler(request: FrontRequest) -> None:
        seen.append(request)
        assert request.has_body
        assert await body_of(request) == b"abc"
        await ignore(request)

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
        await read_until(caller, b"ignored")
    (request,) = seen
    assert request.head == RequestHead(b"POST", b"/", [(b"Host", b"a"), (b"Transfer-Encoding", b"chunked")])
    assert request.trailers == [(b"X-Sum", b"1")]
    assert (request.scheme, request.peer.address) == ("http", "192.0.2.1")
    assert "reading" in repr(request)


@pytest.mark.parametrize(
    ("line", "status", "written"),
    [
        (b"HEAD / HTTP/1.1", 200, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        (b"GET / HTTP/1.1", 304, b"HTTP/1.1 304 OK\r\nContent-Length: 5\r\n\r\n"),
        (b"GET / HTTP/1.1", 204, b"HTTP/1.1 204 OK\r\n\r\n"),
    ],
)
async def test_responses_without_a_body(line: bytes, status: int, written: bytes) -> None:
    async def handler(request: FrontRequest) -> None:
        request.send_head(ResponseHead(status, [(b"Content-Length", b"5")], b"OK"))
        assert request.try_send_body(b"hello")
        request.send_end()

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send((line + b"\r\nHost: a\r\n\r\n") * 2)
        assert await read_until(caller, written * 2) == written * 2


async def stream_hello(request: FrontRequest) -> None:
    request.send_info(ResponseHead(103, [(b"Link", b"x")], b"Early Hints"))
    request.send_head(ok())
    request.try_send_body(b"hello")
    request.send_end([(b"X-Sum", b"1")])


async def test_interim_responses_chunks_and_trailers() -> None:
    async with serving(stream_hello) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        assert await read_until(caller, b"X-Sum: 1\r\n\r\n") == (
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
        )


async def test_http_1_0_gets_no_interim_responses_and_the_end_by_closing() -> None:
    async with serving(stream_hello) as served:
        caller = served.connect()
        await caller.send(b"GET / HTTP/1.0\r\n\r\n")
        assert await read_until(caller) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"


async def test_http_1_0_keeps_its_connection_if_it_asks() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n")
        assert await read_until(caller) == (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n/1"
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n/2"
        )


class Recorded(PrefixedStream):
    """Keeps what each write held."""

    def __init__(self, stream: MemoryStream) -> None:
        super().__init__(stream, b"")
        self.writes: list[bytes] = []

    def try_send(self, data: Buffer) -> int:
        self.writes.append(bytes(data))
        return super().try_send(data)


async def test_head_and_first_bytes_leave_in_one_write() -> None:
    ours, theirs = memory_pair()
    recorded = Recorded(theirs)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(Front(echo, timers=Timers()).serve_connection, recorded, Peer())
            await ours.send(GET % 1)
            assert await read_until(ours, b"/1") == sized(b"/1")
            await ours.aclose()
    assert recorded.writes == [sized(b"/1")]


# -- what is refused -------------------------------------------------------------------------------


async def test_a_malformed_head_is_told_and_ends_the_connection() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(GET % 1 + b"GET / HTTP/1.1\r\n\r\n" + GET % 2)
        text = b"400 the Host field is missing\n"
        fields = b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 30\r\nConnection: close\r\n\r\n"
        assert await read_until(caller) == sized(b"/1") + b"HTTP/1.1 400 Bad Request\r\n" + fields + text


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"GET /" + b"a" * 20_000, b"414"), (GET[:-2] % 1 + b"A: b\r\n" * 20_000, b"431"), (b"\x16\x03\x01", b"400")],
)
async def test_huge_heads(data: bytes, status: bytes) -> None:
    async with serving(echo) as served:
        caller = served.connect()
        async with anyio.create_task_group() as group:
            group.start_soon(send_what_is_taken, caller, data)
            assert (await read_until(caller)).startswith(b"HTTP/1.1 %b " % status)
            group.cancel_scope.cancel()


async def send_what_is_taken(caller: MemoryStream, data: bytes) -> None:
    try:
        await caller.send(data)
    except StreamBroken:
        return


async def test_an_unfinished_head() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(b"GET / HT")
        await caller.send_eof()
        assert (await read_until(caller)).startswith(b"HTTP/1.1 400 ")


async def test_the_error_responder_is_asked() -> None:
    def responder(head: RequestHead | None, error: HeadError) -> tuple[ResponseHead, bytes]:
        return ResponseHead(499, [(b"X-Code", error.code.encode())]), repr(head).encode()

    async with serving(echo, error_responder=responder) as served:
        caller = served.connect()
        await caller.send(b"nonsense\r\n\r\n")
        assert await read_until(caller) == (
            b"HTTP/1.1 499 \r\nX-Code: bad_head\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"4\r\nNone\r\n0\r\n\r\n"
        )


def test_plain_errors_of_unknown_status() -> None:
    head, body = plain_error(None, HeadError(599, "x", "odd"))
    assert (head.status, head.reason, body) == (599, b"", b"599 odd\n")


# -- clocks ----------------------------------------------------------------------------------------


async def test_a_slow_head_is_told_408() -> None:
    async with serving(echo, limits=Limits(head_timeout=0.05)) as served:
        caller = served.connect()
        await caller.send(b"GET / HTTP/1.1\r\n")
        assert (await read_until(caller)).startswith(b"HTTP/1.1 408 ")


async def test_a_silent_connection_is_closed_without_a_word() -> None:
    async with serving(echo, limits=Limits(head_timeout=0.05)) as served:
        assert await read_until(served.connect()) == b""


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with serving(echo, limits=Limits(keep_alive_idle=0.05)) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        assert await read_until(caller) == sized(b"/1")


async def test_a_request_that_comes_as_the_time_for_it_ends_has_its_own_times() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        await read_until(caller, b"/1")
        await anyio.wait_all_tasks_blocked()
        (connection,) = served.front._connections
        assert caller.try_send(POST + b"Content-Length: 5\r\n\r\nhe")
        connection._read_late()
        await anyio.wait_all_tasks_blocked()
        await caller.send(b"llo")
        assert await read_until(caller, b"hello")
        await caller.send(GET % 2)
        await read_until(caller, b"/2")


async def test_a_request_that_comes_as_the_time_for_it_ends_leaves_the_next_head_its_own() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        assert await read_until(caller, b"/1") == sized(b"/1")
        await anyio.wait_all_tasks_blocked()
        (connection,) = served.front._connections
        assert caller.try_send(GET % 2)
        connection._read_late()
        assert await read_until(caller, b"/2") == sized(b"/2")
        head = GET % 3
        await caller.send(head[:9])
        await anyio.wait_all_tasks_blocked()
        await caller.send(head[9:])
        assert await read_until(caller, b"/3") == sized(b"/3")


async def test_a_body_that_comes_as_its_time_ends_is_in_time() -> None:
    """The clock may be heard before the socket, where the loop was late for both."""
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\n\r\nhe")
        await anyio.wait_all_tasks_blocked()
        (connection,) = served.front._connections
        connection._read_late()
        assert caller.try_send(b"ll") == 2
        await anyio.wait_all_tasks_blocked()
        await caller.send(b"o")
        assert await read_until(caller, b"hello") == sized(b"/hello")


async def test_a_body_that_ends_as_its_time_does_leaves_the_next_head_its_own() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\n\r\nhe")
        await anyio.wait_all_tasks_blocked()
        (connection,) = served.front._connections
        assert caller.try_send(b"llo") == 3
        connection._read_late()
        assert await read_until(caller, b"hello") == sized(b"/hello")
        head = GET % 2
        await caller.send(head[:9])
        await anyio.wait_all_tasks_blocked()
        await caller.send(head[9:])
        assert await read_until(caller, b"/2") == sized(b"/2")


async def test_the_rest_of_a_body_that_ends_as_its_time_does_leaves_the_next_head_its_own() -> None:
    """Nobody asked for the body: it is read over."""
    async with serving(ignore) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\n\r\nhe")
        assert await read_until(caller, b"ignored") == sized(b"ignored")
        await anyio.wait_all_tasks_blocked()
        (connection,) = served.front._connections
        assert caller.try_send(b"llo") == 3
        connection._read_late()
        await anyio.wait_all_tasks_blocked()
        head = GET % 2
        await caller.send(head[:9])
        await anyio.wait_all_tasks_blocked()
        await caller.send(head[9:])
        assert await read_until(caller, b"ignored") == sized(b"ignored")


async def test_the_second_head_has_its_own_time() -> None:
    async with serving(echo, limits=Limits(head_timeout=0.05)) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        await read_until(caller, sized(b"/1"))
        await caller.send(b"GET")
        assert (await read_until(caller)).startswith(b"HTTP/1.1 408 ")


async def test_a_head_has_its_own_time_though_idling_has_as_much() -> None:
    async with serving(echo, limits=Limits(head_timeout=60, keep_alive_idle=60)) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        await read_until(caller, b"/1")
        await anyio.wait_all_tasks_blocked()
        clock = next(iter(served.front._connections)).read_clock
        due = [clock.when]
        for piece in (b"G", b"E"):
            now = anyio.current_time()
            while anyio.current_time() == now:  # uvloop's clock goes by the millisecond
                await anyio.lowlevel.checkpoint()
            await caller.send(piece)
            await anyio.wait_all_tasks_blocked()
            due.append(clock.when)
        assert due[0] < due[1] == due[2]  # in all, not for each piece


async def test_a_body_that_stops_is_told_408() -> None:
    async with serving(echo, limits=Limits(body_idle_timeout=0.05)) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\n\r\nhe")
        data = await read_until(caller)
        assert data.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in data


async def test_a_body_that_comes_too_slowly_is_told_408() -> None:
    async with serving(echo, limits=Limits(min_rate=1e9, min_rate_period=0.0001)) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 500\r\n\r\n")
        with pytest.raises(StreamBroken):  # noqa: PT012
            while True:
                await anyio.wait_all_tasks_blocked()
                await caller.send(b"h")
                if (data := caller.receive_nowait()) is not None:
                    assert data.startswith(b"HTTP/1.1 408 ")
                    raise StreamBroken("told")


@pytest.mark.parametrize("framing", [b"5;" + b"a" * 4000, b"0\r\nX: " + b"a" * 4000])
async def test_framing_that_comes_too_slowly_is_told_408(framing: bytes) -> None:
    """Chunk extensions and trailers are no body, but whoever drips them is waited for all the same."""
    async with serving(echo, limits=Limits(min_rate=1e9, min_rate_period=0.0001)) as served:
        caller = served.connect()
        await caller.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for byte in framing:
            await anyio.wait_all_tasks_blocked()
            if (data := caller.receive_nowait()) is not None:
                break
            await caller.send(bytes([byte]))
        assert data is not None
        assert data.startswith(b"HTTP/1.1 408 ")


async def test_being_woken_gives_a_silent_caller_no_more_time() -> None:
    """An origin that sends meanwhile, say, wakes the connection's task again and again."""
    async with serving(echo, limits=Limits(body_idle_timeout=0.05)) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\n\r\nhe")
        await anyio.wait_all_tasks_blocked()
        connection = next(iter(served.front._connections))

        async def keep_waking() -> None:
            while True:
                connection.stream.wake()
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as group:
            group.start_soon(keep_waking)
            assert (await read_until(caller)).startswith(b"HTTP/1.1 408 ")
            group.cancel_scope.cancel()


async def test_a_body_is_not_late_while_nobody_wants_it() -> None:
    limits = Limits(body_idle_timeout=0.01, read_ahead=4)
    released = anyio.Event()

    async def patient(request: FrontRequest) -> None:
        await request.wait(readable=True)  # four bytes, then there is no room
        await request.wait(readable=True)
        released.set()
        await echo(request)

    async with serving(patient, limits=limits) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 8\r\n\r\nhellohey")
        await anyio.wait_all_tasks_blocked()
        passed = anyio.Event()
        served.timers.at(anyio.current_time() + 0.05, passed.set)
        await passed.wait()
        assert not released.is_set()
        next(iter(served.front._connections)).stream.wake()
        assert await read_until(caller, b"hellohey") == sized(b"/hellohey")


async def send_much(request: FrontRequest) -> None:
    """As a gateway does: gives a piece when it is taken, waits when not."""
    request.send_head(ok())
    for _ in range(100):
        while not request.try_send_body(b"x" * 10_000):
            await request.wait(writable=True)
            if request.gone:
                return
    request.send_end()


async def test_a_caller_that_stops_reading_is_broken_off() -> None:
    async with serving(send_much, limits=Limits(write_timeout=0.05)) as served:
        caller = served.connect(capacity=20_000)
        await caller.send(GET % 1)
        await caller.wait()  # for the end: what comes is not read
        assert await read_until(caller) == b"<reset>"


async def test_a_caller_that_reads_too_slowly_is_broken_off() -> None:
    async with serving(send_much, limits=Limits(min_rate=1e12, min_rate_period=0.0001)) as served:
        caller = served.connect(capacity=20_000)
        await caller.send(GET % 1)
        assert (await read_until(caller)).endswith(b"<reset>")


async def test_a_caller_that_reads_late_gets_all() -> None:
    async with serving(send_much) as served:
        caller = served.connect(capacity=20_000)
        await caller.send(GET % 1)
        await anyio.wait_all_tasks_blocked()
        assert (await read_until(caller, b"0\r\n\r\n")).count(b"x") == 1_000_000


async def test_a_caller_that_was_waited_for_and_took_all_is_waited_for_no_more() -> None:
    sent, looked = anyio.Event(), anyio.Event()

    async def then_waits(request: FrontRequest) -> None:
        await send_much(request)
        while not request.flush():
            await request.wait(writable=True)
        sent.set()
        await looked.wait()

    async with serving(then_waits) as served:
        caller = served.connect(capacity=20_000)
        await caller.send(GET % 1)
        await anyio.wait_all_tasks_blocked()
        (connection,) = served.front._connections
        assert connection.write_clock.when < math.inf
        await read_until(caller, b"0\r\n\r\n")
        await sent.wait()
        when = connection.write_clock.when
        looked.set()
        assert when == math.inf


# -- leaving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [MemoryStream.send_eof, MemoryStream.aclose])
async def test_a_caller_that_leaves_is_noticed(leave: Callable[[MemoryStream], Awaitable[None]]) -> None:
    waiting, left = anyio.Event(), anyio.Event()

    async def handler(request: FrontRequest) -> None:
        waiting.set()
        while not request.gone:
            await request.wait(readable=True)
        await request.wait(readable=True)  # at once, again
        answer(request, b"nobody sees it")
        request.send_info(ResponseHead(103, []))
        assert request.flush()
        left.set()

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(GET % 1 + GET % 2)
        await waiting.wait()
        await anyio.wait_all_tasks_blocked()
        assert not left.is_set()
        await leave(caller)
        await left.wait()


async def test_a_reset_is_noticed() -> None:
    async def handler(request: FrontRequest) -> None:
        while not request.gone:
            await request.wait(readable=True)
        assert request.receive_body_nowait() == b""

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        await anyio.wait_all_tasks_blocked()
        caller.abort()
        while served.front.connections:
            await anyio.wait_all_tasks_blocked()


async def test_writing_to_a_caller_that_left() -> None:
    async def handler(request: FrontRequest) -> None:
        request.wake()
        await request.wait()
        answer(request, b"nobody sees it")
        assert request.gone
        assert request.flush()

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        await caller.aclose()
        while served.front.connections:
            await anyio.wait_all_tasks_blocked()


async def test_what_comes_in_crumbs_is_held_in_pieces() -> None:
    async def handler(request: FrontRequest) -> None:
        while not request.received:
            await request.wait(readable=True)
        assert len(request._body) <= 3
        await echo(request)

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 2000\r\n\r\n")
        for _ in range(200):
            await caller.send(b"x" * 10)
            await anyio.lowlevel.checkpoint()
        assert (await read_until(caller, b"x" * 2000)).endswith(b"/" + b"x" * 2000)


async def test_bodies_are_taken_in_small_pieces() -> None:
    async def handler(request: FrontRequest) -> None:
        pieces = [request.receive_body_nowait(2) for _ in range(4)]
        assert pieces == [b"he", b"ll", b"o", b""]
        await ignore(request)

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\n\r\nhello")
        assert await read_until(caller, b"ignored") == sized(b"ignored")


@pytest.mark.parametrize("data", [b"", b"GET / HT", GET % 1 + b"GET"])
async def test_a_reset_between_requests(data: bytes) -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(data)
        await anyio.wait_all_tasks_blocked()
        caller.abort()
        while served.front.connections:
            await anyio.wait_all_tasks_blocked()


async def test_a_caller_that_resets_instead_of_reading_its_refusal() -> None:
    async with serving(echo) as served:
        caller = served.connect(capacity=10)
        await caller.send(b"nonsense")
        await caller.send(b"\r\n\r\n")
        await anyio.wait_all_tasks_blocked()
        caller.abort()
        while served.front.connections:
            await anyio.wait_all_tasks_blocked()


async def test_a_half_closed_caller_may_be_answered() -> None:
    async def handler(request: FrontRequest) -> None:
        with anyio.move_on_after(0.02):
            await request.wait(readable=True)
            await request.wait(readable=True)
        assert not request.gone
        await echo(request)

    async with serving(handler, half_close_answers=True) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        await caller.send_eof()
        assert await read_until(caller) == sized(b"/1")


async def test_a_body_cut_short() -> None:
    errors: list[HeadError] = []

    async def handler(request: FrontRequest) -> None:
        try:
            await body_of(request)
        except HeadError as error:
            errors.append(error)
        assert request.gone

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\n\r\nhe")
        await caller.send_eof()
        assert await read_until(caller) == b"<reset>"
    assert [error.code for error in errors] == ["incomplete_request"]


async def test_a_malformed_body_is_answered_by_its_status() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nz\r\n")
        assert (await read_until(caller)).startswith(b"HTTP/1.1 400 ")


async def test_the_answer_to_a_malformed_body_says_that_the_connection_ends() -> None:
    """Where the next request begins is not known, whoever answers this one."""

    async def handler(request: FrontRequest) -> None:
        with pytest.raises(HeadError, match="hexadecimal"):
            await body_of(request)
        answer(request, b"ignored")

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(POST + b"Transfer-Encoding: chunked\r\n\r\nz\r\n" + GET % 1)
        assert await read_until(caller) == EARLY


async def test_reading_ahead_is_bounded() -> None:
    async def handler(request: FrontRequest) -> None:
        while not request.gone:
            await request.wait(readable=True)

    async with serving(handler, limits=Limits(read_ahead=1000)) as served:
        caller = served.connect(capacity=500)
        sent = await send_until_blocked(caller, POST + b"Content-Length: 9999\r\n\r\n" + b"x" * 9999)
        assert sent <= len(POST) + 30 + 1000 + 500
        pipelining = served.connect(capacity=500)
        assert await send_until_blocked(pipelining, GET % 1 + b"x" * 9999) <= len(GET) + 1000 + 500


@pytest.mark.parametrize("size", [32_769, 65_535, 65_536])
async def test_a_caller_that_leaves_is_noticed_though_nobody_takes_its_body(size: int) -> None:
    left = anyio.Event()

    async def handler(request: FrontRequest) -> None:
        while not request.gone:
            await request.wait(readable=True)
        left.set()

    async with serving(handler) as served:
        caller = served.connect(capacity=200_000)
        await caller.send(POST + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
        await anyio.wait_all_tasks_blocked()
        assert not left.is_set()
        await caller.send_eof()
        await left.wait()


@pytest.mark.parametrize("body", [b"", b"9c40\r\n" + bytes(40_000) + b"\r\n"])
async def test_a_trailer_section_that_is_too_large_is_not_waited_for(body: bytes) -> None:
    failures: list[HeadError] = []

    async def handler(request: FrontRequest) -> None:
        try:
            while request.receive_body_nowait() != b"":
                await request.wait(readable=True)
        except HeadError as error:
            failures.append(error)
        answer(request, b"")

    async with serving(handler) as served:
        caller = served.connect(capacity=200_000)
        await caller.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\nA: ")
        await caller.send(bytes(64 * 1024).replace(b"\0", b"a"))
        await read_until(caller, sized(b""))
    assert [(error.status, error.code) for error in failures] == [(431, "head_too_large")]


async def test_a_long_body_is_read_in_pieces_that_messages_carry_whole() -> None:
    sizes: list[int] = []

    async def handler(request: FrontRequest) -> None:
        while (data := request.receive_body_nowait(RELAY_READ)) != b"":
            if data is None:
                await request.wait(readable=True)
            else:
                sizes.append(len(data))
        answer(request, b"")

    async with serving(handler) as served:
        caller = served.connect(capacity=2_000_000)
        await caller.send(POST + b"Content-Length: %d\r\n\r\n" % (20 * RELAY_READ + 10))
        await anyio.wait_all_tasks_blocked()
        await caller.send(bytes(20 * RELAY_READ + 10))
        assert await read_until(caller, sized(b"")) == sized(b"")
    assert sizes == [RELAY_READ] * 20 + [10]


async def send_until_blocked(stream: MemoryStream, data: bytes) -> int:
    sent = 0
    while taken := stream.try_send(data[sent:]):
        sent += taken
        await anyio.wait_all_tasks_blocked()
    return sent


# -- answers before the request is complete --------------------------------------------------------


async def test_a_small_rest_is_read_over_and_the_connection_kept() -> None:
    async with serving(ignore) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\n\r\nhe")
        assert await read_until(caller, b"ignored") == sized(b"ignored")
        await caller.send(b"llo" + GET % 1)
        assert await read_until(caller, b"ignored") == sized(b"ignored")


@pytest.mark.parametrize(("rest", "is_small"), [(10, True), (11, False)])
async def test_a_rest_is_small_up_to_its_limit(rest: int, is_small: bool) -> None:
    async with serving(ignore, limits=Limits(linger_bytes=10)) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: %d\r\n\r\n" % rest)
        assert (b"Connection: close" in await read_until(caller, b"ignored")) is not is_small


async def test_a_rest_that_does_not_come_ends_the_connection() -> None:
    async with serving(ignore, limits=Limits(linger_time=0.05)) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\n\r\nhe")
        assert await read_until(caller) == sized(b"ignored")


EARLY = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nignored"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 100000\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nExpect: 100-continue\r\n",
    ],
)
async def test_an_early_answer_survives_what_the_caller_still_sends(fields: bytes) -> None:
    async with serving(ignore) as served:
        caller = served.connect()
        await caller.send(POST + fields + b"\r\n")
        assert await read_until(caller) == EARLY  # our half is closed
        await caller.send(b"1\r\na\r\n" * 100)  # and nothing is reset by what comes now
        await anyio.wait_all_tasks_blocked()
        assert caller.receive_nowait() == b""
        await caller.send_eof()
        while served.front.connections:
            await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("limits", [Limits(linger_time=0.05), Limits(linger_time=0.05, linger_bytes=10)])
async def test_lingering_is_bounded(limits: Limits) -> None:
    async with serving(ignore, limits=limits) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 100000\r\n\r\n")
        assert await read_until(caller) == EARLY
        await caller.send(b"x" * 20)
        while served.front.connections:
            await anyio.wait_all_tasks_blocked()


async def test_100_continue_is_passed_on() -> None:
    async def handler(request: FrontRequest) -> None:
        assert request.expects_continue is request.has_body
        if request.expects_continue:
            request.send_info(ResponseHead(100, [], b"Continue"))
        await echo(request)

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert await read_until(caller, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(b"hello" + GET % 1)
        assert await read_until(caller, sized(b"/1")) == sized(b"/hello") + sized(b"/1")


# -- upgrades --------------------------------------------------------------------------------------

UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"


async def test_upgrade_with_early_bytes() -> None:
    async def handler(request: FrontRequest) -> None:
        head = ResponseHead(101, [(b"Connection", b"upgrade"), (b"Upgrade", b"x")], b"Switching Protocols")
        stream = await request.upgrade(head)
        while data := await stream.receive(4):
            await stream.send(b"<" + data + b">")
        await stream.send_eof()

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(UPGRADE + b"early")
        switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        assert await read_until(caller, b"<y>") == switched + b"<earl><y>"
        await caller.send(b"more")
        await caller.send_eof()
        assert await read_until(caller) == b"<more>"


async def test_an_upgrade_may_be_answered_ordinarily() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(UPGRADE + GET % 1)
        assert await read_until(caller, sized(b"/1")) == sized(b"/chat") + sized(b"/1")


async def test_no_upgrade_for_a_caller_who_left(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: FrontRequest) -> None:
        while not request.gone:
            await request.wait(readable=True)
        with pytest.raises(StreamBroken):
            await request.upgrade(ResponseHead(101, []))
        raise StreamBroken("as it came")

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(UPGRADE)
        await anyio.wait_all_tasks_blocked()
        caller.abort()
        while served.front.connections:
            await anyio.wait_all_tasks_blocked()
    assert not caplog.records


# -- handlers that fail ----------------------------------------------------------------------------


async def fail_at_once(request: FrontRequest) -> None:
    raise RuntimeError("secret detail")


async def do_nothing(request: FrontRequest) -> None:
    return


async def fail_in_the_middle(request: FrontRequest) -> None:
    request.send_head(ok((b"Content-Length", b"5")))
    request.try_send_body(b"he")
    request.flush()
    raise RuntimeError("secret detail")


async def stop_in_the_middle(request: FrontRequest) -> None:
    request.send_head(ok((b"Content-Length", b"5")))
    request.try_send_body(b"he")
    request.flush()


async def abort(request: FrontRequest) -> None:
    request.abort()
    await request.wait(writable=True)


async def refuse(request: FrontRequest) -> None:
    raise HeadError(413, "too_large", "this is too much")


async def send_too_little(request: FrontRequest) -> None:
    request.send_head(ok((b"Content-Length", b"5")))
    request.send_end()


@pytest.mark.parametrize(
    ("handler", "status"), [(fail_at_once, b"500"), (do_nothing, b"500"), (refuse, b"413")], ids=lambda value: ""
)
async def test_a_handler_that_does_not_answer(
    handler: Callable[[FrontRequest], Awaitable[None]], status: bytes
) -> None:
    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        data = await read_until(caller)
        assert data.startswith(b"HTTP/1.1 %b " % status)
        assert b"Connection: close" in data
        assert b"secret" not in data


@pytest.mark.parametrize("handler", [fail_in_the_middle, stop_in_the_middle, abort, send_too_little])
async def test_a_partial_answer_is_seen_to_be_partial(
    handler: Callable[[FrontRequest], Awaitable[None]],
) -> None:
    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        assert (await read_until(caller)).endswith(b"<reset>")


async def test_failures_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "tunnelkit.server")
    async with serving(fail_at_once) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        await read_until(caller)
    assert [record.getMessage() for record in caplog.records] == ["a request's handler failed"]


async def test_a_failing_error_responder_costs_only_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    def responder(head: RequestHead | None, error: HeadError) -> tuple[ResponseHead, bytes]:
        raise RuntimeError("no words")

    async with serving(echo, error_responder=responder) as served:
        caller = served.connect()
        await caller.send(b"nonsense\r\n\r\n")
        assert await read_until(caller) == b"<reset>"
        caller = served.connect()
        await caller.send(GET % 1)
        assert await read_until(caller, b"/1") == sized(b"/1")


# -- the end of the server -------------------------------------------------------------------------


async def test_drain() -> None:
    async with serving(echo) as served:
        idle, busy, between = served.connect(), served.connect(), served.connect()
        await busy.send(POST + b"Content-Length: 5\r\n\r\nhe")
        await between.send(GET % 1)
        await read_until(between, b"/1")
        await anyio.wait_all_tasks_blocked()
        served.front.drain()
        assert await read_until(idle) == b""
        assert await read_until(between) == b""
        await busy.send(b"llo" + GET % 2)
        assert await read_until(busy) == (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n/hello")
        late = served.connect()
        await anyio.wait_all_tasks_blocked()
        await late.send((GET % 3) * 2)
        assert await read_until(late) == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n/3"


@pytest.mark.parametrize("data", [POST + b"Content-Length: 5\r\n\r\nhe", POST, b""])
async def test_abort(data: bytes) -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(data)
        await anyio.wait_all_tasks_blocked()
        served.front.abort()
        assert await read_until(caller) == b"<reset>"
        while served.front.connections:
            await anyio.wait_all_tasks_blocked()


async def test_quiet_waits_for_the_answers() -> None:
    async with serving(echo) as served, anyio.create_task_group() as group:
        busy = served.connect()
        await busy.send(POST + b"Content-Length: 5\r\n\r\nhe")
        await anyio.wait_all_tasks_blocked()
        served.front.drain()
        done = anyio.Event()

        async def wait() -> None:
            await served.front.quiet()
            done.set()

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not done.is_set()
        await busy.send(b"llo")
        await read_until(busy)
        await done.wait()


async def test_quiet_does_not_wait_for_requests_of_tunnel_clients() -> None:
    async def link(request: FrontRequest) -> None:
        if request.head.method == b"POST":
            request.be_link()
        await echo(request)

    async with serving(link) as served, anyio.create_task_group() as group:
        poll, caller = served.connect(), served.connect()
        await poll.send(POST + b"Content-Length: 5\r\n\r\nhello")
        await read_until(poll, b"/hello")
        await poll.send(POST + b"Content-Length: 5\r\n\r\nhe")
        await caller.send((GET % 1).removesuffix(b"\r\n"))
        await anyio.wait_all_tasks_blocked()
        served.front.drain()
        quiet = anyio.Event()

        async def wait() -> None:
            await served.front.quiet()
            quiet.set()

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not quiet.is_set()
        await caller.send(b"\r\n")
        await quiet.wait()
        await poll.send(b"llo")
        assert (await read_until(poll, b"/hello")).endswith(b"/hello")


@pytest.mark.parametrize("when", ["between requests", "during a request", "before the connection"])
async def test_a_drain_leaves_the_connections_of_tunnel_clients(when: str) -> None:
    """Until another's request comes on them, as behind a proxy it may."""

    async def link(request: FrontRequest) -> None:
        if request.head.method == b"POST":
            request.be_link()
        await echo(request)

    post = POST + b"Content-Length: 5\r\n\r\nhello"
    async with serving(link) as served:
        poll = served.connect()
        if when != "before the connection":
            await poll.send(post[: -len("lo")])
            await anyio.wait_all_tasks_blocked()
        if when == "between requests":
            await poll.send(b"lo")
            await read_until(poll, b"/hello")
        served.front.drain()
        await poll.send(b"lo" if when == "during a request" else post)
        for _ in range(2):
            assert await read_until(poll, b"/hello") == sized(b"/hello")
            await poll.send(post)
        await read_until(poll, b"/hello")
        await poll.send(GET % 1)
        assert await read_until(poll) == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n/1"


async def test_cancelling_breaks_the_connection_off() -> None:
    async with serving(echo) as served:
        caller = served.connect()
        await caller.send(POST + b"Content-Length: 5\r\n\r\nhe")
        await anyio.wait_all_tasks_blocked()
    assert await read_until(caller) == b"<reset>"
    assert not served.front.connections


# -- answers that wake nobody ------------------------------------------------------------------------


class Resting:
    """Its requests are answered by whoever holds it, while the task of each waits."""

    def __init__(self) -> None:
        self.requests: list[FrontRequest] = []
        self.woken = 0
        self.came = anyio.Event()

    async def handle(self, request: FrontRequest) -> None:
        self.requests.append(request)
        self.came.set()
        await request.wait(readable=True)
        self.woken += 1

    async def next(self) -> FrontRequest:
        """The next request, whose task waits by now."""
        with anyio.fail_after(10):
            await self.came.wait()
            await anyio.wait_all_tasks_blocked()
        self.came = anyio.Event()
        return self.requests[-1]


async def test_a_caller_that_has_its_answer_wakes_nobody_before_it_asks_again() -> None:
    resting = Resting()
    async with serving(resting.handle) as served:
        caller = served.connect()
        for number in range(3):
            await caller.send(GET % number)
            request = await resting.next()
            assert resting.woken == number
            answer(request, b"%d" % number)
            assert request.rest()
            assert await read_until(caller, sized(b"%d" % number)) == sized(b"%d" % number)
        await anyio.wait_all_tasks_blocked()
        assert resting.woken == 2
        await caller.send_eof()
        assert await read_until(caller, b"") == b""


@pytest.mark.parametrize("ended_by", ["the clock", "a drain", "the caller"])
async def test_what_ends_a_connection_that_rests(ended_by: str) -> None:
    resting = Resting()
    limits = Limits(keep_alive_idle=0.05 if ended_by == "the clock" else 60)
    async with serving(resting.handle, limits=limits) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        request = await resting.next()
        answer(request, b"1")
        assert request.rest()
        assert await read_until(caller, sized(b"1")) == sized(b"1")
        if ended_by == "a drain":
            served.front.drain()
        with anyio.fail_after(10):
            if ended_by == "the caller":
                await caller.aclose()
            else:
                assert await read_until(caller) == b""
            await anyio.wait_all_tasks_blocked()
        assert resting.woken == 1
        assert not served.front.connections


@pytest.mark.parametrize(
    "wire",
    [
        GET % 1 + GET % 2,
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
async def test_a_connection_on_which_there_is_more_to_do_does_not_rest(wire: bytes) -> None:
    resting = Resting()
    async with serving(resting.handle) as served:
        caller = served.connect()
        await caller.send(wire)
        request = await resting.next()
        answer(request, b"1")
        assert not request.rest()
        request.wake()
        assert await read_until(caller, b"1") != b""
        caller.abort()


async def test_nobody_rests_who_does_not_wait() -> None:
    rested: list[bool] = []

    async def at_once(request: FrontRequest) -> None:
        answer(request, b"1")
        rested.append(request.rest())

    async with serving(at_once) as served:
        caller = served.connect()
        await caller.send(GET % 1)
        assert await read_until(caller, sized(b"1")) == sized(b"1")
        assert rested == [False]
