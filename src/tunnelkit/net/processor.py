"""The processor, yielded to other programs before this one goes on.

A tunnel's ends, their origin and their callers often share a machine. Linux wakes a program where its last partner
ran, and may leave it waiting there for milliseconds while another processor idles; meanwhile a busy end keeps what it
has. Where nobody waits it costs half a microsecond.

What others take is this program's own time, so it is bounded: each second of it is owed ``RETURNS`` seconds of work,
or ``RETURNS_OF_LONG`` where it went to a program that computes, and nothing is yielded while more than ``OWED`` are
due.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import Final

__all__ = ["LONG", "MOST_OWED", "OWED", "PROCESSOR", "RETURNS", "RETURNS_OF_LONG", "Processor"]

# What took this long (seconds) went to a program that computes: it would take its whole slice each time. One that has
# a request to answer, or a piece of a transfer to pass on, needs a tenth of it.
LONG: Final = 0.002
# So a quarter of the time is given away at most, a twentieth to those that compute.
RETURNS: Final = 3.0
RETURNS_OF_LONG: Final = 19.0
OWED: Final = 0.01
# Most that can be due: the whole machine may have stood still meanwhile.
MOST_OWED: Final = 5.0

_yield: Callable[[], object] | None = getattr(os, "sched_yield", None)  # Windows has none


class Processor:
    """One serves a whole process: what several gave away would add up."""

    __slots__ = ("_as_of", "_owed", "_refused")

    def __init__(self) -> None:
        self._owed = 0.0  # seconds of work, as of then
        self._as_of = 0.0
        self._refused = False

    def yield_now(self) -> None:
        """Let another program run, if one waits for this processor. Blocks for as long as it does: the process's
        other threads may wait too, since Python 3.11 keeps the GIL meanwhile. Never raises."""
        if self._refused or _yield is None:
            return
        began = monotonic()
        self._owed = max(0.0, self._owed - (began - self._as_of))
        self._as_of = began
        if self._owed > OWED:
            return
        try:
            _yield()
        except OSError:  # a sandbox may know no such call
            self._refused = True
            return
        self._as_of = monotonic()
        took = self._as_of - began
        self._owed = min(MOST_OWED, self._owed + took * (RETURNS_OF_LONG if took >= LONG else RETURNS))


PROCESSOR: Final = Processor()  # a process's
