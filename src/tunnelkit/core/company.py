"""Whether small exchanges come beside transfers in a session: then each is moved in small pieces (design, section 5).

A transfer by itself is quickest in large pieces, worked on for long at a time, and so are several of them together. A
small exchange that comes beside it waits for such a piece at either end, on its way there and back. A caller that
asks one thing after the other leaves gaps, which would fill with large pieces again: so it is not over with the
exchange that came, but ``LASTS`` bytes later. A fast transfer moves those in a tenth of a second, and to count them
takes no clock. Small exchanges among themselves have nothing to wait for.
"""

from __future__ import annotations

from typing import Final

from ..config import KIB, MIB

__all__ = ["LASTS", "SMALL", "Company"]

LASTS: Final = 64 * MIB  # that the session moved, both directions together
# An exchange, both directions together, and what is moved at once. Whatever is larger gains by large pieces.
SMALL: Final = 32 * KIB


class Company:
    """Of one session's streams. They have none at first."""

    __slots__ = ("_large", "_small")

    def __init__(self) -> None:
        # Bytes until it is forgotten that there were small exchanges beside others, and large pieces.
        self._small = 0
        self._large = 0

    @property
    def present(self) -> bool:
        return self._small > 0 and self._large > 0

    def ended(self, size: int, *, alone: bool) -> None:
        """A stream of ``size`` bytes is over, beside others or ``alone``: then there is nothing any more that the
        next could come beside."""
        if alone:
            self._small = self._large = 0
        elif size <= SMALL:
            self._small = LASTS

    def moved(self, size: int) -> None:
        """``size`` bytes of the session were received at once, or taken to be sent."""
        self._small -= size
        self._large = LASTS if size > SMALL else self._large - size
