"""The tasks that serve a client's exchanges.

They are reused: a task a request costs more than the request's own work (facts). A worker whose origin left a
connection open waits right there, so that the next request goes out on it from the link's reader. Its answer wakes
the task only where there is something to wait for: what comes whole is passed on from the loop's own callback.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from .net.doorbell import Doorbell
from .origins.base import Begun, Perch

__all__ = ["WORKERS_KEPT", "Served", "Workers"]

# Workers that wait for their next request, with and without a connection; more than these end when they have none.
WORKERS_KEPT: Final = 100


class Served(Protocol):
    """An exchange, as the workers see it."""

    async def serve(self, begun: Begun) -> Perch | None:
        """Finish it; where to wait for the next."""

    def advance(self, begun: Begun) -> bool:
        """Do what can be done without waiting. True: that was all, and the next may begin at the same perch."""


class Workers:
    def __init__(self) -> None:
        self.parked: list[_Worker] = []
        self.perched: dict[Perch, _Worker] = {}  # those that wait for their next exchange at a connection
        self.running = False
        self._tasks: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        try:
            async with anyio.create_task_group() as self._tasks:
                self.running = True
                task_status.started()
                try:
                    await anyio.sleep_forever()
                finally:
                    self.running = False
                    self._tasks = None  # a group that ends takes no task
        finally:
            self.parked.clear()
            self.perched.clear()

    def give(self, exchange: Served, begun: Begun) -> None:
        """Let a worker finish what was begun: the one that waits where its answer comes, or else any."""
        perch = begun.perch
        worker = None if perch is None else self.perched.pop(perch, None)
        if worker is not None:
            worker.work = exchange, begun
        elif self.parked:
            self.parked.pop().call(exchange, begun)
        elif self._tasks is not None:
            self._tasks.start_soon(_Worker(self, exchange, begun).run)
        else:
            begun.drop()

    def park(self, worker: _Worker) -> bool:
        if len(self.parked) + len(self.perched) >= WORKERS_KEPT:
            return False
        self.parked.append(worker)
        return True

    def perch(self, worker: _Worker, perch: Perch) -> bool:
        """Who begins something there from now on gives it to ``worker``."""
        if len(self.parked) + len(self.perched) >= WORKERS_KEPT:
            return False
        self.perched[perch] = worker
        return True

    def leave(self, worker: _Worker, perch: Perch) -> None:
        if self.perched.get(perch) is worker:
            del self.perched[perch]


class _Worker:
    """A task that serves one exchange after the other."""

    __slots__ = ("_bell", "_workers", "work")

    def __init__(self, workers: Workers, exchange: Served, begun: Begun) -> None:
        self._workers = workers
        self._bell = Doorbell()
        self.work: tuple[Served, Begun] | None = (exchange, begun)

    def call(self, exchange: Served, begun: Begun) -> None:
        """While it is parked: here is its next."""
        self.work = exchange, begun
        self._bell.ring()

    async def run(self) -> None:
        try:
            while (work := self._take_work()) is not None:
                exchange, begun = work
                self._bell.muffle()
                perch = await exchange.serve(begun)
                if perch is not None:
                    await self._wait_at(perch)
                if self.work is None and self._workers.park(self):
                    await self._bell.wait()
        finally:
            if (work := self._take_work()) is not None:
                work[1].drop()

    def _take_work(self) -> tuple[Served, Begun] | None:
        work, self.work = self.work, None
        return work

    async def _wait_at(self, perch: Perch) -> None:
        """Until something comes that is more than whole answers to what was begun here: part of one, or the end of
        the perch."""
        if self._workers.perch(self, perch):
            try:
                await perch.wait(readable=True, taker=partial(self._take, perch))
            finally:
                self._workers.leave(self, perch)

    def _take(self, perch: Perch) -> bool:
        if self.work is None:
            return False
        exchange, begun = self.work
        if not exchange.advance(begun):
            return False
        self.work = None
        return self._workers.perch(self, perch)
