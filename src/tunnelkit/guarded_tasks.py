"""A task group for the tasks of others: one that fails is logged, and costs nothing but itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

__all__ = ["GuardedTasks"]

T = TypeVar("T")


class _Status:
    """A ``TaskStatus`` that knows whether it was used."""

    def __init__(self, status: TaskStatus[Any]) -> None:
        self.used = False
        self._status = status

    def started(self, value: object = None) -> None:
        self.used = True
        self._status.started(value)


class GuardedTasks(TaskGroup):
    """An anyio task group in which an ``Exception`` of one task goes to ``logger`` instead of ending the others.

    The result of such a task is None. ``start`` raises what the task raises before ``started``, as ever.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._group = anyio.create_task_group()

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> Any:
        return self._group.create_task(self._guard(coro), name=name, context=context)

    async def start(self, func: Callable[..., Coroutine[Any, Any, Any]], *args: object, **options: Any) -> Any:
        async def guarded(*, task_status: TaskStatus[Any]) -> object:
            status = _Status(task_status)
            return await self._guard(func(*args, task_status=status), status)

        return await self._group.start(guarded, **options)

    async def __aenter__(self) -> GuardedTasks:
        await self._group.__aenter__()
        self.cancel_scope = self._group.cancel_scope
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return bool(await self._group.__aexit__(kind, error, traceback))

    async def _guard(self, task: Coroutine[Any, Any, T], status: _Status | None = None) -> T | None:
        try:
            return await task
        except Exception:
            if status is not None and not status.used:
                raise
            self._logger.exception("a task of a transport failed")
            return None
