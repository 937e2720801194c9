"""wsp's wire, sans-IO: its handshake, its greeting, and the two messages of a request and of a response.

One connection carries one request at a time: JSON in a text message, then the body in a binary one, which is there
even when it is empty; the response comes back the same way. The rules are those of the running programs, root-gg/wsp
and its fork hgsgtk/wsp, whose bytes do not differ. What neither end of ours tells the other stands here for both.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, TypeGuard

from ..config import DEFAULT_LIMITS, Limits
from ..core.allowlist import HostOrigin
from ..core.destinations import parse_destination
from ..errors import HeadError, LocalProtocolError, RemoteProtocolError
from ..handshake import Refusal
from ..heads import (
    ADDED_FIELDS,
    Fields,
    RequestHead,
    ResponseHead,
    content_length,
    field_values,
    validate_request,
    validate_response,
)
from ..transports.answers import Answer, Target

__all__ = [
    "CLIENT_FAILED",
    "GREETING_LIMIT",
    "JSON_LIMIT",
    "NOTE_LIMIT",
    "SERVER_FAILED",
    "Greeting",
    "Request",
    "Response",
    "failed_response",
    "handshake_fields",
    "is_wrong_key",
    "read_failure",
    "read_greeting",
    "read_request",
    "read_response",
    "refusal_answer",
    "request_from",
    "request_head",
    "response_from",
    "response_head",
    "secret_of",
    "write_greeting",
    "write_request",
    "write_response",
]

GREETING_LIMIT: Final = 256  # bytes
ID_LIMIT: Final = 128  # characters of a client's id
# Bytes of one JSON message: a head as large as ours may be, with some of it escaped in six characters each.
JSON_LIMIT: Final = 256 * 1024
NOTE_LIMIT: Final = 4 * 1024  # bytes of their client's own words about a failure; what is longer is an origin's

SERVER_FAILED: Final = 526  # what their server answers by itself, to callers and to clients
CLIENT_FAILED: Final = 527  # what their client answers by itself

_SECRET_FIELD: Final = b"x-secret-key"
_WRONG_KEY: Final = "Invalid X-SECRET-KEY"


# -- the handshake (their client asks, with the secret key in a field) --------------------------------


def secret_of(fields: Fields) -> str | None:
    """What a client shows; None for nothing, which theirs send as an empty field. Raises ``HeadError`` for two."""
    values = field_values(fields, _SECRET_FIELD)
    if len(values) > 1:
        raise HeadError(400, "bad_request", "there is more than one X-SECRET-KEY field")
    return values[0].decode("utf-8", "replace") or None if values else None


def refusal_answer(refusal: Refusal) -> Answer:
    """As their server gives one; their client reads none of it, and comes again in a second."""
    wrong_key = refusal.code == "unauthorized"
    status, text = (SERVER_FAILED, _WRONG_KEY) if wrong_key else (refusal.status, refusal.detail)
    fields: Fields = [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"X-Content-Type-Options", b"nosniff"),
    ]
    if refusal.retry_after is not None:
        fields.append((b"Retry-After", b"%d" % max(1, round(refusal.retry_after))))
    return Answer(status, fields, f"{text}\n".encode())


def handshake_fields(target: Target, key: bytes, secret: str | None) -> Fields:
    """What their client asks with."""
    return [
        (b"Host", target.authority),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Key", key),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Upgrade", b"websocket"),
        (b"X-SECRET-KEY", (secret or "").encode()),
    ]


def is_wrong_key(status: int, body: bytes) -> bool:
    """Whether their server refused the secret key: no other answer of theirs is final."""
    return status == SERVER_FAILED and body.strip() == _WRONG_KEY.encode()


# -- the greeting (the first message of a connection, from their client) ------------------------------


@dataclass(frozen=True, slots=True)
class Greeting:
    client_id: str  # connections of the same one are a pool
    size: int  # how many of them their client keeps idle


_SIZE = re.compile(r"[0-9]{1,6}")


def write_greeting(greeting: Greeting) -> bytes:
    """Raises ``LocalProtocolError`` for an id that their server does not take."""
    if "_" in greeting.client_id or not _is_id(greeting.client_id):
        raise LocalProtocolError("a wsp server does not take this id of a client", code="bad_greeting")
    return f"{greeting.client_id}_{greeting.size}".encode()


def read_greeting(data: bytes) -> Greeting:
    """Raises ``RemoteProtocolError``."""
    try:
        client_id, _, size = data.decode().rpartition("_")
    except UnicodeDecodeError:
        raise _bad_greeting() from None
    if len(data) > GREETING_LIMIT or not _is_id(client_id) or _SIZE.fullmatch(size) is None:
        raise _bad_greeting()
    return Greeting(client_id, int(size))


def _is_id(text: str) -> bool:
    return 0 < len(text) <= ID_LIMIT and text.isprintable()


def _bad_greeting() -> RemoteProtocolError:
    return RemoteProtocolError("a greeting that does not read <id>_<size>", code="bad_greeting")


# -- the JSON messages --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the text message of a request says."""

    method: bytes
    url: bytes = field(repr=False)  # whole: a query may hold secrets
    fields: Fields = field(repr=False)  # without Host; names in Go's spelling, sorted
    length: int | None  # of the body; None: its end shows when it comes


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """What the text message of a response says."""

    status: int
    fields: Fields = field(repr=False)
    length: int | None


