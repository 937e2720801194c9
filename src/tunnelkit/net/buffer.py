"""Bytes that came and were not taken yet."""

from __future__ import annotations

from .stream import Buffer

__all__ = ["ReadBuffer"]


class ReadBuffer:
    """A queue of bytes. The usual case, one piece in and the same piece out, copies nothing.

    Its owner bounds what goes in. Many small pieces are joined, so that a peer that dribbles costs no more memory
    than its bytes; taking from the front is cheap because a ``bytearray`` moves its start, not its bytes.
    """

    __slots__ = ("_held", "size")

    def __init__(self) -> None:
        self._held: bytes | bytearray = b""
        self.size = 0  # bytes held; an attribute, because it is asked for several times a read

    def __len__(self) -> int:
        return self.size

    def append(self, piece: Buffer) -> None:
        """Keep a copy of ``piece`` (``bytes`` are kept as they are)."""
        self.size += len(piece)
        if not self._held:
            self._held = piece if type(piece) is bytes else bytes(piece)
            return
        if type(self._held) is bytes:
            self._held = bytearray(self._held)
        self._held += piece

    def take(self, max_bytes: int) -> bytes:
        """At most ``max_bytes`` from the front; ``b""`` when there is nothing."""
        held = self._held
        if self.size <= max_bytes:
            self._held = b""
            self.size = 0
            return held if type(held) is bytes else bytes(held)
        if isinstance(held, bytes):
            self._held = held = bytearray(held)
        piece = bytes(memoryview(held)[:max_bytes])
        del held[:max_bytes]
        self.size -= max_bytes
        return piece

    def clear(self) -> None:
        self._held = b""
        self.size = 0
