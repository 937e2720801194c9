"""Tests that hang: told what every task was waiting for, and ended.

A test of an event loop is ended from inside of it. pytest-timeout's signal is no help there. Its exception comes out
wherever the loop happens to be: in a callback it is logged and forgotten, and outside of the test's task that task
stays behind, and whoever uses the loop next hangs. What hangs elsewhere, at the end of a fixture perhaps,
ends the process.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import anyio
import pytest
import trio
from pytest_timeout import is_debugging  # type: ignore[import-untyped]

__all__ = ["end_process_after", "ended_after", "waits"]

Test: TypeAlias = Callable[..., Awaitable[None]]


def ended_after(seconds: float, test: Test) -> Test:
    """``test``, which fails with TimeoutError when it has not returned after so many seconds."""

    @functools.wraps(test)
    async def limited(**arguments: Any) -> None:
        failure: BaseException | None = None
        async with anyio.create_task_group() as group:
            try:
                with anyio.CancelScope() as scope:
                    group.start_soon(_end, seconds, scope)
                    await test(**arguments)
                if scope.cancelled_caught:
                    raise TimeoutError(f"not over after {seconds:.3g} s")
            except BaseException as error:  # raised below: as it is, not in a group
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    return limited


async def _end(seconds: float, scope: anyio.CancelScope) -> None:
    """First the places, then the end, which takes the tasks from where they hang."""
    await anyio.sleep(seconds)
    print(f"not over after {seconds:.3g} s; its tasks wait at", waits(), sep="\n", file=sys.stderr)
    scope.cancel()


def waits() -> str:
    """Where each task of the running loop is, from the outermost call to the innermost."""
    lines = []
    for task in anyio.get_running_tasks():
        lines.append(f"task {task.name or task.id}")
        lines += [f"  {place}" for place in _places(task.coro)]
    return "\n".join(lines)


def end_process_after(seconds: float, item: pytest.Item) -> Callable[[], None]:
    """End the process unless the function that this returns is called within so many seconds.

    As pytest-timeout does with ``timeout_method = "thread"``. But its report is lost in a worker of pytest-xdist, and
    shows no task of an event loop.
    """
    timer = threading.Timer(seconds, _end_process, (seconds, item))
    timer.name = f"time limit of {item.nodeid}"
    timer.start()

    def cancel() -> None:
        timer.cancel()
        timer.join()

    return cancel


def _end_process(seconds: float, item: pytest.Item) -> None:
    if is_debugging():
        return
    try:
        manager = item.config.pluginmanager.getplugin("capturemanager")
        if manager is not None:
            manager.suspend_global_capture(in_=True)
            print(*manager.read_global_capture(), sep="\n", file=sys.stderr)
        print(f"\n{item.nodeid} is not over after {seconds:.3g} s", *_stacks(), sep="\n", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(1)


def _stacks() -> Iterator[str]:
    """Of the threads, and of the tasks of every loop."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            yield f"thread {names.get(ident, ident)}"
            yield "".join(traceback.format_stack(frame))
    for task in gc.get_objects():
        if isinstance(task, (asyncio.Task, trio.lowlevel.Task)):
            coro = task.get_coro() if isinstance(task, asyncio.Task) else task.coro
            places = [f"  {place}" for place in _places(coro)]
            if places:  # none of one that is over
                yield "\n".join([f"task {task!r}", *places])


def _places(awaited: object) -> Iterator[str]:
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):  # coroutines, generators, asynchronous generators
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
                awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:  # what asend() gives shows its generator to nobody else
            awaited = next((part for part in gc.get_referents(awaited) if inspect.isasyncgen(part)), None)
