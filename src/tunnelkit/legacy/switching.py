"""The 101 of their programs: no subprotocol, no extension."""

from __future__ import annotations

from wsproto.utilities import generate_accept_token

from ..errors import AnsweredByOther, DialError
from ..heads import Fields, field_values

__all__ = ["accept_fields", "check_switched"]


def accept_fields(key: bytes) -> Fields:
    return [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", generate_accept_token(key)),
    ]


def check_switched(fields: Fields, key: bytes, *, program: str) -> None:
    """A 101 against RFC 6455 4.1, and whether it can be ``program``'s. Raises ``DialError``."""
    if field_values(fields, b"sec-websocket-accept") != [generate_accept_token(key)]:
        raise DialError("handshake", "the answer 101 does not belong to this request (Sec-WebSocket-Accept)")
    if field_values(fields, b"sec-websocket-protocol") or field_values(fields, b"sec-websocket-extensions"):
        raise AnsweredByOther(101, f"another websocket server answered, and not {program}")
