from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from tunnelkit.config import Limits
from tunnelkit.errors import HeadError, LocalProtocolError, StreamBroken
from tunnelkit.heads import RequestHead, ResponseHead
from tunnelkit.http.caller import FrontRequest
from tunnelkit.http.client import OriginConnection, simple_request
from tunnelkit.http.client_codec import request_block
from tunnelkit.http.codec import Body, End
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.prefixed import PrefixedStream
from tunnelkit.net.stream import Buffer

from .helpers import read_until, serving

pytestmark = pytest.mark.anyio

HOST = (b"Host", b"a")
GET = RequestHead(b"GET", b"/", [HOST])
POST = RequestHead(b"POST", b"/", [HOST])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@asynccontextmanager
async def connected(capacity: int = 64 * 1024) -> AsyncIterator[tuple[OriginConnection, MemoryStream]]:
    ours, theirs = memory_pair(capacity)
    with anyio.fail_after(10):
        yield OriginConnection(ours), theirs


def events(connection: OriginConnection) -> list[ResponseHead | Body | End]:
    found = []
    while (event := connection.next_event_nowait()) is not None:
        found.append(event)
    return found


async def test_two_requests_on_one_connection() -> None:
    async with connected() as (connection, origin):
        for number in (1, 2):
            connection.send_request(GET)
            untouched, begun = [connection.request_untouched], [connection.answer_begun]
            connection.send_end()
            assert [*untouched, connection.request_untouched] == [True, False]
            assert await read_until(origin, b"\r\n\r\n") == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
            assert events(connection) == []
            await origin.send(OK)
            await connection.wait(readable=True)
            head = ResponseHead(200, [(b"Content-Length", b"2")], b"OK")
            assert events(connection) == [head, Body(b"hi"), End([])]
            assert [*begun, connection.answer_begun] == [False, True]
            assert connection.reusable
            assert connection.check_idle()
            assert connection.exchanges == number
        assert "DONE" in repr(connection)


async def test_an_answer_that_has_not_begun_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look may be a system call, and a stream says by its None that it is the others' turn."""
    async with connected() as (connection, origin):
        looks: list[int] = []
        monkeypatch.setattr(connection.stream, "receive_nowait", looks.append)
        connection.send_whole(request_block(GET))
        assert connection.next_event_nowait() is None
        assert len(looks) == 1
        monkeypatch.undo()
        await origin.send(OK)
        assert isinstance(connection.next_event_nowait(), ResponseHead)


@pytest.mark.parametrize("pieces", [[OK], [OK[:-1], OK[-1:]], [OK[:-2], OK[-2:]]], ids=["whole", "part", "head"])
async def test_a_body_that_is_here_as_a_whole_is_taken_at_once(pieces: list[bytes]) -> None:
    async with connected() as (connection, origin):
        for _ in range(3):
            connection.send_whole(request_block(GET))
            assert not connection.request_untouched
            assert await read_until(origin, b"\r\n\r\n") == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
            await origin.send(pieces[0])
            assert isinstance(connection.next_event_nowait(), ResponseHead)
            if len(pieces) == 1:
                assert connection.take_rest() == b"hi"
            else:
                assert connection.take_rest() is None
                await origin.send(pieces[1])
                found = events(connection)
                assert b"".join(event.data for event in found if isinstance(event, Body)) == b"hi"
                assert found[-1] == End([])
            assert connection.take_rest() is None
            assert connection.next_event_nowait() is None
            assert connection.reusable


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", OK[:-2]),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ],
)
async def test_there_is_no_rest_of_other_answers(method: bytes, answer: bytes) -> None:
    async with connected() as (connection, origin):
        for _ in range(3):  # of one that comes again nothing is looked at but what it was
            connection.send_whole(request_block(RequestHead(method, b"/", [HOST])))
            await origin.send(answer)
            assert isinstance(connection.next_event_nowait(), ResponseHead)
            assert connection.take_rest() is None
            assert events(connection) == [End([])]
            assert connection.reusable


