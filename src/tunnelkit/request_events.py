"""What both ends tell of requests, to listeners that asked for it: ``events(requests=True)``."""

from __future__ import annotations

from dataclasses import dataclass

from .event_stream import TunnelEvent

__all__ = ["RequestFinished", "RequestStarted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestStarted(TunnelEvent):
    """A request's head came. ``number`` joins it with its ``RequestFinished``, and is unique at this end.

    ``method``, ``target`` and ``x_host`` are what callers sent: show them escaped (``logs.printable``). The target
    is what the origin is asked for, without the path that holds the token; what a query holds is the caller's.
    """

    number: int
    tunnel: str = ""  # what stands for it in log lines; "" at a client, which has one
    method: str
    target: str
    x_host: str = ""  # the origin that was named, "" for the client's own
    caller: str = ""  # its address, as far as this end knows it
    at: float  # seconds since the epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestFinished(TunnelEvent):
    """It is over: answered, failed, or left by its caller. At a server with middleware this is told within that: of
    what the functions passed on, with the status that they were given."""

    number: int
    tunnel: str = ""
    method: str
    target: str
    status: int | None = None  # that the caller was given, or would have been where it broke off; None for none
    outcome: str  # "answered" (whole), or how it failed, in the words of the access log (docs/logs.md)
    received: int  # bytes of the request's body, or of an upgraded connection from the caller
    sent: int  # bytes of the answer's body, or of an upgraded connection to the caller
    at: float  # when it ended, in seconds since the epoch
    seconds: float  # from its head to its end
