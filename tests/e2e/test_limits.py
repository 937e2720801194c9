"""Every limit and clock of callers at its edge, through the running tunnel: the right status, then the end; and
whoever keeps to them never notices."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS, KIB, Limits
from tunnelkit.errors import StreamBroken
from tunnelkit.net.dial import connect_tcp

from .by_hand import Side, caller_side, open_by_hand
from .tunnel import TOKEN, Call, Ends, ask, open_tunnel, problem_of, read_head

pytestmark = pytest.mark.anyio

PATH = f"/_token/{TOKEN}".encode()
GET = b"GET " + PATH + b"/a HTTP/1.1\r\nHost: a\r\n"
POST = b"POST " + PATH + b"/sink HTTP/1.1\r\nHost: a\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def refused(ends: Ends, data: bytes, status: int) -> None:
    """``data`` is answered with ``status``, and the connection ends."""
    async with caller_side(ends) as caller:
        await caller.send(data)
        answer = await caller.rest()
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert b"\r\nConnection: close\r\n" in answer


def sized_head(size: int) -> bytes:
    """A whole head of so many bytes."""
    return GET + b"X: " + b"x" * (size - len(GET) - 7) + b"\r\n\r\n"


def sized_line(size: int) -> bytes:
    """A head whose request line has so many bytes, without its end."""
    target = PATH + b"/" + b"x" * (size - len(PATH) - 14)
    return b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.ways("websocket", "longpoll")
@pytest.mark.parametrize(("largest", "larger", "status"), [
    (sized_head(64 * KIB), sized_head(64 * KIB + 1), 431),
    (sized_line(16 * KIB), sized_line(16 * KIB + 1), 414),
    (GET + b"X: y\r\n" * 99 + b"\r\n", GET + b"X: y\r\n" * 100 + b"\r\n", 431),
], ids=["head", "request line", "fields"])  # fmt: skip
async def test_sizes_of_heads(largest: bytes, larger: bytes, status: int) -> None:
    async with open_by_hand() as (ends, origin):
        async with caller_side(ends) as caller:
            await caller.send(largest)
            peer = await origin.accept()
            await peer.head()
            await peer.send(OK)
            await caller.until(b"hello")
        await refused(ends, larger, status)
        assert not peer.data
        assert not origin.waiting


def sized_answer(size: int) -> bytes:
    """The whole head of an answer, of so many bytes, and its body."""
    start = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\nhello"


FIELDS = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n%b\r\nhello"


@pytest.mark.ways("websocket", "longpoll")
@pytest.mark.parametrize(("largest", "larger"), [
    (sized_answer(64 * KIB), sized_answer(64 * KIB + 1)),
    (FIELDS % (b"X: y\r\n" * 99), FIELDS % (b"X: y\r\n" * 100)),
], ids=["head", "fields"])  # fmt: skip
async def test_sizes_of_answers_heads(largest: bytes, larger: bytes) -> None:
    async with open_by_hand() as (ends, origin):
        for answer, status in ((larger, 502), (largest, 200)):
            async with caller_side(ends) as caller:
                await caller.send(GET + b"\r\n")
                peer = await origin.accept()
                await peer.head()
                await peer.send(answer)
                assert (await caller.head()).startswith(b"HTTP/1.1 %d " % status)


@asynccontextmanager
async def unnoticed(**clocks: Any) -> AsyncIterator[Ends]:
    """A tunnel with short clocks, on which a request runs all the while, and is answered in the end."""
    limits: Limits = replace(DEFAULT_LIMITS, **clocks)
    async with open_tunnel(limits=limits) as tunnel, anyio.create_task_group() as group:
        call = tunnel.call(group, "/hold/other")
        await tunnel.origin.arrived("/hold/other")
        yield tunnel
        assert not call.ended
        tunnel.origin.release("other")
        assert await call.status() == 200


async def test_a_head_that_does_not_come() -> None:
    async with unnoticed(head_timeout=0.3) as ends:
        await refused(ends, GET, 408)
        async with caller_side(ends) as silent:
            assert await silent.rest() == b""


async def test_a_head_that_drips_has_no_more_time() -> None:
    async with unnoticed(head_timeout=0.3) as ends, caller_side(ends) as caller:
        assert await drip(caller, GET + b"X: ") == 408


async def test_a_connection_that_idles() -> None:
    async with unnoticed(keep_alive_idle=0.2) as ends, caller_side(ends) as caller:
        await caller.send(GET + b"\r\n")
        await caller.head()
        await caller.rest()  # in order


async def test_a_body_that_stops() -> None:
    async with unnoticed(body_idle_timeout=0.3) as ends:
        await refused(ends, POST + b"Content-Length: 5\r\n\r\nhe", 408)
        await refused(ends, POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe", 408)


@pytest.mark.parametrize("start", [b"Content-Length: 9999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5;",
                                   b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: "])  # fmt: skip
async def test_a_body_that_drips(start: bytes) -> None:
    async with unnoticed(min_rate=1e6, min_rate_period=0.2) as ends, caller_side(ends) as caller:
        assert await drip(caller, POST + start) == 408


async def drip(caller: Side, start: bytes) -> int:
    """Send byte after byte until the status of a refusal comes."""
    await caller.send(start)
    try:
        with anyio.fail_after(10):
            while (status := caller.peek()) is None:
                await caller.send(b"x")
                await anyio.sleep(0.01)  # the attack itself
    except StreamBroken:
        status = caller.peek()
    assert status is not None
    return status


async def test_a_caller_that_takes_nothing() -> None:
    async with unnoticed(write_timeout=0.3) as ends, caller_side(ends) as caller:
        await caller.send(b"GET " + PATH + b"/bytes/50000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        with anyio.fail_after(10):
            large = await ends.origin.arrived("/bytes/50000000")
            await ends.origin.until(lambda: large.gone)
        await caller.broken()


async def test_an_origin_that_does_not_answer() -> None:
    async with open_tunnel(limits=replace(DEFAULT_LIMITS, response_head_timeout=0.3)) as tunnel:
        status, fields, _ = await tunnel.get("/hold/for-ever")
        assert status == 504
        assert any(name == "Proxy-Status" and "response_timeout" in value for name, value in fields)
        assert (await tunnel.get("/status/200"))[0] == 200


async def test_events_that_are_rare_are_not_too_slow() -> None:
    """The origin is what is waited for, and not the caller: no clock of callers runs."""
    short: dict[str, Any] = {
        "min_rate_period": 0.1,
        "write_timeout": 0.1,
        "body_idle_timeout": 0.1,
        "keep_alive_idle": 0.1,
    }
    limits = replace(DEFAULT_LIMITS, min_rate=1e6, **short)
    async with open_tunnel(limits=limits) as ends, caller_side(ends) as caller:
        await caller.send(b"GET " + PATH + b"/sse HTTP/1.1\r\nHost: a\r\n\r\n")
        await caller.head()
        for number in range(5):
            ends.origin.release(f"event{number}")
            await caller.until(b"data: ")
            await anyio.sleep(0.15)  # the rarity itself
        assert (await caller.until(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")


@contextmanager
def nobody_accepts() -> Iterator[int]:
    """A port whose backlog is full: the kernel answers nothing."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


