"""Lives that end in order: a last word gets out even when the program around is cancelled, but not for long."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

__all__ = ["run_beside", "run_to_the_end"]


class _Run(Protocol):
    def __call__(self, *, task_status: TaskStatus[object]) -> Awaitable[None]: ...


class _Started:
    """A ``TaskStatus`` that rings."""

    def __init__(self) -> None:
        self.bell = anyio.Event()

    def started(self, value: object = None) -> None:
        self.bell.set()


@asynccontextmanager
async def run_beside(run: _Run) -> AsyncGenerator[None]:
    """Have ``run`` running, from its ``started`` on, for as long as the body lasts; then it is cancelled.

    When ``run`` fails, the body is cancelled. What either raises comes out as it is, the body's first: the task
    group is nobody's business (an ExceptionGroup would be none that a caller could foresee).
    """
    failures: list[BaseException] = []
    status = _Started()

    async def guarded() -> None:
        try:
            await run(task_status=status)
        except Exception as error:
            failures.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(guarded)
        await status.bell.wait()
        try:
            yield
        except BaseException as error:
            if _belongs_to_scopes(error):
                raise
            failures.insert(0, error)
        group.cancel_scope.cancel()
    if failures:
        raise failures[0]


def _belongs_to_scopes(error: BaseException) -> bool:
    """Whether it is, or holds, a cancellation: cancel scopes must see those."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(cancelled) is not None
    return isinstance(error, (cancelled, GeneratorExit))


async def run_to_the_end(work: Callable[[], Awaitable[None]], *, stop: Callable[[], None], timeout: float) -> None:
    """Run ``work``. When cancelled, call ``stop`` and give ``work`` ``timeout`` seconds to end by itself.

    What ``work`` raises comes out as it is, not in a group. A shield without a deadline could hang for ever, and
    without a shield nothing could be said any more.
    """
    shell = anyio.CancelScope(shield=True)
    ended = anyio.Event()
    failure: list[Exception] = []

    async def shielded() -> None:
        try:
            with shell:
                await work()
        except Exception as error:
            failure.append(error)
        finally:
            ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(shielded)
        try:
            await ended.wait()
        finally:
            if not ended.is_set():
                shell.deadline = anyio.current_time() + timeout
                stop()
    if failure:
        raise failure[0]
