"""What a tunnel client tells its user: events, as plain data, for whoever listens (``client.events()``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from .event_stream import EVENTS_KEPT, EventStream, Missed, TunnelEvent
from .request_events import RequestFinished, RequestStarted

__all__ = [
    "EVENTS_KEPT",
    "ClientEvent",
    "Closed",
    "Connected",
    "EventStream",
    "Lost",
    "Missed",
    "Moved",
    "RequestFinished",
    "RequestStarted",
    "Resumed",
    "Retrying",
    "Superseded",
]

# The root of a client's events, and of all others.
ClientEvent: TypeAlias = TunnelEvent


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

    is_last: ClassVar[bool] = True
    reason: str
