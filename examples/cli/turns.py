"""The end of a turn of the event loop: when what many did in it is done for all of them at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

__all__ = ["TurnEnd"]


class TurnEnd:
    """``call`` is called at the end of each turn in which it was asked for."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._loop: asyncio.AbstractEventLoop | None = None  # asyncio's, which will call
        self._trio = _TrioTurns(call)

    def ask(self) -> bool:
        """False where no loop runs, as in a thread: it is not called then."""
        # Before Python 3.12, to ask asyncio which loop runs is a system call.
        if self._trio.will_call or (self._loop is not None and self._loop.is_running()):
            return True
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._trio.ask()
        self._loop.call_soon(self._ring)
        return True

    def _ring(self) -> None:
        self._loop = None
        self._call()


class _TrioTurns:
    """trio has no call_soon, but tells an instrument when all is done that there was to do."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.will_call = False
        self._call = call

    def ask(self) -> bool:
        trio = sys.modules.get("trio")
        if trio is None:
            return False
        try:
            trio.lowlevel.add_instrument(self)  # which it may be already
        except RuntimeError:
            return False
        self.will_call = True
        return True

    def before_io_wait(self, timeout: float) -> None:
        if self.will_call:
            self.will_call = False
            self._call()

    def after_run(self) -> None:
        self.before_io_wait(0)
