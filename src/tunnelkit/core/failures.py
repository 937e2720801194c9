"""What the core raises besides ``errors``: by whoever finds it, for whoever has the session."""

from __future__ import annotations

from ..errors import LocalProtocolError, RemoteProtocolError

__all__ = ["ConnectionFailed", "GoingAway", "NoRoom"]


class ConnectionFailed(RemoteProtocolError):
    """The connection is to be dropped; the session can resume on another. ``reason`` says why, for logs."""

    def __init__(self, reason: str, *, code: str) -> None:
        self.reason = reason
        super().__init__(reason, code=code)


class NoRoom(LocalProtocolError):
    """No stream can open now: all that the peer permits are in use, or memory is short. Later one may."""


class GoingAway(LocalProtocolError):
    """The peer takes no new streams any more."""
