"""Kept-alive connections to one origin."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from ..config import DEFAULT_LIMITS, Limits
from ..net.stream import ByteStream
from ..net.timers import Timer
from .client import OriginConnection
from .codec import HeadParser
from .keeper import IdleKeeper
from .parsers import DEFAULT_PARSER

__all__ = ["SWEEP", "OriginPool"]

# Seconds between two looks at the idle connections, while there are any: one that its origin closed is let go then.
SWEEP = 1.0


class OriginPool:
    """Last in, first out: what was used last is likeliest to be alive, and the surplus grows old and is closed.

    All but ``acquire`` and ``aclose`` is synchronous: ``keeper`` closes what is let go.
    """

    def __init__(
        self,
        dial: Callable[[], Awaitable[ByteStream]],
        *,
        keeper: IdleKeeper,
        limits: Limits = DEFAULT_LIMITS,
        parser: HeadParser = DEFAULT_PARSER,
    ) -> None:
        self._dial = dial
        self._keeper = keeper
        self._limits = limits
        self._parser = parser
        self._idle: deque[tuple[float, OriginConnection]] = deque()  # (idle since, connection), oldest first
        self._timer: Timer | None = None  # of the next sweep, while any is idle
        self._closed = False

    def __repr__(self) -> str:
        return f"<OriginPool {self.idle} idle{' closed' if self._closed else ''}>"

    @property
    def idle(self) -> int:
        return len(self._idle)

    def acquire_nowait(self) -> OriginConnection | None:
        """The connection used last, if one is alive; dead ones that are met are let go."""
        old = self._keeper.now() - self._limits.origin_idle
        while self._idle:
            since, connection = self._idle.pop()
            if since > old and connection.is_silent():
                return connection
            self._let_go(connection)
        return None

    async def acquire(self) -> OriginConnection:
        """A connection, kept alive or new. Raises what ``dial`` raises."""
        return self.acquire_nowait() or await self.connect()

    async def connect(self) -> OriginConnection:
        """A new connection, for a request that failed on one that had been kept alive."""
        return OriginConnection(await self._dial(), limits=self._limits, parser=self._parser)

    def release(self, connection: OriginConnection) -> bool:
        """Give a connection back, whatever state it is in: what cannot be used again is let go. True: kept."""
        if self.keep(connection):
            return True
        self._let_go(connection)
        return False

    def keep(self, connection: OriginConnection) -> bool:
        """Give a connection back if it can be used again. False: it is still the caller's."""
        if self._closed or not connection.reusable:
            return False
        now = self._keeper.now()
        self._idle.append((now, connection))
        if len(self._idle) > self._limits.origin_connections_idle:
            self._let_go(self._idle.popleft()[1])
        if self._timer is None and self._idle:
            self._set_timer(now)
        return True

    def _let_go(self, connection: OriginConnection) -> None:
        """In order where nothing is under way; else the origin is to stop, and hears so by a reset."""
        if connection.quiet:
            self._keeper.retire(connection)
        else:
            connection.abort()

    # -- time ----------------------------------------------------------------------------------

    def _retire_old(self, now: float) -> None:
        while self._idle and self._idle[0][0] + self._limits.origin_idle <= now:
            self._let_go(self._idle.popleft()[1])

    def _set_timer(self, now: float) -> None:
        due = min(now + SWEEP, self._idle[0][0] + self._limits.origin_idle)
        self._timer = self._keeper.timers.at(due, self._sweep)

    def _sweep(self) -> None:
        """Let go of what is idle for too long, or was closed by the origin. Nothing is kept half-closed."""
        self._timer = None
        now = self._keeper.now()
        self._retire_old(now)
        idle, self._idle = self._idle, deque()
        for since, connection in idle:
            if connection.is_silent():
                self._idle.append((since, connection))
            else:
                self._let_go(connection)
        if self._idle:
            self._set_timer(now)

    # -- closing -------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the idle connections; those in use are closed as they are released. Cancelled, it breaks off."""
        self._stop()
        try:
            while self._idle:
                await self._idle.pop()[1].aclose()
        finally:
            while self._idle:
                self._idle.pop()[1].abort()

    def close(self) -> None:
        """The same without waiting."""
        self._stop()
        while self._idle:
            self._let_go(self._idle.pop()[1])

    def _stop(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
