"""How an asyncio loop reaches a stream: a protocol of the class that it wants, whose calls are the stream's own."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["StreamProtocol"]


class _Stream(Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def eof_received(self) -> bool: ...
    def resume_writing(self) -> None: ...


_CALLS = ("buffer_updated", "connection_lost", "connection_made", "eof_received", "get_buffer", "resume_writing")


class StreamProtocol(asyncio.BufferedProtocol):
    """The stream can be compiled, and then inherit from no class of Python's; nothing is called in between."""

    __slots__ = _CALLS

    def __init__(self, stream: _Stream) -> None:
        for name in _CALLS:
            setattr(self, name, getattr(stream, name))

    def __call__(self) -> StreamProtocol:
        """As its own factory."""
        return self
