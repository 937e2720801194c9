"""An exchange as coroutines: what apps in this process read and write by, from any number of tasks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from ..errors import CallerGone
from ..heads import Fields, ResponseHead, field_values, list_items
from .base import OriginExchange

__all__ = ["Conversation"]

_CONTINUE: Final = 100

# How often an app is told that nobody is there before it counts as deaf: such a one goes on for ever.
TELLINGS: Final = 1000


class Conversation:
    """``on_gone`` is called, once, when the caller leaves before the response is complete; ``on_deaf`` may be set,
    and is called when the app goes on all the same."""

    def __init__(self, exchange: OriginExchange, *, on_gone: Callable[[], None] | None = None) -> None:
        self.exchange = exchange
        self.on_deaf: Callable[[], None] | None = None
        self._on_gone = on_gone
        self._tellings = 0
        self._bell: anyio.Event | None = None  # there while somebody waits
        self._closed = False
        self._complete = False
        self._body_ended = not exchange.has_body
        expected = list_items(field_values(exchange.head.fields, b"expect"))
        self._continue_wanted = exchange.has_body and b"100-continue" in expected
        exchange.on_news(self._ring)

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.set()
            self._bell = None
        if self._on_gone is not None and self.gone and not self._complete:
            self._on_gone()
            self._on_gone = None

    async def _wait(self) -> None:
        if self._bell is None:
            self._bell = anyio.Event()
        await self._bell.wait()

    # -- state ---------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Nobody waits for the answer any more, or the call that this belongs to is over."""
        return self._closed or self.exchange.gone

    @property
    def over(self) -> bool:
        """Gone, or the response is complete."""
        return self.gone or self._complete

    @property
    def body_ended(self) -> bool:
        """Nothing more of the request's body comes."""
        return self._body_ended

    def check(self) -> None:
        """Raise CallerGone if nobody is there any more."""
        if self.gone:
            self.tell()
            raise CallerGone("the caller has left")

    def tell(self) -> None:
        """The app is told once more that all is over."""
        self._tellings += 1
        if self._tellings > TELLINGS and self.on_deaf is not None:
            self.on_deaf()

    async def until_over(self) -> None:
        """Cancelling changes nothing."""
        await checkpoint()
        while not self.over:
            await self._wait()
        self.tell()

    def close(self) -> None:
        """The app's call is over: whatever still waits, or calls later from a task of its own, gets CallerGone."""
        self._closed = True
        self._on_gone = None
        self._ring()

    # -- the request's body --------------------------------------------------------------------

    async def receive(self) -> bytes:
        """The next piece of the body; ``b""`` at its end, again and again. Raises CallerGone. Cancelling loses
        nothing."""
        await checkpoint()
        exchange = self.exchange
        while not self._body_ended:
            self.check()
            piece = exchange.body_waiting
            if piece:
                exchange.body_taken()
                self._body_ended = exchange.body_waiting == b""
                return piece
            if piece is not None:
                self._body_ended = True
            else:
                self._ask_for_body()
                await self._wait()
        return b""

    def _ask_for_body(self) -> None:
        """RFC 9110 10.1.1: whoever expects 100 (Continue) may send nothing before it."""
        if self._continue_wanted and not self.exchange.answered:
            self._continue_wanted = False
            self.exchange.send_head(ResponseHead(_CONTINUE, [], b"Continue"))

    # -- the answer ----------------------------------------------------------------------------

    def send_head(self, head: ResponseHead) -> None:
        """An interim response, or the final head. Raises CallerGone."""
        self.check()
        self.exchange.send_head(head)

    async def send(self, data: bytes) -> None:
        """Send a piece of the body as the caller takes it. Raises CallerGone. Cancelled, some part of it was sent."""
        await checkpoint()
        start = 0
        while start < len(data):
            self.check()
            room = self.exchange.room
            if room > 0:
                self.exchange.send_body(data[start : start + room])
                start += room
            else:
                await self._wait()

    def send_end(self, trailers: Fields | None = None) -> None:
        """The answer is complete. Raises CallerGone."""
        self.check()
        self.exchange.send_end(trailers)
        self._complete = True
        self._ring()
