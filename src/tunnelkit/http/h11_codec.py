"""Heads by h11 (>= 0.16, which closed chunked smuggling).

One ``h11.Connection`` parses one head and is dropped: it costs 1.5 us of 30, and so h11's own idea of the
conversation needs no keeping in step with ours, which writes without it.

h11 judges while it parses, and calls every fault the same. Which one it was is told in our own words: a caller must
not see by the code of a refusal which parser is installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

import h11

from ..config import Limits
from ..errors import HeadError
from ..heads import RequestHead, ResponseHead, validate_request, validate_response
from .plain_codec import PLAIN_PARSER

__all__ = ["H11_PARSER", "H11Parser"]

# Puts h11's client into the state in which it expects any response, 101 included.
_ANY_REQUEST: Final = h11.Request(
    method=b"GET", target=b"/", headers=[(b"Host", b"a"), (b"Connection", b"upgrade"), (b"Upgrade", b"a")]
)
# h11 makes one of lengths that say the same: then whoever parses would decide what passes.
_LENGTH_LINE: Final = re.compile(rb"\n(?i:content-length):([^\r]*)")
# Sizes were judged when the block was cut out.
_ANY_SIZE: Final = Limits(head_limit=2**40, head_block_limit=2**40, request_line_limit=2**40, field_limit=2**40)

HeadT = TypeVar("HeadT", RequestHead, ResponseHead)


class H11Parser:
    """Implements ``codec.HeadParser``."""

    def parse_request(self, block: bytes) -> RequestHead:
        event = _parse(h11.Connection(h11.SERVER, len(block)), block)
        if isinstance(event, h11.RemoteProtocolError):
            raise _refusal(event, block, PLAIN_PARSER.parse_request, validate_request)
        assert isinstance(event, h11.Request)  # a whole head is one event
        return RequestHead(event.method, event.target, event.headers.raw_items(), event.http_version)

    def parse_response(self, block: bytes) -> ResponseHead:
        connection = h11.Connection(h11.CLIENT, len(block))
        connection.send(_ANY_REQUEST)
        event = _parse(connection, block)
        if isinstance(event, h11.RemoteProtocolError):
            raise _refusal(event, block, PLAIN_PARSER.parse_response, validate_response)
        assert isinstance(event, (h11.Response, h11.InformationalResponse))
        return ResponseHead(event.status_code, event.headers.raw_items(), event.reason, event.http_version)


def _parse(connection: h11.Connection, block: bytes) -> object:
    """h11's event, or what it has against the block: not as an exception that another could refer to, since its text
    is the line itself, which may hold a secret."""
    try:
        connection.receive_data(block)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        # A frame of h11's refers to the error that passed it, and by it all would wait for a collection.
        error.__traceback__ = None
        return error
    lengths = _LENGTH_LINE.findall(block)
    if len(lengths) > 1 or (lengths and b"," in lengths[0]):
        raise HeadError(400, "bad_framing", "Content-Length is not one decimal number")
    return event


def _refusal(
    error: h11.RemoteProtocolError,
    block: bytes,
    read: Callable[[bytes], HeadT],
    validate: Callable[[HeadT, Limits], object],
) -> HeadError:
    """What our rules say of a head that h11 refuses; h11's own word where they find nothing."""
    try:
        validate(read(block), _ANY_SIZE)
    except HeadError as ours:
        return ours
    # What follows the colon is the line.
    return HeadError(error.error_status_hint, "bad_head", str(error).partition(": bytearray(")[0])


H11_PARSER: Final = H11Parser()
