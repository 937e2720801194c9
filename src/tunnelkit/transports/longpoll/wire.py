"""The long-poll transport's requests and answers as plain decisions: names, building, parsing, checking.

What passes on the way, and when, is ``polls``' and ``posts``' business. ``docs/wire-format.md``,
"Long-poll", is the law. Ids and numbers stand in fields, never in a URL, which logs and caches keep.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ...errors import ConnectionLost, RemoteProtocolError
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
from ...heads import Fields, field_values
from ...proof import PROOF_SIZE, Purpose
from ..answers import Answer, Target, check_origin, refusal_answer

__all__ = [
    "CLOSED",
    "KEEP_ALIVE_IDLE",
    "MOUNT_PATH",
    "POST_WINDOW",
    "PROBE_GAP",
    "PROBE_MESSAGE",
    "PURPOSES",
    "STREAM_ANSWER_FIELDS",
    "STREAM_BYTES",
    "STREAM_TIME",
    "VERSION",
    "Asked",
    "Op",
    "answer_fields",
    "check_open",
    "check_request",
    "close_fields",
    "closed_answer",
    "closed_reason",
    "fixed_fields",
    "is_own_answer",
    "is_streamed",
    "lost_in_order",
    "numbered_fields",
    "open_fields",
    "opened_fields",
    "parse_opened",
    "poll_fields",
    "refused",
    "target_path",
]

VERSION: Final = b"1"
MOUNT_PATH: Final = "/longpoll"

# Posts may come in any order, but none with a number so far above the lowest that was not answered.
POST_WINDOW: Final = 16

# A streamed answer is ended, in order, after so many bytes or seconds: some proxies count either.
STREAM_BYTES: Final = 16 * 1024 * 1024
STREAM_TIME: Final = 240.0
# Its keep-alives, and the client's own signs of life beside it, while no exchange runs; ``poll_hold_active`` else.
KEEP_ALIVE_IDLE: Final = 20.0


# The answer to a probe is a streamed one: this message twice, with so many seconds between.
PROBE_MESSAGE: Final = b"."
PROBE_GAP: Final = 0.5


class Op(StrEnum):
    """What a request is for: the end of its path."""

    OPEN = "/open"
    DOWN = "/down"  # a poll
    UP = "/up"  # a post
    PROBE = "/probe"  # do answers pass unbuffered?
    CLOSE = "/close"


PURPOSES: Final[Mapping[Op, Purpose]] = {
    Op.DOWN: Purpose.POLL,
    Op.UP: Purpose.POST,
    Op.PROBE: Purpose.PROBE,
    Op.CLOSE: Purpose.CLOSE,
}

_CONNECTION: Final = b"Tunnelkit-Connection"
_NUMBER: Final = b"Tunnelkit-Number"
_PROOF: Final = b"Tunnelkit-Proof"
_HOLD: Final = b"Tunnelkit-Hold"
_MODE: Final = b"Tunnelkit-Mode"
_CODE: Final = b"Tunnelkit-Code"
_REASON: Final = b"Tunnelkit-Reason"
_LONGPOLL: Final = b"Tunnelkit-Longpoll"
_STREAM: Final = b"stream"

_OCTETS: Final = b"application/octet-stream"
# What tells the server's own answer, however often a name stands in it.
_OCTETS_FIELD: Final = b"content-type", _OCTETS
_MARKS: Final = frozenset({b"content-type", b"tunnelkit-number"})
_REASON_LIMIT: Final = 123  # as RFC 6455 5.5 bounds it
_NORMAL: Final = 1000

# no-transform: a body that was compressed or rewritten on the way is none of ours (RFC 9111 5.2.2.6).
_COMMON: Final = ((b"Content-Type", _OCTETS), (b"Cache-Control", b"no-store, no-transform"))


def target_path(target: Target, op: Op) -> str:
    """The origin-form of a request's target."""
    return target.path + MOUNT_PATH + op


# -- the client's requests -----------------------------------------------------------------------


def fixed_fields(target: Target, user_agent: str = "") -> Fields:
    """What every request of a client has."""
    agent = [(b"User-Agent", user_agent.encode())] if user_agent else []
    return [(b"Host", target.authority), *agent, *_COMMON]


def open_fields(target: Target, handshake: Handshake, user_agent: str) -> Fields:
    """Raises ``LocalProtocolError`` for a handshake that cannot be sent."""
    length = (b"Content-Length", b"0")
    return [*fixed_fields(target, user_agent), length, (_LONGPOLL, VERSION), *to_fields(handshake)]


