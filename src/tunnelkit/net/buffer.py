"""Bytes that came and were not taken yet."""

from __future__ import annotations

from .stream import Buffer

__all__ = ["ReadBuffer"]


class ReadBuffer:
    """A queue of bytes. The usual case, one piece in and the same piece out, copies nothing.

    Its owner bounds what goes in. Many small pieces are joined, so that a peer that dribbles costs no more memory
    than its bytes; taking from the front is cheap because a ``bytearray`` moves its start, not its bytes.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: bytes | bytearray = b""

    def __len__(self) -> int:
        return len(self._held)

    def append(self, piece: Buffer) -> None:
        """Keep a copy of ``piece`` (``bytes`` are kept as they are)."""
        if not self._held:
            self._held = piece if type(piece) is bytes else bytes(piece)
            return
        if type(self._held) is bytes:
            self._held = bytearray(self._held)
        self._held += piece

    def take(self, max_bytes: int) -> bytes:
        """At most ``max_bytes`` from the front; ``b""`` when there is nothing."""
        held = self._held
        if len(held) <= max_bytes:
            self._held = b""
            return held if type(held) is bytes else bytes(held)
        if isinstance(held, bytes):
            self._held = held = bytearray(held)
        piece = bytes(memoryview(held)[:max_bytes])
        del held[:max_bytes]
        return piece

    def clear(self) -> None:
        self._held = b""
