"""The end of a turn of the event loop: when what many did in it is done for all of them at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

__all__ = ["TurnEnd"]


class TurnEnd:
    """``call`` is called at the end of each turn in which it was asked for; on trio of those that follow, too."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._asked: asyncio.AbstractEventLoop | None = None  # the loop that will call
        self._watched: object = None  # trio's run, once it calls ``before_io_wait``

    def ask(self) -> bool:
        """False where no loop runs, as in a thread: it is not called then."""
        # Before Python 3.12, to ask asyncio which loop runs is a system call.
        if self._asked is not None and self._asked.is_running():
            return True
        if self._watched is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return self._watch_trio()
            self._asked = loop
            loop.call_soon(self._ring)
            return True
        return self._watch_trio()

    def _ring(self) -> None:
        self._asked = None
        self._call()

    # -- trio has no call_soon, but tells an instrument that all is done that there was to do ------

    def _watch_trio(self) -> bool:
        trio = sys.modules.get("trio")
        try:
            run = trio.lowlevel.current_trio_token() if trio is not None else None
        except RuntimeError:
            run = None
        if run is not None and run is not self._watched:
            trio.lowlevel.add_instrument(self)  # type: ignore[union-attr]
        self._watched = run
        return run is not None

    def before_io_wait(self, timeout: float) -> None:
        self._call()