def numbered_fields(connection_id: str, number: int, proof: bytes, length: int = 0) -> Fields:
    """What every later request has of its own: a post or a probe as they stand. ``number`` counts from 1 for each op
    by itself, and ``proof`` is the connection's prover's ``make(PURPOSES[op], number, length)``."""
    return [
        (b"Content-Length", b"%d" % length),
        (_CONNECTION, connection_id.encode()),
        (_NUMBER, b"%d" % number),
        (_PROOF, proof.hex().encode()),
    ]


def poll_fields(hold: float, *, stream: bool = False) -> Fields:
    """What a poll has beside: how long (seconds) it may be held, and whether its answer may be streamed."""
    seconds = b"%.3f" % hold
    return [(_HOLD, seconds), (_MODE, _STREAM)] if stream else [(_HOLD, seconds)]


def close_fields(code: int, reason: str = "") -> Fields:
    """What the close has beside: ``code`` has the meanings of RFC 6455 7.4.1."""
    fields = [(_CODE, b"%d" % code)]
    text = _plain(reason)
    return [*fields, (_REASON, text.encode())] if text else fields


def _plain(reason: str) -> str:
    """What of a reason stands in a field: visible ASCII and spaces."""
    text = reason.encode("ascii", "replace").decode()[:_REASON_LIMIT]
    return "".join(c if " " <= c <= "~" else "?" for c in text).strip()


# -- the server's answers, as the client reads them ------------------------------------------------


def is_own_answer(status: int, fields: Fields, number: int) -> bool:
    """Whether this is the server's word to poll, post, probe or close ``number``, and not a page of something in
    between, which may well have status 200."""
    if status != 200:
        return False
    found = [(name, value) for key, value in fields if (name := key.lower()) in _MARKS]
    numbered = b"tunnelkit-number", b"%d" % number
    return len(found) == 2 and _OCTETS_FIELD in found and numbered in found


def is_streamed(fields: Fields) -> bool:
    """Whether the body of the server's own answer to a poll is made of records, and not one message."""
    return field_values(fields, b"tunnelkit-mode") == [_STREAM]


def parse_opened(fields: Fields) -> tuple[Grant, str]:
    """The grant and the connection's id in an answer 200 to ``Op.OPEN``. Raises ``RemoteProtocolError``."""
    if field_values(fields, b"tunnelkit-longpoll") != [VERSION]:
        raise RemoteProtocolError("the answer names no version of long-poll that is spoken here", code="bad_grant")
    ids = field_values(fields, b"tunnelkit-connection")
    if len(ids) != 1 or not _GRAMMAR[b"tunnelkit-connection"].fullmatch(ids[0]):
        raise RemoteProtocolError("the answer has no connection id", code="bad_grant")
    return grant_from_fields(fields), ids[0].decode()


CLOSED: Final = "connection_closed"
_CLOSED_DETAIL: Final = re.compile(r"([0-9]{4})(?: (.*))?", re.DOTALL)


def closed_reason(refusal: Refusal) -> ConnectionLost | None:
    """The end of the connection, if it is that which a refusal (``handshake.refusal_from_problem``) tells."""
    if refusal.code != CLOSED:
        return None
    found = _CLOSED_DETAIL.fullmatch(refusal.detail)
    code, reason = (int(found[1]), found[2] or "") if found else (_NORMAL, refusal.detail)
    return lost_in_order(code, reason)


def lost_in_order(code: int, reason: str) -> ConnectionLost:
    """What a connection ends with, at either end, when the other closed it."""
    text = f"the peer closed with code {code}" + (f": {reason}" if reason else "")
    return ConnectionLost(text, clean=True, code=code)


# -- the server's answers, as it builds them -------------------------------------------------------


def opened_fields(grant: Grant, connection_id: str) -> Fields:
    return [
        *_COMMON,
        (_LONGPOLL, VERSION),
        (_CONNECTION, connection_id.encode()),
        *grant_to_fields(grant),
    ]


def answer_fields(number: int) -> Fields:
    """Of the answer 200 to request ``number``."""
    return [*_COMMON, (_NUMBER, b"%d" % number)]


# Of an answer that comes in pieces. nginx, and what imitates it, would gather them otherwise, and takes that field
# for itself, so that another tells the client.
STREAM_ANSWER_FIELDS: Final = ((_MODE, _STREAM), (b"X-Accel-Buffering", b"no"))


def refused(status: int, code: str, detail: str, *, retry_after: float | None = None) -> Answer:
    return refusal_answer(Refusal(status=status, code=code, detail=detail, retry_after=retry_after))


def closed_answer(code: int, reason: str) -> Answer:
    """The server closed the connection in order: the answer to whatever comes for it."""
    return refused(410, CLOSED, f"{code} {_plain(reason)}".strip())


# -- the server's checks -------------------------------------------------------------------------

