"""The opening request of a websocket and its answer, by h11 over a byte stream (RFC 6455 4.1)."""

from __future__ import annotations

from contextlib import suppress
from typing import Final, TypeAlias

import anyio
import h11
from anyio.lowlevel import checkpoint

from ...errors import DialError, LocalProtocolError, StreamBroken
from ...heads import Fields
from ...net.stream import ByteStream
from ...net.tls import TlsFailure
from ...net.tls_errors import tls_dial_error
from ..answers import Target

__all__ = ["BODY_TIMEOUT", "MAX_BODY", "MAX_HEAD", "OpeningExchange", "opening_request"]

# Of the answer to the opening request.
MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 16 * 1024
BODY_TIMEOUT: Final = 1.0

_READ = 16 * 1024
_TLS_RECORDS = (0x15, 0x16)  # alert, handshake (RFC 8446 5.1)

_Event: TypeAlias = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


def opening_request(target: Target, fields: Fields) -> h11.Request:
    """Raises ``LocalProtocolError`` for fields that HTTP does not allow."""
    try:
        return h11.Request(method=b"GET", target=target.path, headers=fields)
    except h11.LocalProtocolError:
        # Not chained: h11's message quotes the value, which may be a secret.
        raise LocalProtocolError("a handshake field holds what HTTP does not allow", code="bad_field") from None


class OpeningExchange:
    """The opening request and its answer, by h11 over a byte stream."""

    def __init__(self, stream: ByteStream, target: Target) -> None:
        self._stream = stream
        self._host = target.host
        self._tls = target.tls
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._first: bytes | None = None  # byte of the answer

    async def send(self, request: h11.Request) -> None:
        head = self._http.send(request)
        assert head is not None
        self._http.send(h11.EndOfMessage())
        try:
            await self._stream.send(head)
        except StreamBroken as exc:
            raise DialError("handshake", f"the connection failed: {exc}") from exc

    async def head(self) -> h11.Response | h11.InformationalResponse:
        """The final answer's head, or the 101. Other interim answers are passed over (RFC 9110 15.2)."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101
            ):
                return event
            await checkpoint()  # a flood of them must not keep the loop from everybody else

    async def body(self) -> bytes:
        """What there is of it, up to ``MAX_BODY``: the status counts, though the rest never comes."""
        body = bytearray()
        with anyio.move_on_after(BODY_TIMEOUT), suppress(DialError):
            while len(body) < MAX_BODY and isinstance(event := await self._next(), h11.Data):
                body += event.data
        return bytes(body[:MAX_BODY])

    @property
    def early(self) -> bytes:
        """What came behind the 101."""
        return bytes(self._http.trailing_data[0])

    async def _next(self) -> _Event:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                raise DialError("handshake", "the answer is not HTTP", hint=self._hint()) from exc
            if event is not h11.NEED_DATA:
                return event
            await self._read()

    async def _read(self) -> None:
        try:
            data = await self._stream.receive(_READ)
        except TlsFailure as exc:
            raise tls_dial_error(exc, self._host) from exc
        except StreamBroken as exc:
            raise DialError("handshake", f"the connection failed: {exc}", hint=self._hint()) from exc
        if self._first is None:
            self._first = data[:1]
            if not data:
                raise DialError("handshake", "the connection was closed without an answer", hint=self._hint())
        self._http.receive_data(data)

    def _hint(self) -> str:
        if self._tls:
            return ""
        if self._first and self._first[0] in _TLS_RECORDS:
            return "that port speaks TLS: use wss://"
        return "" if self._first else "if that port speaks TLS, use wss://"
