"""Bytes that came before their turn, on a connection that does not keep order."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from ..errors import RemoteProtocolError
from .message import Buffer

__all__ = ["PIECES_LIMIT", "EarlyBytes"]

# A transport that reorders has a handful of messages in flight (long-poll: 4). Thousands of pieces with holes
# between them are an attack on memory and on the sorted list.
PIECES_LIMIT: Final = 4096


class EarlyBytes:
    """Non-overlapping pieces, sorted by offset, together at most ``limit`` bytes.

    Pieces are copies: a view of one byte would hold a whole message of a megabyte in memory.
    """

    __slots__ = ("_pieces", "_size", "_starts", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._starts: list[int] = []
        self._pieces: list[bytes] = []
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._starts)

    @property
    def size(self) -> int:
        return self._size

    def add(self, offset: int, data: Buffer) -> None:
        """Keep what of ``data`` is not here yet. Raises ``RemoteProtocolError`` when there is no room for it."""
        view = memoryview(data)
        end = offset + len(view)
        index = bisect_right(self._starts, offset)
        if index:
            offset, view = _after(self._end(index - 1), offset, view)
        while len(view):
            stop = min(self._starts[index], end) if index < len(self._starts) else end
            if offset < stop:
                self._insert(index, offset, bytes(view[: stop - offset]))
                index += 1
            if stop == end:
                return
            offset, view = _after(self._end(index), stop, view[stop - offset :])
            index += 1

    def take(self, received: int) -> tuple[int, list[bytes]]:
        """What has come into its turn now that everything below ``received`` is there: the new ``received``, and
        the bytes up to it. Pieces that are all below it are dropped."""
        ready: list[bytes] = []
        count = 0
        for start, piece in zip(self._starts, self._pieces, strict=True):
            if start > received:
                break
            count += 1
            self._size -= len(piece)
            skip = received - start
            if skip < len(piece):
                ready.append(piece[skip:] if skip else piece)
                received = start + len(piece)
        del self._starts[:count], self._pieces[:count]
        return received, ready

    def clear(self) -> None:
        self._starts.clear()
        self._pieces.clear()
        self._size = 0

    def _end(self, index: int) -> int:
        return self._starts[index] + len(self._pieces[index])

    def _insert(self, index: int, offset: int, piece: bytes) -> None:
        if self._size + len(piece) > self.limit or len(self._starts) >= PIECES_LIMIT:
            raise RemoteProtocolError("more early bytes than are kept", code="early_bytes")
        self._starts.insert(index, offset)
        self._pieces.insert(index, piece)
        self._size += len(piece)


def _after(end: int, offset: int, view: memoryview) -> tuple[int, memoryview]:
    """``view``, which begins at ``offset``, without what lies below ``end``."""
    if end <= offset:
        return offset, view
    return end, view[end - offset :]
