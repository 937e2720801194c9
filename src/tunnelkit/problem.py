"""The answers that tunnelkit gives in its own name: one table of codes, one shape (RFC 9457, RFC 9209), for callers
and for tunnel clients.

A code is stable: programs may rely on it. Neither details nor fields ever name an internal address.
``docs/errors.md`` explains each code; a test holds the two equal.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

from .heads import Fields, RequestHead, ResponseHead, field_values

__all__ = ["CODES", "DOCS", "PROBLEM_JSON", "TYPE", "Code", "code_of", "problem", "problem_json"]

DOCS = "docs/errors.md"
TYPE = "urn:tunnelkit:error:"  # of a problem, before its code
PROBLEM_JSON = b"application/problem+json"


@dataclass(frozen=True, slots=True)
class Code:
    """``error`` is the type for Proxy-Status (RFC 9209 2.3), "" where none fits."""

    status: int
    error: str
    title: str


# First what callers are told, then what tunnel clients are.
CODES = MappingProxyType(
    {
        "bad_request": Code(400, "http_request_error", "The request is malformed"),
        "bad_chunk": Code(400, "http_request_error", "A chunk of the request's body is malformed"),
        "bad_field": Code(400, "http_request_error", "A field of the request is malformed"),
        "bad_framing": Code(400, "http_request_error", "The length of the request's body is ambiguous"),
        "bad_head": Code(400, "http_request_error", "The request's head cannot be read"),
        "bad_host": Code(400, "http_request_error", "The Host field is missing or malformed"),
        "bad_line_end": Code(400, "http_request_error", "A line of the request does not end with CR LF"),
        "bad_target": Code(400, "http_request_error", "The request target is malformed"),
        "bad_trailer": Code(400, "http_request_error", "A trailer of the request is malformed"),
        "bad_destination": Code(400, "http_request_error", "The X-PROXY-DESTINATION field is malformed"),
        "bad_x_host": Code(400, "http_request_error", "The X-Host field is malformed"),
        "folded_line": Code(400, "http_request_error", "A field is folded over several lines"),
        "incomplete_request": Code(400, "http_request_error", "The request broke off"),
        "tls_on_plain_port": Code(400, "http_request_error", "This port speaks plain HTTP"),
        "destination_refused": Code(403, "http_request_denied", "The request may not go to this destination"),
        "x_host_refused": Code(403, "http_request_denied", "The tunnel does not lead to this X-Host"),
        "no_tunnel": Code(404, "destination_not_found", "The request names no tunnel that is known here"),
        "not_found": Code(404, "http_request_denied", "There is nothing at this path"),
        "method_not_allowed": Code(405, "http_request_denied", "The method is refused"),
        "request_timeout": Code(408, "http_request_error", "The request did not arrive in time"),
        "body_too_large": Code(413, "http_request_denied", "The request's body is too large"),
        "uri_too_long": Code(414, "http_request_error", "The request line is too long"),
        "head_too_large": Code(431, "http_request_error", "The request's head is too large"),
        "internal_error": Code(500, "proxy_internal_error", "Something went wrong here"),
        "method_not_implemented": Code(501, "http_request_denied", "The method is not implemented"),
        "transfer_coding": Code(501, "http_request_error", "The transfer coding is not implemented"),
        "upgrade_not_implemented": Code(501, "http_upgrade_failed", "The protocol to upgrade to is not implemented"),
        "bad_answer": Code(502, "http_protocol_error", "The tunnel client's answer cannot be passed on"),
        "bad_response": Code(502, "http_protocol_error", "The origin's response is malformed"),
        "no_response": Code(502, "http_response_incomplete", "The origin closed without a response"),
        "origin_failed": Code(502, "connection_terminated", "The origin failed before it answered"),
        "origin_tls": Code(502, "tls_protocol_error", "No secure connection to the origin"),
        "origin_unreachable": Code(502, "destination_unavailable", "The origin cannot be reached"),
        "refused": Code(502, "destination_unavailable", "The tunnel client refused the request"),
        "response_too_large": Code(502, "http_response_body_size", "The response is too large"),
        "truncated_response": Code(502, "http_response_incomplete", "The origin's response broke off"),
        "tunnel_lost": Code(502, "connection_terminated", "The tunnel client was lost before it answered"),
        "draining": Code(503, "proxy_internal_response", "The server is shutting down"),
        "no_client": Code(503, "destination_unavailable", "No tunnel client is connected"),
        "overloaded": Code(503, "connection_limit_reached", "The server has no room for this"),
        "queue_full": Code(503, "connection_limit_reached", "Too many requests wait for this tunnel"),
        "queue_timeout": Code(504, "connection_timeout", "No tunnel client took the request in time"),
        "response_timeout": Code(504, "http_response_timeout", "The origin did not answer in time"),
        "http_version": Code(505, "http_request_error", "This version of HTTP is not spoken here"),
        "loop": Code(508, "proxy_loop_detected", "The request runs in a loop"),
        "version": Code(400, "http_request_denied", "No version of the protocol is common to both ends"),
        "unauthorized": Code(401, "http_request_denied", "The credentials are missing or wrong"),
        "forbidden": Code(403, "http_request_denied", "This is not allowed"),
        "bad_proof": Code(403, "http_request_denied", "The proof is wrong"),
        "unknown_transport": Code(404, "http_request_denied", "This transport is not served here"),
        "name_taken": Code(409, "http_request_denied", "The name belongs to another tunnel"),
        "stale_epoch": Code(409, "http_request_denied", "A later connection has this session"),
        "superseded": Code(409, "http_request_denied", "A newer client has taken this one's place"),
        "out_of_window": Code(409, "http_request_denied", "The request's number is out of turn"),
        "poll_replaced": Code(409, "http_request_denied", "The same poll came again"),
        "connection_closed": Code(410, "http_request_denied", "The server closed the connection"),
        "unknown_connection": Code(410, "http_request_denied", "The connection is not known here"),
        "unknown_session": Code(410, "http_request_denied", "The session is not known here"),
        "length_required": Code(411, "http_request_denied", "The request must tell its length"),
        "too_large": Code(413, "http_request_denied", "The message is too large"),
        "authorisation_failed": Code(503, "proxy_internal_error", "Whether this may register is not known"),
        "rate_limited": Code(429, "http_request_denied", "Too many failed attempts"),
        "too_many_clients": Code(429, "http_request_denied", "The tunnel has as many clients as it may"),
    }
)

_PHRASES = {int(status): status.phrase for status in HTTPStatus}

# What RFC 9110 demands beside some statuses.
_EXTRA_FIELDS: dict[int, Fields] = {
    401: [(b"WWW-Authenticate", b'Basic realm="tunnelkit", charset="UTF-8"')],  # 15.5.2
    405: [(b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")],  # 15.5.6
}


def problem(
    status: int,
    code: str,
    detail: str = "",
    head: RequestHead | None = None,
    *,
    retry_after: float | None = None,
    outcome: str | None = None,
) -> tuple[ResponseHead, bytes]:
    """The head and body of an error answer to ``head`` (None: there was none that could be read).

    ``outcome`` is how far the request came (``str(Delivery)``), for those that failed on the way. HEAD's answer
    has no body, and the Content-Length that GET's would have (RFC 9110 9.3.2).
    """
    entry = _entry(status, code)
    as_json = head is not None and _prefers_json(head)
    body = (_json_body if as_json else _text_body)(status, code, entry.title, detail, outcome)
    fields: Fields = [
        (b"Content-Length", b"%d" % len(body)),
        (b"Proxy-Status", _proxy_status(entry.error, code)),
        (b"Referrer-Policy", b"no-referrer"),  # the address of this answer may hold a token
        *_fields(status, PROBLEM_JSON if as_json else b"text/plain; charset=utf-8", retry_after),
    ]
    bodiless = head is not None and head.method == b"HEAD"
    return ResponseHead(status, fields, _phrase(status).encode("ascii")), b"" if bodiless else body


_TOLD = re.compile(rb'tunnelkit(?:; error=[a-z_]+)?; details="([a-z_]+)"')


def code_of(head: ResponseHead) -> str | None:
    """The code of an answer that ``problem`` made, here or in a tunnel farther on; None for any other."""
    values = field_values(head.fields, b"proxy-status")
    match = _TOLD.fullmatch(values[0]) if len(values) == 1 else None
    return match[1].decode("ascii") if match is not None else None


def problem_json(
    status: int, code: str, detail: str = "", *, retry_after: float | None = None
) -> tuple[Fields, bytes]:
    """The fields and body for a program that asked nothing of us as a proxy: JSON whatever it accepts, without
    Proxy-Status, and without Content-Length, which whoever carries the body adds."""
    body = _json_body(status, code, _entry(status, code).title, detail, None)
    return _fields(status, PROBLEM_JSON, retry_after), body


def _entry(status: int, code: str) -> Code:
    return CODES.get(code) or Code(status, "", _phrase(status))


def _phrase(status: int) -> str:
    """ "" for a status that is not registered: an authorisation hook may give any."""
    return _PHRASES.get(status, "")


def _fields(status: int, media_type: bytes, retry_after: float | None) -> Fields:
    fields: Fields = [
        (b"Content-Type", media_type),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
    ]
    if retry_after is not None:
        fields.append((b"Retry-After", b"%d" % max(math.ceil(retry_after), 0)))
    return fields + _EXTRA_FIELDS.get(status, [])


def _proxy_status(error: str, code: str) -> bytes:
    """RFC 9209 2.1: ``details`` is a string that we are free to choose; the code is what we promise."""
    parameters = [f"error={error}"] if error else []
    return "; ".join(["tunnelkit", *parameters, f'details="{code}"']).encode("ascii", "replace")


def _json_body(status: int, code: str, title: str, detail: str, outcome: str | None) -> bytes:
    members: dict[str, object] = {
        "type": TYPE + code,
        "title": title,
        "status": status,
        "code": code,
        "docs": f"{DOCS}#{code}",
    }
    if detail:
        members["detail"] = detail
    if outcome is not None:
        members["outcome"] = outcome
    return json.dumps(members).encode("ascii") + b"\n"


def _text_body(status: int, code: str, title: str, detail: str, outcome: str | None) -> bytes:
    lines = [f"{status} {title}"]
    if detail:
        lines.append(detail)
    if outcome is not None:
        lines.append(f"outcome: {outcome}")
    lines.append(f"code: {code} (see {DOCS}#{code})")
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


# -- Accept ------------------------------------------------------------------------------------

_JSON_RANGES = {b"application/problem+json": 3, b"application/json": 3, b"application/*": 2, b"*/*": 1}
_TEXT_RANGES = {b"text/plain": 3, b"text/*": 2, b"*/*": 1}


_QVALUE = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def _prefers_json(head: RequestHead) -> bool:
    """RFC 9110 12.5.1: the higher weight wins, then the more specific range, then text."""
    ranges = _accepted(field_values(head.fields, b"accept"))
    return _weight(ranges, _JSON_RANGES) > _weight(ranges, _TEXT_RANGES)


def _accepted(values: list[bytes]) -> dict[bytes, float]:
    ranges: dict[bytes, float] = {}
    for item in b",".join(values).lower().split(b","):
        name, *parameters = (part.strip() for part in item.split(b";"))
        ranges[name] = _quality(parameters)
    return ranges


def _quality(parameters: list[bytes]) -> float:
    for parameter in parameters:
        if parameter.startswith(b"q="):
            return float(parameter[2:]) if _QVALUE.fullmatch(parameter, 2) else 0.0
    return 1.0


def _weight(ranges: dict[bytes, float], offered: dict[bytes, int]) -> tuple[float, int]:
    """(weight, specificity) of the most specific range that matches; nothing for one not accepted."""
    matches = [(specificity, ranges[name]) for name, specificity in offered.items() if name in ranges]
    if not matches:
        return 0.0, 0
    specificity, quality = max(matches)
    return (quality, specificity) if quality > 0 else (0.0, 0)
