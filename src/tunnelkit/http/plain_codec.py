"""Heads taken apart by hand, at a fifth of h11's price: for peers whose heads are judged and used, not passed on.

Little is left to a parser. ``HeadScanner`` saw that every line ends with CR LF and none is folded, and ``heads``
judges names, values, framing and limits afterwards, whoever parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ..errors import HeadError
from ..heads import Fields, RequestHead, ResponseHead
from .codec import HeadParser

__all__ = ["PLAIN_PARSER", "PlainBelow", "PlainParser"]

_REQUEST_LINE: Final = re.compile(rb"([^ ]+) ([^ ]+) HTTP/([0-9]\.[0-9])")  # RFC 9112 3
_STATUS_LINE: Final = re.compile(rb"HTTP/([0-9]\.[0-9]) ([0-9]{3})(?: (.*))?")  # RFC 9112 4


class PlainParser:
    """Implements ``codec.HeadParser``."""

    def parse_request(self, block: bytes) -> RequestHead:
        line, *lines = block[:-4].split(b"\r\n")
        found = _REQUEST_LINE.fullmatch(line)
        if found is None:
            raise HeadError(400, "bad_head", "the request line is malformed")
        return RequestHead(found[1], found[2], _fields(lines), found[3])

    def parse_response(self, block: bytes) -> ResponseHead:
        line, *lines = block[:-4].split(b"\r\n")
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise HeadError(400, "bad_head", "the status line is malformed")
        return ResponseHead(int(found[2]), _fields(lines), found[3] or b"", found[1])


class PlainBelow:
    """``PLAIN_PARSER`` for POST requests to paths that begin with ``path``, ``other`` for the rest, and for those
    below it that are passed on after all (``passed_on``: by their host, say)."""

    def __init__(
        self, path: bytes, other: HeadParser, *, passed_on: Callable[[RequestHead], bool] | None = None
    ) -> None:
        self._start = b"POST " + path
        self._other = other
        self._passed_on = passed_on

    def parse_request(self, block: bytes) -> RequestHead:
        if block.startswith(self._start):
            head = PLAIN_PARSER.parse_request(block)
            if self._passed_on is None or not self._passed_on(head):
                return head
        return self._other.parse_request(block)

    def parse_response(self, block: bytes) -> ResponseHead:
        return self._other.parse_response(block)


def _fields(lines: list[bytes]) -> Fields:
    fields: Fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise HeadError(400, "bad_head", "a line of the head is no field")
        fields.append((name, value.strip(b" \t")))
    return fields


PLAIN_PARSER: Final = PlainParser()
