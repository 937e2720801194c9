"""An origin that refuses connections may be starting again: whether a request that was never sent waits for it.

One that was never reached is not waited for: its address is wrong, or it was forgotten. The wait is counted from the
moment at which the origin was first found away, whoever waits: one that is gone for good delays nobody after that.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PAUSE", "Restarts"]

PAUSE: Final = 0.1  # seconds between two dials
# However many wait, about as many dials a second: each waits longer the more there are.
DIALS_PER_SECOND: Final = 100


class Restarts:
    """Of one origin. ``patience``: how long it is waited for, in seconds; 0: not at all."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._reached = False
        self._away_since: float | None = None
        self.waiting = 0  # requests

    def reached(self) -> None:
        """It took a connection."""
        self._reached = True
        self._away_since = None

    def refused(self, now: float) -> float | None:
        """It refused one. In how many seconds another is worth a try; None: none is."""
        if not self._reached or not self._patience:
            return None
        if self._away_since is None:
            self._away_since = now
        left = self._away_since + self._patience - now
        return min(left, max(PAUSE, self.waiting / DIALS_PER_SECOND)) if left > 0 else None
