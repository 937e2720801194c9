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
import math
import os
import sys
import threading
import time
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
    return _watch().over_at(time.monotonic() + seconds, lambda: _end_process(seconds, item))


class _Watch(threading.Thread):
    """One alarm at a time, the newest. A thread for each test, as a ``threading.Timer`` is, takes two turns
    of the scheduler to begin and to end; this one sleeps through most tests."""

    def __init__(self) -> None:
        super().__init__(name="time limit of tests", daemon=True)
        self._news = threading.Condition()
        self._due: tuple[float, Callable[[], None]] | None = None
        self._wakes = math.inf

    def over_at(self, moment: float, alarm: Callable[[], None]) -> Callable[[], None]:
        due = (moment, alarm)
        with self._news:
            self._due = due
            if moment < self._wakes:
                self._news.notify()

        def cancel() -> None:
            with self._news:
                if self._due is due:
                    self._due = None

        return cancel

    def run(self) -> None:
        while True:
            with self._news:
                alarm = self._next_alarm()
            if alarm is not None:
                alarm()

    def _next_alarm(self) -> Callable[[], None] | None:
        """The alarm, when its time has come. It sleeps through what is cancelled, and through what comes later."""
        if self._due is None:
            self._wakes = math.inf
            self._news.wait()
            return None
        moment, alarm = self._due
        left = moment - time.monotonic()
        if left > 0:
            self._wakes = moment
            self._news.wait(left)
            return None
        self._due = None
        return alarm


@functools.cache
def _watch() -> _Watch:
    watch = _Watch()
    watch.start()
    return watch


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
