"""Heads by h11 (>= 0.16, which closed chunked smuggling).

One ``h11.Connection`` parses one head and is dropped: it costs 1.5 us of 30, and so h11's own idea of the
conversation needs no keeping in step with ours, which writes without it.
"""

from __future__ import annotations

import re
from typing import Final

import h11

from ..errors import HeadError
from ..heads import RequestHead, ResponseHead

__all__ = ["H11_PARSER", "H11Parser"]

# Puts h11's client into the state in which it expects any response, 101 included.
_ANY_REQUEST: Final = h11.Request(
    method=b"GET", target=b"/", headers=[(b"Host", b"a"), (b"Connection", b"upgrade"), (b"Upgrade", b"a")]
)
# h11 makes one of lengths that say the same: then whoever parses would decide what passes.
_LENGTH_LINE: Final = re.compile(rb"\n(?i:content-length):([^\r]*)")


class H11Parser:
    """Implements ``codec.HeadParser``."""

    def parse_request(self, block: bytes) -> RequestHead:
        event = _parse(h11.Connection(h11.SERVER, len(block)), block)
        assert isinstance(event, h11.Request)  # a whole head is one event
        return RequestHead(event.method, event.target, event.headers.raw_items(), event.http_version)

    def parse_response(self, block: bytes) -> ResponseHead:
        connection = h11.Connection(h11.CLIENT, len(block))
        connection.send(_ANY_REQUEST)
        event = _parse(connection, block)
        assert isinstance(event, (h11.Response, h11.InformationalResponse))
        return ResponseHead(event.status_code, event.headers.raw_items(), event.reason, event.http_version)


def _parse(connection: h11.Connection, block: bytes) -> object:
    try:
        connection.receive_data(block)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        # What follows the colon is the line itself, which may hold a secret.
        detail = str(error).partition(": bytearray(")[0]
        raise HeadError(error.error_status_hint, "bad_head", detail) from error
    lengths = _LENGTH_LINE.findall(block)
    if len(lengths) > 1 or (lengths and b"," in lengths[0]):
        raise HeadError(400, "bad_framing", "Content-Length is not one decimal number")
    return event


H11_PARSER: Final = H11Parser()
