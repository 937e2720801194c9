"""Bytes out: heads, chunks and ends, joined by hand (a head by h11 costs 22 us, by hand 1), and the buffer they
wait in until the stream takes them."""

from __future__ import annotations

from ..errors import LocalProtocolError
from ..heads import Fields
from ..net.stream import Buffer, ByteStream
from .framing import CHUNKED, Length

__all__ = ["GATHER", "BodyWriter", "Outgoing", "encode_block"]

# Less than this is gathered until a flush, so that a head and its first bytes leave in one write; more is flushed.
GATHER = 16 * 1024


def encode_block(first_line: bytes, fields: Fields) -> bytes:
    """A head, or with an empty first line a trailer section.

    Raises ``LocalProtocolError`` when a line would break into two: whoever writes checks again, since a head
    may have come over the link from an end that did not.
    """
    start = (first_line,) if first_line else ()
    lines = [*start, *map(b": ".join, fields), b"", b""]
    block = b"\r\n".join(lines) if len(lines) > 2 else b"\r\n"
    ends = max(1, len(lines) - 1)
    if block.count(b"\n") != ends or block.count(b"\r") != ends or b"\0" in block:
        raise LocalProtocolError("a line of a head contains CR, LF or NUL", code="bad_field")
    return block


class BodyWriter:
    """Frames one body. ``length`` None: the message has none, and what is given is dropped (HEAD, 204, 304)."""

    __slots__ = ("_left",)

    def __init__(self, length: Length | None) -> None:
        self._left = length

    def data(self, data: Buffer) -> list[Buffer]:
        """Raises ``LocalProtocolError`` when the body gets longer than its Content-Length."""
        left, size = self._left, len(data)
        if left is None or not size:
            return []  # an empty chunk would end the body
        if left == CHUNKED:
            return [b"%x\r\n" % size, data, b"\r\n"]
        if left >= 0:
            if size > left:
                raise LocalProtocolError("the body is longer than its Content-Length", code="bad_body_length")
            self._left = left - size
        return [data]

    def end(self, trailers: Fields | None) -> bytes:
        """Raises ``LocalProtocolError`` when the body is shorter than its Content-Length: only breaking the
        connection off tells the peer. Trailers are dropped where the framing has no place for them."""
        if self._left == CHUNKED:
            return b"0\r\n" + encode_block(b"", trailers or [])
        if self._left is not None and self._left > 0:
            raise LocalProtocolError("the body is shorter than its Content-Length", code="bad_body_length")
        return b""


class Outgoing:
    """Encoded bytes that the stream has not taken yet: what one write would send.

    Holds at most a head, a body piece and its framing, because nothing is added while it is ``blocked``.
    """

    __slots__ = ("_pieces", "blocked", "size", "taken")

    def __init__(self) -> None:
        self._pieces: list[Buffer] = []
        self.size = 0
        self.taken = 0  # bytes that the stream took, ever
        self.blocked = False  # the last flush left something

    def add(self, piece: Buffer) -> None:
        """Keep ``piece``, by reference where it cannot change."""
        if piece:
            self._pieces.append(piece if type(piece) is bytes else bytes(piece))
            self.size += len(piece)

    def flush(self, stream: ByteStream) -> bool:
        """Give what is there to ``stream``; True when nothing is left. Raises ``StreamBroken``."""
        if not self._pieces:
            return True
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        count = stream.try_send(data)
        self.taken += count
        self.size -= count
        self.blocked = self.size > 0
        self._pieces = [memoryview(data)[count:]] if self.blocked else []
        return not self.blocked

    def clear(self) -> None:
        self._pieces = []
        self.size = 0
        self.blocked = False
