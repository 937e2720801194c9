"""Requests of the server's own program, with a tunnel that the test plays."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import TaskGroup

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.core.routing import ToName, ToTunnel
from tunnelkit.errors import ConnectRefused, HeadError, StreamBroken
from tunnelkit.heads import RequestHead, ResponseHead
from tunnelkit.http.request import CallerRequest
from tunnelkit.inside.connecting import connect
from tunnelkit.inside.httpx_transport import TunnelTransport
from tunnelkit.inside.request import AHEAD, InsideRequest

pytestmark = pytest.mark.anyio

TOKEN = "a-token-for-the-tests"
Answer = Callable[[CallerRequest], Awaitable[None]]


class Running:
    """A server whose tunnels are all ``answer``."""

    def __init__(self, group: TaskGroup, answer: Answer) -> None:
        self._group = group
        self._answer = answer

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._group.start_soon(work)

    async def to_tunnel(self, request: CallerRequest, where: ToTunnel | ToName) -> None:
        await self._answer(request)


@asynccontextmanager
async def calling(answer: Answer) -> AsyncIterator[httpx.AsyncClient]:
    async with anyio.create_task_group() as group:
        transport = TunnelTransport(lambda: Running(group, answer), TOKEN, limits=DEFAULT_LIMITS)
        yield httpx.AsyncClient(transport=transport, base_url="http://a", timeout=10)
        group.cancel_scope.cancel()


async def test_what_is_refused_on_the_way_is_an_answer() -> None:
    async def loops(request: CallerRequest) -> None:
        raise HeadError(508, "loop", "round and round")

    async with calling(loops) as client:
        answer = await client.get("/")
        assert answer.status_code == 508
        assert "round and round" in answer.text


@pytest.mark.parametrize("error", [StreamBroken("gone"), ValueError("a bug")])
async def test_what_fails_on_the_way_breaks_off(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def fails(request: CallerRequest) -> None:
        request.send_head(ResponseHead(200, [], b"OK"))
        raise error

    async with calling(fails) as client:
        with pytest.raises(httpx.ReadError):
            await client.get("/")
    assert bool([record for record in caplog.records if record.levelno == logging.ERROR]) == (
        type(error) is ValueError
    )


async def test_a_server_that_takes_no_tasks_any_more() -> None:
    class Ending(Running):
        def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
            raise RuntimeError("not active")

    async with anyio.create_task_group() as group:
        ending = Ending(group, lambda request: anyio.lowlevel.checkpoint())
        transport = TunnelTransport(lambda: ending, TOKEN, limits=DEFAULT_LIMITS)
        with pytest.raises(httpx.ConnectError, match="ends"):
            await httpx.AsyncClient(transport=transport).get("http://a/")


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "bad_answer"), (b"not JSON", "bad_answer"), (b"[]", "bad_answer"), (b'{"code": "x"}', "x")],
)
async def test_a_refusal_of_a_stream(body: bytes, code: str) -> None:
    async def refuses(request: CallerRequest) -> None:
        request.send_head(ResponseHead(403, [], b"Forbidden"))
        request.try_send_body(body)
        request.send_end()

    async with anyio.create_task_group() as group:
        with pytest.raises(ConnectRefused) as caught:
            async with connect(lambda: Running(group, refuses), TOKEN, "::1", 1):
                raise AssertionError("it opened")
    assert (caught.value.status, caught.value.code) == (403, code)


async def test_a_stream_that_never_comes_and_one_that_is_closed_by_another_task() -> None:
    async def nothing(request: CallerRequest) -> None: ...

    async def opens(request: CallerRequest) -> None:
        await (await request.upgrade(ResponseHead(101, [], b""))).receive()

    async with anyio.create_task_group() as group:
        with pytest.raises(ConnectRefused) as caught:
            async with connect(lambda: Running(group, nothing), TOKEN, "a", 1):
                raise AssertionError("it opened")
        assert caught.value.code == "tunnel_lost"
        opening = connect(lambda: Running(group, opens), TOKEN, "a", 1)
        async with opening as stream, anyio.create_task_group() as waiting:
            waiting.start_soon(_closed, stream.receive)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()


async def _closed(receive: Callable[[], Awaitable[bytes]]) -> None:
    with pytest.raises(anyio.ClosedResourceError):
        await receive()


async def test_both_sides_keep_each_others_pace() -> None:
    request = InsideRequest(RequestHead(b"PUT", b"/", []), scheme="http", has_body=True)
    assert repr(request) == "<InsideRequest open>"
    request.be_link()
    async with anyio.create_task_group() as group:
        group.start_soon(_put, request, 3)
        await anyio.wait_all_tasks_blocked()
        assert request.receive_body_nowait(10) == bytes(10)
        await request.wait(readable=True)
        size = 10
        while (piece := request.receive_body_nowait()) != b"":
            size += len(piece or b"")
            await anyio.wait_all_tasks_blocked()
        assert size == 3 * AHEAD
    with anyio.move_on_after(0.01) as waiting:  # the end of the body is news once
        await request.wait(readable=True)
    assert waiting.cancelled_caught
    request.send_head(ResponseHead(200, [], b"OK"))
    request.send_info(ResponseHead(103, [], b""))
    assert request.try_send_body(b"")
    assert request.try_send_body(bytes(AHEAD))
    assert not request.try_send_body(b"x")
    assert not request.flush()
    assert len(await request.receive()) == AHEAD
    await request.wait(writable=True)
    assert request.try_send_body(b"x")
    request.leave()
    assert request.try_send_body(b"to nobody")
    assert repr(request) == "<InsideRequest gone>"
    request.end()
    assert repr(request) == "<InsideRequest over>"
    with pytest.raises(StreamBroken):
        await request.put(b"x")


async def _put(request: InsideRequest, count: int) -> None:
    for _ in range(count):
        await request.put(bytes(AHEAD))
    await request.put(b"")
    request.end_body()


async def test_a_large_piece_is_not_copied_for_each_small_one_that_is_read() -> None:
    """All of a body that is there as a whole is one piece: copying the rest each time would be quadratic."""
    request = InsideRequest(RequestHead(b"POST", b"/", []), scheme="http", has_body=True)
    whole = bytes(1_000_000)
    await request.put(whole)
    assert request.receive_body_nowait(10) == bytes(10)
    [rest] = request._body
    assert rest.obj is whole


async def test_a_switch_that_comes_too_late_is_broken_off() -> None:
    """Middleware may hold it back until the program has given up."""
    request = InsideRequest(RequestHead(b"GET", b"/", []), scheme="http", has_body=False)
    request.leave()
    stream = await request.upgrade(ResponseHead(101, []))
    with pytest.raises(StreamBroken):
        await stream.receive()


async def test_whoever_waits_for_the_head_has_patience_while_the_body_goes_up() -> None:
    """The clock stands while the program's own body is awaited, and starts anew with each piece that is taken."""
    request = InsideRequest(RequestHead(b"POST", b"/", []), scheme="http", has_body=True)

    def left() -> float:
        return request._clock.deadline - anyio.current_time()

    async with anyio.create_task_group() as group:
        group.start_soon(request.response, 100.0)
        await anyio.wait_all_tasks_blocked()
        assert left() == math.inf
        await request.put(bytes(2 * AHEAD))
        assert left() == math.inf
        group.start_soon(request.put, b"which waits for room")
        await anyio.wait_all_tasks_blocked()
        began = request._clock.deadline
        assert began < math.inf
        await anyio.sleep(0.01)
        assert request.receive_body_nowait(AHEAD)
        assert began < request._clock.deadline < math.inf
        assert request.receive_body_nowait(AHEAD)
        await anyio.wait_all_tasks_blocked()
        assert left() == math.inf
        request.end_body()
        assert left() <= 100.0
        request.send_head(ResponseHead(204, [], b"No Content"))


async def test_a_tunnel_that_takes_nothing_more_is_too_late() -> None:
    async def stuck(request: CallerRequest) -> None:
        await anyio.sleep_forever()

    async with calling(stuck) as client:
        with anyio.fail_after(10), pytest.raises(httpx.ReadTimeout):
            await client.post("/", content=bytes(3 * AHEAD), timeout=httpx.Timeout(None, read=0.05))


async def test_news_of_the_body_are_told_once() -> None:
    """A request that waits for a tunnel takes no more than a part of it: it must rest, not ask on and on."""
    request = InsideRequest(RequestHead(b"POST", b"/", []), scheme="http", has_body=True)
    told = 0

    async def ask() -> None:
        nonlocal told
        while True:
            await request.wait(readable=True)
            told += 1

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        for news in (request.put(b"one"), request.put(b"two")):
            await news
            await anyio.wait_all_tasks_blocked()
        assert told == 2
        request.end_body()
        await anyio.wait_all_tasks_blocked()
        assert told == 3
        assert [request.receive_body_nowait() for _ in range(3)] == [b"one", b"two", b""]
        group.cancel_scope.cancel()
