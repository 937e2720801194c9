"""A client's opening request to what may be a WStunnel server, and whether it is one."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
from wsproto.utilities import generate_nonce

from ..errors import AnsweredByOther, DialError
from ..heads import Fields
from ..net.stream import ByteStream
from ..transports.answers import Target, retry_after
from ..transports.base import DialRequest
from ..transports.websocket.opening import OpeningExchange, opening_request
from .wstunnel_handshake import is_theirs, probe_fields

__all__ = ["OpeningAnswer", "ask", "check_server"]


@dataclass(frozen=True, slots=True)
class OpeningAnswer:
    status: int
    fields: Fields
    body: bytes
    stream: ByteStream | None = None  # of a 101, and what came behind it
    early: bytes = b""


async def ask(request: DialRequest, fields: Fields) -> OpeningAnswer:
    """Open a websocket with these fields. Raises ``DialError``; cancelled, nothing stays open."""
    target = Target.parse(request.url)
    stream: ByteStream | None = None
    answer: OpeningAnswer | None = None
    try:
        with anyio.fail_after(request.timeout):
            stream = await request.dialler(target.host, target.port, tls=target.tls)
            answer = await _exchange(stream, target, fields)
        return answer
    except TimeoutError as exc:
        raise DialError("handshake", f"no answer from {request.url} within {request.timeout:g} s") from exc
    finally:
        if stream is not None and (answer is None or answer.stream is None):
            stream.abort()


async def _exchange(stream: ByteStream, target: Target, fields: Fields) -> OpeningAnswer:
    exchange = OpeningExchange(stream, target)
    await exchange.send(opening_request(target, fields))
    head = await exchange.head()
    told = list(head.headers.raw_items())
    if head.status_code == 101:
        return OpeningAnswer(101, told, b"", stream, exchange.early)
    return OpeningAnswer(head.status_code, told, await exchange.body())


async def check_server(request: DialRequest) -> None:
    """Ask without a token. Raises ``AnsweredByOther`` unless the answer is, to the letter, that of a WStunnel server:
    no other learns the token."""
    fields = probe_fields(Target.parse(request.url), generate_nonce(), request.user_agent)
    answer = await ask(request, fields)
    if answer.stream is not None:
        answer.stream.abort()
    if not is_theirs(answer.status, answer.fields, answer.body):
        raise AnsweredByOther(
            answer.status,
            f"this is no WStunnel server: it answered a handshake without a token with status {answer.status}",
            retry_after=retry_after(answer.fields),
        )
