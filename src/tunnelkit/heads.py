"""HTTP heads: what they are, which are valid, their encoding inside a stream, and their bodies' framing. A leaf.

Validation is one layer behind whichever parser is installed, and runs at *both* ends: neither end trusts what
the other's frames hold. It judges what a parsed head still shows; the rest (bare CR, line ends, chunks) is the
parser's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

from .config import DEFAULT_LIMITS, Limits
from .errors import HeadError, LocalProtocolError, RemoteProtocolError
from .field_names import FieldNames, field_names, names_of

__all__ = [
    "ADDED_FIELDS",
    "FORBIDDEN_TRAILERS",
    "Fields",
    "RequestHead",
    "ResponseHead",
    "Trailers",
    "body_length",
    "connection_options",
    "content_length",
    "decode_block",
    "effective_host",
    "encode_request",
    "encode_response",
    "encode_trailers",
    "field_values",
    "forbidden_trailer",
    "is_interim",
    "list_items",
    "split_target",
    "switches_as_offered",
    "validate_fields",
    "validate_request",
    "validate_request_line",
    "validate_response",
    "validate_status_line",
    "validate_trailers",
]

# Field lines in order, names in the sender's case, values without surrounding whitespace.
Fields: TypeAlias = list[tuple[bytes, bytes]]


# Every request makes one of each, and what ``dataclass`` makes is not compiled: so their ``__init__`` is written out.


@dataclass(slots=True, eq=True, init=False, repr=False)
class RequestHead:
    method: bytes
    target: bytes  # as it stood on the request line
    fields: Fields
    version: bytes  # "1.0" or "1.1"

    def __init__(self, method: bytes, target: bytes, fields: Fields, version: bytes = b"1.1") -> None:
        self.method = method
        self.target = target
        self.fields = fields
        self.version = version

    def __repr__(self) -> str:
        """Neither the target nor the fields: both may hold credentials."""
        return f"<RequestHead {self.method.decode('latin-1')} fields={len(self.fields)}>"

    def __reduce__(self) -> tuple[type[RequestHead], tuple[bytes, bytes, Fields, bytes]]:
        """Copied and pickled by its values: a compiled one is not made without them."""
        return RequestHead, (self.method, self.target, self.fields, self.version)

    def copy(self) -> RequestHead:
        """One whose fields may be changed."""
        return RequestHead(self.method, self.target, [*self.fields], self.version)


@dataclass(slots=True, eq=True, init=False, repr=False)
class ResponseHead:
    status: int  # 1xx: an interim response
    fields: Fields
    reason: bytes
    version: bytes
    # Of one that many messages share, and that is never changed: how it is written, by whoever writes it.
    written: dict[object, Any] | None = field(compare=False)

    def __init__(
        self,
        status: int,
        fields: Fields,
        reason: bytes = b"",
        version: bytes = b"1.1",
        written: dict[object, Any] | None = None,
    ) -> None:
        self.status = status
        self.fields = fields
        self.reason = reason
        self.version = version
        self.written = written

    def __repr__(self) -> str:
        """As a request's."""
        return f"<ResponseHead {self.status} fields={len(self.fields)}>"

    def __reduce__(self) -> tuple[type[ResponseHead], tuple[int, Fields, bytes, bytes]]:
        """As a request's; how it is written is made anew."""
        return ResponseHead, (self.status, self.fields, self.reason, self.version)

    def copy(self) -> ResponseHead:
        """One whose fields may be changed."""
        return ResponseHead(self.status, [*self.fields], self.reason, self.version)


@dataclass(slots=True, eq=True)
class Trailers:
    """The trailer section: what a decoded block of that type holds."""

    fields: Fields


# -- reading fields ----------------------------------------------------------------------------


def field_values(fields: Fields, name: bytes) -> list[bytes]:
    """The values of all lines named ``name`` (given in lower case), in order."""
    return [value for key, value in fields if key.lower() == name]


