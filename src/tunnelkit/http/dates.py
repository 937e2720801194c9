"""The Date field (RFC 9110 6.6.1): who passes a response on without one adds it."""

from __future__ import annotations

import time
from email.utils import formatdate

from ..field_names import field_names
from ..heads import ResponseHead

__all__ = ["Dates"]


_HAS_ONE = "date"  # noted on heads that many share


class Dates:
    """Says the date; the text is made once a second, not once a response."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def now(self) -> bytes:
        """An IMF-fixdate."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True).encode("ascii")
        return self._text

    def on(self, head: ResponseHead) -> ResponseHead:
        """``head`` with a Date: its own, where it has one."""
        if head.written is not None and _HAS_ONE in head.written:
            return head
        if b"date" in field_names(head.fields).at:
            if head.written is not None:
                head.written[_HAS_ONE] = True
            return head
        return ResponseHead(head.status, [*head.fields, (b"Date", self.now())], head.reason, head.version)
