"""The encodings: HTTP fields, a problem body for refusals, and one binary form for transports without HTTP."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from typing import Final

from ..errors import RemoteProtocolError
from ..heads import Fields
from ..problem import PROBLEM_JSON, TYPE, problem_json
from .messages import Grant, Handshake, Refusal
from .values import (
    BY_KEY,
    BY_LOWER_NAME,
    FIELDS,
    GRANT,
    HANDSHAKE,
    REFUSAL,
    Values,
    grant_values,
    handshake_values,
    printable,
    refusal_values,
    to_grant,
    to_handshake,
    to_refusal,
)

__all__ = [
    "from_bytes",
    "from_fields",
    "grant_from_fields",
    "grant_to_fields",
    "refusal_from_problem",
    "refusal_of",
    "refusal_to_problem",
    "to_bytes",
    "to_fields",
]


def refusal_of(error: RemoteProtocolError) -> Refusal:
    """The server's answer to a handshake that ``from_fields`` or ``from_bytes`` did not take.

    Another version of ours is no case for 426: that names a protocol which an upgrade of HTTP leads to (RFC 9110
    15.5.22), and no upgrade would help. What a handshake cannot be granted for is 400 (RFC 6455 4.2.1)."""
    return Refusal(status=400, code="version" if error.code == "version" else "bad_request", detail=str(error))


# -- HTTP fields ---------------------------------------------------------------------------------


def to_fields(handshake: Handshake) -> Fields:
    """Raises ``LocalProtocolError`` naming the field for a value that cannot be sent."""
    return [(name.encode(), value) for name, value in handshake_values(handshake).items()]


def from_fields(fields: Iterable[tuple[bytes, bytes]]) -> Handshake:
    """Raises ``RemoteProtocolError`` with the code ``bad_request`` or ``version``: answer with ``refusal_of`` it."""
    return to_handshake(_from_http(fields, HANDSHAKE, "bad_request"))


def grant_to_fields(grant: Grant) -> Fields:
    """Raises ``LocalProtocolError`` naming the field for a value that cannot be sent."""
    return [(name.encode(), value) for name, value in grant_values(grant).items()]


def grant_from_fields(fields: Iterable[tuple[bytes, bytes]]) -> Grant:
    """Raises ``RemoteProtocolError`` with the code ``bad_grant``."""
    return to_grant(_from_http(fields, GRANT, "bad_grant"))


def _from_http(fields: Iterable[tuple[bytes, bytes]], known: frozenset[str], code: str) -> Values:
    values = Values(code)
    for raw_name, value in fields:
        name = BY_LOWER_NAME.get(raw_name.lower())
        if name is not None and name in known:
            values.add(name, value)
    return values


# -- a refusal as a problem body (RFC 9457) --------------------------------------------------------

_PROBLEM_LIMIT: Final = 16 * 1024


def refusal_to_problem(refusal: Refusal) -> tuple[Fields, bytes]:
    """The fields, but for Content-Length, and body of the HTTP answer, whose status is ``refusal.status``."""
    return problem_json(refusal.status, refusal.code, refusal.detail, retry_after=refusal.retry_after)


def refusal_from_problem(status: int, fields: Iterable[tuple[bytes, bytes]], body: bytes) -> Refusal | None:
    """The tunnel server's own refusal; None for every other answer, which something in between gave."""
    values = {name.lower(): value for name, value in fields}
    media_type = values.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != PROBLEM_JSON or len(body) > _PROBLEM_LIMIT:
        return None
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return None
    code = problem.get("code") if isinstance(problem, dict) else None
    if not isinstance(code, str) or problem.get("type") != TYPE + code:
        return None  # somebody else's problem body, whatever its code may mean there
    if FIELDS["code"].grammar.fullmatch(code.encode("utf-8", "replace")) is None:
        return None  # it would go to logs as it is
    detail = problem.get("detail")
    retry_after = values.get(b"retry-after", b"")
    return Refusal(
        status=status,
        code=code,
        detail=printable(detail) if isinstance(detail, str) else "",
        # The form with a date is not worth a clock.
        retry_after=float(retry_after) if re.fullmatch(rb"[0-9]{1,9}", retry_after) else None,
    )


# -- the binary form -----------------------------------------------------------------------------

_MESSAGE_LIMIT: Final = 16 * 1024
_ENTRY: Final = struct.Struct("!HH")  # key, length
_KIND_HANDSHAKE, _KIND_GRANT, _KIND_REFUSAL = 1, 2, 3


def to_bytes(message: Handshake | Grant | Refusal) -> bytes:
    """One byte for the kind, then (key u16, length u16, value) for each value. Raises ``LocalProtocolError`` naming
    the field for a value that cannot be sent."""
    if isinstance(message, Handshake):
        kind, values = _KIND_HANDSHAKE, handshake_values(message)
    elif isinstance(message, Grant):
        kind, values = _KIND_GRANT, grant_values(message)
    else:
        kind, values = _KIND_REFUSAL, refusal_values(message)
    entries = [_ENTRY.pack(FIELDS[name].key, len(value)) + value for name, value in values.items()]
    return bytes([kind]) + b"".join(entries)


def from_bytes(data: bytes) -> Handshake | Grant | Refusal:
    """Raises ``RemoteProtocolError`` with the code ``bad_request``, ``version``, ``bad_grant`` or ``bad_refusal``."""
    kind = data[0] if data else 0
    if kind == _KIND_HANDSHAKE:
        return to_handshake(_from_binary(data, HANDSHAKE, "bad_request"))
    if kind == _KIND_GRANT:
        return to_grant(_from_binary(data, GRANT, "bad_grant"))
    if kind == _KIND_REFUSAL:
        return to_refusal(_from_binary(data, REFUSAL, "bad_refusal"))
    raise RemoteProtocolError("this is neither a handshake nor an answer to one", code="bad_request")


def _from_binary(data: bytes, known: frozenset[str], code: str) -> Values:
    values = Values(code)
    if len(data) > _MESSAGE_LIMIT:
        raise RemoteProtocolError(f"the message is longer than {_MESSAGE_LIMIT} bytes", code=code)
    position = 1
    while position < len(data):
        end = position + _ENTRY.size
        if end > len(data):
            raise RemoteProtocolError("the message breaks off", code=code)
        key, length = _ENTRY.unpack_from(data, position)
        position = end + length
        if position > len(data):
            raise RemoteProtocolError("the message breaks off", code=code)
        name = BY_KEY.get(key)
        if name is not None and name in known:
            values.add(name, data[end:position])
    return values