def list_items(values: Iterable[bytes]) -> list[bytes]:
    """The members of a comma-separated list field (RFC 9110 5.6.1), in lower case, without empty ones."""
    return [item for value in values for part in value.split(b",") if (item := part.strip(b" \t").lower())]


@lru_cache(maxsize=64)
def connection_options(value: bytes) -> frozenset[bytes]:
    """What a Connection field lists (RFC 9110 7.6.1), in lower case: on nearly all connections one of a few."""
    return frozenset(list_items([value]))


def switches_as_offered(head: ResponseHead, offer: Fields) -> bool:
    """Whether a 101 says which protocols it changes to, and each of them is one that the request with the fields
    ``offer`` offered (RFC 9110 7.8, 15.2.2). Names are compared without case."""
    taken = list_items(field_values(head.fields, b"upgrade"))
    return bool(taken) and set(taken) <= set(list_items(field_values(offer, b"upgrade")))


def content_length(fields: Fields) -> int | None:
    """The length that Content-Length promises, or None where there is none. For validated heads."""
    values = field_values(fields, b"content-length")
    return int(values[0]) if values else None


def body_length(head: RequestHead | ResponseHead, request_method: bytes | None = None) -> int | None:
    """How long the body is by RFC 9112 6.3: a number, or None when its end shows only when it comes (chunked,
    or, for a response, the close of the connection). For validated heads; ``request_method`` is what a response
    answers."""
    if isinstance(head, ResponseHead) and (request_method == b"HEAD" or _bodiless(head.status)):
        return 0
    if field_values(head.fields, b"transfer-encoding"):
        return None
    length = content_length(head.fields)
    if length is None and isinstance(head, RequestHead):
        return 0
    return length


def _bodiless(status: int) -> bool:
    return status < 200 or status in (204, 304)


# -- targets and hosts -------------------------------------------------------------------------

