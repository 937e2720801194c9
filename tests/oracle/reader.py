"""HTTP/1.1 messages read by the grammar of RFC 9112 alone.

It shares nothing with the library: what the two read differently, one of them reads wrongly. It is slow, reads only
what has come whole, and refuses whatever the RFC lets a recipient refuse (a length beside chunks, folded lines, bare
LF), so that nothing it accepts has a second reading. Two leniencies, for responses alone, are those of every
client, and cannot move the end of a message: no space behind a status without a reason, and white space behind a
chunk's size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeAlias, TypeVar

__all__ = ["Ending", "Fields", "Reading", "Request", "Response", "items", "read_requests", "read_responses", "values"]

Fields: TypeAlias = list[tuple[bytes, bytes]]

# RFC 9110 5.6.2, 5.6.4, 5.5; RFC 9112 3, 4, 5, 7.1.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
VALUE = rb"[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?"
FIELD_LINE = re.compile(rb"(%b):[ \t]*((?:%b)?)[ \t]*" % (TOKEN, VALUE))
REQUEST_LINE = re.compile(rb"(%b) ([^ ]+) HTTP/([0-9])\.([0-9])" % TOKEN)
STATUS_LINE = re.compile(rb"HTTP/([0-9])\.([0-9]) ([0-9]{3})(?: ([\t \x21-\x7e\x80-\xff]*))?")
CHUNK_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (TOKEN, TOKEN, QUOTED)
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)((?:%b)*)" % CHUNK_EXTENSION)

# RFC 3986: 3.3 and 3.4 for the path and the query, 3.2.2 and 3.2.3 for host and port. What browsers and programs send
# in queries beyond the grammar is no matter of framing, and is let through: visible ASCII without a fragment.
ORIGIN_FORM = re.compile(rb"/[\x21\x22\x24-\x7e]*")
ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?#]+)([/?][\x21\x22\x24-\x7e]*)?")
HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::[0-9]*)?"
)  # without IPvFuture, and not empty: RFC 9110 4.2.1


class Ending(Enum):
    """How the bytes end."""

    CLEAN = "between two messages"
    INCOMPLETE = "within a message"
    REFUSED = "with what is no message"
    SWITCHED = "with another protocol"


@dataclass
class Request:
    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)

    @property
    def host(self) -> bytes | None:
        """RFC 9112 3.2.2: the authority of an absolute form comes before Host."""
        match = ABSOLUTE_FORM.fullmatch(self.target)
        return match[1] if match else next(iter(values(self.fields, b"host")), None)

    @property
    def path(self) -> bytes:
        """The target in origin form."""
        match = ABSOLUTE_FORM.fullmatch(self.target)
        if match is None:
            return self.target
        rest = match[2] or (b"*" if self.method == b"OPTIONS" else b"/")
        return b"/" + rest if rest.startswith(b"?") else rest

    @property
    def persists(self) -> bool:
        return _persists(self.version, self.fields)


@dataclass
class Response:
    status: int
    reason: bytes
    version: bytes
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    interim: list[Response] = field(default_factory=list)
    until_close: bool = False


Message = TypeVar("Message", Request, Response)


@dataclass
class Reading(Generic[Message]):
    """``begun`` is the head of a message whose body is incomplete."""

    messages: list[Message]
    ending: Ending
    begun: Message | None = None
    rest: bytes = b""


def values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for key, value in fields if key.lower() == name]


def items(fields: Fields, name: bytes) -> list[bytes]:
    """The members of a list field, in lower case (RFC 9110 5.6.1)."""
    members = [part.strip(b" \t").lower() for value in values(fields, name) for part in value.split(b",")]
    return [member for member in members if member]


class _RefusedError(Exception):
    """The bytes are no message."""


class _IncompleteError(Exception):
    """They end too early."""


def read_requests(data: bytes) -> Reading[Request]:
    """All requests of one connection, up to the first that is none. What follows one after which its sender asked to
    close is not read."""
    found: list[Request] = []
    rest = data
    begun: Request | None = None
    try:
        while rest and (not found or found[-1].persists):
            if rest.startswith(b"\r\n"):
                rest = rest[2:]  # RFC 9112 2.2: at least one empty line before a request is ignored
            begun = None
            request, behind = _request_head(rest)
            begun = request
            request.body, request.trailers, behind = _body(behind, _request_length(request))
            found.append(request)
            rest = behind
    except _RefusedError:
        return Reading(found, Ending.REFUSED, begun, rest)
    except _IncompleteError:
        return Reading(found, Ending.INCOMPLETE, begun, rest)
    return Reading(found, Ending.CLEAN, None, rest)


def read_responses(data: bytes, methods: list[bytes], *, ended: bool) -> Reading[Response]:
    """The final responses to requests with ``methods``, each with the interim ones before it. ``ended``: the
    connection ended in order behind ``data``."""
    found: list[Response] = []
    rest = data
    begun: Response | None = None
    try:
        for method in methods:
            if not rest:
                break
            begun = None
            interim: list[Response] = []
            response, behind = _response_head(rest)
            while response.status < 200 and response.status != 101:
                interim.append(response)
                response, behind = _response_head(behind)
            response.interim = interim
            if response.status == 101:
                return Reading([*found, response], Ending.SWITCHED, None, behind)
            begun = response
            rest = _response_body(response, behind, method, ended=ended)
            found.append(response)
    except _RefusedError:
        return Reading(found, Ending.REFUSED, begun, rest)
    except _IncompleteError:
        return Reading(found, Ending.INCOMPLETE, begun, rest)
    return Reading(found, Ending.CLEAN, None, rest)


# -- heads ---------------------------------------------------------------------------------------


def _lines(data: bytes) -> tuple[list[bytes], bytes]:
    """The lines up to an empty one, and what follows it."""
    lines: list[bytes] = []
    while True:
        line, end, data = data.partition(b"\r\n")
        if b"\n" in line or b"\r" in line or b"\0" in line:
            raise _RefusedError
        if not end:
            raise _IncompleteError
        if not line:
            return lines, data
        lines.append(line)


def _fields(lines: list[bytes]) -> Fields:
    matches = [FIELD_LINE.fullmatch(line) for line in lines]
    if not all(matches):
        raise _RefusedError
    return [(match[1], match[2]) for match in matches if match]


def _request_head(data: bytes) -> tuple[Request, bytes]:
    lines, rest = _lines(data)
    line = REQUEST_LINE.fullmatch(lines[0]) if lines else None
    if line is None or line[3] != b"1":
        raise _RefusedError
    request = Request(line[1], line[2], line[3] + b"." + line[4], _fields(lines[1:]))
    hosts = values(request.fields, b"host")
    if len(hosts) > 1 or (not hosts and request.version != b"1.0") or not all(map(HOST.fullmatch, hosts)):
        raise _RefusedError  # RFC 9112 3.2
    if not _valid_target(request):
        raise _RefusedError
    return request, rest


def _valid_target(request: Request) -> bool:
    """RFC 9112 3.2."""
    if request.method == b"CONNECT":
        return HOST.fullmatch(request.target) is not None
    if request.target == b"*":
        return request.method == b"OPTIONS"
    absolute = ABSOLUTE_FORM.fullmatch(request.target)
    if absolute is not None:
        return HOST.fullmatch(absolute[1]) is not None
    return ORIGIN_FORM.fullmatch(request.target) is not None


def _response_head(data: bytes) -> tuple[Response, bytes]:
    lines, rest = _lines(data)
    line = STATUS_LINE.fullmatch(lines[0]) if lines else None
    if line is None or line[1] != b"1" or int(line[3]) < 100:
        raise _RefusedError
    return Response(int(line[3]), line[4] or b"", line[1] + b"." + line[2], _fields(lines[1:])), rest


def _persists(version: bytes, fields: Fields) -> bool:
    """RFC 9112 9.3."""
    options = items(fields, b"connection")
    return b"close" not in options and (version != b"1.0" or b"keep-alive" in options)


# -- bodies --------------------------------------------------------------------------------------

CHUNKED = -1
UNTIL_CLOSE = -2


def _framing(fields: Fields, version: bytes) -> int | None:
    """RFC 9112 6.1 to 6.3: a number, CHUNKED, or None where the fields say nothing."""
    codings, lengths = values(fields, b"transfer-encoding"), items(fields, b"content-length")
    if codings:
        chunked = items(fields, b"transfer-encoding") == [b"chunked"]
        if values(fields, b"content-length") or version == b"1.0" or not chunked:
            raise _RefusedError
        return CHUNKED
    if not values(fields, b"content-length"):
        return None
    if len(set(lengths)) != 1 or not re.fullmatch(rb"[0-9]+", lengths[0]):
        raise _RefusedError
    return int(lengths[0])


def _request_length(request: Request) -> int:
    length = _framing(request.fields, request.version)
    return 0 if length is None else length


def _body(data: bytes, length: int, *, padded: bool = False) -> tuple[bytes, Fields, bytes]:
    """The body, its trailers, and what follows."""
    if length == CHUNKED:
        return _chunks(data, padded)
    if len(data) < length:
        raise _IncompleteError
    return data[:length], [], data[length:]


def _chunks(data: bytes, padded: bool) -> tuple[bytes, Fields, bytes]:
    body = b""
    while True:
        line, end, rest = data.partition(b"\r\n")
        if padded:
            line = line.rstrip(b" \t")
        if b"\n" in line or b"\r" in line[:-1] or (end and CHUNK_LINE.fullmatch(line) is None):
            raise _RefusedError
        if not end:
            raise _IncompleteError
        size = int(re.match(rb"[0-9A-Fa-f]+", line)[0], 16)  # type: ignore[index]
        if not size:
            lines, rest = _lines(rest)
            return body, _fields(lines), rest
        if rest[size : size + 2] != b"\r\n":
            raise _IncompleteError if len(rest) <= size or rest[size:] == b"\r" else _RefusedError
        body, data = body + rest[:size], rest[size + 2 :]


def _response_body(response: Response, data: bytes, method: bytes, *, ended: bool) -> bytes:
    """RFC 9112 6.3. Sets body and trailers; gives what follows."""
    if method == b"HEAD" or response.status in (204, 304):
        return data
    length = _framing(response.fields, response.version)
    if length is None:
        response.body, response.until_close = data, True
        if not ended:
            raise _IncompleteError
        return b""
    response.body, response.trailers, data = _body(data, length, padded=True)
    return data
