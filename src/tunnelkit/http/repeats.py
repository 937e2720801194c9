"""Heads that come again on a connection.

Who sends one head after another sends mostly the same fields: of a caller's requests the target differs, of an
origin's answers often nothing but the date. Fields that come again byte for byte, behind a first line of the same
version, are neither parsed nor judged again: nothing that decided about them has changed. Of a connection only the
last head is remembered, and only a small one.
"""

from __future__ import annotations

from typing import Final

from ..config import Limits
from ..field_names import FieldNames
from ..heads import Fields, RequestHead, ResponseHead

__all__ = ["REPEATED_SIZE", "Repeats"]

REPEATED_SIZE: Final = 2048  # of a head that is remembered: with what it became, twice that for a connection


class Repeats:
    """The fields of the last head that was found good, and how they stood on the wire."""

    __slots__ = ("_fields", "_names", "_section", "_size", "_version")

    def __init__(self, limits: Limits) -> None:
        # The size of fields is judged together with the first line's: of half the limit it is not in question.
        self._size = min(REPEATED_SIZE, limits.head_limit // 2)
        self.forget()

    def forget(self) -> None:
        """No head follows, though the connection may live on for long."""
        self._section = b""
        self._version = b""
        self._fields: Fields = []
        self._names: FieldNames | None = None

    def keep(self, block: bytes, head: RequestHead | ResponseHead, names: FieldNames) -> None:
        """Remember the fields of a head that is valid. ``names`` are theirs."""
        if len(block) > self._size:
            return
        self._section = block[block.find(b"\r\n") :]
        self._version = b"HTTP/" + head.version
        self._fields = [*head.fields]
        self._names = names

    def request(self, block: bytes) -> tuple[RequestHead, FieldNames] | None:
        """The request in ``block``, with a request line that is still to be judged, or None if it must be parsed."""
        if self._names is None or (line := self._first_line(block)) is None:
            return None
        method, _, rest = line.partition(b" ")
        target, _, version = rest.partition(b" ")
        if version != self._version or not (method and target):
            return None
        return RequestHead(method, target, [*self._fields], version[5:]), self._names

    def response(self, block: bytes) -> tuple[ResponseHead, FieldNames] | None:
        """The same of a response, and its status line."""
        if self._names is None or (line := self._first_line(block)) is None:
            return None
        version, _, rest = line.partition(b" ")
        status, _, reason = rest.partition(b" ")
        if version != self._version or len(status) != 3 or not status.isdigit():
            return None
        return ResponseHead(int(status), [*self._fields], reason, version[5:]), self._names

    def _first_line(self, block: bytes) -> bytes | None:
        end = len(block) - len(self._section)
        if len(block) > self._size or not block.endswith(self._section) or block.find(b"\r\n") != end:
            return None
        return block[:end]
