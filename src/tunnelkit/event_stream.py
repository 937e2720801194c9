"""Events for whoever listens, at both ends: as plain data, bounded, and next to free while nobody does.

A listener that lags loses the oldest events, never the newest, and is told how many.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Final
from weakref import WeakSet

import anyio

__all__ = ["EVENTS_KEPT", "EventStream", "Events", "Missed", "TunnelEvent"]

# Events kept for one listener.
EVENTS_KEPT: Final = 100
# The same for one that hears of requests too, of which there are many.
REQUEST_EVENTS_KEPT: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class TunnelEvent:
    """The root of all events."""

    is_last: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Missed(TunnelEvent):
    """The listener was slow: ``count`` events before the next one are lost to it."""

    count: int


class EventStream:
    """One listener's events, from the moment it was made: ``async for event in stream``. It ends after the last one,
    or by being dropped. Cancelling a wait loses no event."""

    __slots__ = ("__weakref__", "_bell", "_ended", "_missed", "_waiting")

    def __init__(self, kept: int = EVENTS_KEPT) -> None:
        self._waiting: deque[TunnelEvent] = deque(maxlen=kept)
        self._missed = 0
        self._bell = anyio.Event()
        self._ended = False

    def _add(self, event: TunnelEvent) -> None:
        if len(self._waiting) == self._waiting.maxlen:
            self._missed += 1
        self._waiting.append(event)
        self._bell.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> TunnelEvent:
        """Cancelling loses no event."""
        while self._ended or not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            if self._bell.is_set():  # others may wait for the one that is not
                self._bell = anyio.Event()
            await self._bell.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return Missed(count=missed)
        event = self._waiting.popleft()
        self._ended = event.is_last
        return event


class Events:
    """The source: every listener that is still held by somebody is reached."""

    def __init__(self) -> None:
        self._listeners: WeakSet[EventStream] = WeakSet()
        self._to_requests: WeakSet[EventStream] = WeakSet()
        # Whether anybody listens to requests: no event of one is made otherwise. To ask the WeakSet takes longer, and
        # comes with every request: so the first event that nobody takes tells that the last listener has left.
        self.of_requests = False
        self._last: TunnelEvent | None = None

    def tell(self, event: TunnelEvent) -> None:
        if event.is_last:
            self._last = event
        for listener in self._listeners:
            listener._add(event)

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def tell_request(self, event: TunnelEvent) -> None:
        self.of_requests = bool(self._to_requests)
        for listener in self._to_requests:
            listener._add(event)

    def listen(self, *, requests: bool = False) -> EventStream:
        """The events from now on, those of ``requests`` where they are asked for; only the last one when that was
        before."""
        listener = EventStream(REQUEST_EVENTS_KEPT if requests else EVENTS_KEPT)
        if self._last is not None:
            listener._add(self._last)
        self._listeners.add(listener)
        if requests:
            self.of_requests = True
            self._to_requests.add(listener)
        return listener

    def begin(self) -> None:
        """Another life, after the last event of the one before."""
        self._last = None
