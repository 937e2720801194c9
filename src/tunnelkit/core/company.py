"""Whether small exchanges come beside transfers in a session: then each is moved in small pieces (design, section 5).

A transfer by itself is quickest in large pieces, worked on for long at a time, and so are several of them together. A
small exchange that comes beside it waits for such a piece at either end, on its way there and back. A caller that
asks one thing after the other leaves gaps, which would fill with large pieces again: so it is not over with the
exchange that came, but ``LASTS`` bytes later. A fast transfer moves those in a tenth of a second, and to count them
takes no clock.

Many callers at once keep the processors busy by themselves: to give way would only take from what is large. How many
there are is told by how many streams are opened while a small exchange lasts; silent ones do not count.
"""

from __future__ import annotations

from typing import Final

from ..config import KIB, MIB

__all__ = ["FEW", "LARGE", "LASTS", "MANY", "SMALL", "Company"]

LASTS: Final = 64 * MIB  # that the session moved, both directions together
SMALL: Final = 8 * KIB  # an exchange, both directions together
LARGE: Final = 16 * KIB  # what is moved of one stream at once: no turn of one that has more is shorter
MANY: Final = 20  # streams that are opened while a small exchange lasts, in the mean of the last such exchanges
FEW: Final = 4  # the same; each of them waits for the transfer more than for another of them
_MEAN_OF: Final = 16
_BETWEEN: Final = 0.5  # so that a number that stays the same is on one side
_COUNTED: Final = 4 * MANY  # at most, for one exchange: somebody may have thought for an hour


class Company:
    """Of one session's streams. They have none at first."""

    __slots__ = ("_left", "_mean", "pieces", "streams")

    def __init__(self) -> None:
        self.streams = 0  # that were opened
        self.pieces = 0  # large ones that were moved
        self._mean = 0.0
        self._left = 0

    @property
    def present(self) -> bool:
        return self._left > 0 and self._mean < MANY + _BETWEEN

    @property
    def of_few(self) -> bool:
        return self._left > 0 and self._mean < FEW + _BETWEEN

    def opened(self, *, alone: bool) -> None:
        """A stream was, beside others or ``alone``: then there is nothing any more that it could come beside."""
        self.streams += 1
        if alone:
            self._left = 0

    def ended(self, size: int, streams: int, pieces: int) -> None:
        """One of ``size`` bytes ended in order, and was opened when so many of the others had been counted."""
        if size > SMALL:
            return
        self._mean += (min(self.streams - streams, _COUNTED) - self._mean) / _MEAN_OF
        if self.pieces > pieces:
            self._left = LASTS

    def moved(self, size: int) -> None:
        """``size`` bytes of the session were received, or taken to be sent."""
        if self._left > 0:
            self._left -= size
