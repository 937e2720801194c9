"""The processor, offered to other programs before this one goes on.

A tunnel's ends, their origin and their callers often share a machine. Linux wakes a program where its last partner
ran, and may leave it waiting there for milliseconds while another processor idles; meanwhile a busy end keeps what it
has. Where nobody waits an offer takes half a microsecond.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import Final

__all__ = ["LONG", "OFFER", "REST", "ProcessorOffer"]

# An offer that took this long (seconds) went to a program that computes: it would take its whole slice of each.
LONG: Final = 0.002
# Then none is made for so many times what it took, so that at most a twentieth of the time is given away.
REST: Final = 20

_yield: Callable[[], object] | None = getattr(os, "sched_yield", None)  # Windows has none


class ProcessorOffer:
    """One serves a whole process: the rests of several would overlap, and what they give away would add up."""

    __slots__ = ("_not_before",)

    def __init__(self) -> None:
        self._not_before = 0.0

    def make(self) -> None:
        """Let another program run, if one waits for this processor. Blocks for as long as it does."""
        began = monotonic()
        if _yield is None or began < self._not_before:
            return
        _yield()
        ended = monotonic()
        if ended - began >= LONG:
            self._not_before = ended + REST * (ended - began)


OFFER: Final = ProcessorOffer()  # a process's
