"""wsp's requests and responses as heads of ours, and back; and what their client says by itself. Sans-IO."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from ..config import DEFAULT_LIMITS, Limits
from ..core.allowlist import HostOrigin
from ..core.destinations import parse_destination
from ..errors import HeadError
from ..heads import (
    ADDED_FIELDS,
    RequestHead,
    ResponseHead,
    content_length,
    field_values,
    validate_request,
    validate_response,
)
from .wsp_wire import Request, Response

__all__ = [
    "CLIENT_FAILED",
    "NOTE_LIMIT",
    "failed_response",
    "read_failure",
    "request_from",
    "request_head",
    "response_from",
    "response_head",
]

CLIENT_FAILED: Final = 527  # what their client answers by itself
NOTE_LIMIT: Final = 4 * 1024  # bytes of its own words about a failure; what is longer is an origin's

# -- requests and responses ---------------------------------------------------------------------------

_NOT_OF_REQUESTS: Final = frozenset(
    b"connection expect host keep-alive te trailer transfer-encoding upgrade x-host".split()
)
_NOT_ASCII: Final = re.compile(rb"[\x80-\xff]")
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
    destination = parse_destination(_percent_encoded(request.url))
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


def _percent_encoded(url: bytes) -> bytes:
    """Theirs escapes what is not ASCII in a path, and passes a query on as it came."""
    return _NOT_ASCII.sub(lambda found: b"%%%02X" % ord(found[0]), url)


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
