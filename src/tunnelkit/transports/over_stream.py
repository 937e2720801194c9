"""A connection over a byte stream, for transports that have one: TCP, a unix socket, a serial line, a channel of SSH.

The contract of ``Connection`` kept once: cancellation, losses, closes with a deadline. What is left to a subclass is
how messages stand in the stream.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from typing import Final

import anyio

from ..errors import ConnectionLost, LocalProtocolError, StreamBroken
from ..net.stream import ByteStream
from .base import Connection

__all__ = ["StreamConnection"]

# "About 1 s", as the contract has it.
_CLOSE_TIMEOUT: Final = 1.0


class StreamConnection(Connection):
    """Made of a ``stream``, which ends with it. A subclass gives ``transport``, ``max_message``, ``encode``,
    ``encode_close`` and ``decode``."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._received = bytearray()  # at most what decode waits for, and one read beyond it
        self._sending = False
        self._lost: ConnectionLost | None = None

    # -- the subclass's ------------------------------------------------------------------------

    @abstractmethod
    def encode(self, message: bytes) -> bytes:
        """A message, at most ``max_message`` bytes, as it stands in the stream."""

    @abstractmethod
    def encode_close(self, code: int, reason: str) -> bytes:
        """A close, the last thing in the stream. ``reason`` may be cut, or left out."""

    @abstractmethod
    def decode(self, received: bytearray) -> bytes | None:
        """Take the first message out of what was received, deleting its bytes; None while it is not whole.

        Raises ConnectionLost, with ``clean`` and the code, for a close; and for what is no message, as soon as its
        beginning shows it: a length above ``max_message`` must not be waited for.
        """

    # -- the contract --------------------------------------------------------------------------

    async def ready(self) -> int:
        await self._stream.wait(writable=True)
        self._check()
        return self.max_message

    async def send(self, message: bytes) -> None:
        self._check()
        if len(message) > self.max_message:
            raise LocalProtocolError(f"a message above {self.max_message} bytes", code="message_too_big")
        self._sending = True
        try:
            await self._stream.send(self.encode(message))
        except StreamBroken as exc:
            raise self._lose(ConnectionLost(str(exc))) from exc
        except BaseException:
            self.abort()  # part of the message may be out: nothing can follow it
            raise
        self._sending = False

    async def receive(self) -> bytes:
        while (message := self._next_message()) is None:
            try:
                data = await self._stream.receive()
            except StreamBroken as exc:
                raise self._lose(ConnectionLost(str(exc))) from exc
            if not data:
                raise self._lose(ConnectionLost("the peer ended the stream without a close"))
            self._received += data
        return message

    def _next_message(self) -> bytes | None:
        self._check()
        try:
            return self.decode(self._received)
        except ConnectionLost as why:
            raise self._lose(why) from None

    @property
    def last_received(self) -> float:
        return self._stream.last_received

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        if self._lost is None and not self._sending:
            self._lose(ConnectionLost("closed at this end"))
            with suppress(StreamBroken), anyio.move_on_after(_CLOSE_TIMEOUT):
                await self._stream.send(self.encode_close(code, reason))
                await self._stream.aclose()
        self.abort()

    def abort(self) -> None:
        self._lose(ConnectionLost("aborted at this end"))
        self._stream.abort()

    def _lose(self, why: ConnectionLost) -> ConnectionLost:
        """The first reason counts. A fresh exception for every call: a raised one collects tracebacks."""
        first = self._lost = self._lost or why
        return ConnectionLost(first.reason, clean=first.clean, code=first.code)

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lose(self._lost)
