"""Whether exchanges come beside others in a session: then each is moved in small pieces (design, section 5).

A transfer by itself is quickest in large pieces, worked on for long at a time. An exchange that comes beside it waits
for such a piece at either end, on its way there and back. A caller that asks one thing after the other leaves gaps,
which would fill with large pieces again: so it is not over with the exchange that came, but ``LASTS`` bytes later. A
fast transfer moves those in a tenth of a second, and to count them takes no clock.
"""

from __future__ import annotations

from typing import Final

from ..config import MIB

__all__ = ["LASTS", "Company"]

LASTS: Final = 64 * MIB  # that the session moved, both directions together


class Company:
    """Of one session's streams. They have none at first."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = 0

    @property
    def present(self) -> bool:
        return self._left > 0

    def joined(self, *, alone: bool) -> None:
        """A stream was opened, beside others or ``alone``: then there is nothing any more that it came beside."""
        self._left = 0 if alone else LASTS

    def moved(self, size: int) -> None:
        """``size`` bytes of the session were received, or taken to be sent."""
        if self._left > 0:
            self._left -= size
