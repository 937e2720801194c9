"""The client's end of an HTTP/1.1 connection, sans-IO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..config import Limits
from ..errors import HeadError, LocalProtocolError
from ..field_names import FieldNames
from ..heads import Fields, RequestHead, ResponseHead, switches_as_offered, validate_response, validate_status_line
from .codec import Codec, HeadParser
from .codec_moves import AFTER_END, AFTER_HEAD, AFTER_INFO, AFTER_SWITCH, Signal, State
from .framing import (
    CHUNKED,
    CODING_FIELDS,
    UNTIL_CLOSE,
    Length,
    framing_fields,
    persists,
    response_length,
    without,
)
from .repeats import ResponseAgain
from .writing import BodyWriter, encode_block

__all__ = ["ClientCodec", "RequestBlock", "request_block"]

# Looked up once: see codec.
_HEAD: Final = State.HEAD
_BODY: Final = State.BODY
_DONE: Final = State.DONE

_NO_BODY: Final = BodyWriter(None)  # keeps nothing of one request for the next


class RequestBlock:
    """A request's head as it is written, and what follows from it."""

    __slots__ = ("block", "length", "method", "offer", "persists")

    def __init__(
        self, block: bytes, method: bytes, offer: Fields | None, *, persists: bool, length: Length | None
    ) -> None:
        self.block = block
        self.method = method
        self.offer = offer  # the fields of one that asks for an upgrade
        self.persists = persists
        self.length = length  # of its body

    def __repr__(self) -> str:  # the block holds what callers authenticate with
        return f"<RequestBlock {self.method!r}>"


def request_block(head: RequestHead, *, has_body: bool = False) -> RequestBlock:
    """Its framing is Content-Length where the head has one; else chunked when it ``has_body``."""
    found = framing_fields(head.fields)
    fields = head.fields
    chunked = found.content_length is None and (has_body or found.chunked)
    if found.chunked or chunked:
        fields = without(fields, CODING_FIELDS)
    if chunked:
        fields = [*fields, (b"Transfer-Encoding", b"chunked")]
    first = head.method + b" " + head.target + b" HTTP/1.1"
    if first.count(b" ") != 2:
        raise LocalProtocolError("the request line contains a space", code="bad_field")
    return RequestBlock(
        block=encode_block(first, fields),
        method=head.method,
        offer=fields if found.upgrade else None,
        persists=not found.close,
        length=CHUNKED if chunked else found.content_length,
    )


@dataclass(slots=True)
class _Known:
    """A final head that came twice in a row, and what it says of its message."""

    block: bytes
    again: ResponseAgain
    length: Length  # of the body, unless it answers HEAD
    persists: bool


class ClientCodec(Codec):
    """Requests out, responses in. What the peer does wrong is a ``HeadError`` with status 502."""

    def __init__(self, parser: HeadParser, limits: Limits) -> None:
        super().__init__(parser, limits, padded_chunks=True, fault=(502, "bad_response"))
        self._method = b""
        self._offer: Fields | None = None  # the fields of a request that asks for an upgrade
        self.again: ResponseAgain | None = None  # of the present head, where it is the one before once more
        self._known: _Known | None = None

    def forget(self) -> None:
        super().forget()
        self._known = self.again = None

    def encode_head(self, head: RequestHead, *, has_body: bool = False) -> bytes:
        """A request, as ``request_block`` writes it."""
        return self.encode_request(request_block(head, has_body=has_body))

    def encode_request(self, request: RequestBlock) -> bytes:
        """The same for one that is written already."""
        self.writing = AFTER_HEAD[self.writing]
        self._method = request.method
        self._offer = request.offer
        self._persists = request.persists
        self._writer = _NO_BODY if request.length is None else BodyWriter(request.length)
        return request.block

    def encode_whole(self, request: RequestBlock) -> bytes:
        """The same for one without a body, and its end. Raises ``LocalProtocolError`` where it promises one."""
        block = self.encode_request(request)
        if request.length:
            raise LocalProtocolError("a request that promises a body must be sent with it", code="bad_body_length")
        self.writing = AFTER_END[self.writing]
        return block

    def _begin(self, block: bytes) -> ResponseHead:
        if self.writing is _HEAD:
            raise HeadError(502, "bad_response", "a response came without a request")
        known = self._known
        if known is not None and block is known.block:
            self.again = known.again
            self._begin_body(0 if self._method == b"HEAD" else known.length, known.persists)
            return known.again.copy()
        self._known = self.again = None
        comes_again = block is self._repeats.block
        head, names = self._read(block)
        if head.status == 101:
            self._switch(head)
        elif head.status < 200:
            self.reading = AFTER_INFO[self.reading]
        else:
            found = framing_fields(head.fields, names)
            lives_on = persists(head, found)
            self._begin_body(response_length(head, found, self._method), lives_on)
            if comes_again:
                self.again = ResponseAgain(head.copy())
                self._known = _Known(block, self.again, response_length(head, found, b""), lives_on)
        return head

    def _begin_body(self, length: Length, lives_on: bool) -> None:
        self._left = length
        self._persists &= lives_on and length != UNTIL_CLOSE
        self.reading = AFTER_HEAD[self.reading]

    def take_rest(self) -> bytes | None:
        """What is left of a body with Content-Length, if it is here: the response is complete then."""
        left = self._left
        if self.reading is not _BODY or not 0 < left <= self._input.size:
            return None
        self._left = 0
        self.reading = AFTER_END[self.reading]
        return self._input.take(left)

    def _read(self, block: bytes) -> tuple[ResponseHead, FieldNames]:
        again = self._repeats.response(block)
        if again is not None:
            validate_status_line(again[0])
            return again
        head = self._parser.parse_response(block)
        names = validate_response(head, self._limits)
        self._repeats.keep(block, head, names)
        return head, names

    def _switch(self, head: ResponseHead) -> None:
        if self._offer is None:
            raise HeadError(502, "bad_response", "101 came without a request to upgrade")  # RFC 9110 15.2.2
        if not switches_as_offered(head, self._offer):
            raise HeadError(502, "bad_response", "101 came for a protocol that was not offered")  # RFC 9110 7.8
        self.reading = AFTER_SWITCH[self.reading]
        self._repeats.forget()
        self._known = None

    def _closed(self) -> Signal:
        if self.writing is not State.HEAD:
            raise HeadError(502, "no_response", "the connection ended before a response")
        return super()._closed()

    def _truncated(self, part: str) -> HeadError:
        return HeadError(502, "truncated_response", f"the connection ended within the response's {part}")

    @property
    def keep_alive(self) -> bool:
        """Bytes after the end of a response belong to nothing: such a connection is not used again."""
        done = self._persists and self.reading is _DONE and self.writing is _DONE
        return done and not self.eof and not self._input.size
