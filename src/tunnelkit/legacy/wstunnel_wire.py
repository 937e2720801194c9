"""WStunnel's wire, sans-IO: its ids, and the HTTP messages inside its messages.

The rules are those of the running programs, rightscale/wstunnel and its successor rshade/wstunnel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from ..config import Limits
from ..errors import HeadError, RemoteProtocolError
from ..heads import Fields, RequestHead, ResponseHead
from ..http.client_codec import ClientCodec
from ..http.codec import Body, End, HeadParser
from ..http.codec_moves import Signal

__all__ = [
    "BODY_LIMIT",
    "ID_SIZE",
    "Ids",
    "ResponseReader",
    "Whole",
    "check_target",
    "failure_message",
    "parse_id",
    "request_message",
    "response_message",
]

ID_SIZE: Final = 4
IDS: Final = 32_000  # 0000 to 7cff
_ID = re.compile(rb"[0-9a-fA-F]{4}")

# Their client refuses a message above 100 MiB by closing the tunnel for everybody.
BODY_LIMIT: Final = 100 * 1024 * 1024 - 128 * 1024


# -- ids ---------------------------------------------------------------------------------------------


class Ids:
    """One counter a tunnel. An id whose answer is owed is never given again, wanted or not."""

    def __init__(self) -> None:
        self._last = 0
        self._taken: set[int] = set()

    def take(self) -> int | None:
        """None: all are in flight."""
        if len(self._taken) >= IDS:
            return None
        while True:
            self._last = (self._last + 1) % IDS
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


_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def check_target(target: bytes) -> None:
    """Raise ``HeadError`` for a target that Go's parser of URLs does not take: their client drops the tunnel of all
    for a request that it cannot read."""
    if _BAD_ESCAPE.search(target.partition(b"?")[0]):
        raise HeadError(400, "bad_target", "a WStunnel client cannot be asked for a path with a broken escape")


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


def failure_message(number: int, error: HeadError) -> bytes:
    """A response that says what went wrong, whole."""
    text = f"{error.detail}\n".encode()
    head = ResponseHead(
        error.status,
        [(b"Content-Type", b"text/plain; charset=utf-8")],
        HTTPStatus(error.status).phrase.encode(),
    )
    return response_message(number, head, len(text)) + text


_HOP_BY_HOP: Final = frozenset({b"connection", b"transfer-encoding", b"trailer", b"upgrade", b"keep-alive"})


@dataclass(frozen=True, slots=True)
class Whole:
    """The response is complete."""

    trailers: Fields


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
        if data:  # b"" would be the end
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
                yield Whole(event.trailers)
                return
