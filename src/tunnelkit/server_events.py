"""What a tunnel server tells its program: events, as plain data, for whoever listens (``server.events()``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .event_stream import Events, EventStream, Missed, TunnelEvent
from .request_events import RequestFinished, RequestStarted
from .server_session import ServerSession

__all__ = [
    "Ended",
    "EventStream",
    "Lost",
    "Missed",
    "Moved",
    "Registered",
    "RequestFinished",
    "RequestStarted",
    "Resumed",
    "ServerEvent",
    "Stopped",
    "Superseded",
    "TunnelEvent",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerEvent(TunnelEvent):
    """The root of events of sessions. No field is a secret."""

    session: str  # its public id, as ``session.public_id``
    tunnel: str  # what stands for its token in log lines
    name: str = ""  # below the base domain, where there is one


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered(ServerEvent):
    """A client opened a session, which is attached."""

    address: str
    transport: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed(ServerEvent):
    """The session goes on over another connection of ``transport``; ``away`` is how many seconds it had none."""

    transport: str
    away: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved(ServerEvent):
    """The live session goes on over a connection of another transport; it was never without one."""

    transport: str
    before: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost(ServerEvent):
    """The connection ended; the session is kept for the grace."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Superseded(ServerEvent):
    """Another client has the session's place: it is over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended(ServerEvent):
    """The session is over for another reason: ``code`` is that of the metrics and the log."""

    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped(TunnelEvent):
    """The server does not run any more. The last event."""

    is_last: ClassVar[bool] = True


# -- telling them: nothing is made while nobody listens ----------------------------------------


def tell_attached(events: Events, session: ServerSession, transport: str, *, now: float) -> None:
    """``session`` is about to go on over a connection of ``transport``: what it had before is still known."""
    if not events.heard:
        return
    whose = _whose(session)
    if not session.epoch:
        events.tell(Registered(**whose, address=session.address, transport=transport))
    elif session.transport not in ("", transport):
        events.tell(Moved(**whose, transport=transport, before=session.transport))
    else:
        away = now - session.lost_at if session.lost_at is not None and not session.attached else 0.0
        events.tell(Resumed(**whose, transport=transport, away=away))


def tell_lost(events: Events, session: ServerSession, reason: object) -> None:
    if events.heard:
        events.tell(Lost(**_whose(session), reason=str(reason)))


def tell_ended(events: Events, session: ServerSession, code: str) -> None:
    if events.heard:
        whose = _whose(session)
        events.tell(Superseded(**whose) if code == "superseded" else Ended(**whose, code=code))


def _whose(session: ServerSession) -> dict[str, str]:
    return {"session": session.public_id, "tunnel": session.tag, "name": session.name}
