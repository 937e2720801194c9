"""``CallerRequest`` on an ASGI server's ``receive`` and ``send``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tunnelkit.errors import HeadError, LocalProtocolError
from tunnelkit.heads import RequestHead, ResponseHead
from tunnelkit.mount import request as mount_request
from tunnelkit.mount.request import SEND_AHEAD, HttpRequest
from tunnelkit.net.peer import Peer

from .host import Host

pytestmark = pytest.mark.anyio

HEAD = RequestHead(b"POST", b"/", [(b"host", b"a")])
OK = ResponseHead(
    200, [(b"Content-Type", b"text/plain"), (b"Connection", b"close"), (b"Transfer-Encoding", b"chunked")]
)


@asynccontextmanager
async def requested(
    host: Host,
    *,
    has_body: bool | None = True,
    extensions: Mapping[str, Any] | None = None,
    write_timeout: float = 10,
) -> AsyncIterator[HttpRequest]:
    request = HttpRequest(
        HEAD,
        Peer(),
        "http",
        host.receive,
        host.send,
        extensions=extensions or {},
        has_body=has_body,
        write_timeout=write_timeout,
    )
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(request.send_all)
            await request.decide_body()
            group.start_soon(request.receive_all)
            yield request
            group.cancel_scope.cancel()


async def read(request: HttpRequest) -> bytes:
    while (data := request.receive_body_nowait()) is None:
        await request.wait(readable=True)
    return data


async def flushed(request: HttpRequest) -> None:
    while not request.flush():
        await request.wait(writable=True)


# -- the request's body ------------------------------------------------------------------------------


async def test_a_body_comes_in_pieces_and_ends() -> None:
    host = Host()
    async with requested(host) as request:
        assert request.receive_body_nowait() is None
        host.give("http.request", body=b"abc", more_body=True)
        assert await read(request) == b"abc"
        host.give("http.request", body=b"defg", more_body=False)
        await host.until(lambda: host.received == 2)
        assert request.receive_body_nowait(3) == b"def"
        assert request.receive_body_nowait(3) == b"g"
        assert request.receive_body_nowait() == request.receive_body_nowait() == b""


async def test_a_large_message_is_not_copied_for_each_small_piece_that_is_read() -> None:
    """Some hosts' middleware gives the whole body at once: copying the rest each time would be quadratic."""
    host = Host()
    whole = bytes(1_000_000)
    host.give("http.request", body=whole, more_body=False)
    async with requested(host) as request:
        await host.until(lambda: host.received)
        assert request.receive_body_nowait(10) == bytes(10)
        assert request._body.obj is whole


async def test_no_message_is_taken_before_the_last_one_was_read() -> None:
    host = Host()
    async with requested(host) as request:
        for _ in range(3):
            host.give("http.request", body=b"x" * 10, more_body=True)
        await host.until(lambda: host.received == 1)
        await anyio.wait_all_tasks_blocked()
        assert host.received == 1
        assert await read(request) == b"x" * 10
        await host.until(lambda: host.received == 2)


@pytest.mark.parametrize(
    ("first", "comes"),
    [({"body": b""}, False), ({"body": b"", "more_body": True}, True), ({"body": b"x"}, True)],
)
async def test_where_no_field_tells_of_a_body_the_first_message_does(first: dict[str, Any], comes: bool) -> None:
    host = Host()
    host.give("http.request", **first)
    async with requested(host, has_body=None) as request:
        assert request.has_body is comes


async def test_a_caller_that_leaves_within_its_body_is_told_as_a_broken_body() -> None:
    host = Host()
    async with requested(host) as request:
        host.give("http.request", body=b"abc", more_body=True)
        host.give("http.disconnect")
        assert await read(request) == b"abc"
        with pytest.raises(HeadError, match="left within"):
            await read(request)
        assert request.gone


async def test_a_caller_that_leaves_before_its_answer_wakes_who_waits() -> None:
    host = Host()
    async with requested(host, has_body=False) as request:
        host.give("http.disconnect")
        while not request.gone:
            await request.wait(readable=True)
        assert request.flush()


async def test_hosts_that_tell_the_end_of_the_answer_as_leaving_are_understood() -> None:
    host = Host()
    async with requested(host, has_body=False) as request:
        request.send_head(OK)
        request.send_end()
        host.give("http.disconnect")
        await host.until(lambda: host.received == 1)
        await flushed(request)
        assert not request.gone


# -- the answer --------------------------------------------------------------------------------------


async def test_an_answer_goes_out_in_order_with_the_hosts_own_fields_left_out() -> None:
    host = Host()
    async with requested(host, has_body=False) as request:
        request.send_info(ResponseHead(103, []))
        before = request.answered
        request.send_head(OK)
        assert (before, request.answered) == (False, True)
        assert request.try_send_body(b"one")
        assert request.try_send_body(memoryview(b"two"))
        request.send_end([(b"X-Sum", b"1")])
        await flushed(request)
    assert host.sent == [
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]},
        {"type": "http.response.body", "body": b"one", "more_body": True},
        {"type": "http.response.body", "body": b"two", "more_body": True},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]


ANNOUNCED = ResponseHead(200, [(b"Trailer", b"X-Sum")])


async def test_trailers_go_out_where_the_host_has_them() -> None:
    host = Host()
    async with requested(host, has_body=False, extensions={"http.response.trailers": {}}) as request:
        request.send_head(ANNOUNCED)
        request.send_end([(b"X-Sum", b"1")])
        await flushed(request)
    assert host.sent[0]["trailers"] is True
    assert host.sent[-1] == {
        "type": "http.response.trailers",
        "headers": [(b"x-sum", b"1")],
        "more_trailers": False,
    }


