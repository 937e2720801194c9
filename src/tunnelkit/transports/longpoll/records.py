"""The records of a streamed answer: many messages in one body (docs/wire-format.md, "Long-poll").

A record is a u32 length and that many bytes. Length 0 keeps the way open. The end is told by a record of its own,
since a body that ends by the close of a connection (HTTP/1.0 proxies) does not show whether it came whole.
"""

from __future__ import annotations

import struct
from typing import Final

from ...errors import RemoteProtocolError

__all__ = ["END", "KEEP_ALIVE", "RecordReader", "encode_record"]

_LENGTH: Final = struct.Struct("!I")
_END: Final = 0xFFFF_FFFF

KEEP_ALIVE: Final = _LENGTH.pack(0)
END: Final = _LENGTH.pack(_END)

# A message below this goes out in one piece with its length; to copy a longer one would cost more than a piece does.
_JOINED: Final = 16 * 1024


def encode_record(message: bytes) -> tuple[bytes, ...]:
    """The pieces to be sent for a message of at least one byte."""
    length = _LENGTH.pack(len(message))
    return (length + message,) if len(message) <= _JOINED else (length, message)


class RecordReader:
    """The messages in a body that comes in pieces of any size."""

    __slots__ = ("_buffer", "_max_message", "ended")

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._buffer = bytearray()
        self.ended = False  # the server said that it is complete: without that, it broke off

    def feed(self, data: bytes) -> None:
        """Raises ``RemoteProtocolError`` when something follows the end."""
        if self.ended and data:
            raise RemoteProtocolError("bytes follow the end of a streamed answer", code="bad_record")
        self._buffer += data

    def next_message(self) -> bytes | None:
        """The next one, or None when it has not come whole. Raises ``RemoteProtocolError`` (``bad_record``)."""
        buffer = self._buffer
        while len(buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer)
            end = _LENGTH.size + length
            if not length:
                self._skip_keep_alives()
                continue
            if length == _END:
                self._finish()
                return None
            if length > self._max_message:
                raise RemoteProtocolError(f"a record of {length} bytes is too long", code="bad_record")
            if len(buffer) < end:
                return None
            message = bytes(memoryview(buffer)[_LENGTH.size : end])
            del buffer[:end]
            return message
        return None

    def _skip_keep_alives(self) -> None:
        """All that are there at once: one by one, a flood of them would hold the loop."""
        zeros = len(self._buffer) - len(self._buffer.lstrip(b"\0"))
        del self._buffer[: zeros - zeros % _LENGTH.size]  # the last of them may begin the length of a message

    def _finish(self) -> None:
        if len(self._buffer) > _LENGTH.size:
            raise RemoteProtocolError("bytes follow the end of a streamed answer", code="bad_record")
        self._buffer.clear()
        self.ended = True
