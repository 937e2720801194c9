"""The clocks of a connection, at the cost of no scope, no task and hardly a heap operation a request."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio

from ..config import Limits
from ..net.timers import Timer, Timers

__all__ = ["Deadline", "Pace"]


class Deadline:
    """One deadline that moves often and strikes rarely.

    Moving it later, or clearing it, is an assignment: the timer that is armed looks, when it rings, where the
    deadline is by then.
    """

    __slots__ = ("_strike", "_timer", "_timers", "when")

    def __init__(self, timers: Timers, strike: Callable[[], object]) -> None:
        self._timers = timers
        self._strike: Callable[[], object] | None = strike
        self._timer: Timer | None = None
        self.when = math.inf

    def set(self, when: float) -> None:
        self.when = when
        if self._timer is None or when < self._timer.when:
            self._arm()

    def clear(self) -> None:
        self.when = math.inf

    def close(self) -> None:
        """Never strike again, and let go of whoever would have been told: it has us, and each would keep the other
        until a collector came by."""
        self.when = math.inf
        self._strike = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._strike is not None:
            self._timer = self._timers.at(self.when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._strike is not None and self.when <= anyio.current_time():
            self.when = math.inf
            self._strike()
        elif self.when < math.inf:
            self._arm()


class Pace:
    """Whether a peer that is waited for moves at least ``Limits.min_rate``, averaged over the time waited.

    Only time spent waiting for the peer counts, so that a stream that is slow for another reason is safe; and a
    peer that moves nothing at all is judged by its idle timeout, not here.
    """

    __slots__ = ("_heard", "_limits", "_moved", "_since", "_waited", "silence")

    def __init__(self, limits: Limits) -> None:
        self.silence = 0.0  # seconds waited since the peer last moved anything
        self._limits = limits
        self._heard = False  # during this wait
        self._moved = 0
        self._waited = 0.0
        self._since: float | None = None

    def wait(self, now: float) -> None:
        """From now on the peer is waited for."""
        if self._since is None:
            self._since = now
            self._heard = False

    def moved(self, count: int) -> None:
        if count:
            self._moved += count
            self.silence = 0.0
            self._heard = True

    def waited(self, now: float) -> bool:
        """The peer is no longer waited for. False when it is too slow."""
        if self._since is not None:
            self._waited += now - self._since
            if not self._heard:
                self.silence += now - self._since
            self._since = None
        if self._waited < self._limits.min_rate_period:
            return True
        fast_enough = not self._moved or self._moved >= self._limits.min_rate * self._waited
        self._moved, self._waited = 0, 0.0
        return fast_enough
