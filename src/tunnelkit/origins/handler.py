"""An asynchronous function as origin: one request in, one response out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, aclosing
from typing import Final, TypeAlias

import anyio

from ..config import DEFAULT_LIMITS, MIB, Limits
from ..errors import AppError
from ..heads import Fields, field_values
from .answer import Answer
from .app import AppOrigin, run_apart
from .base import OriginExchange
from .conversation import Conversation
from .facts import RequestFacts, request_facts

__all__ = ["Handler", "HandlerOrigin", "HeaderPairs", "Request", "Response"]

HeaderPairs: TypeAlias = Iterable[tuple[str | bytes, str | bytes]]

READ_LIMIT: Final = 16 * MIB


class Request:
    """What a handler is given. Its body is an async iterator of ``bytes``, to be used by one task, once; cancelling
    loses none of it. When the caller leaves, the handler is cancelled."""

    def __init__(self, conversation: Conversation, facts: RequestFacts, answer: Answer) -> None:
        head = conversation.exchange.head
        self.method = head.method.decode("ascii")
        self.target = head.target.decode("ascii")
        """Path and query as the caller sent them."""
        self.path = facts.path.decode("utf-8", "replace")
        """Percent-decoded."""
        self.query = facts.query.decode("ascii")
        """As sent, without the question mark."""
        self.scheme = facts.scheme
        """``http`` or ``https``: how the caller came to the tunnel server."""
        self.host = facts.authority.decode("ascii", "replace")
        """The host that the caller asked for, with its port where it named one."""
        self.caller = facts.caller
        """The caller's address, as the tunnel server tells it; "" if it is not known."""
        self.fields = facts.fields
        """Header fields in order, with names as the caller wrote them."""
        self._conversation = conversation
        self._answer = answer

    def __repr__(self) -> str:
        return f"<Request {self.method}>"

    def header(self, name: str) -> str | None:
        """The value of a header field, several joined with a comma; None where there is none."""
        values = field_values(self.fields, name.lower().encode("latin-1"))
        return b", ".join(values).decode("latin-1") if values else None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next piece of the body. Cancelling loses nothing."""
        piece = await self._conversation.receive()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def read(self, limit: int = READ_LIMIT) -> bytes:
        """The whole body. Raises AppError if it is longer than ``limit`` bytes. Cancelled, what was read is lost."""
        body = bytearray()
        async for piece in self:
            body += piece
            if len(body) > limit:
                raise AppError(f"the request's body is longer than {limit} bytes")
        return bytes(body)

    @property
    def trailers(self) -> Fields:
        """The fields behind the body, complete at its end."""
        return list(self._conversation.exchange.trailers)

    def early_hints(self, *links: str) -> None:
        """Send 103 (Early Hints, RFC 8297) with these Link values."""
        self._answer.hint([(b"Link", link.encode("latin-1")) for link in links])


class Response:
    """What a handler returns.

    ``body`` is bytes, text (sent as UTF-8), or an async iterable of bytes, which is sent as it comes; a generator is
    closed in any case. ``trailers`` are the fields behind such a body: a list that the iterable may fill until its
    end. Content-Length is told for bytes and text.
    """

    def __init__(
        self,
        status: int = 200,
        headers: HeaderPairs = (),
        body: bytes | str | AsyncIterable[bytes] = b"",
        *,
        trailers: list[tuple[str, str]] | None = None,
    ) -> None:
        self.status = status
        self.headers = list(headers)
        self.body = body.encode() if isinstance(body, str) else body
        self.trailers = trailers

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class HandlerOrigin(AppOrigin):
    """Serves requests by ``handler``, which is cancelled when its caller leaves. What it raises is logged, and told
    the caller as 502, without its words.

    ``host``
        What the request says it is for: None for what the caller asked for.
    ``limits``
        ``app_calls``.
    """

    def __init__(self, handler: Handler, *, host: str | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(limits=limits)
        self._handler = handler
        self._host = host

    async def answer(self, exchange: OriginExchange) -> None:
        scope = anyio.CancelScope()
        conversation = Conversation(exchange, on_gone=scope.cancel)
        answer = Answer(conversation, limits=self.limits)
        request = Request(conversation, request_facts(exchange.head, self._host, exchange.caller), answer)

        async def call() -> None:
            with scope:
                await _respond(answer, await self._handler(request))

        await run_apart(conversation, call)
        if not answer.complete and not exchange.gone:  # what it awaited was cancelled, and it with that
            raise AppError("the handler ended without a complete response")


async def _respond(answer: Answer, response: Response) -> None:
    if not isinstance(response, Response):
        raise AppError(f"the handler returned {type(response).__name__}, not a Response")
    body = response.body
    if isinstance(body, AsyncIterable):
        await _stream(answer, response, body)
        return
    answer.start(response.status, _encoded(response.headers))
    await answer.send_whole(bytes(body))
    answer.end()


async def _stream(answer: Answer, response: Response, body: AsyncIterable[bytes]) -> None:
    """The head goes out at once: the first piece may be long in coming."""
    async with AsyncExitStack() as stack:
        if isinstance(body, AsyncGenerator):
            await stack.enter_async_context(aclosing(body))
        answer.start(response.status, _encoded(response.headers))
        answer.begin()
        async for piece in body:
            await answer.send(bytes(piece))
        answer.end(_encoded(response.trailers or ()))


def _encoded(pairs: HeaderPairs) -> Fields:
    try:
        return [(_latin(name), _latin(value)) for name, value in pairs]
    except (TypeError, ValueError, AttributeError):
        raise AppError("header fields must be pairs of strings in Latin-1, or of byte strings") from None


def _latin(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
