"""Hostile answers through the running tunnel: the caller gets what an independent reader reads, or is told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from ..e2e.ways import Way
from .hostile_requests import PREFIX
from .hostile_responses import ANSWERS, Answer
from .reader import Ending, Fields, Request, Response, read_responses
from .recorder import Then, told
from .tunnel import Tunnel, open_tunnel

pytestmark = [pytest.mark.anyio, pytest.mark.pair(0)]

ASK = b"%b " + PREFIX + b"/%b HTTP/1.1\r\nHost: a\r\n\r\n"
NEXT = told(Request(b"GET", b"/next", b"", []))
# The hop's own, and what is written anew.
HOP = frozenset(b"connection content-length date transfer-encoding trailer".split())
NEVER = frozenset(b"keep-alive proxy-authenticate tunnelkit-session upgrade x-hop x-token".split())


# The way makes no difference to the parser.
H11 = pytest.param((Way.WEBSOCKET, "h11"), marks=pytest.mark.full)


@pytest.fixture(scope="module", params=[H11, (Way.WEBSOCKET, "auto"), (Way.LONGPOLL, "auto")], ids=str)
async def tunnel(anyio_backend: object, request: pytest.FixtureRequest) -> AsyncIterator[Tunnel]:
    async with open_tunnel(*request.param) as tunnel:
        yield tunnel


def without_hop(fields: Fields) -> Fields:
    return [field for field in fields if field[0].lower() not in HOP | NEVER]


def read_the_origins(answer: Answer) -> Response:
    reading = read_responses(answer.data, [answer.method], ended=answer.then is Then.ENDS)
    assert reading.messages, "the reader refuses what is to be passed on"
    return reading.messages[0]


def check_same(got: Response, sent: Response) -> None:
    """The caller has what the origin sent, but for what is the hop's."""
    assert (got.status, got.reason, got.body) == (sent.status, sent.reason, sent.body)
    assert without_hop(got.fields) == without_hop(sent.fields)
    assert not NEVER & {name.lower() for name, _ in got.fields + got.trailers}
    assert [each.status for each in got.interim] == [each.status for each in sent.interim]
    assert all(field in sent.trailers for field in got.trailers)
    assert not {b"content-length", b"set-cookie"} & {name.lower() for name, _ in got.trailers}


async def check_next(tunnel: Tunnel) -> None:
    """Whoever asks next gets an answer of its own."""
    answer, in_order = await tunnel.say(ASK % (b"GET", b"next"))
    assert in_order
    assert read_responses(answer, [b"GET"], ended=True).messages[0].body == NEXT


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
async def test_the_caller_gets_what_the_reader_reads(tunnel: Tunnel, answer: Answer) -> None:
    tunnel.recorder.forget()
    tunnel.recorder.hostile, tunnel.recorder.then = answer.data, answer.then
    with anyio.fail_after(20):
        data, in_order = await tunnel.say(ASK % (answer.method, b"hostile") + ASK % (b"GET", b"next"))
        if answer.status is None:
            await check_next(tunnel)
    reading = read_responses(data, [answer.method, b"GET"], ended=in_order)
    if answer.status is None:
        assert not in_order, "what was broken off looks complete"
        assert reading.ending is not Ending.CLEAN or not reading.messages
        return
    assert in_order
    assert reading.ending is Ending.CLEAN
    first, second = reading.messages
    assert first.status == answer.status
    assert second.body == NEXT
    if answer.status != 502:
        check_same(first, read_the_origins(answer))