@pytest.mark.parametrize(
    ("method", "head"),
    [(b"POST", OK), (b"HEAD", ANNOUNCED), (b"POST", ResponseHead(304, [(b"Trailer", b"X-Sum")]))],
)
async def test_a_host_is_told_of_no_trailers_that_may_not_come(method: bytes, head: ResponseHead) -> None:
    host = Host()
    async with requested(host, has_body=False, extensions={"http.response.trailers": {}}) as request:
        request.head = RequestHead(method, b"/", HEAD.fields)
        request.send_head(head)
        request.send_end()
        await flushed(request)
    assert "trailers" not in host.sent[0]
    assert host.types()[-1] == "http.response.body"


async def test_early_hints_go_out_where_the_host_has_them_and_takes_them() -> None:
    host = Host()
    hints = ResponseHead(103, [(b"Link", b"</a.css>"), (b"X-Other", b"1"), (b"link", b"</b.js>")])
    async with requested(host, has_body=False, extensions={"http.response.early_hint": {}}) as request:
        for head in (ResponseHead(102, []), ResponseHead(103, []), hints, hints):
            request.send_info(head)
        await flushed(request)
        request.send_info(hints)
        await flushed(request)
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>", b"</b.js>"]}
    assert host.sent == [hint, hint], "the second came before the host had taken the first"


async def test_204_has_no_content_length() -> None:
    host = Host()
    async with requested(host, has_body=False) as request:
        request.send_head(ResponseHead(204, [(b"Content-Length", b"0"), (b"A", b"b")]))
        await flushed(request)
    assert host.sent[0]["headers"] == [(b"a", b"b")]


async def test_a_host_that_takes_nothing_stops_the_answer_at_a_bound() -> None:
    host = Host()
    host.take(False)
    async with requested(host, has_body=False) as request:
        request.send_head(OK)
        taken = 0
        while request.try_send_body(b"x" * 16_384):
            taken += 16_384
        assert taken == SEND_AHEAD
        assert not request.flush()
        host.take(True)
        while not request.try_send_body(b"y"):
            await request.wait(writable=True)
        await flushed(request)
    assert host.body == b"x" * taken + b"y"


@pytest.mark.parametrize("how", ["the host says so", "a send fails"])
async def test_a_caller_that_leaves_with_much_of_its_answer_under_way_stops_nobody_else(how: str) -> None:
    """What was not sent yet is dropped, and the sending task rests."""
    host = Host()
    host.take(False)
    async with requested(host, has_body=False) as request:
        request.send_head(OK)
        while request.try_send_body(b"x" * 10_000):
            pass
        await anyio.wait_all_tasks_blocked()
        if how == "a send fails":
            host.failure = OSError("gone")
        else:
            host.give("http.disconnect")
            await host.until(lambda: host.received)
        host.take(True)
        while not request.gone:
            await request.wait(readable=True)
        await anyio.wait_all_tasks_blocked()
        assert request.flush()
        assert not request._out


async def test_a_host_that_takes_nothing_for_too_long_has_lost_its_caller() -> None:
    host = Host()
    host.take(False)
    async with requested(host, has_body=False, write_timeout=0.01) as request:
        request.send_head(OK)
        while not request.gone:
            await request.wait()
        assert request.try_send_body(b"nobody is there to read it")


@pytest.mark.parametrize("failure", [OSError("gone"), RuntimeError("a host's own")])
async def test_a_send_that_fails_means_that_the_caller_left(failure: Exception) -> None:
    host = Host()
    host.failure = failure
    async with requested(host, has_body=False) as request:
        request.send_head(OK)
        while not request.gone:
            await request.wait()
        request.send_end()
        assert request.flush()
    assert host.sent == []


async def test_abort_leaves_the_answer_without_its_end() -> None:
    host = Host()
    async with requested(host, has_body=False) as request:
        request.send_head(OK)
        await flushed(request)
        request.abort()
        request.send_end()
        assert request.gone
        assert request.flush()
        await anyio.wait_all_tasks_blocked()
    assert host.types() == ["http.response.start"]


@pytest.mark.parametrize("how", ["aborted", "left without its end"])
async def test_an_answer_that_broke_off_is_told_to_be_broken(how: str) -> None:
    host = Host()
    async with requested(host, has_body=False) as request:
        await request.tell_broken()
        assert host.sent == [], "nothing has begun"
        request.send_head(OK)
        await flushed(request)
        if how == "aborted":
            request.abort()
        await request.tell_broken()
    assert host.types() == ["http.response.start", "tunnelkit.answer.broken"]


@pytest.mark.parametrize("how", ["complete", "left by its caller"])
async def test_other_answers_are_not(how: str) -> None:
    host = Host()
    async with requested(host, has_body=False) as request:
        request.send_head(OK)
        if how == "complete":
            request.send_end()
        await flushed(request)
        if how != "complete":
            host.give("http.disconnect")
            while not request.gone:
                await request.wait(readable=True)
        await request.tell_broken()
    assert "tunnelkit.answer.broken" not in host.types()


async def test_a_host_that_hears_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount_request, "BROKEN_TIMEOUT", 0.01)
    host = Host()
    async with requested(host, has_body=False) as request:
        request.send_head(OK)
        await flushed(request)
        host.take(False)
        await request.tell_broken()
    assert host.types() == ["http.response.start"]


async def test_an_http_scope_is_never_upgraded() -> None:
    async with requested(Host(), has_body=False) as request:
        with pytest.raises(LocalProtocolError):
            await request.upgrade(ResponseHead(101, []))


async def test_cancelling_a_wait_loses_nothing() -> None:
    host = Host()
    async with requested(host) as request:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await request.wait(readable=True)
        host.give("http.request", body=b"abc", more_body=False)
        assert await read(request) == b"abc"
