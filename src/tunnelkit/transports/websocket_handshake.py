"""The websocket's opening handshake (RFC 6455 4) as plain decisions: what to ask, and what to make of it.

A refusal of the tunnel server carries a ``code`` of its own; what has none came from something in between, or says
that something in between spoilt the handshake (design, section 4).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from wsproto.utilities import generate_accept_token

from ..errors import AnsweredByOther, ConfigError, DialError, RegistrationRefused, RemoteProtocolError
from ..handshake import (
    Grant,
    Handshake,
    Refusal,
    from_fields,
    grant_from_fields,
    grant_to_fields,
    refusal_from_problem,
    refusal_of,
    refusal_to_problem,
    to_fields,
)
from ..heads import Fields, field_values, list_items

__all__ = [
    "MOUNT",
    "SUBPROTOCOL",
    "Answer",
    "Target",
    "accept_fields",
    "check_request",
    "check_switched",
    "judge_answer",
    "refusal_answer",
    "request_fields",
]

SUBPROTOCOL: Final = b"tunnelkit.v1"
MOUNT: Final = "/_tunnel"  # where transports live on the server's port, below its base path

_VERSION: Final = b"13"
_PATH: Final = "/%:@!$&'()*+,;=~"  # beside letters, digits and "-._": RFC 3986 3.3


def _switches_to_websocket(fields: Fields) -> bool:
    """The Upgrade and Connection fields of either half (RFC 6455 4.1, 4.2.1)."""
    upgrade, connection = (list_items(field_values(fields, name)) for name in (b"upgrade", b"connection"))
    return b"websocket" in upgrade and b"upgrade" in connection


# -- the client's half ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where a tunnel URL leads."""

    host: str
    port: int
    tls: bool
    path: str  # of the transports
    authority: bytes  # the Host field

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises ``ConfigError`` for a URL that is not ``http(s)://host[:port][/base]``."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise ConfigError("url", f"is not a URL: {exc}") from exc
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("url", "is not a tunnel's URL", "give http(s)://host[:port][/base]")
        tls = parts.scheme == "https"
        default = 443 if tls else 80
        port = port or default
        path = quote(parts.path.rstrip("/"), safe=_PATH) + MOUNT
        return cls(parts.hostname, port, tls, path, _authority(parts, port, default))


def _authority(parts: SplitResult, port: int, default: int) -> bytes:
    assert parts.hostname is not None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode()
    return (host if port == default else f"{host}:{port}").encode()


def request_fields(target: Target, key: bytes, handshake: Handshake, user_agent: str) -> Fields:
    """RFC 6455 4.1. No Origin: that is a browser's."""
    return [
        (b"Host", target.authority),
        *([(b"User-Agent", user_agent.encode())] if user_agent else []),
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Version", _VERSION),
        (b"Sec-WebSocket-Key", key),
        (b"Sec-WebSocket-Protocol", SUBPROTOCOL),
        *to_fields(handshake),
    ]


def check_switched(fields: Fields, key: bytes) -> Grant:
    """The 101 against RFC 6455 4.1. Raises ``DialError``."""
    if not _switches_to_websocket(fields):
        raise DialError("handshake", "the answer 101 does not switch to websocket")
    if field_values(fields, b"sec-websocket-accept") != [generate_accept_token(key)]:
        raise DialError("handshake", "the answer 101 does not belong to this request (Sec-WebSocket-Accept)")
    if field_values(fields, b"sec-websocket-extensions"):
        raise DialError("handshake", "the answer 101 uses an extension that was not asked for")
    if field_values(fields, b"sec-websocket-protocol") != [SUBPROTOCOL]:
        raise AnsweredByOther(
            101, "another websocket server answered", hint="is a tunnelkit server behind this URL, and not WStunnel?"
        )
    try:
        return grant_from_fields(fields)
    except RemoteProtocolError as exc:
        raise DialError("handshake", f"the server's grant cannot be read: {exc}") from exc


def judge_answer(status: int, fields: Fields, body: bytes, *, tls: bool) -> RegistrationRefused | DialError:
    """What any answer but 101 means."""
    refusal = refusal_from_problem(status, fields, body)
    if refusal is not None:
        detail = refusal.detail or refusal.code
        return RegistrationRefused(status, refusal.code, detail, retry_after=refusal.retry_after)
    who = "the proxy" if status == 407 else "something other than the tunnel server"
    hint = _hint(status, fields, body, tls=tls)
    return AnsweredByOther(
        status, f"{who} answered, with status {status}", hint=hint, retry_after=_retry_after(fields)
    )


def _retry_after(fields: Fields) -> float | None:
    """In seconds; the form with a date is not worth a clock."""
    values = field_values(fields, b"retry-after")
    if len(values) != 1 or not values[0].isdigit() or len(values[0]) > 9:
        return None
    return float(values[0])


