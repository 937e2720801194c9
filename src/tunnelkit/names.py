"""Reverse DNS of clients, for the statistics page: looked up beside everything else, and never waited for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

__all__ = ["HostNames"]

LOOKUPS_AT_ONCE = 2
LOOKUPS_WAITING = 100  # more are not made: the page shows no name then
LOOKUP_TIMEOUT = 10.0


class HostNames:
    """Looks addresses up in the background, a few at a time."""

    def __init__(self) -> None:
        self._tasks: TaskGroup | None = None
        self._limiter = anyio.CapacityLimiter(LOOKUPS_AT_ONCE)
        self._waiting = 0

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None  # a session may still register, and a group that ends takes no task

    def look_up(self, address: str, found: Callable[[str], None]) -> None:
        """Call ``found`` with the name of ``address``, should it have one."""
        if self._tasks is not None and address and self._waiting < LOOKUPS_WAITING:
            self._waiting += 1
            self._tasks.start_soon(self._look_up, address, found)

    async def _look_up(self, address: str, found: Callable[[str], None]) -> None:
        try:
            async with self._limiter:
                with anyio.move_on_after(LOOKUP_TIMEOUT), suppress(OSError):
                    found(await anyio.to_thread.run_sync(_name_of, address, abandon_on_cancel=True))
        finally:
            self._waiting -= 1


def _name_of(address: str) -> str:
    # In a thread of its own: uvloop's getnameinfo cannot be cancelled without an error in its loop.
    return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
