"""The opening handshake of a websocket that ends here (RFC 6455 4.2): what is wrong with it, and the 101."""

from __future__ import annotations

import base64
import binascii

from ..heads import Fields, RequestHead, ResponseHead, field_values
from ..http.websocket import accept_key

__all__ = ["refuse_opening", "switch_head"]

_VERSION = b"13"


def refuse_opening(head: RequestHead) -> tuple[int, Fields] | None:
    """Status and fields of the refusal; None for a handshake that may be accepted."""
    if head.method != b"GET":
        return 405, [(b"Allow", b"GET")]
    if field_values(head.fields, b"sec-websocket-version") != [_VERSION]:
        return 426, [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", _VERSION)]
    keys = field_values(head.fields, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return 400, []
    return None


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def switch_head(head: RequestHead, subprotocol: bytes | None, fields: Fields) -> ResponseHead:
    """The 101 to ``head``, with fields of the app's own. No extensions."""
    [key] = field_values(head.fields, b"sec-websocket-key")
    answer: Fields = [
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Accept", accept_key(key)),
    ]
    if subprotocol is not None:
        answer.append((b"Sec-WebSocket-Protocol", subprotocol))
    return ResponseHead(101, [*answer, *fields], b"Switching Protocols")
