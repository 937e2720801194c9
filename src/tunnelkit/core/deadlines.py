"""Deadlines of anything that has a key: one heap, no clock of its own."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias

__all__ = ["Deadlines"]

Key: TypeAlias = Any  # anything that can be hashed; a generic class could not be compiled

# Cancelled entries stay in the heap until they surface, or until they outnumber the live ones by this many.
MAX_GARBAGE = 64


class Deadlines:
    """At most one deadline a key. ``add`` and ``cancel`` cost O(1), ``next`` and ``expire`` O(log n) for each key
    that was added since the last of them.

    Nearly every deadline is cancelled (the request is answered in time), and most before anybody asks which is the
    next: those never come into the heap. Of those in it, cancelling only forgets the key. The heap is swept before it
    holds more than ``2 * live + MAX_GARBAGE`` entries.
    """

    __slots__ = ("_fresh", "_heap", "_live", "_serial")

    def __init__(self) -> None:
        self._fresh: dict[Key, float] = {}  # not in the heap yet, in the order in which they were added
        self._heap: list[tuple[float, int, Key]] = []  # the serial number orders equal times, so keys need no order
        self._live: dict[Key, int] = {}  # key -> serial number of its one valid entry in the heap
        self._serial = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._live)

    def __contains__(self, key: Key) -> bool:
        return key in self._fresh or key in self._live

    def __repr__(self) -> str:
        return f"<Deadlines live={len(self)} next={self.next()}>"

    def add(self, when: float, key: Key) -> None:
        """Give ``key`` the deadline ``when``, in place of the one it had."""
        if key in self._fresh or key in self._live:
            self.cancel(key)
        self._fresh[key] = when

    def cancel(self, key: Key) -> bool:
        """Forget ``key``'s deadline; False when it has none."""
        if self._fresh.pop(key, None) is not None:
            return True
        if self._live.pop(key, None) is None:
            return False
        self._sweep()
        return True

    def next(self) -> float | None:
        """The earliest deadline, or None."""
        self._take_in()
        heap = self._heap
        while heap:
            when, serial, key = heap[0]
            if self._live.get(key) == serial:
                return when
            heappop(heap)
        return None

    def expire(self, now: float) -> list[Key]:
        """Take out the keys whose deadline is ``now`` or earlier, earliest first, equal ones as they were added."""
        self._take_in()
        due: list[Key] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, serial, key = heappop(heap)
            if self._live.get(key) == serial:
                del self._live[key]
                due.append(key)
        return due

    def _take_in(self) -> None:
        for key, when in self._fresh.items():
            self._serial += 1
            self._live[key] = self._serial
            heappush(self._heap, (when, self._serial, key))
        self._fresh.clear()
        self._sweep()

    def _sweep(self) -> None:
        if len(self._heap) > 2 * len(self._live) + MAX_GARBAGE:
            self._heap = [entry for entry in self._heap if self._live.get(entry[2]) == entry[1]]
            heapify(self._heap)
