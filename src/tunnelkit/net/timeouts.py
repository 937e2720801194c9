"""Many waits of one length: as the first to begin is the first to end, they need no heap, and only one timer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, TypeAlias

from .loop import loop_clock
from .timers import Timer, Timers

__all__ = ["Timeouts"]

Key: TypeAlias = Any  # anything that can be hashed; a generic class could not be compiled


class Timeouts:
    """``strike(key)`` is called ``duration`` seconds after ``start(key)``, but for those that were stopped.

    To be made in the event loop that ``timers`` runs in.
    """

    __slots__ = ("_due", "_duration", "_now", "_strike", "_timer", "_timers")

    def __init__(self, timers: Timers, duration: float, strike: Callable[[Key], object]) -> None:
        self._timers = timers
        self._duration = duration
        self._strike = strike
        self._now = loop_clock()
        self._due: dict[Key, float] = {}  # the earliest first
        self._timer: Timer | None = None  # rings when the first of them was due at the latest

    def __len__(self) -> int:
        return len(self._due)

    def start(self, key: Key) -> None:
        """From now on; anew for one that waits already."""
        self._due.pop(key, None)
        self._due[key] = self._now() + self._duration
        if self._timer is None:
            self._arm()

    def restart(self, key: Key) -> None:
        """The same for one that waits; nothing for another."""
        if key in self._due:
            self.start(key)

    def stop(self, key: Key) -> None:
        self._due.pop(key, None)

    def _arm(self) -> None:
        for due in self._due.values():
            self._timer = self._timers.at(due, self._ring)
            return

    def _ring(self) -> None:
        """The first may have been stopped meanwhile, or started anew. One at a time: striking may change others."""
        self._timer = None
        late = [key for key, due in islice(self._due.items(), 1) if due <= self._now()]
        for key in late:
            del self._due[key]
        self._arm()
        for key in late:
            self._strike(key)