async def test_an_origin_that_does_not_take_the_connection() -> None:
    limits = replace(DEFAULT_LIMITS, dial_timeout=0.3)
    with nobody_accepts() as port:
        async with open_tunnel(client_options={"limits": limits, "allow": [".*"]}) as tunnel:
            status, fields, _ = await tunnel.get("/x", **{"X-Host": f"http://127.0.0.1:{port}"})
            assert status == 502
            assert any(name == "Proxy-Status" and "origin_unreachable" in value for name, value in fields)
            assert (await tunnel.get("/status/200"))[0] == 200


async def test_no_more_than_so_many_wait_for_unknown_tokens_after_a_start() -> None:
    limits = replace(DEFAULT_LIMITS, startup_waiting=2, startup_wait=60.0)
    async with open_tunnel(limits=limits) as tunnel, anyio.create_task_group() as group:
        waiting = [Call(), Call()]
        for number, call in enumerate(waiting):
            group.start_soon(call.run, tunnel.port, "GET", f"/_token/a-token-that-nobody-has-{number}/")
        await tunnel.pending(2)
        problem = problem_of(await ask(tunnel.port, "/_token/a-token-that-nobody-has-either/"))
        assert (problem["status"], problem["code"]) == (503, "queue_full")
        assert (await tunnel.get("/status/200"))[0] == 200
        waiting[0].leave()
        await tunnel.pending(1)
        late = Call()
        group.start_soon(late.run, tunnel.port, "GET", "/_token/a-token-that-nobody-has-either/")
        await tunnel.pending(2)
        group.cancel_scope.cancel()


async def test_what_a_drain_does_not_wait_for_is_cut() -> None:
    """After the time that the configuration has, with the end of the server; whoever had no answer is told."""
    async with anyio.create_task_group() as group:
        async with open_tunnel(limits=replace(DEFAULT_LIMITS, drain_timeout=0.3)) as tunnel:
            held, upgraded = tunnel.call(group, "/hold/x"), await connect_tcp("127.0.0.1", tunnel.port, timeout=5)
            await tunnel.origin.arrived("/hold/x")
            head = (
                f"GET {tunnel.path('/upgrade')} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
            )
            await upgraded.send(head.encode())
            assert (await read_head(upgraded))[0] == 101
            with anyio.fail_after(10):
                await tunnel.server.drain()
            assert not held.ended
        assert await held.status() == 502
        with anyio.fail_after(10), suppress(StreamBroken):
            while await upgraded.receive():
                pass
        await upgraded.aclose()
