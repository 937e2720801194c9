"""A bell for one who waits: rung often, and mostly while nobody listens."""

from __future__ import annotations

import asyncio

import anyio

from .loop import runs_on_asyncio

__all__ = ["Doorbell"]


class Doorbell:
    """``wait`` returns at once when it was rung since ``muffle``. At most one task waits; ringing twice is ringing
    once, and costs next to nothing while nobody waits.

    A session has two of them for as long as it lives, so on asyncio they wait on a bare future: an ``anyio.Event``
    takes a kilobyte, and three times as long.
    """

    __slots__ = ("_event", "_future", "_loop", "_rung", "awaited")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop() if runs_on_asyncio() else None
        self._future: asyncio.Future[None] | None = None
        self._event: anyio.Event | None = None
        self._rung = False
        self.awaited = False  # somebody waits, or was woken a moment ago

    def ring(self) -> None:
        if self._rung:
            return
        self._rung = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        if self._event is not None:
            self._event.set()

    def muffle(self) -> None:
        """Forget that it was rung: what it was rung for is looked at now."""
        self._rung = False

    async def wait(self) -> None:
        """Cancelling changes nothing."""
        if self._rung:
            return
        self.awaited = True
        try:
            if self._loop is not None:
                self._future = self._loop.create_future()
                await self._future
            else:
                self._event = anyio.Event()
                await self._event.wait()
        finally:
            self.awaited = False