async def test_what_answers_head_says_nothing_of_what_answers_get() -> None:
    """The same head, byte for byte."""
    async with connected() as (connection, origin):
        for method in (b"HEAD", b"HEAD", b"HEAD", b"GET", b"HEAD", b"GET"):
            connection.send_whole(request_block(RequestHead(method, b"/", [HOST])))
            await origin.send(OK if method == b"GET" else OK[:-2])
            assert isinstance(connection.next_event_nowait(), ResponseHead)
            assert connection.take_rest() == (b"hi" if method == b"GET" else None)
            assert events(connection) == ([] if method == b"GET" else [End([])])
            assert connection.reusable


async def test_a_request_that_lacks_its_body_does_not_go_out() -> None:
    async with connected() as (connection, origin):
        with pytest.raises(LocalProtocolError):
            connection.send_whole(request_block(RequestHead(b"POST", b"/", [HOST, (b"Content-Length", b"2")])))
        assert connection.request_untouched
        assert origin.receive_nowait() is None


async def test_interim_responses_come_first() -> None:
    async with connected() as (connection, origin):
        connection.send_request(POST, has_body=True)
        assert connection.flush()
        await origin.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert events(connection) == [ResponseHead(100, [], b"Continue")]
        assert connection.answer_begun
        assert connection.try_send_body(b"")
        assert connection.try_send_body(b"abc")
        connection.send_end([(b"T", b"1")])
        wire = await read_until(origin, b"T: 1\r\n\r\n")
        assert wire.endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n")


async def test_a_full_stream_takes_no_more() -> None:
    async with connected(capacity=100) as (connection, origin):
        connection.send_request(POST, has_body=True)
        assert connection.try_send_body(b"x" * 1000)
        assert not connection.flush()
        assert not connection.try_send_body(b"y")
        assert not connection.reusable
        received = b""
        while not connection.flush():
            received += await origin.receive()
        assert connection.try_send_body(b"y")
        connection.send_end()
        received += await read_until(origin, b"0\r\n\r\n")
        assert received.count(b"x") == 1000


async def test_nothing_was_touched_when_nothing_could_be_written() -> None:
    async with connected() as (connection, origin):
        await origin.aclose()
        connection.send_request(GET)
        connection.send_end()
        assert connection.flush()  # what was to go is dropped
        assert connection.request_untouched
        with pytest.raises((HeadError, StreamBroken)):
            connection.next_event_nowait()
        assert not connection.reusable
        assert not connection.check_idle()


class WriteFails(PrefixedStream):
    """Reads on after its peer took no more."""

    def try_send(self, data: Buffer) -> int:
        raise StreamBroken("reset")


async def test_an_answer_is_read_though_writing_failed() -> None:
    ours, theirs = memory_pair()
    connection = OriginConnection(WriteFails(ours, b""))
    await theirs.send(b"HTTP/1.1 413 \r\nContent-Length: 0\r\n\r\n")
    connection.send_request(POST, has_body=True)
    assert connection.flush()
    assert connection.try_send_body(b"abc")
    assert [type(event) for event in events(connection)] == [ResponseHead, End]
    assert not connection.reusable


async def test_a_response_cut_short() -> None:
    async with connected() as (connection, origin):
        connection.send_request(GET)
        connection.send_end()
        await origin.send(OK[:-1])
        assert len(events(connection)) == 2
        await origin.send_eof()
        with pytest.raises(HeadError) as caught:
            connection.next_event_nowait()
        assert caught.value.code == "truncated_response"