def write_request(request: Request) -> bytes:
    return _write(
        {
            "Method": request.method.decode("ascii"),
            "URL": request.url.decode("ascii"),
            "Header": _write_fields(request.fields),
            "ContentLength": _write_length(request.length),
        }
    )


def write_response(response: Response) -> bytes:
    return _write(
        {
            "StatusCode": response.status,
            "Header": _write_fields(response.fields),
            "ContentLength": _write_length(response.length),
        }
    )


def read_request(data: bytes) -> Request:
    """Raises ``RemoteProtocolError`` for what is no such message. What it says is judged by ``request_head``."""
    members = _read(data)
    return Request(
        method=_read_text(members, "method"),
        url=_read_text(members, "url"),
        fields=_read_fields(members.get("header")),
        length=_read_length(members),
    )


def read_response(data: bytes) -> Response:
    """Raises ``RemoteProtocolError`` for what is no such message. What it says is judged by ``response_head``."""
    members = _read(data)
    status = members.get("statuscode")
    if not _is_integer(status):
        raise _bad("StatusCode is not a number")
    return Response(status=status, fields=_read_fields(members.get("header")), length=_read_length(members))


# What Go's encoder writes otherwise than Python's: it makes JSON safe inside HTML and JavaScript.
_GO_ESCAPES: Final = str.maketrans(
    {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}
)


def _write(members: dict[str, object]) -> bytes:
    text = json.dumps(members, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_GO_ESCAPES).encode()


def _write_fields(fields: Fields) -> dict[str, list[str]]:
    """Values that are not UTF-8 lose what is not, as theirs do."""
    grouped: dict[str, list[str]] = {}
    for name, value in fields:
        grouped.setdefault(_go_name(name), []).append(value.decode("utf-8", "replace"))
    return dict(sorted(grouped.items()))


def _go_name(name: bytes) -> str:
    return b"-".join([part.capitalize() for part in name.split(b"-")]).decode("ascii")


def _write_length(length: int | None) -> int:
    return -1 if length is None else length


