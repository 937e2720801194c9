"""The server's end of an HTTP/1.1 connection, sans-IO."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Limits
from ..errors import HeadError, LocalProtocolError
from ..field_names import FieldNames
from ..heads import Fields, RequestHead, ResponseHead, validate_request, validate_request_line
from .codec import Codec, HeadParser
from .codec_moves import AFTER_HEAD, AFTER_INFO, AFTER_SWITCH, State
from .framing import (
    CHUNKED,
    CODING_FIELDS,
    LENGTH_FIELDS,
    UNTIL_CLOSE,
    FramingFields,
    Length,
    framing_fields,
    lacks_body,
    persists,
    request_length,
    without,
)
from .repeats import RequestAgain
from .writing import BodyWriter, encode_block

__all__ = ["ServerCodec"]


@dataclass(slots=True)
class _Framed:
    """A response's head as it is written on a connection like this."""

    block: bytes
    length: Length | None
    persists: bool


@dataclass(slots=True)
class _Known:
    """A head that came twice in a row, and what the codec has to know of it."""

    block: bytes
    again: RequestAgain
    left: Length
    persists: bool
    expects_continue: bool


class ServerCodec(Codec):
    """Requests in, responses out."""

    def __init__(self, parser: HeadParser, limits: Limits) -> None:
        super().__init__(parser, limits, skips_empty_line=True)
        self.again: RequestAgain | None = None  # of the present head, where it is the one before once more
        self._known: _Known | None = None
        self._method = b""
        self._version = b"1.1"
        self.expects_continue = False  # the current request waits for 100 before it sends its body

    def forget(self) -> None:
        super().forget()
        self._known = self.again = None

    def _begin(self, block: bytes) -> RequestHead:
        known = self._known
        if known is not None and block is known.block:
            return self._begin_known(known)
        comes_again = block is self._repeats.block
        head, names = self._read(block)
        if head.version != b"1.0":
            head.version = b"1.1"  # RFC 9110 2.5: a higher minor version is our own
        found = framing_fields(head.fields, names)
        self._method, self._version = head.method, head.version
        self._left = request_length(found)
        self._persists = persists(head, found)
        self.expects_continue = found.expects_continue and head.version == b"1.1" and self._left != 0
        self.reading = AFTER_HEAD[self.reading]
        self._known = self.again = None
        if comes_again:
            self.again = RequestAgain(head.copy())
            self._known = _Known(block, self.again, self._left, self._persists, self.expects_continue)
        return head

    def _begin_known(self, known: _Known) -> RequestHead:
        self.again = known.again
        self._left, self._persists, self.expects_continue = known.left, known.persists, known.expects_continue
        head = known.again.copy()
        self._method, self._version = head.method, head.version
        self.reading = AFTER_HEAD[self.reading]
        return head

    def _read(self, block: bytes) -> tuple[RequestHead, FieldNames]:
        again = self._repeats.request(block)
        if again is not None:
            validate_request_line(again[0], self._limits)
            return again
        head = self._parser.parse_request(block)
        names = validate_request(head, self._limits)
        if head.method != b"POST":  # few come again, and what long-poll posts another parser reads (``PlainBelow``)
            self._repeats.keep(block, head, names)
        return head, names

    def _truncated(self, part: str) -> HeadError:
        return HeadError(400, "incomplete_request", f"the connection ended within the request's {part}")

    def encode_info(self, head: ResponseHead) -> bytes:
        """An interim response; for an HTTP/1.0 caller, which knows none, nothing (RFC 9110 15.2)."""
        self.writing = AFTER_INFO[self.writing]
        if head.status == 100:
            self.expects_continue = False
        return b"" if self._version == b"1.0" else _encode_response(head, head.fields)

    def encode_head(self, head: ResponseHead, *, close: bool = False) -> bytes:
        """A final response. Its framing is Content-Length where the head has one, else chunked, else until close."""
        key = self._method == b"HEAD", self._version, self._persists, close
        framed: _Framed | None = head.written.get(key) if head.written is not None else None
        if framed is None:
            framed = self._frame(head, close)
            if head.written is not None:
                head.written[key] = framed
        self.writing = AFTER_HEAD[self.writing]
        self._writer = BodyWriter(framed.length)
        self._persists = framed.persists
        return framed.block

    def _frame(self, head: ResponseHead, close: bool) -> _Framed:
        found = framing_fields(head.fields)
        fields = head.fields
        if head.status == 204:  # RFC 9110 8.6: no Content-Length
            fields = without(fields, LENGTH_FIELDS)
        elif found.chunked:
            fields = without(fields, CODING_FIELDS)
        length = self._response_framing(head.status, found)
        extra: Fields = []
        if length == CHUNKED:
            extra.append((b"Transfer-Encoding", b"chunked"))
        persists = self._persists and length != UNTIL_CLOSE and not close and not found.close
        if not persists and not found.close:
            extra.append((b"Connection", b"close"))
        elif persists and self._version == b"1.0":
            extra.append((b"Connection", b"keep-alive"))
        return _Framed(_encode_response(head, fields + extra if extra else fields), length, persists)

    def _response_framing(self, status: int, found: FramingFields) -> Length | None:
        if lacks_body(status, self._method):
            return None
        if found.content_length is not None:
            return found.content_length
        return UNTIL_CLOSE if self._version == b"1.0" else CHUNKED

    def encode_switch(self, head: ResponseHead) -> bytes:
        """101: what follows in both directions is another protocol's. The request must be complete."""
        if self.reading is not State.DONE:
            raise LocalProtocolError("an upgrade must wait for the end of its request")
        block = _encode_response(head, head.fields)
        self.writing = AFTER_SWITCH[self.writing]
        self.reading = AFTER_SWITCH[self.reading]
        self._repeats.forget()
        self._known = None
        return block


def _encode_response(head: ResponseHead, fields: Fields) -> bytes:
    return encode_block(b"HTTP/1.1 %d " % head.status + head.reason, fields)
