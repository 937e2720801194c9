"""Every error that tunnelkit raises, in one hierarchy.

Anything else that comes out of tunnelkit (but for ``ValueError``/``TypeError`` for misuse of a
constructor, and cancellation) is a bug. No error holds a secret: a token appears masked, a password
or a proxy's userinfo never.
"""

from __future__ import annotations

__all__ = [
    "AnsweredByOther",
    "AppError",
    "CallerGone",
    "ConfigError",
    "ConnectRefused",
    "ConnectionLost",
    "DialError",
    "HeadError",
    "LocalProtocolError",
    "ProtocolError",
    "ProxyError",
    "QueueError",
    "RegistrationRefused",
    "RemoteProtocolError",
    "SessionGone",
    "StreamBroken",
    "StreamReset",
    "TunnelkitError",
]

# Only these codes of a refusal end a client; every other one is retried (design, section 4).
TERMINAL_CODES = frozenset({"bad_request", "unauthorized", "forbidden", "version", "superseded", "name_taken"})


class TunnelkitError(Exception):
    """The root of the hierarchy."""


class ConfigError(TunnelkitError, ValueError):
    """A setting is wrong. The text names the field, what is wrong with it, and the fix."""

    def __init__(self, field: str, problem: str, fix: str = "") -> None:
        self.field = field
        self.problem = problem
        self.fix = fix
        super().__init__(f"{field}: {problem}" + (f"; {fix}" if fix else ""))


class AppError(TunnelkitError):
    """An app or handler that a tunnel client serves in its own process broke the rules of its interface, or did not
    start. Raised where the app called, so that its traceback shows the place."""


class CallerGone(TunnelkitError, OSError):
    """An app or handler reads from or sends to a caller who has left. An OSError, as ASGI 2.4 asks for."""


class ProtocolError(TunnelkitError):
    """A rule of the wire was broken. ``code`` is the name that stands on the wire and in logs."""

    def __init__(self, message: str, *, code: str = "protocol_error") -> None:
        if type(self) is ProtocolError:
            raise TypeError("ProtocolError is abstract: raise LocalProtocolError or RemoteProtocolError")
        self.code = code
        super().__init__(message)


class LocalProtocolError(ProtocolError):
    """Our own side asked for an illegal move: a bug in the program that drives the core."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule. It costs the peer its connection or its session, never the process."""


class HeadError(TunnelkitError):
    """An HTTP head that must not be passed on. ``status`` is what the caller is told."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        super().__init__(detail)


class StreamBroken(TunnelkitError):
    """A byte stream (socket) failed or was closed: nothing more can be read or written."""


class ConnectionLost(TunnelkitError):
    """A transport connection ended. ``clean`` tells whether the peer said so first."""

    def __init__(self, reason: str, *, clean: bool = False, code: int | None = None) -> None:
        self.reason = reason
        self.clean = clean
        self.code = code
        super().__init__(reason)


class ConnectRefused(TunnelkitError):
    """A stream of bytes through a tunnel was not opened. ``status`` and ``code`` are what a caller is told for a
    request (docs/errors.md): 403 for a destination that the client does not allow, 502 for one that it cannot reach,
    503 and 504 where there is no client."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        super().__init__(f"not connected: {detail} (status {status}, code {code})")


class StreamReset(TunnelkitError):
    """The peer reset a stream. ``code`` is a value of ``core.frames.ResetCode`` or a later one's number."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"stream reset by the peer with code {code}")


class SessionGone(TunnelkitError):
    """The session ended: given up, superseded, closed by the peer, or its grace ran out."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(f"the session is gone: {code}")


class QueueError(TunnelkitError):
    """A request found no place or no time in the queue of its tunnel."""

    def __init__(self, status: int, code: str, detail: str, *, retry_after: float | None = None) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        super().__init__(detail)


class DialError(TunnelkitError):
    """The way to the server could not be opened. It is retried.

    ``stage`` is one of ``resolve``, ``address``, ``connect``, ``proxy``, ``tls``, ``handshake``; ``transport`` is a
    bug of one.
    ``hint`` is a sentence for the user about the likely cause, or "".
    """

    def __init__(self, stage: str, message: str, *, hint: str = "") -> None:
        self.stage = stage
        self.hint = hint
        super().__init__(f"{message} ({hint})" if hint else message)


class ProxyError(DialError):
    """The proxy on the way out refused. ``status`` is its HTTP status, or None (SOCKS)."""

    def __init__(self, message: str, *, status: int | None = None, hint: str = "") -> None:
        self.status = status
        super().__init__("proxy", message, hint=hint)


class AnsweredByOther(DialError):
    """Something that is not a tunnelkit server answered the handshake: a middlebox, a captive portal,
    a reverse proxy's own page. ``status`` is its HTTP status."""

    def __init__(self, status: int, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        self.status = status
        self.retry_after = retry_after
        super().__init__("handshake", message, hint=hint)


class RegistrationRefused(TunnelkitError):
    """The tunnel server itself refused, with a ``code`` of its own (docs/errors.md). ``status`` is the HTTP status
    that goes with it, ``detail`` a sentence for people, ``retry_after`` how long the server asks to wait, or None.
    """

    def __init__(self, status: int, code: str, detail: str, *, retry_after: float | None = None) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        super().__init__(f"refused by the tunnel server: {detail} (status {status}, code {code})")

    @property
    def terminal(self) -> bool:
        """Whether a client gives up; with any other code it tries again."""
        return self.code in TERMINAL_CODES
