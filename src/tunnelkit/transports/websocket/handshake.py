"""The websocket's opening handshake (RFC 6455 4) as plain decisions: what to ask, and what to make of it.

What a refusal means is ``answers``' word.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from wsproto.utilities import generate_accept_token

from ...errors import AnsweredByOther, DialError, RemoteProtocolError
from ...handshake import (
    Grant,
    Handshake,
    Refusal,
    from_fields,
    grant_from_fields,
    grant_to_fields,
    refusal_of,
    to_fields,
)
from ...heads import Fields, field_values, list_items
from ..answers import Answer, Target, check_origin, refusal_answer

__all__ = [
    "SUBPROTOCOL",
    "accept_fields",
    "check_request",
    "check_switched",
    "check_upgrade",
    "request_fields",
]

SUBPROTOCOL: Final = b"tunnelkit.v1"

_VERSION: Final = b"13"


def _switches_to_websocket(fields: Fields) -> bool:
    """The Upgrade and Connection fields of either half (RFC 6455 4.1, 4.2.1)."""
    upgrade, connection = (list_items(field_values(fields, name)) for name in (b"upgrade", b"connection"))
    return b"websocket" in upgrade and b"upgrade" in connection


# -- the client's half ---------------------------------------------------------------------------


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


# -- the server's half ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opening:
    """A request that may be granted."""

    key: bytes
    handshake: Handshake


def check_request(method: bytes, fields: Fields) -> Opening | Answer:
    """A request for the websocket endpoint against RFC 6455 4.2.1 and what tunnelkit asks for."""
    return check_upgrade(method, fields) or check_origin(fields) or _check_subprotocol(fields) or _opening(fields)


def check_upgrade(method: bytes, fields: Fields) -> Answer | None:
    """The answer to a request that does not open a websocket (RFC 6455 4.2.1), whatever is spoken on it."""
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


def _plain_answer(status: int, detail: str) -> Answer:
    """Without a code of ours: a client takes it for what something in between made of its request."""
    fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store")]
    return Answer(status, fields + _DEMANDED.get(status, []), f"{status} {detail}\n".encode())


# What the RFCs demand beside these statuses: RFC 9110 15.5.6 and 15.5.22, RFC 6455 4.4.
_DEMANDED: dict[int, Fields] = {
    405: [(b"Allow", b"GET")],
    426: [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Version", _VERSION)],
}
