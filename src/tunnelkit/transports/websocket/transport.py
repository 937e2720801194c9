"""The websocket transport: one binary message is one session message (RFC 6455, subprotocol ``tunnelkit.v1``).

Its opening is an ordinary HTTP request, so that proxies let it pass and a refusal can say why. Extensions are
neither asked for nor granted: compressed messages would have no bound.
"""

from __future__ import annotations

from contextlib import suppress

import anyio
from wsproto.utilities import generate_nonce

from ...errors import DialError, StreamBroken
from ...handshake import Grant, Refusal
from ...net.stream import ByteStream
from ..answers import Answer, Target, judge_answer, refusal_answer
from ..base import Connection, DialRequest, MountedRequest, Offer, Transport
from .connection import WebSocketConnection
from .handshake import (
    accept_fields,
    check_request,
    check_switched,
    request_fields,
)
from .opening import OpeningExchange, opening_request

__all__ = ["WebSocketTransport"]


class WebSocketTransport(Transport):
    """Both halves; the server's is at ``/_tunnel`` of its port. The best one where it passes, and the default."""

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
    exchange = OpeningExchange(stream, target)
    await exchange.send(opening_request(target, request_fields(target, key, request.handshake, request.user_agent)))
    head = await exchange.head()
    fields = list(head.headers.raw_items())
    if head.status_code != 101:
        raise judge_answer(head.status_code, fields, await exchange.body(), tls=target.tls)
    grant = check_switched(fields, key)
    return WebSocketConnection(stream, client=True, early=exchange.early), grant
