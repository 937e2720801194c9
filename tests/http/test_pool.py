from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import DialError
from tunnelkit.heads import RequestHead
from tunnelkit.http import pool
from tunnelkit.http.client import OriginConnection
from tunnelkit.http.keeper import IdleKeeper
from tunnelkit.http.pool import OriginPool
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.stream import ByteStream

from .helpers import keeping, read_until

pytestmark = pytest.mark.anyio


class Origin:
    """Keeps the far ends of what was dialled."""

    def __init__(self, keeper: IdleKeeper, limits: Limits) -> None:
        self.ends: list[MemoryStream] = []
        self.pool = OriginPool(self.dial, keeper=keeper, limits=limits)

    async def dial(self) -> ByteStream:
        ours, theirs = memory_pair()
        self.ends.append(theirs)
        return ours

    async def use(self, *, fields: bytes = b"") -> OriginConnection:
        """Acquire a connection and run an exchange on it."""
        connection = await self.pool.acquire()
        connection.send_request(RequestHead(b"GET", b"/", [(b"Host", b"a")]))
        connection.send_end()
        end = next(end for end in self.ends if end._peer is connection.stream)
        await read_until(end, b"\r\n\r\n")
        await end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + fields + b"\r\n")
        while connection.next_event_nowait() is not None:
            pass
        return connection


@asynccontextmanager
async def an_origin(limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[Origin]:
    async with keeping() as keeper:
        yield Origin(keeper, limits)


async def test_last_in_first_out() -> None:
    async with an_origin() as origin:
        first, second = await origin.use(), await origin.use()
        origin.pool.release(first)
        origin.pool.release(second)
        assert origin.pool.idle == 2
        assert await origin.pool.acquire() is second
        assert origin.pool.acquire_nowait() is first
        assert origin.pool.acquire_nowait() is None
        assert len(origin.ends) == 2


async def test_used_again() -> None:
    async with an_origin() as origin:
        for _ in range(3):
            origin.pool.release(await origin.use())
        assert len(origin.ends) == 1
        assert "1 idle" in repr(origin.pool)


async def test_what_cannot_be_used_again_is_closed_in_order() -> None:
    async with an_origin() as origin:
        origin.pool.release(await origin.use(fields=b"Connection: close\r\n"))
        assert origin.pool.idle == 0
        assert await read_until(origin.ends[0]) == b""


async def test_what_is_under_way_is_broken_off() -> None:
    async with an_origin() as origin:
        connection = await origin.pool.acquire()
        connection.send_request(RequestHead(b"POST", b"/", [(b"Host", b"a")]), has_body=True)
        connection.flush()
        origin.pool.release(connection)
        assert (await read_until(origin.ends[0])).endswith(b"<reset>")


async def test_what_was_never_used_is_closed_in_order() -> None:
    async with an_origin() as origin:
        origin.pool.release(await origin.pool.connect())
        assert origin.pool.idle == 0
        assert await read_until(origin.ends[0]) == b""


async def test_dead_ones_are_passed_over() -> None:
    async with an_origin() as origin:
        connections = [await origin.use() for _ in range(3)]
        for connection in connections:
            origin.pool.release(connection)
        await origin.ends[2].send_eof()
        await origin.ends[1].send(b"stray")
        assert await origin.pool.acquire() is connections[0]
        assert origin.pool.idle == 0


async def test_idle_ones_are_closed_at_their_limit_without_another_request() -> None:
    async with an_origin(Limits(origin_idle=0.02)) as origin:
        first, second = await origin.use(), await origin.use()
        origin.pool.release(first)
        assert await read_until(origin.ends[0]) == b""
        assert origin.pool.idle == 0
        origin.pool.release(second)  # the timer is set again
        assert await read_until(origin.ends[1]) == b""


async def test_an_idle_one_that_is_too_old_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the timer may be late."""
    async with an_origin(Limits(origin_idle=60.0)) as origin:
        connection = await origin.use()
        origin.pool.release(connection)
        later = anyio.current_time() + 60.0
        monkeypatch.setattr(origin.pool._keeper, "now", lambda: later)
        assert origin.pool.acquire_nowait() is None


@pytest.mark.parametrize("how", ["end", "stray bytes"])
async def test_an_idle_one_that_its_origin_closes_is_let_go(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SWEEP", 0.01)
    async with an_origin() as origin:
        closed, kept = await origin.use(), await origin.use()
        origin.pool.release(closed)
        origin.pool.release(kept)
        if how == "end":
            await origin.ends[0].send_eof()
        else:
            await origin.ends[0].send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        assert await read_until(origin.ends[0]) == b""
        assert origin.pool.acquire_nowait() is kept


async def test_the_oldest_gives_way() -> None:
    async with an_origin(Limits(origin_connections_idle=1)) as origin:
        first, second = await origin.use(), await origin.use()
        origin.pool.release(first)
        origin.pool.release(second)
        assert origin.pool.acquire_nowait() is second
        assert await read_until(origin.ends[0]) == b""


async def test_none_is_kept_where_none_may_be() -> None:
    async with an_origin(Limits(origin_connections_idle=0)) as origin:
        origin.pool.release(await origin.use())
        assert await read_until(origin.ends[0]) == b""


async def test_closing() -> None:
    async with an_origin() as origin:
        idle, busy = await origin.use(), await origin.use()
        origin.pool.release(idle)
        await origin.pool.aclose()
        assert await read_until(origin.ends[0]) == b""
        origin.pool.release(busy)
        assert await read_until(origin.ends[1]) == b""
        assert "closed" in repr(origin.pool)


async def test_closing_without_waiting() -> None:
    async with an_origin() as origin:
        origin.pool.release(await origin.use())
        origin.pool.close()
        assert await read_until(origin.ends[0]) == b""


async def test_closing_that_is_cancelled() -> None:
    async with an_origin() as origin:
        connections = [await origin.use() for _ in range(3)]
        for connection in connections:
            origin.pool.release(connection)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await origin.pool.aclose()
        assert origin.pool.idle == 0
        assert b"<reset>" in [await read_until(end) for end in origin.ends]


async def test_dialling_may_fail() -> None:
    async def dial() -> ByteStream:
        raise DialError("connect", "nobody listens")

    async with keeping() as keeper:
        with pytest.raises(DialError):
            await OriginPool(dial, keeper=keeper).acquire()
