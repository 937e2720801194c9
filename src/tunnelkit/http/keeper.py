"""What nobody waits for: idle connections that grow old or are closed by their peer, and closings that take time."""

from __future__ import annotations

import logging
from collections import deque

import anyio
from anyio.abc import TaskStatus

from ..net.loop import Clock, loop_clock
from ..net.timers import Timers
from .client import OriginConnection

__all__ = ["BACKLOG", "IdleKeeper"]

# Connections that wait to be closed in order; those beyond are broken off.
BACKLOG = 200


class IdleKeeper:
    """The timers, and the one task that closes connections, of any number of pools.

    Both work while ``run`` runs. What is retired before waits; what is left at the end is broken off.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.timers = Timers(logger)
        self.now: Clock = anyio.current_time
        self._logger = logger
        self._retired: deque[OriginConnection] = deque()
        self._bell = anyio.Event()
        self._over = False

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        self.now = loop_clock()
        async with anyio.create_task_group() as group:
            await group.start(self.timers.run)
            task_status.started()
            try:
                await self._close_retired()
            finally:
                self._over = True
                for connection in self._retired:
                    connection.abort()
                self._retired.clear()

    def retire(self, connection: OriginConnection) -> None:
        """Close ``connection``, on which nothing is under way, in order and soon."""
        if self._over or len(self._retired) >= BACKLOG:
            connection.abort()
            return
        self._retired.append(connection)
        self._bell.set()

    async def _close_retired(self) -> None:
        while True:
            await self._bell.wait()
            self._bell = anyio.Event()
            while self._retired:
                await self._close(self._retired.popleft())

    async def _close(self, connection: OriginConnection) -> None:
        try:
            await connection.aclose()
        except Exception:  # a bug of ours: it costs this connection, not those that follow
            connection.abort()
            self._logger.exception("a connection to an origin could not be closed")
