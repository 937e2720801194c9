"""What a tunnel client tells its user: events, as plain data, for whoever listens.

Cheap when nobody does, and bounded for a listener that lags: it loses the oldest events, never the newest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from weakref import WeakSet

import anyio

__all__ = [
    "ClientEvent",
    "Closed",
    "Connected",
    "EventStream",
    "Events",
    "Lost",
    "Moved",
    "Resumed",
    "Retrying",
    "Served",
    "Superseded",
]

# Events kept for one listener.
EVENTS_KEPT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientEvent:
    """The root of a client's events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Connected(ClientEvent):
    """A new session is attached, and a first round trip of it was seen. ``reason``: why it is by this transport,
    where a better one was given up for it."""

    transport: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed(ClientEvent):
    """The session goes on over another connection. ``away`` is how many seconds it had none; ``reason`` as in
    ``Connected``."""

    transport: str
    away: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved(ClientEvent):
    """The live session goes on over a connection of another transport, with all that runs on it; it was never
    without one."""

    transport: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost(ClientEvent):
    """The connection ended; the session is kept and will be resumed while it can."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrying(ClientEvent):
    """A dial failed; the next one is made in ``delay`` seconds."""

    reason: str
    delay: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Superseded(ClientEvent):
    """The server ended the session in favour of another client's."""

    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed(ClientEvent):
    """The client is over: it was closed, drained or refused for good. The last event."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One request that is over, for whoever asked the client to tell (``on_request``); no event, for there are many.

    ``method``, ``target`` and ``x_host`` are what callers sent: show them escaped (``logs.printable``).
    """

    method: str
    target: str
    x_host: str = ""  # the origin that was named, "" for the client's own
    status: int | None = None  # None: the caller left, or the tunnel was lost, before there was an answer
    complete: bool = True  # the answer, or the upgraded connection, came to its end
    seconds: float = 0.0  # from the request's head to the end of the answer


class EventStream:
    """One listener's events, from the moment it was made: ``async for event in stream``. Ends after ``Closed``."""

    __slots__ = ("__weakref__", "_bell", "_ended", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[ClientEvent] = deque(maxlen=EVENTS_KEPT)
        self._bell = anyio.Event()
        self._ended = False

    def _add(self, event: ClientEvent) -> None:
        self._waiting.append(event)
        self._bell.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> ClientEvent:
        """Cancelling loses no event."""
        if self._ended:
            raise StopAsyncIteration
        while not self._waiting:
            self._bell = anyio.Event()
            await self._bell.wait()
        event = self._waiting.popleft()
        self._ended = isinstance(event, Closed)
        return event


class Events:
    """The source: ``tell`` reaches every listener that is still held by somebody."""

    def __init__(self) -> None:
        self._listeners: WeakSet[EventStream] = WeakSet()
        self._last: Closed | None = None

    def tell(self, event: ClientEvent) -> None:
        if isinstance(event, Closed):
            self._last = event
        for listener in self._listeners:
            listener._add(event)

    def listen(self) -> EventStream:
        """The events from now on; only the ``Closed`` one when that was before."""
        listener = EventStream()
        if self._last is not None:
            listener._add(self._last)
        self._listeners.add(listener)
        return listener
