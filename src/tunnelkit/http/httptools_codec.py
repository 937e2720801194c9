"""Heads by httptools (llhttp), at a fifteenth of h11's price. What it does not read as it stands, h11 decides.

llhttp is stricter than RFC 9112 in places (it knows a fixed list of methods, and no HTTP/1.2) and laxer in others
(two spaces in a request line, ICE and RTSP, no version at all). So the first line is split here, and a head that
llhttp refuses goes to h11, whose judgement it then has: installing httptools changes the price of a head, and
nothing else.

A new llhttp parser reads each head. One kept for the connection would save 0.6 us of 3, but after a head with a body
it would want that body, and we read bodies ourselves.
"""

from __future__ import annotations

from typing import Final

import httptools

from ..heads import Fields, RequestHead, ResponseHead
from .codec import HeadParser
from .h11_codec import H11_PARSER

__all__ = ["HTTPTOOLS_PARSER", "HttptoolsParser"]

_PROTOCOL: Final = b"HTTP/"


class HttptoolsParser:
    """Implements ``codec.HeadParser``. ``other`` reads what llhttp does not."""

    def __init__(self, other: HeadParser = H11_PARSER) -> None:
        self._other = other

    def parse_request(self, block: bytes) -> RequestHead:
        method, _, rest = block[: block.find(b"\r")].partition(b" ")
        target, _, version = rest.partition(b" ")
        collected = _Collected()
        # A space too many, or a version too few, leaves something else than HTTP/ here, or no target.
        readable = bool(target) and version[:5] == _PROTOCOL
        if readable and _reads(httptools.HttpRequestParser(collected), block, collected.fields):
            return RequestHead(method, target, collected.fields, version[5:])
        return self._other.parse_request(block)

    def parse_response(self, block: bytes) -> ResponseHead:
        version, _, rest = block[: block.find(b"\r")].partition(b" ")
        status, _, reason = rest.partition(b" ")
        collected = _Collected()
        if version[:5] == _PROTOCOL and _reads(httptools.HttpResponseParser(collected), block, collected.fields):
            return ResponseHead(int(status), collected.fields, reason, version[5:])
        return self._other.parse_response(block)


class _Collected:
    """What llhttp calls back."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: Fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))  # llhttp leaves what stands behind a value (RFC 9110 5.5)


def _reads(parser: httptools.HttpRequestParser | httptools.HttpResponseParser, block: bytes, fields: Fields) -> bool:
    """Whether ``parser`` takes the block, and makes one field of each of its lines but the first and the last."""
    try:
        parser.feed_data(block)
    except httptools.HttpParserUpgrade:
        pass  # its way to say that what follows may be another protocol: the head is complete
    except httptools.HttpParserError:
        return False
    return len(fields) == block.count(b"\n") - 2


HTTPTOOLS_PARSER: Final = HttptoolsParser()