_SECONDS: Final = rb"[0-9]{1,6}(?:\.[0-9]{1,3})?"

_GRAMMAR: Final[Mapping[bytes, re.Pattern[bytes]]] = {
    _CONNECTION.lower(): re.compile(rb"[0-9a-f]{32}"),
    _NUMBER.lower(): re.compile(rb"[1-9][0-9]{0,17}"),
    _PROOF.lower(): re.compile(rb"[0-9a-f]{%d}" % (2 * PROOF_SIZE)),
    _HOLD.lower(): re.compile(_SECONDS),
    _MODE.lower(): re.compile(rb"[a-z]{1,16}"),
    _CODE.lower(): re.compile(rb"[1-4][0-9]{3}"),
    _REASON.lower(): re.compile(rb"[ -~]{1,%d}" % _REASON_LIMIT),
}
# Of the length (RFC 9112 6); the rest of its rules was kept by whoever parsed the head.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"expect"})
_FITS: Final = {name: grammar.fullmatch for name, grammar in _GRAMMAR.items()}
_NAMES: Final = {name.lower(): name for name in (_CONNECTION, _NUMBER, _PROOF)}
_NEEDED: Final = tuple(_NAMES)


@dataclass(slots=True)
class Asked:
    """The head of a request that belongs to a connection. Nothing of it is proven yet."""

    connection_id: str
    number: int
    proof: bytes
    length: int  # of its body
    hold: float  # seconds; infinite where none was named
    stream: bool
    code: int
    reason: str


def check_open(method: bytes, fields: Fields) -> Handshake | Answer:
    """A request for ``Op.OPEN``."""
    refusal = _check_method(method) or check_origin(fields) or _check_version(fields)
    if refusal is not None:
        return refusal
    try:
        return from_fields(fields)
    except RemoteProtocolError as exc:
        return refusal_answer(refusal_of(exc))


def check_request(method: bytes, fields: Fields, max_body: int) -> Asked | Answer:
    """A request for any other op, as far as its head shows without knowing the connection."""
    refusal = _check_method(method)
    if refusal is not None:
        return refusal
    try:
        values = _values(fields)
    except RemoteProtocolError as exc:
        return refusal_answer(refusal_of(exc))
    length = _length(values, max_body)
    if isinstance(length, Answer):
        return length
    return Asked(
        connection_id=values[b"tunnelkit-connection"].decode(),
        number=int(values[b"tunnelkit-number"]),
        proof=bytes.fromhex(values[b"tunnelkit-proof"].decode()),
        length=length,
        hold=float(values.get(b"tunnelkit-hold", b"inf")),
        stream=values.get(b"tunnelkit-mode") == _STREAM,
        code=int(values.get(b"tunnelkit-code", b"1005")),  # RFC 6455 7.4.1: none was given
        reason=values.get(b"tunnelkit-reason", b"").decode(),
    )


def _check_method(method: bytes) -> Answer | None:
    """Without a code of ours: a client takes it for what something in between made of its request."""
    if method == b"POST":
        return None
    fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store"), (b"Allow", b"POST")]
    return Answer(405, fields, b"405 the tunnel's long-poll endpoint answers POST\n")


def _check_version(fields: Fields) -> Answer | None:
    if field_values(fields, b"tunnelkit-longpoll") == [VERSION]:
        return None
    return refused(400, "version", "only version 1 of long-poll is spoken (field Tunnelkit-Longpoll)")


def _values(fields: Fields) -> dict[bytes, bytes]:
    """Our fields by name in lower case, each within its grammar and once. Raises ``RemoteProtocolError``."""
    values: dict[bytes, bytes] = {}
    for raw_name, value in fields:
        name = raw_name.lower()
        fits = _FITS.get(name)
        if fits is None:
            if name in _FRAMING:
                values[name] = value
        elif name in values or not fits(value):
            raise _bad(raw_name, "is malformed, or given twice")
        else:
            values[name] = value
    for needed in _NEEDED:
        if needed not in values:
            raise _bad(_NAMES[needed], "is missing")
    return values


def _bad(name: bytes, problem: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"{name.decode('ascii', 'replace')} {problem}", code="bad_request")


def _length(values: Mapping[bytes, bytes], max_body: int) -> int | Answer:
    """Who waits for 100 Continue would wait for ever: no request of ours does, and none is chunked."""
    length = values.get(b"content-length")
    if length is None or not length.isdigit() or b"transfer-encoding" in values or b"expect" in values:
        return refused(411, "length_required", "give Content-Length, and neither Transfer-Encoding nor Expect")
    if len(length) > len(str(max_body)) or int(length) > max_body:
        return refused(413, "too_large", f"a body may have {max_body} bytes")
    return int(length)
