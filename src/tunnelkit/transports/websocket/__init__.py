"""The websocket transport: one binary message is one session message (RFC 6455)."""

from __future__ import annotations

from .transport import WebSocketTransport

__all__ = ["WebSocketTransport"]
