from __future__ import annotations

import pytest

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import DialError
from tunnelkit.heads import RequestHead
from tunnelkit.http.client import OriginConnection
from tunnelkit.http.pool import OriginPool
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.stream import ByteStream

from .helpers import read_until

pytestmark = pytest.mark.anyio


class Origin:
    """Keeps the far ends of what was dialled, and the clock."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.ends: list[MemoryStream] = []
        self.now = 0.0
        self.pool = OriginPool(self.dial, clock=lambda: self.now, limits=limits)

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


async def test_last_in_first_out() -> None:
    origin = Origin()
    first, second = await origin.use(), await origin.use()
    origin.pool.release(first)
    origin.pool.release(second)
    assert origin.pool.idle == 2
    assert await origin.pool.acquire() is second
    assert origin.pool.acquire_nowait() is first
    assert origin.pool.acquire_nowait() is None
    assert len(origin.ends) == 2


async def test_used_again() -> None:
    origin = Origin()
    for _ in range(3):
        origin.pool.release(await origin.use())
    assert len(origin.ends) == 1
    assert "1 idle" in repr(origin.pool)


async def test_connections_that_cannot_be_used_again_are_closed() -> None:
    origin = Origin()
    origin.pool.release(await origin.use(fields=b"Connection: close\r\n"))
    assert origin.pool.idle == 0
    assert await read_until(origin.ends[0]) == b"<reset>"


async def test_dead_ones_are_passed_over() -> None:
    origin = Origin()
    connections = [await origin.use() for _ in range(3)]
    for connection in connections:
        origin.pool.release(connection)
    await origin.ends[2].send_eof()
    await origin.ends[1].send(b"stray")
    assert await origin.pool.acquire() is connections[0]
    assert origin.pool.idle == 0


async def test_idle_ones_grow_old() -> None:
    origin = Origin(Limits(origin_idle=60.0))
    first, second = await origin.use(), await origin.use()
    assert origin.pool.expire() is None
    origin.pool.release(first)
    origin.now = 10.0
    origin.pool.release(second)
    assert origin.pool.expire() == 60.0
    origin.now = 60.0
    assert origin.pool.expire() == 70.0
    assert await read_until(origin.ends[0]) == b"<reset>"
    origin.now = 70.0
    assert origin.pool.acquire_nowait() is None


async def test_the_oldest_gives_way() -> None:
    origin = Origin(Limits(origin_connections_idle=1))
    first, second = await origin.use(), await origin.use()
    origin.pool.release(first)
    origin.pool.release(second)
    assert origin.pool.acquire_nowait() is second
    assert await read_until(origin.ends[0]) == b"<reset>"


async def test_closing() -> None:
    origin = Origin()
    idle, busy = await origin.use(), await origin.use()
    origin.pool.release(idle)
    await origin.pool.aclose()
    assert await read_until(origin.ends[0]) == b""
    origin.pool.release(busy)
    assert await read_until(origin.ends[1]) == b"<reset>"
    assert "closed" in repr(origin.pool)


async def test_dialling_may_fail() -> None:
    async def dial() -> ByteStream:
        raise DialError("connect", "nobody listens")

    pool = OriginPool(dial, clock=lambda: 0.0)
    with pytest.raises(DialError):
        await pool.acquire()
