"""WStunnel's wire, sans-IO: its handshake, its ids, and the HTTP messages inside its messages.

The rules are those of the running programs, rightscale/wstunnel and its successor rshade/wstunnel.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..config import Limits
from ..core.tokens import TOKEN_MIN
from ..errors import HeadError, RemoteProtocolError
from ..handshake import Handshake, Refusal
from ..heads import Fields, RequestHead, ResponseHead, field_values, list_items
from ..http.client_codec import ClientCodec
from ..http.codec import Body, End, HeadParser, Signal
from ..transports.answers import Answer, Target

__all__ = [
    "BODY_LIMIT",
    "ID_SIZE",
    "Ids",
    "ResponseReader",
    "handshake_fields",
    "is_handshake",
    "is_theirs",
    "parse_id",
    "probe_fields",
    "read_handshake",
    "refusal_answer",
    "request_message",
    "response_message",
]

ID_SIZE: Final = 4
_IDS: Final = 32_000  # 0000 to 7cff
_ID = re.compile(rb"[0-9a-fA-F]{4}")

# Their client refuses a message above 100 MiB by closing the tunnel for everybody.
BODY_LIMIT: Final = 100 * 1024 * 1024 - 128 * 1024


# -- the handshake (their client asks, with its token in Origin) --------------------------------------


def is_handshake(fields: Fields) -> bool:
    """Whether a websocket request is theirs: no subprotocol, and an Origin that is none (no browser sends such)."""
    origins = field_values(fields, b"origin")
    return (
        len(origins) == 1
        and b"://" not in origins[0]
        and origins[0] != b"null"
        and not field_values(fields, b"sec-websocket-protocol")
        and b"websocket" in list_items(field_values(fields, b"upgrade"))
    )


def read_handshake(fields: Fields) -> Handshake | Answer:
    """Their handshake as one of ours, or the answer that their server gives."""
    token = field_values(fields, b"origin")[0].decode("latin-1")
    if len(token) < TOKEN_MIN:
        return _plain(400, f"Rendez-vous token is too short (must be {TOKEN_MIN} chars)")
    versions = field_values(fields, b"x-client-version")
    version = versions[0].decode("latin-1") if versions else ""
    return Handshake(
        token=token,
        password=_password(fields, token),
        client_version=f"wstunnel {version}".strip()[:80],
    )


def _password(fields: Fields, token: str) -> str | None:
    """By Basic authentication: of ``token:password``, or of the tunnel URL's userinfo."""
    values = field_values(fields, b"authorization")
    if len(values) != 1 or values[0][:6].lower() != b"basic ":
        return None
    try:
        user, colon, password = b64decode(values[0][6:].strip(), validate=True).decode("utf-8").partition(":")
    except ValueError:
        return None
    return password if colon and user in (token, "") else None


_STATUSES: Final = {"too_many_clients": 429, "forbidden": 401, "unauthorized": 401}


def refusal_answer(refusal: Refusal) -> Answer:
    """As their client reads one: a status and a line of text, which it prints before it tries again."""
    status = _STATUSES.get(refusal.code, refusal.status)
    extra: Fields = [(b"WWW-Authenticate", b'Basic realm="wstunnel"')] if status == 401 else []
    if refusal.retry_after is not None:
        extra.append((b"Retry-After", b"%d" % max(1, round(refusal.retry_after))))
    return _plain(status, refusal.detail, extra)


def _plain(status: int, text: str, extra: Fields | None = None) -> Answer:
    fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"X-Content-Type-Options", b"nosniff")]
    return Answer(status, fields + (extra or []), text.encode())


# -- the same from the client's side (their server answers) -------------------------------------------

_NO_TOKEN: Final = b"Origin header with rendez-vous token required"


def probe_fields(target: Target, key: bytes, user_agent: str) -> Fields:
    """A handshake without a token, which tells their servers from all others."""
    return _opening_fields(target, key, user_agent, origin=[])


def is_theirs(status: int, fields: Fields, body: bytes) -> bool:
    """Whether this is what their servers answer to a handshake without ``Origin``, to the letter (rightscale's ends
    with a line feed)."""
    return (
        status == 400
        and body in (_NO_TOKEN, _NO_TOKEN + b"\n")
        and field_values(fields, b"content-type") == [b"text/plain; charset=utf-8"]
        and field_values(fields, b"x-content-type-options") == [b"nosniff"]
    )


def handshake_fields(target: Target, key: bytes, handshake: Handshake, user_agent: str) -> Fields:
    """What their client asks with. The token stands in Origin as it is."""
    fields = _opening_fields(target, key, user_agent, origin=[(b"Origin", handshake.token.encode("ascii"))])
    fields.append((b"X-Client-Version", handshake.client_version.encode("latin-1", "replace")))
    return fields + _authorization(handshake)


