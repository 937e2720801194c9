"""How many connections our client keeps at a wsp server, and when it dials for more.

Sans-IO: ``now`` and the jitter (a random float from 0 to 1) are arguments.

The sizes are those of wsp's own client, and so is the aim: as many idle connections as ``poolidlesize`` says. Unlike
theirs it counts those that are being dialled, or a server that does not answer would be dialled ever more; and waits
longer from failure to failure, with one dial at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..config import Limits
from ..errors import ConfigError

__all__ = ["POOL_LIMIT", "Backoff", "PoolPlan", "PoolSize"]

POOL_LIMIT: Final = 1000  # connections: the streams that a session permits, of which each takes one at a time
_MAX_DOUBLINGS: Final = 20  # beyond any sensible cap


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSize:
    """Connections. Raises ``ConfigError`` for sizes that make no pool."""

    poolidlesize: int = 10  # that wait for requests
    poolmaxsize: int = 100  # in all

    def __post_init__(self) -> None:
        if not 1 <= self.poolidlesize <= POOL_LIMIT:
            raise ConfigError("poolidlesize", f"must be from 1 to {POOL_LIMIT}, got {self.poolidlesize!r}")
        if not self.poolidlesize <= self.poolmaxsize <= POOL_LIMIT:
            problem = f"must be from {self.poolidlesize} to {POOL_LIMIT}, got {self.poolmaxsize!r}"
            raise ConfigError("poolmaxsize", problem, "it cannot be below poolidlesize")


class Backoff:
    """When the next connection to one server may be dialled. It outlives pools: a server that takes connections and
    drops them at once ends them all."""

    def __init__(self, limits: Limits) -> None:
        self.when = float("-inf")
        self._limits = limits
        self._failures = 0

    @property
    def failing(self) -> bool:
        return self._failures > 0

    def failed(self, now: float, jitter: float) -> None:
        """Full jitter, its bound doubling. Those that were dialled together fail as one."""
        if now < self.when:
            return
        bound = self._limits.retry_first * 2.0 ** min(self._failures, _MAX_DOUBLINGS)
        self._failures += 1
        self.when = now + jitter * min(bound, self._limits.retry_cap)

    def worked(self) -> None:
        """The server kept a connection, or used it."""
        self._failures = 0


class PoolPlan:
    """Tell what happens; ask ``missing``, and dial as ``backoff`` allows."""

    def __init__(self, size: PoolSize, backoff: Backoff) -> None:
        self._size = size
        self._backoff = backoff
        self._dialling = 0
        self._idle = 0
        self._busy = 0

    def __repr__(self) -> str:
        return f"<PoolPlan idle={self._idle} busy={self._busy} dialling={self._dialling}>"

    @property
    def missing(self) -> int:
        """How many to dial now."""
        total = self._idle + self._busy + self._dialling
        wanted = min(self._size.poolidlesize - self._idle - self._dialling, self._size.poolmaxsize - total)
        if self._backoff.failing:
            wanted = min(wanted, 1 - self._dialling)
        return max(wanted, 0)

    @property
    def empty(self) -> bool:
        """No connection stands."""
        return self._idle + self._busy == 0

    def dialling(self) -> None:
        self._dialling += 1

    def dial_failed(self, now: float, jitter: float) -> None:
        self._dialling -= 1
        self._backoff.failed(now, jitter)

    def connected(self) -> None:
        """What was dialled stands, and is idle."""
        self._dialling -= 1
        self._idle += 1

    def begun(self) -> None:
        """A request came on an idle connection."""
        self._idle -= 1
        self._busy += 1

    def ended(self) -> None:
        """It was answered, and the connection is idle again."""
        self._busy -= 1
        self._idle += 1

    def lost(self, now: float, jitter: float, *, busy: bool, proved: bool) -> None:
        """A connection is over. One that the server took and dropped is no better than a dial that failed."""
        if busy:
            self._busy -= 1
        else:
            self._idle -= 1
        if not proved:
            self._backoff.failed(now, jitter)
