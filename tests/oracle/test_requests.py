"""Hostile requests through the running tunnel: the origin sees what an independent reader reads, or nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from ..e2e.ways import Way
from .hostile_requests import CASES, PREFIX, Case
from .reader import Ending, Fields, Request, Response, items, read_requests, read_responses, values
from .recorder import told
from .tunnel import Tunnel, open_tunnel

pytestmark = [pytest.mark.anyio, pytest.mark.pair(0)]

# The hop's own, and what a gateway writes anew: not compared.
HOP = frozenset(
    b"connection content-length expect forwarded host keep-alive max-forwards proxy-authorization te trailer "
    b"transfer-encoding upgrade via x-forwarded-for x-forwarded-host x-forwarded-proto".split()
)
# What no origin may ever see.
SECRET = frozenset(b"http2-settings keep-alive proxy proxy-authorization proxy-connection x-host x-token".split())
NO_TRAILERS = SECRET | HOP | frozenset(b"authorization cookie set-cookie".split())


# A head that is refused at once never meets a transport.
CARRIED = [case for case in CASES if case.answers[0] < 300 or b"chunked\r\n\r\n" in case.data.lower()]


# Both parsers are held to the same reader without sockets (test_differential); through the tunnel, by the full sizes.
@pytest.fixture(scope="module", params=["auto", pytest.param("h11", marks=pytest.mark.full)])
async def by_websocket(anyio_backend: object, request: pytest.FixtureRequest) -> AsyncIterator[Tunnel]:
    async with open_tunnel(Way.WEBSOCKET, request.param) as tunnel:
        yield tunnel


@pytest.fixture(scope="module")
async def by_longpoll(anyio_backend: object) -> AsyncIterator[Tunnel]:
    async with open_tunnel(Way.LONGPOLL) as tunnel:
        yield tunnel


def rest_of(fields: Fields) -> Fields:
    return [field for field in fields if field[0].lower() not in HOP]


def is_part(some: Fields, all_: Fields) -> bool:
    """Whether ``some`` stand in ``all_``, in this order."""
    left = iter(all_)
    return all(field in left for field in some)


def agrees(seen: Request, read: Request) -> bool:
    """Whether the origin saw the request that the caller made, but for what is a gateway's to change."""
    target = read.path.removeprefix(PREFIX) if read.path.startswith(PREFIX + b"/") else read.path
    return (
        (seen.method, seen.target) == (read.method, target)
        and (read.host is None or seen.host == read.host)
        and seen.body == read.body[: len(seen.body)]
        and is_part(rest_of(seen.fields), rest_of(read.fields))
        and is_part(seen.trailers, read.trailers)
        and not SECRET & {name.lower() for name, _ in seen.fields}
        and not NO_TRAILERS & {name.lower() for name, _ in seen.trailers}
        and set(items(seen.fields, b"connection")) <= {b"upgrade", b"te"}
    )


def read_answers(answer: bytes, requests: list[Request]) -> list[Response]:
    """The final responses that the caller got. One that is refused has a body as for GET."""
    methods = [request.method for request in requests] + [b"GET"]
    reading = read_responses(answer, methods, ended=True)
    assert reading.ending is Ending.CLEAN, answer
    assert not reading.rest, f"more than there were requests: {reading.rest!r}"
    return reading.messages


def check_origin(seen: list[Request], read: list[Request]) -> None:
    """Each that the origin saw is one that the reader read, in order."""
    left = iter(read)
    for request in seen:
        assert any(agrees(request, each) for each in left), f"the origin saw {request}, and the caller made {read}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_origin_sees_what_the_reader_reads(by_websocket: Tunnel, case: Case) -> None:
    await check(by_websocket, case)


@pytest.mark.parametrize("case", CARRIED, ids=lambda case: case.name)
async def test_the_origin_sees_the_same_by_longpoll(by_longpoll: Tunnel, case: Case) -> None:
    await check(by_longpoll, case)


async def check(tunnel: Tunnel, case: Case) -> None:
    tunnel.recorder.forget()
    with anyio.fail_after(20):
        answer, in_order = await tunnel.say(case.wire)
    assert in_order, answer
    reading = read_requests(case.wire)
    read = reading.messages
    made = [*read, reading.begun] if reading.begun is not None else read
    answers = read_answers(answer, made)
    assert tuple(response.status for response in answers) == case.answers
    seen = tunnel.recorder.requests()
    check_origin(seen, made)
    assert len(seen) <= len(answers)
    for response, request in zip(answers, read, strict=False):
        if response.status == 200 and request.method != b"HEAD":
            stripped = Request(request.method, request.path.removeprefix(PREFIX), b"", [], request.body)
            assert response.body == told(stripped), "the answer to another request"
    assert all(not values(response.fields, b"x-token") for response in answers)
