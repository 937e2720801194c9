"""A bell for one who waits: rung often, and mostly while nobody listens. And, for what needs no task, a call soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio

from .loop import after_batch, in_callback, runs_on_asyncio

__all__ = ["Doorbell", "Soon"]


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


class Soon:
    """``call`` is called once the loop has done what it is at, once however often that was asked for; unless it is
    called off. ``call`` must not raise. asyncio always has such calls; on trio, what is called in a batch has."""

    __slots__ = ("_call", "_handle", "_loop", "asked")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop() if runs_on_asyncio() else None
        self._handle: asyncio.Handle | None = None
        self.asked = False

    def ask(self) -> bool:
        """False where there is no such call."""
        if not self.asked:
            if self._loop is not None:
                self._handle = self._loop.call_soon(self._ring)
                self.asked = True
            else:
                self.asked = after_batch(self._ring)
        return self.asked

    def call_off(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self.asked = False

    def _ring(self) -> None:
        if not self.asked:  # called off, or asked for again and called already
            return
        self._handle, self.asked = None, False
        if self._loop is not None:
            in_callback(self._call)
        else:
            self._call()
