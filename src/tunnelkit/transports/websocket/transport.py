"""The websocket transport: one binary message is one session message (RFC 6455, subprotocol ``tunnelkit.v1``).

Its opening is an ordinary HTTP request, so that proxies let it pass and a refusal can say why. Extensions are
neither asked for nor granted: compressed messages would have no bound.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, TypeAlias

import anyio
import h11
from anyio.lowlevel import checkpoint
from wsproto.utilities import generate_nonce

from ...errors import DialError, LocalProtocolError, StreamBroken
from ...handshake import Grant, Refusal
from ...net.stream import ByteStream
from ...net.tls import TlsFailure
from ...net.tls_errors import tls_dial_error
from ..answers import Answer, Target, judge_answer, refusal_answer
from ..base import Connection, DialRequest, MountedRequest, Offer, Transport
from .connection import WebSocketConnection
from .handshake import (
    accept_fields,
    check_request,
    check_switched,
    request_fields,
)

__all__ = ["WebSocketTransport"]

# Of an answer to the opening request.
MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 16 * 1024
BODY_TIMEOUT: Final = 1.0

_READ = 16 * 1024
_TLS_RECORDS = (0x15, 0x16)  # alert, handshake (RFC 8446 5.1)

_Event: TypeAlias = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


class WebSocketTransport(Transport):
    name = "websocket"

    # -- the client half -----------------------------------------------------------------------

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        target = Target.parse(request.url)
        stream: ByteStream | None = None
        try:
            with anyio.fail_after(request.timeout):
                stream = await request.dialler(target.host, target.port, tls=target.tls)
                return await _open(stream, target, request)
        except TimeoutError as exc:
            _abort(stream)
            stage = "connect" if stream is None else "handshake"
            raise DialError(stage, f"no answer from {request.url} within {request.timeout:g} s") from exc
        except BaseException:
            _abort(stream)
            raise

    # -- the server half -----------------------------------------------------------------------

    def mount_path(self) -> str:
        return ""

    async def mounted(self, request: MountedRequest, offer: Offer) -> None:
        opening = check_request(request.method, request.fields)
        if isinstance(opening, Answer):
            await _respond(request, opening)
            return
        answer = await offer(opening.handshake, request.peer)
        if isinstance(answer, Refusal):
            await _respond(request, refusal_answer(answer))
            return
        try:
            stream = await request.upgrade(accept_fields(opening.key, answer.grant))
        except StreamBroken:
            answer.abandon()
            return
        except BaseException:
            answer.abandon()
            raise
        await answer.serve(WebSocketConnection(stream, client=False))


async def _respond(request: MountedRequest, answer: Answer) -> None:
    with suppress(StreamBroken):  # the client left meanwhile: nobody is there to be told
        await request.respond(answer.status, answer.fields, answer.body)


def _abort(stream: ByteStream | None) -> None:
    if stream is not None:
        stream.abort()


async def _open(stream: ByteStream, target: Target, request: DialRequest) -> tuple[Connection, Grant]:
    key = generate_nonce()
    exchange = _Exchange(stream, target)
    await exchange.send(_request(target, request_fields(target, key, request.handshake, request.user_agent)))
    head = await exchange.head()
    fields = list(head.headers.raw_items())
    if head.status_code != 101:
        raise judge_answer(head.status_code, fields, await exchange.body(), tls=target.tls)
    grant = check_switched(fields, key)
    return WebSocketConnection(stream, client=True, early=exchange.early), grant


def _request(target: Target, fields: list[tuple[bytes, bytes]]) -> h11.Request:
    try:
        return h11.Request(method=b"GET", target=target.path, headers=fields)
    except h11.LocalProtocolError:
        # Not chained: h11's message quotes the value, which may be a secret.
        raise LocalProtocolError("a handshake field holds what HTTP does not allow", code="bad_field") from None


class _Exchange:
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