async def test_upgrade() -> None:
    async with connected() as (connection, origin):
        connection.send_request(RequestHead(b"GET", b"/", [HOST, (b"Connection", b"Upgrade"), (b"Upgrade", b"x")]))
        connection.send_end()
        await origin.send(b"HTTP/1.1 101 \r\nUpgrade: x\r\n\r\nearly")
        assert [event.status for event in events(connection) if isinstance(event, ResponseHead)] == [101]
        assert not connection.reusable
        stream = connection.upgraded()
        assert await stream.receive() == b"early"
        await read_until(origin, b"\r\n\r\n")
        await stream.send(b"more")
        assert await origin.receive() == b"more"


async def test_wake() -> None:
    async with connected() as (connection, _):
        connection.wake()
        await connection.wait(readable=True)


async def test_closing() -> None:
    async with connected() as (connection, origin):
        await connection.aclose()
        assert "dead" in repr(connection)
        assert await origin.receive() == b""
    async with connected() as (connection, origin):
        connection.abort()
        assert await read_until(origin) == b"<reset>"


@pytest.mark.parametrize(("data", "quiet"), [(None, True), (b"", False), (b"HTTP/1.1 408 \r\n\r\n", False)])
async def test_idle_connections(data: bytes | None, quiet: bool) -> None:
    async with connected() as (connection, origin):
        connection.send_request(GET)
        connection.send_end()
        await origin.send(OK)
        assert len(events(connection)) == 3
        if data is not None:
            await (origin.send(data) if data else origin.send_eof())
        assert connection.check_idle() is quiet


async def test_an_idle_connection_that_was_reset() -> None:
    async with connected() as (connection, origin):
        connection.send_request(GET)
        connection.send_end()
        await origin.send(OK)
        assert len(events(connection)) == 3
        origin.abort()
        assert not connection.check_idle()


# -- simple_request --------------------------------------------------------------------------------


async def echo(request: FrontRequest) -> None:
    request.send_info(ResponseHead(103, []))
    request.send_head(ResponseHead(200, [], b"OK"))
    while (data := request.receive_body_nowait()) != b"":
        if data is None:
            await request.wait(readable=True)
            continue
        while not request.try_send_body(data):
            await request.wait(writable=True)
    request.send_end()


@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 300_000])
async def test_simple_request(body: bytes) -> None:
    async with serving(echo) as served:
        stream = served.connect(capacity=100_000)
        head, answer = await simple_request(stream, POST, body, max_body=300_000)
        assert head.status == 200
        assert answer == body


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_simple_request_goes_on_with_what_did_not_fit(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be room for it a moment later, and all before it taken."""
    ours, theirs = memory_pair(1024 * 1024)
    calls = 0

    def hesitating(data: Buffer) -> int:
        nonlocal calls
        calls += 1
        return 0 if calls <= times else MemoryStream.try_send(ours, data)

    monkeypatch.setattr(ours, "try_send", hesitating)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(simple_request, ours, POST, bytes(200_000))
            await read_until(theirs, b"\r\n0\r\n\r\n")
            await theirs.send(OK)


async def test_simple_request_is_bounded() -> None:
    async with serving(echo) as served:
        with pytest.raises(HeadError) as caught:
            await simple_request(served.connect(), POST, b"hello", max_body=4)
        assert caught.value.code == "response_too_large"


async def test_simple_request_that_switches() -> None:
    async def handler(request: FrontRequest) -> None:
        await request.upgrade(ResponseHead(101, [(b"Upgrade", b"x")]))

    async with serving(handler) as served:
        request = RequestHead(b"GET", b"/", [HOST, (b"Connection", b"upgrade"), (b"Upgrade", b"x")])
        head, body = await simple_request(served.connect(), request)
        assert (head.status, body) == (101, b"")


async def test_simple_request_keeps_to_limits() -> None:
    async with connected() as (_, origin):
        await origin.send(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5 + b"\r\n")
        with pytest.raises(HeadError):
            await simple_request(origin_of(origin), GET, limits=Limits(field_limit=4))


def origin_of(stream: MemoryStream) -> MemoryStream:
    return stream._peer
