"""The end of a turn of the event loop: when what many did in it is done for all of them at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

__all__ = ["TurnEnd"]


def _no() -> bool:
    return False


def _yes() -> bool:
    return True


class TurnEnd:
    """``call`` is called at the end of each turn in which it was asked for.

    ``will_call`` says whether it was, and whether there still is a loop to call it.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._trio = _TrioTurns(self._ring)
        self.will_call: Callable[[], bool] = _no

    def ask(self) -> bool:
        """False where no loop runs, as in a thread: it is not called then."""
        if self.will_call():  # before Python 3.12, to ask asyncio which loop runs is a system call
            return True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if not self._trio.ask():
                return False
            self.will_call = _yes
        else:
            loop.call_soon(self._ring)
            self.will_call = loop.is_running
        return True

    def _ring(self) -> None:
        self.will_call = _no
        self._call()


class _TrioTurns:
    """trio has no call_soon, but tells an instrument when all is done that there was to do."""

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