def _opening_fields(target: Target, key: bytes, user_agent: str, *, origin: Fields) -> Fields:
    return [
        (b"Host", target.authority),
        *([(b"User-Agent", user_agent.encode())] if user_agent else []),
        (b"Connection", b"Upgrade"),
        *origin,
        (b"Sec-WebSocket-Key", key),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Upgrade", b"websocket"),
    ]


def _authorization(handshake: Handshake) -> Fields:
    """The token's password goes first; the userinfo of the URL, for a proxy in front, has a field of its own then."""
    for_proxy = handshake.authorization
    if handshake.password is None:
        return [(b"Authorization", for_proxy.encode("ascii"))] if for_proxy is not None else []
    pair = f"{handshake.token}:{handshake.password}".encode()
    fields = [(b"Authorization", b"Basic " + b64encode(pair))]
    return fields + ([(b"X-Tunnel-Authorization", for_proxy.encode("ascii"))] if for_proxy is not None else [])


# -- ids ---------------------------------------------------------------------------------------------


class Ids:
    """One counter a tunnel. An id whose answer is owed is never given again, wanted or not."""

    def __init__(self) -> None:
        self._last = 0
        self._taken: set[int] = set()

    def take(self) -> int | None:
        """None: all are in flight."""
        if len(self._taken) >= _IDS:
            return None
        while True:
            self._last = (self._last + 1) % _IDS
            if self._last not in self._taken:
                self._taken.add(self._last)
                return self._last

    def give_back(self, number: int) -> None:
        self._taken.discard(number)


def parse_id(data: bytes) -> int:
    """Of a message's first four bytes. Raises ``RemoteProtocolError``."""
    if _ID.fullmatch(data) is None:
        raise RemoteProtocolError("a message without an id", code="bad_id")
    return int(data, 16)


# -- a request, and its response ---------------------------------------------------------------------

_LEFT_OUT: Final = frozenset(
    {b"content-length", b"transfer-encoding", b"expect", b"connection", b"upgrade", b"te", b"x-host", b"trailer"}
)


def request_message(number: int, head: RequestHead, length: int, x_host: bytes | None) -> bytes:
    """A message up to its body. Nothing is chunked: the body is known when it is sent."""
    fields = [field for field in head.fields if field[0].lower() not in _LEFT_OUT]
    if x_host is not None:
        fields.append((b"X-Host", x_host))
    if length or head.method in (b"POST", b"PUT", b"PATCH"):
        fields.append((b"Content-Length", b"%d" % length))
    lines = [b"%04x%b %b HTTP/1.1" % (number, head.method, head.target)]
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join([*lines, b"", b""])


def response_message(number: int, head: ResponseHead, length: int | None) -> bytes:
    """A response's message up to its body; ``length`` None where none follows whatever Content-Length says."""
    fields = [field for field in head.fields if length is None or field[0].lower() != b"content-length"]
    if length is not None:
        fields = [*fields, (b"Content-Length", b"%d" % length)]
    lines = [b"%04xHTTP/1.1 %d %b" % (number, head.status, head.reason)]
    lines += [name + b": " + value for name, value in fields if name.lower() not in _HOP_BY_HOP]
    return b"\r\n".join([*lines, b"", b""])


_HOP_BY_HOP: Final = frozenset({b"connection", b"transfer-encoding", b"trailer", b"upgrade", b"keep-alive"})


@dataclass(frozen=True, slots=True)
class Whole:
    """The response is complete."""


class ResponseReader:
    """The HTTP response inside one message, from its fragments. Raises ``HeadError`` for what is none."""

    def __init__(self, head: RequestHead, parser: HeadParser, limits: Limits) -> None:
        self._codec = ClientCodec(parser, limits)
        self._codec.encode_head(RequestHead(head.method, b"/", []))  # what it answers decides its framing
        self._codec.encode_end()
        self._complete = False

    def feed(self, data: bytes, *, last: bool) -> Iterator[ResponseHead | bytes | Whole]:
        """What a fragment brings. ``last``: nothing follows, so a response that ends with it is over, and one that
        should not is cut short (``HeadError``)."""
        if self._complete:
            return
        self._codec.receive_data(data)
        yield from self._events()
        if last and not self._complete:
            self._codec.receive_data(b"")
            yield from self._events()

    def _events(self) -> Iterator[ResponseHead | bytes | Whole]:
        while not isinstance(event := self._codec.next_event(), Signal):
            if isinstance(event, ResponseHead):
                if event.status == 101:
                    raise HeadError(502, "bad_response", "their wire carries no upgrades")
                yield event
            elif isinstance(event, Body):
                yield bytes(event.data)
            elif isinstance(event, End):
                self._complete = True
                yield Whole()
                return