_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([^#]*)", re.DOTALL)
# RFC 3986 3.2.2 and 3.2.3, without userinfo, and never empty: http URIs have a host (RFC 9110 4.2.1).
_HOST = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|[A-Za-z0-9\-._~!$&'()*+,;=%]{1,255})"
    rb"(?::([0-9]{0,5}))?"
)
_HOST_SIZE = 255 + len(":65535")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def split_target(target: bytes, method: bytes = b"GET") -> tuple[bytes | None, bytes]:
    """(authority, origin-form) of a request target: the authority is None but for the absolute form.

    An absolute form without a path is "/", or "*" for OPTIONS (RFC 9112 3.2.4)."""
    if target[:1] == b"/" or (match := _ABSOLUTE.fullmatch(target)) is None:
        return None, target
    authority, rest = match.groups()
    if rest[:1] != b"/":
        rest = b"*" if not rest and method == b"OPTIONS" else b"/" + rest
    return authority, rest


def effective_host(head: RequestHead) -> bytes:
    """The host that the request is for: an absolute target's authority overrides Host (RFC 9112 3.2.2); b"" if
    there is neither."""
    authority, _ = split_target(head.target)
    if authority is not None:
        return authority
    for name, value in head.fields:  # near the top (RFC 9110 7.2)
        if name.lower() == b"host":
            return value
    return b""


def _valid_host(value: bytes) -> bool:
    return len(value) <= _HOST_SIZE and _fits_host(value)


@lru_cache(maxsize=256)
def _fits_host(value: bytes) -> bool:
    match = _HOST.fullmatch(value)
    if match is None:
        return False
    literal, port = match.groups()
    if port and int(port) > 65_535:
        return False
    if literal is not None:
        return _valid_ipv6(literal)
    return b"%" not in value or _BAD_ESCAPE.search(value) is None


def _valid_ipv6(literal: bytes) -> bool:
    try:
        ipaddress.IPv6Address(literal.decode("ascii"))
    except ValueError:
        return False
    return True


# -- validation --------------------------------------------------------------------------------
# All names, and all values, are judged joined together: a loop over fields in Python costs more than the rest.

_TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# field-vchar, SP and HTAB; obs-text passes as bytes (RFC 9110 5.5).
_VALUE_BYTES = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
# Visible ASCII without "#": a fragment is never sent (RFC 9112 3.2). A stricter grammar breaks queries in use.
_TARGET_BYTES = bytes(range(0x21, 0x7F)).replace(b"#", b"")
ADDED_FIELDS = 8  # Via, X-Forwarded-*, Forwarded, Connection, ...: what forwarding may add to a head,
_ADDED_SIZE = 512  # each of this size on average
_VERSION = re.compile(rb"1\.[0-9]")
_LENGTH = re.compile(rb"[0-9]{1,18}")  # Python's int() would take "+5", "0_5" and " 5"; 18 digits fit 64 bits
_REFUSED_METHODS = {
    b"CONNECT": (501, "method_not_implemented", "CONNECT is not implemented"),  # RFC 9110 9.3.6: an open relay
    b"TRACE": (405, "method_not_allowed", "TRACE is refused"),  # RFC 9110 9.3.8: it would show credentials
}

# RFC 9110 6.5.1: what frames, routes, authenticates or changes the handling of a message has no place at its end.
FORBIDDEN_TRAILERS = frozenset(
    b"age authentication-info authorization cache-control connection content-encoding content-length content-range "
    b"content-type cookie date expect expires forwarded host http2-settings if-match if-modified-since if-none-match "
    b"if-range if-unmodified-since keep-alive location max-forwards pragma proxy-authenticate "
    b"proxy-authentication-info proxy-authorization proxy-connection range retry-after set-cookie set-cookie2 te "
    b"trailer transfer-encoding upgrade vary via warning www-authenticate x-host x-proxy-destination x-real-ip "
    b"x-token".split()
)
_FORBIDDEN_TRAILER_PREFIXES = (b"x-forwarded-", b"tunnelkit-")


def validate_request(head: RequestHead, limits: Limits = DEFAULT_LIMITS, added: int = 0) -> FieldNames:
    """Raise ``HeadError`` (4xx or 5xx for the caller) unless a gateway may pass ``head`` on. Gives the names of its
    fields, for those who look for some next.

    ``added`` is the room beyond the limits, in fields, for what a gateway put in (``ADDED_FIELDS``): a head that
    one end let pass must not break the same limit at the other."""
    validate_request_line(head, limits)
    names = _check_fields(head.fields, limits, len(head.method) + len(head.target) + 12, added)
    if b"host" in names.at:
        _check_host(head.fields, names)
    elif head.version != b"1.0":
        raise HeadError(400, "bad_host", "the Host field is missing")
    _check_framing(head.fields, names, head.version)
    return names


def validate_response(head: ResponseHead, limits: Limits = DEFAULT_LIMITS, added: int = 0) -> FieldNames:
    """Raise ``HeadError`` (502, "bad_response") unless a gateway may pass ``head`` on. Gives its names, as
    ``validate_request`` does."""
    try:
        _check_status_line(head)
        names = _check_fields(head.fields, limits, len(head.reason) + 15, added)
        _check_framing(head.fields, names, head.version)
    except HeadError as error:
        raise _bad_response(error) from None
    return names


def validate_status_line(head: ResponseHead) -> None:
    """The part of ``validate_response`` that has nothing to do with fields."""
    try:
        _check_status_line(head)
    except HeadError as error:
        raise _bad_response(error) from None


def _bad_response(error: HeadError) -> HeadError:
    """An origin's fault, whatever a caller would be told for the same."""
    return HeadError(502, "bad_response", f"the origin's response: {error.detail}")


def validate_fields(fields: Fields, limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise ``HeadError`` unless every name and value is well-formed and all together are within the limits."""
    _check_fields(fields, limits, 0)


def validate_trailers(fields: Fields, limits: Limits = DEFAULT_LIMITS) -> Fields:
    """The trailer fields that may be passed on: those that frame, route or authenticate are dropped (RFC 9110
    6.5.1). Raises ``HeadError`` for malformed ones."""
    names = _check_fields(fields, limits, 0)
    return [field for field, name in zip(fields, names.lowered, strict=True) if not forbidden_trailer(name)]


def forbidden_trailer(name: bytes) -> bool:
    """Whether a field of this name (in lower case) is dropped from trailers."""
    return name in FORBIDDEN_TRAILERS or name.startswith(_FORBIDDEN_TRAILER_PREFIXES)


def validate_request_line(head: RequestHead, limits: Limits = DEFAULT_LIMITS) -> None:
    """The part of ``validate_request`` that has nothing to do with fields."""
    method, target = head.method, head.target
    if len(method) + len(target) + 10 > limits.request_line_limit:
        raise HeadError(414, "uri_too_long", f"the request line is longer than {limits.request_line_limit} bytes")
    if head.version != b"1.1":
        _check_version(head.version)
    if not method or method.translate(None, _TOKEN_BYTES):
        raise HeadError(400, "bad_request", "the method is not a token")
    if method in _REFUSED_METHODS:
        raise HeadError(*_REFUSED_METHODS[method])
    if target.translate(None, _TARGET_BYTES) or not (target[:1] == b"/" or _valid_odd_target(target, method)):
        raise HeadError(400, "bad_target", "the request target is malformed")


def _valid_odd_target(target: bytes, method: bytes) -> bool:
    """The forms of RFC 9112 3.2 but for the usual one; CONNECT's was refused before."""
    if target == b"*":
        return method == b"OPTIONS"
    authority, _ = split_target(target)
    return authority is not None and _valid_host(authority)


def _check_status_line(head: ResponseHead) -> None:
    if head.version != b"1.1":
        _check_version(head.version)
    if not 100 <= head.status <= 599:  # RFC 9110 15: any other is to be treated as a failure of the server
        raise HeadError(400, "bad_request", "the status is not a number from 100 to 599")
    if head.reason.translate(None, _VALUE_BYTES):
        raise HeadError(400, "bad_request", "the reason phrase holds a control character")


def _check_version(version: bytes) -> None:
    # RFC 9110 2.5: a higher minor version is spoken to as 1.1.
    if _VERSION.fullmatch(version) is None:
        raise HeadError(505, "http_version", "only HTTP/1.1 and HTTP/1.0 are spoken here")


def _check_fields(fields: Fields, limits: Limits, size: int, added: int = 0) -> FieldNames:
    """Grammar and limits of all fields; gives their names. ``size`` is that of the start line."""
    if not fields:
        return field_names(fields)
    if len(fields) > limits.field_limit + added:
        raise HeadError(431, "head_too_large", f"there are more than {limits.field_limit} fields")
    names, values = zip(*fields, strict=True)
    joined_names, joined_values = b"\n".join(names), b"".join(values)
    size += len(joined_names) + 1 + len(joined_values) + 3 * len(fields)  # ": ", CR and LF; one LF was joined in
    if size > limits.head_limit + added * _ADDED_SIZE:
        raise HeadError(431, "head_too_large", f"the head is larger than {limits.head_limit} bytes")
    found = names_of(joined_names)
    # A line feed inside a name makes more names than there are fields.
    if not found.well_formed or len(found.lowered) != len(fields):
        raise HeadError(400, "bad_field", "a field name is malformed")
    if joined_values.translate(None, _VALUE_BYTES):
        raise HeadError(400, "bad_field", "a field value holds a control character")
    return found


def _check_host(fields: Fields, names: FieldNames) -> None:
    if b"host" in names.repeated:
        raise HeadError(400, "bad_host", "there is more than one Host field")
    if not _valid_host(fields[names.at[b"host"]][1]):
        raise HeadError(400, "bad_host", "the Host field is not a host with an optional port")


def _check_framing(fields: Fields, names: FieldNames, version: bytes) -> None:
    """RFC 9112 6.1 to 6.3, strictly: whatever two readers could frame differently is refused."""
    length, coding = names.at.get(b"content-length"), names.at.get(b"transfer-encoding")
    if length is not None and (b"content-length" in names.repeated or _LENGTH.fullmatch(fields[length][1]) is None):
        raise HeadError(400, "bad_framing", "Content-Length is not one decimal number")
    if coding is None:
        return
    if length is not None:
        raise HeadError(400, "bad_framing", "Content-Length and Transfer-Encoding exclude each other")
    if version == b"1.0":
        raise HeadError(400, "bad_framing", "HTTP/1.0 has no Transfer-Encoding")
    if b"transfer-encoding" in names.repeated or fields[coding][1].lower() != b"chunked":
        raise HeadError(501, "transfer_coding", "no transfer coding but one chunked is understood")


# -- encoding inside a stream (docs/wire-format.md, "Heads and exchanges") ----------------------
# A byte that tells the type, the parts of the start line, then names and values, joined by LF, which no valid
# part contains.

_REQUEST, _INTERIM, _FINAL, _TRAILERS = 1, 2, 3, 4
_START_PARTS = {_REQUEST: 3, _INTERIM: 3, _FINAL: 3, _TRAILERS: 1}
_STATUS = re.compile(rb"[1-9][0-9]{2}")


def encode_request(head: RequestHead) -> bytes:
    """The block of a request head."""
    return _encode((b"\x01" + head.method, head.target, head.version), head.fields)


def encode_response(head: ResponseHead) -> bytes:
    """The block of an interim or a final response head."""
    kind = _INTERIM if is_interim(head.status) else _FINAL
    return _encode((b"%c%d" % (kind, head.status), head.reason, head.version), head.fields)


def encode_trailers(fields: Fields) -> bytes:
    """The block of a trailer section, which may be empty."""
    return _encode((b"\x04",), fields)


def is_interim(status: int) -> bool:
    """Whether another response head follows this one; after 101 none does."""
    return status < 200 and status != 101


def _encode(start: tuple[bytes, ...], fields: Fields) -> bytes:
    block = b"\n".join([*start, *chain.from_iterable(fields)])
    if (
        block.count(b"\n") != len(start) + 2 * len(fields) - 1
    ):  # never past validation: it would add fields at the other end
        raise LocalProtocolError("a part of a head holds a line feed", code="bad_head")
    return block


def decode_block(block: bytes) -> RequestHead | ResponseHead | Trailers:
    """What a block holds. Only its shape is checked (``RemoteProtocolError``, code "bad_head"): whoever writes
    the head on validates it first."""
    kind = block[0] if block else 0
    start = _START_PARTS.get(kind)
    if start is None:
        raise RemoteProtocolError(f"a head block of unknown type {kind}", code="bad_head")
    parts = block[1:].split(b"\n")
    if len(parts) < start or (len(parts) - start) % 2:
        raise RemoteProtocolError("a head block with a part missing", code="bad_head")
    rest = iter(parts[start:])
    fields = list(zip(rest, rest, strict=True))
    if kind == _REQUEST:
        return RequestHead(parts[0], parts[1], fields, parts[2])
    if kind == _TRAILERS:
        return _decode_trailers(parts[0], fields)
    return _decode_response(kind, parts, fields)


def _decode_response(kind: int, parts: list[bytes], fields: Fields) -> ResponseHead:
    if _STATUS.fullmatch(parts[0]) is None:
        raise RemoteProtocolError("a response head without a status", code="bad_head")
    status = int(parts[0])
    if is_interim(status) != (kind == _INTERIM):
        raise RemoteProtocolError(f"a head block of type {kind} with status {status}", code="bad_head")
    return ResponseHead(status, fields, parts[1], parts[2])


def _decode_trailers(start: bytes, fields: Fields) -> Trailers:
    if start:
        raise RemoteProtocolError("a trailer block with a start line", code="bad_head")
    return Trailers(fields)