def _read(data: bytes) -> dict[str, object]:
    """The members, by their names in lower case: Go reads names in any case, and the last of several counts."""
    if len(data) > JSON_LIMIT:
        raise _bad(f"it is longer than {JSON_LIMIT} bytes")
    try:
        members = json.loads(data.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _bad("it cannot be read") from error
    if not isinstance(members, dict):
        raise _bad("it is no object")
    return {name.lower(): value for name, value in members.items()}


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _read_text(members: dict[str, object], name: str) -> bytes:
    value = members.get(name)
    if not isinstance(value, str) or not value.isascii():
        raise _bad(f"{name} is no ASCII text")
    return value.encode()


def _read_fields(header: object) -> Fields:
    """``null`` stands for none, for the whole and for the values of one name."""
    if header is None:
        return []
    if not isinstance(header, dict):
        raise _bad("Header is no object")
    fields: Fields = []
    for name, values in header.items():
        if not isinstance(values, list | None) or not all(isinstance(value, str) for value in values or ()):
            raise _bad("a value in Header is no list of texts")
        fields += [(_encoded(name), _encoded(value)) for value in values or ()]
    return fields


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _bad("Header holds half of a surrogate pair") from None


def _read_length(members: dict[str, object]) -> int | None:
    """-1, and nothing, stand for a length that is not known."""
    length = members.get("contentlength")
    if length is None or length == -1:
        return None
    if not _is_integer(length) or not 0 <= length < 1 << 63:
        raise _bad("ContentLength is no length")
    return length


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _bad(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"a message that is none of wsp's: {what}", code="bad_message")


# -- between these and heads --------------------------------------------------------------------------

_NOT_OF_REQUESTS: Final = frozenset(
    b"connection expect host keep-alive te trailer transfer-encoding upgrade x-host".split()
)
_NOT_OF_RESPONSES: Final = frozenset(b"connection keep-alive trailer transfer-encoding upgrade".split())


def request_from(head: RequestHead, origin: HostOrigin, *, has_body: bool) -> Request:
    """The request for ``head.target`` of ``origin``. Raises ``HeadError`` for one without a path (``OPTIONS *``)."""
    if head.target[:1] != b"/":
        raise HeadError(400, "bad_target", "a wsp client is asked by URL, and * is in none")
    length = content_length(head.fields)
    if length is None and not has_body:
        length = 0
    fields = [line for line in head.fields if line[0].lower() not in _NOT_OF_REQUESTS]
    return Request(method=head.method, url=str(origin).encode() + head.target, fields=fields, length=length)


def request_head(request: Request, limits: Limits = DEFAULT_LIMITS) -> tuple[HostOrigin, RequestHead]:
    """Where a request goes, and its head for there, with the Content-Length that it has. Raises ``HeadError`` for one
    that must not be made."""
    destination = parse_destination(request.url)
    origin = destination.origin
    host = str(origin).partition("://")[2].encode()
    dropped = _NOT_OF_REQUESTS | {b"content-length"}
    fields = [(b"Host", host), *(line for line in request.fields if line[0].lower() not in dropped)]
    # Go's zero means "unknown" where a body may come; only these methods tell of one that is empty.
    if request.length or (request.length == 0 and request.method in (b"POST", b"PUT", b"PATCH")):
        fields.append((b"Content-Length", b"%d" % request.length))
    head = RequestHead(request.method, destination.target, fields)
    validate_request(head, limits, ADDED_FIELDS)
    return origin, head


def response_from(head: ResponseHead, method: bytes) -> Response:
    """A final head that answers ``method``, as their client tells it."""
    length = content_length(head.fields)
    if length is None and (method == b"HEAD" or head.status in (204, 304)):
        length = 0
    fields = [line for line in head.fields if line[0].lower() not in _NOT_OF_RESPONSES]
    return Response(status=head.status, fields=fields, length=length)


def response_head(response: Response, method: bytes, limits: Limits = DEFAULT_LIMITS) -> ResponseHead:
    """The final head that it is, framed by ``length`` alone: a field beside an unknown length is dropped, one that
    says otherwise is an error. Raises ``HeadError`` 502 for one that cannot be passed on."""
    if not 200 <= response.status <= 599:  # theirs passes an origin's 101 on, and then nothing
        raise HeadError(502, "bad_response", f"status {response.status} is no final one")
    told = set(field_values([(name, value.strip()) for name, value in response.fields], b"content-length"))
    length = response.length
    if length is not None and not told <= {b"%d" % length} and not _is_bodiless(response.status, method):
        raise HeadError(502, "bad_response", "Content-Length and ContentLength of a response differ")
    dropped = _NOT_OF_RESPONSES | {b"content-length"}
    fields = [line for line in response.fields if line[0].lower() not in dropped]
    if length is not None and (length or not _is_bodiless(response.status, method)):
        fields.append((b"Content-Length", b"%d" % length))
    head = ResponseHead(response.status, fields, _phrase(response.status))
    validate_response(head, limits, ADDED_FIELDS)
    return head


def _is_bodiless(status: int, method: bytes) -> bool:
    return method == b"HEAD" or status in (204, 304)


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


# -- failures at their client's end -------------------------------------------------------------------


def failed_response(why: str) -> tuple[Response, bytes]:
    """What their client answers when it has no response: ``why`` is a line for the log of whoever reads it."""
    body = f"Unable to execute request : {why}\n".encode()
    return Response(status=CLIENT_FAILED, fields=[], length=len(body)), body


# How their client's own words begin, and what a caller is told instead: they name addresses behind the firewall.
_REFUSALS: Final = ("Destination is forbidden", "Destination is not allowed")


def read_failure(response: Response, text: bytes) -> HeadError | None:
    """What a caller is told of a response that their client made by itself; None for one of an origin. An origin's
    527 has fields, the client's has none."""
    if response.status != CLIENT_FAILED or response.fields:
        return None
    words = text[:NOTE_LIMIT].decode("utf-8", "replace").strip()
    if words.startswith(_REFUSALS):
        return HeadError(403, "destination_refused", "the wsp client does not go to this destination")
    if not words.startswith("Unable to execute request"):
        return HeadError(502, "origin_failed", "the wsp client could not pass the request or its response on")
    if "x509:" in words or "tls:" in words:
        return HeadError(502, "origin_tls", "the wsp client has no secure connection to the destination")
    if "dial " in words or "lookup " in words:
        return HeadError(502, "origin_unreachable", "the wsp client cannot reach the destination")
    return HeadError(502, "origin_failed", "the wsp client had no response from the destination")
