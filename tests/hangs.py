"""Tests that hang in an event loop: ended from inside of it, and told what every task was waiting for.

pytest-timeout's signal is no help there. Its exception comes out wherever the loop happens to be: in a callback it is
logged and forgotten, and outside of the test's task that task stays behind, and whoever uses the loop next hangs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import anyio

__all__ = ["ended_after", "waits"]

Test: TypeAlias = Callable[..., Awaitable[None]]


def ended_after(seconds: float, test: Test) -> Test:
    """``test``, which fails with TimeoutError when it has not returned after so many seconds."""

    @functools.wraps(test)
    async def limited(**arguments: Any) -> None:
        failure: BaseException | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(_tell_waits, seconds * 0.95)  # before the end takes the tasks from where they hang
            try:
                with anyio.fail_after(seconds):
                    await test(**arguments)
            except BaseException as error:  # raised below: as it is, not in a group
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    return limited


async def _tell_waits(seconds: float) -> None:
    await anyio.sleep(seconds)
    print(f"not over after {seconds:.3g} s; its tasks wait at", waits(), sep="\n", file=sys.stderr)


def waits() -> str:
    """Where each task of the running loop is, from the outermost call to the innermost."""
    lines = []
    for task in anyio.get_running_tasks():
        lines.append(f"task {task.name or task.id}")
        lines += [f"  {place}" for place in _places(task.coro)]
    return "\n".join(lines)


def _places(awaited: object) -> Iterator[str]:
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):  # coroutines, generators, asynchronous generators
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
                awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            return
