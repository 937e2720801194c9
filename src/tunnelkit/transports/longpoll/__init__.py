"""The long-poll transport: messages in the bodies of plain HTTP requests."""

from __future__ import annotations

from .transport import LongPollTransport

__all__ = ["LongPollTransport"]