def _hint(status: int, fields: Fields, body: bytes, *, tls: bool) -> str:
    if 300 <= status <= 399:
        return _redirect_hint(fields, tls=tls)
    if status == 400 and not tls and any(complaint in body.lower() for complaint in _PLAIN_TO_TLS):
        return "that port speaks TLS: use wss://"
    if status == 426:
        return "something in between, such as a reverse proxy, must be told to pass the Upgrade field"
    return _HINTS.get(status, "") or ("the tunnel server may be down" if status >= 500 else "")


# What is said to plain HTTP on a port for TLS by nginx and Apache, by servers in Go, and by tunnelkit's.
_PLAIN_TO_TLS = (b"plain http", b"http request to an https server", b"tls is required")

_HINTS = {
    200: "a captive portal or a proxy in between may have answered with a page of its own",
    404: "no tunnel server at this URL: check host and base path",
    407: "the proxy asks for authentication: give user and password in the proxy's URL",
    502: "a reverse proxy in between does not reach the tunnel server",
    503: "a reverse proxy in between does not reach the tunnel server",
    504: "a reverse proxy in between does not reach the tunnel server",
}


def _redirect_hint(fields: Fields, *, tls: bool) -> str:
    location = b"".join(field_values(fields, b"location"))[:200]
    if not tls and location.lower().startswith(b"https://"):
        return "redirects are not followed, and this one leads to https: use wss://"
    return "redirects are not followed: give the URL it leads to"


# -- the server's half ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer that is not 101. Whoever carries it gives it its length."""

    status: int
    fields: Fields
    body: bytes


@dataclass(frozen=True, slots=True)
class Opening:
    """A request that may be granted."""

    key: bytes
    handshake: Handshake


def check_request(method: bytes, fields: Fields) -> Opening | Answer:
    """A request for the websocket endpoint against RFC 6455 4.2.1 and what tunnelkit asks for."""
    return _check_upgrade(method, fields) or _check_origin(fields) or _check_subprotocol(fields) or _opening(fields)


def _check_upgrade(method: bytes, fields: Fields) -> Answer | None:
    if method != b"GET":
        return _plain_answer(405, "the tunnel's websocket endpoint answers GET")
    if not _switches_to_websocket(fields):
        return _plain_answer(426, "this is a tunnelkit server's endpoint for websocket clients")
    if field_values(fields, b"sec-websocket-version") != [_VERSION]:
        return _plain_answer(426, "only version 13 of the websocket protocol is spoken")
    keys = field_values(fields, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return _plain_answer(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    return None


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def _check_origin(fields: Fields) -> Answer | None:
    """A page that a browser loaded elsewhere must not become a tunnel client (cross-site websocket hijacking)."""
    if any(b"://" in value or value == b"null" for value in field_values(fields, b"origin")):
        refusal = Refusal(status=403, code="forbidden", detail="a browser's Origin may not open a tunnel")
        return refusal_answer(refusal)
    return None


def _check_subprotocol(fields: Fields) -> Answer | None:
    """The subprotocol stands for the tunnel's protocol. RFC 6455 4.2.2 would have us leave it out of the 101, after
    which this client could do nothing. 426 is for the websocket protocol's own version (RFC 6455 4.4)."""
    if SUBPROTOCOL in list_items(field_values(fields, b"sec-websocket-protocol")):
        return None
    if field_values(fields, b"origin"):  # where WStunnel's client puts its token
        detail = "this server does not speak WStunnel's protocol: use a tunnelkit client"
    else:
        detail = "the subprotocol tunnelkit.v1 was not offered"
    return refusal_answer(Refusal(status=400, code="version", detail=detail))


def _opening(fields: Fields) -> Opening | Answer:
    try:
        handshake = from_fields(fields)
    except RemoteProtocolError as exc:
        return refusal_answer(refusal_of(exc))
    return Opening(field_values(fields, b"sec-websocket-key")[0], handshake)


def accept_fields(key: bytes, grant: Grant) -> Fields:
    """RFC 6455 4.2.2, and the grant."""
    return [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", generate_accept_token(key)),
        (b"Sec-WebSocket-Protocol", SUBPROTOCOL),
        *grant_to_fields(grant),
    ]


def refusal_answer(refusal: Refusal) -> Answer:
    return Answer(refusal.status, *refusal_to_problem(refusal))


def _plain_answer(status: int, detail: str) -> Answer:
    """Without a code of ours: a client takes it for what something in between made of its request."""
    fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store")]
    return Answer(status, fields + _DEMANDED.get(status, []), f"{status} {detail}\n".encode())


# What the RFCs demand beside these statuses: RFC 9110 15.5.6 and 15.5.22, RFC 6455 4.4.
_DEMANDED: dict[int, Fields] = {
    405: [(b"Allow", b"GET")],
    426: [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Version", _VERSION)],
}
