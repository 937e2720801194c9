"""A bell for one who waits: rung often, and mostly while nobody listens."""

from __future__ import annotations

import anyio

__all__ = ["Doorbell"]


class Doorbell:
    """``wait`` returns at once when it was rung since ``muffle``. At most one task waits; ringing twice is ringing
    once, and costs next to nothing while nobody waits."""

    __slots__ = ("_event", "_rung")

    def __init__(self) -> None:
        self._rung = False
        self._event: anyio.Event | None = None

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            if self._event is not None:
                self._event.set()

    def muffle(self) -> None:
        """Forget that it was rung: what it was rung for is looked at now."""
        self._rung = False

    async def wait(self) -> None:
        """Cancelling changes nothing."""
        if not self._rung:
            event = self._event = anyio.Event()
            await event.wait()
