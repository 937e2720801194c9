"""Kept-alive connections to one origin."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from ..config import DEFAULT_LIMITS, Limits
from ..net.stream import ByteStream
from .client import OriginConnection
from .codec import HeadParser
from .h11_codec import H11_PARSER

__all__ = ["OriginPool"]


class OriginPool:
    """Last in, first out: what was used last is likeliest to be alive, and the surplus grows old and is closed.

    All but ``acquire`` and ``aclose`` is synchronous. ``clock`` gives ``anyio.current_time()``.
    """

    def __init__(
        self,
        dial: Callable[[], Awaitable[ByteStream]],
        *,
        clock: Callable[[], float],
        limits: Limits = DEFAULT_LIMITS,
        parser: HeadParser = H11_PARSER,
    ) -> None:
        self._dial = dial
        self._clock = clock
        self._limits = limits
        self._parser = parser
        self._idle: deque[tuple[float, OriginConnection]] = deque()  # oldest first
        self._closed = False

    def __repr__(self) -> str:
        return f"<OriginPool {self.idle} idle{' closed' if self._closed else ''}>"

    @property
    def idle(self) -> int:
        return len(self._idle)

    def acquire_nowait(self) -> OriginConnection | None:
        """The connection used last, if one is alive; dead ones that are met are dropped."""
        self.expire()
        while self._idle:
            _, connection = self._idle.pop()
            if connection.check_idle():
                return connection
            connection.abort()
        return None

    async def acquire(self) -> OriginConnection:
        """A connection, kept alive or new. Raises what ``dial`` raises."""
        return self.acquire_nowait() or await self.connect()

    async def connect(self) -> OriginConnection:
        """A new connection, for a request that failed on one that had been kept alive."""
        return OriginConnection(await self._dial(), limits=self._limits, parser=self._parser)

    def release(self, connection: OriginConnection) -> None:
        """Give a connection back, whatever state it is in: what cannot be used again is closed."""
        if self._closed or not connection.reusable:
            connection.abort()
            return
        self._idle.append((self._clock(), connection))
        if len(self._idle) > self._limits.origin_connections_idle:
            self._idle.popleft()[1].abort()

    def expire(self) -> float | None:
        """Close what was idle for too long. The time to call again, or None when nothing is idle."""
        oldest = self._clock() - self._limits.origin_idle
        while self._idle and self._idle[0][0] <= oldest:
            self._idle.popleft()[1].abort()
        return self._idle[0][0] + self._limits.origin_idle if self._idle else None

    async def aclose(self) -> None:
        """Close the idle connections; those in use are closed as they are released."""
        self._closed = True
        try:
            while self._idle:
                await self._idle.pop()[1].aclose()
        finally:
            self.close()

    def close(self) -> None:
        """The same, at once."""
        self._closed = True
        while self._idle:
            self._idle.pop()[1].abort()
