"""A moment later: when what many did meanwhile is done for all of them at once."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from typing import Final

__all__ = ["SOON", "Shortly"]

# Seconds.
SOON: Final = 0.01


class Shortly:
    """``call`` is called a moment after it was asked for, once however often that was. A loop that stops meanwhile
    does not call, until it runs again."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._trio = _TrioTask(call)
        self._loop: asyncio.AbstractEventLoop | None = None  # that is about to call

    def ask(self) -> bool:
        """False where no loop runs, as in a thread: it is not called then."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._trio.ask()
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(SOON, self._ring, loop)
        return True

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop:
            self._loop = None
        self._call()


class _TrioTask:
    """One that sleeps, in the trio run that asked: trio calls nobody back."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._run: object = None  # in which a task is about to call

    def ask(self) -> bool:
        trio = sys.modules.get("trio")
        if trio is None:
            return False
        try:
            run = trio.lowlevel.current_trio_token()
            if self._run is not run:
                trio.lowlevel.spawn_system_task(self._ring, run)
                self._run = run
        except RuntimeError:  # in no run, or in one that ends
            return False
        return True

    async def _ring(self, run: object) -> None:
        try:
            await sys.modules["trio"].sleep(SOON)
        finally:  # the run may end before
            if self._run is run:
                self._run = None
            try:
                self._call()
            except Exception:  # leaving a system task, it would end the run
                traceback.print_exc()
