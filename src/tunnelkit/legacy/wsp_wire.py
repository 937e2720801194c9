"""wsp's wire, sans-IO: its handshake, its greeting, and the two messages of a request and of a response.

One connection carries one request at a time: JSON in a text message, then the body in a binary one, which is there
even when it is empty; the response comes back the same way. The rules are those of the running programs, root-gg/wsp
and its fork hgsgtk/wsp, whose bytes do not differ. What neither end of ours tells the other stands here for both.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Final, TypeGuard

from ..errors import HeadError, LocalProtocolError, RemoteProtocolError
from ..handshake import Refusal
from ..heads import Fields, field_values
from ..transports.answers import Answer, Target

__all__ = [
    "GREETING_LIMIT",
    "JSON_LIMIT",
    "SERVER_FAILED",
    "Greeting",
    "Request",
    "Response",
    "handshake_fields",
    "is_wrong_key",
    "read_greeting",
    "read_request",
    "read_response",
    "refusal_answer",
    "secret_of",
    "write_greeting",
    "write_request",
    "write_response",
]

GREETING_LIMIT: Final = 256  # bytes
ID_LIMIT: Final = 128  # characters of a client's id
# Bytes of one JSON message: a head as large as ours may be, with some of it escaped in six characters each.
JSON_LIMIT: Final = 256 * 1024

SERVER_FAILED: Final = 526  # what their server answers by itself, to callers and to clients

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
    """Raises ``RemoteProtocolError`` for what is no such message. What it says is judged by ``wsp_heads``."""
    members = _read(data)
    return Request(
        method=_read_text(members, "method"),
        url=_read_text(members, "url"),
        fields=_read_fields(members.get("header")),
        length=_read_length(members),
    )


def read_response(data: bytes) -> Response:
    """Raises ``RemoteProtocolError`` for what is no such message. What it says is judged by ``wsp_heads``."""
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
    if not isinstance(value, str):
        raise _bad(f"{name} is no text")
    return _encoded(value)


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
        raise _bad("a text holds half of a surrogate pair") from None


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
