from __future__ import annotations

import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import AppError
from tunnelkit.heads import ResponseHead
from tunnelkit.origins.answer import Answer
from tunnelkit.origins.conversation import Conversation

from .fakes import FakeExchange, request

pytestmark = pytest.mark.anyio


def answering(method: bytes = b"GET") -> tuple[Answer, FakeExchange]:
    exchange = FakeExchange(request(method))
    return Answer(Conversation(exchange), limits=DEFAULT_LIMITS), exchange


async def test_the_head_waits_for_the_body_and_may_be_replaced_until_then() -> None:
    answer, exchange = answering()
    answer.start(200, [(b"a", b"1")])
    answer.start(404, [(b"b", b"2")])
    assert answer.started
    assert not exchange.sent
    await answer.send(b"x")
    assert answer.begun
    answer.end()
    assert exchange.sent == [ResponseHead(404, [(b"b", b"2")], b"Not Found"), b"x", "end"]
    assert answer.complete


async def test_a_reason_of_its_own_and_hop_by_hop_fields_that_are_not_its_own() -> None:
    answer, exchange = answering()
    answer.start(299, [(b"Connection", b"close"), (b"Transfer-Encoding", b"chunked"), (b"x", b"y")], b"Odd")
    answer.end()
    assert exchange.sent[0] == ResponseHead(299, [(b"x", b"y")], b"Odd")


async def test_a_body_that_is_there_as_a_whole_goes_with_its_length() -> None:
    answer, exchange = answering()
    answer.start(200, [])
    await answer.send_whole(b"body")
    answer.end()
    assert exchange.sent == [ResponseHead(200, [(b"Content-Length", b"4")], b"OK"), b"body", "end"]


@pytest.mark.parametrize(
    ("method", "status", "length"), [(b"HEAD", 200, True), (b"GET", 204, False), (b"GET", 304, True)]
)
async def test_what_has_no_body(method: bytes, status: int, length: bool) -> None:
    answer, exchange = answering(method)
    answer.start(status, [(b"content-length", b"5")])
    await answer.send_whole(b"body")
    answer.end([(b"x-sum", b"1")])
    head, *rest = exchange.sent
    assert isinstance(head, ResponseHead)
    assert head.fields == ([(b"content-length", b"5")] if length else [])
    assert rest == ["end"]


async def test_trailers_go_where_there_is_no_length() -> None:
    answer, exchange = answering()
    answer.start(200, [])
    await answer.send(b"x")
    answer.end([(b"x-sum", b"1")])
    assert exchange.sent[-1] == [(b"x-sum", b"1")]
    answer, exchange = answering()
    answer.start(200, [(b"content-length", b"1")])
    await answer.send(b"x")
    answer.end([(b"x-sum", b"1")])
    assert exchange.sent[-1] == "end"


async def test_more_than_promised() -> None:
    answer, exchange = answering()
    answer.start(200, [(b"content-length", b"2")])
    with pytest.raises(AppError, match="more than"):
        await answer.send(b"abc")
    assert exchange.sent == [(502, "origin_failed")]  # nothing of it went out
    answer, exchange = answering()
    answer.start(200, [(b"content-length", b"2")])
    await answer.send(b"ab")
    with pytest.raises(AppError, match="more than"):
        await answer.send(b"c")
    assert exchange.gone  # broken off


async def test_less_than_promised() -> None:
    answer, exchange = answering()
    answer.start(200, [(b"content-length", b"2")])
    await answer.send(b"a")
    with pytest.raises(AppError, match="less than"):
        answer.end()
    assert exchange.gone


async def test_less_than_promised_as_a_whole_is_told_before_anything_is_sent() -> None:
    answer, exchange = answering()
    answer.start(200, [(b"content-length", b"2")])
    with pytest.raises(AppError, match="less than"):
        await answer.send_whole(b"a")
    assert exchange.sent == [(502, "origin_failed")]


@pytest.mark.parametrize("status", [100, 101, 199, 0, 1000, "200", None, 200.0])
async def test_no_status(status: object) -> None:
    answer, _ = answering()
    with pytest.raises(AppError, match="no status"):
        answer.start(status, [])  # type: ignore[arg-type]


async def test_heads_that_cannot_be_sent() -> None:
    answer, exchange = answering()
    for fields in ([(b"a b", b"c")], [(b"a", b"b\r\nc: d")], [(b"content-length", b"1"), (b"content-length", b"2")]):
        with pytest.raises(AppError):
            answer.start(200, fields)
    with pytest.raises(AppError):
        answer.start(200, [], b"a\nb")
    with pytest.raises(AppError, match="without a head"):
        answer.begin()
    with pytest.raises(AppError):
        answer.hint([(b"Link", b"a\nb")])
    assert not exchange.sent
    answer.start(200, [])
    with pytest.raises(AppError):
        answer.end([(b"a b", b"c")])


async def test_hints_until_the_head_is_out() -> None:
    answer, exchange = answering()
    answer.hint([(b"Link", b"</a>")])
    answer.start(200, [])
    answer.hint([(b"Link", b"</b>")])
    answer.begin()
    answer.hint([(b"Link", b"</c>")])
    assert [head.status for head in exchange.sent if isinstance(head, ResponseHead)] == [103, 103, 200]
