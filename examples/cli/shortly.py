"""A moment later: when what many did meanwhile is done for all of them at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

__all__ = ["SOON", "Shortly"]

# Seconds. asyncio's loops call back then; trio, which has no such calls, at the end of the turn.
SOON: Final = 0.01


class Shortly:
    """``call`` is called a moment after it was asked for, once however often that was. A loop that stops meanwhile
    does not call, until it runs again."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._trio = _TrioTurns(call)
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


class _TrioTurns:
    """trio tells an instrument when all is done that there was to do."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._asked = False
        self._call = call

    def ask(self) -> bool:
        trio = sys.modules.get("trio")
        if trio is None:
            return False
        try:
            trio.lowlevel.add_instrument(self)  # which it may be already
        except RuntimeError:
            return False
        self._asked = True
        return True

    def before_io_wait(self, timeout: float) -> None:
        if self._asked:
            self._asked = False
            self._call()

    def after_run(self) -> None:
        self.before_io_wait(0)
