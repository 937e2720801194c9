"""Heads that come again on a connection.

Who sends one head after another sends mostly the same fields: of a caller's requests the target differs, of an
origin's answers often nothing but the date. Fields that come again byte for byte, behind a first line of the same
version, are neither parsed nor judged again: nothing that decided about them has changed. A whole head that comes
again is not even looked into, and what others made of it is kept for them. Of a connection only the last head is
remembered, and only a small one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from ..config import Limits
from ..field_names import FieldNames
from ..heads import Fields, RequestHead, ResponseHead

__all__ = ["REPEATED_SIZE", "Repeats", "RequestAgain", "ResponseAgain"]

REPEATED_SIZE: Final = 2048  # of a head that is remembered: with what it became, twice that for a connection

T = TypeVar("T")


class Again:
    """A head that came again, byte for byte, and what was made of it."""

    __slots__ = ("_plans",)

    def __init__(self) -> None:
        self._plans: dict[object, Any] = {}

    def made(self, key: object, make: Callable[[], T]) -> T:
        """What ``make``, which is known by ``key``, makes of the head, for who knows that nobody changed it: once."""
        plan: T | None = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = make()
        return plan


class RequestAgain(Again):
    __slots__ = ("_head",)

    def __init__(self, head: RequestHead) -> None:
        super().__init__()
        self._head = head

    def copy(self) -> RequestHead:
        """The head, once more."""
        return self._head.copy()

    def plan(self, head: RequestHead, key: object, make: Callable[[], T]) -> T:
        """``made`` of ``head``, a copy that somebody may have changed."""
        mine = self._head
        # ``==`` of heads would make two tuples of it first.
        if head.fields != mine.fields or head.target != mine.target or head.method != mine.method:
            return make()
        return self.made(key, make)


class ResponseAgain(Again):
    __slots__ = ("_head",)

    def __init__(self, head: ResponseHead) -> None:
        super().__init__()
        self._head = head

    def copy(self) -> ResponseHead:
        """The head, once more."""
        return self._head.copy()


class Repeats:
    """The last head that was found good, its fields, and how they stood on the wire."""

    __slots__ = ("_fields", "_names", "_section", "_size", "_version", "block")

    def __init__(self, limits: Limits) -> None:
        # The size of fields is judged together with the first line's: of half the limit it is not in question.
        self._size = min(REPEATED_SIZE, limits.head_limit // 2)
        self.forget()

    def forget(self) -> None:
        """No head follows, though the connection may live on for long."""
        self.block = b""  # the whole head
        self._section = b""
        self._version = b""
        self._fields: Fields = []
        self._names: FieldNames | None = None

    def keep(self, block: bytes, head: RequestHead | ResponseHead, names: FieldNames) -> None:
        """Remember the fields of a head that is valid. ``names`` are theirs."""
        if len(block) > self._size:
            return
        self.block = block
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
        self.block = block
        return RequestHead(method, target, [*self._fields], version[5:]), self._names

    def response(self, block: bytes) -> tuple[ResponseHead, FieldNames] | None:
        """The same of a response, and its status line."""
        if self._names is None or (line := self._first_line(block)) is None:
            return None
        version, _, rest = line.partition(b" ")
        status, _, reason = rest.partition(b" ")
        if version != self._version or len(status) != 3 or not status.isdigit():
            return None
        self.block = block
        return ResponseHead(int(status), [*self._fields], reason, version[5:]), self._names

    def _first_line(self, block: bytes) -> bytes | None:
        end = len(block) - len(self._section)
        if len(block) > self._size or not block.endswith(self._section) or block.find(b"\r\n") != end:
            return None
        return block[:end]
