"""Many deadlines, one task: calls back when their time has come."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

import anyio
from anyio.abc import TaskStatus

from .loop import loop_ticks

__all__ = ["Timer", "Timers"]

# Cancelled entries stay in the heap until their time, or until they are this many and the greater part.
_CANCELLED_KEPT = 64


class Timer:
    """One deadline. ``cancel`` is idempotent, and does nothing once it has called back."""

    __slots__ = ("_callback", "_timers", "active", "when")

    def __init__(self, when: float, callback: Callable[[], object], timers: Timers) -> None:
        self.when = when
        self._callback: Callable[[], object] | None = callback
        self._timers: Timers | None = timers  # None once it left the heap
        self.active = True  # it will still call back

    def cancel(self) -> None:
        if self.active:
            self.active, self._callback = False, None
            if self._timers is not None:
                self._timers._one_was_cancelled()

    def _leave_heap(self) -> Timer:
        self._timers = None
        return self

    def _take_callback(self) -> Callable[[], object] | None:
        callback, self._callback, self.active = self._callback, None, False
        return callback


class Timers:
    """A heap of deadlines and the task that waits for the earliest.

    ``at`` may be called before ``run``, and by callbacks. Times are ``anyio.current_time()``'s.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("tunnelkit")
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()  # equal times call back in the order they were set
        self._cancelled = 0
        self._sleep: anyio.CancelScope | None = None
        self._ticks = 0  # a second, of the clock of the loop that ``run`` runs in

    def __len__(self) -> int:
        """The deadlines that will still call back."""
        return len(self._heap) - self._cancelled

    def at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call ``callback()`` at ``when``, or as soon after as the task runs. An exception of it is logged."""
        timer = Timer(when, callback, self)
        heappush(self._heap, (when, next(self._numbers), timer))
        if self._sleep is not None and when < self._sleep.deadline:
            self._sleep.deadline = self._reachable(when)
        return timer

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Call back until cancelled."""
        self._ticks = loop_ticks()
        task_status.started()
        try:
            while True:
                with anyio.CancelScope(deadline=self._reachable(self._next())) as self._sleep:
                    await anyio.sleep_forever()
                self._sleep = None
                self._fire(anyio.current_time())
        finally:
            self._sleep = None

    def _reachable(self, when: float) -> float:
        """What the clock will say then. For a time between two ticks anyio's deadlines ask the loop again and again,
        some hundred times, until the clock has passed it."""
        return math.ceil(when * self._ticks) / self._ticks if self._ticks and when < math.inf else when

    def _next(self) -> float:
        while self._heap and not self._heap[0][2].active:
            heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0][0] if self._heap else math.inf

    def _fire(self, now: float) -> None:
        # All that is due first: a callback that sets a timer due at once must not keep the task here.
        due: list[Timer] = []
        while self._next() <= now:
            due.append(heappop(self._heap)[2]._leave_heap())
        for timer in due:
            self._call(timer)

    def _call(self, timer: Timer) -> None:
        callback = timer._take_callback()
        if callback is None:
            return
        try:
            callback()
        except Exception:
            self._logger.exception("a timer's callback failed")

    def _one_was_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled > _CANCELLED_KEPT and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].active]
            heapify(self._heap)
            self._cancelled = 0
