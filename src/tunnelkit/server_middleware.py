"""Middleware at the server: the caller's request as the gateway sees it, whose answer's head waits for the word of
the functions around it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import anyio

from .config import Limits
from .core.routing import ToName, ToTunnel
from .core.tokens import token_tag
from .errors import HeadError, StreamBroken
from .forwarding import upgrade_of
from .heads import Fields, ResponseHead, validate_request, validate_response
from .http.own_answers import refuse, send_whole
from .http.passing import PassingRequest
from .http.request import CallerRequest
from .middleware import (
    HttpAnswer,
    HttpExchange,
    Middleware,
    chained,
    changed_answer,
    changed_request,
    own_body,
    stands_alone,
)
from .net.stream import Buffer, ByteStream

__all__ = ["AroundRequests", "HeldRequest"]

logger = logging.getLogger("tunnelkit.server")

Where: TypeAlias = "ToTunnel | ToName"
Handle: TypeAlias = Callable[[CallerRequest, Where], Awaitable[None]]


class AroundRequests:
    """``handle`` with ``middleware`` around it; called in its place."""

    def __init__(self, handle: Handle, middleware: Sequence[Middleware], *, limits: Limits) -> None:
        self._handle = handle
        self._middleware = middleware
        self._limits = limits

    async def __call__(self, request: CallerRequest, where: Where) -> None:
        """What a function raises is a 500 for this request alone. Cancelled, all of it is."""
        answer: HttpAnswer | None = None
        failure: Exception | None = None
        held = HeldRequest(request)
        async with anyio.create_task_group() as group:

            async def carry(place: Where) -> None:
                try:
                    await self._handle(held, place)
                    held.end()
                    await held.pushed()
                except (HeadError, StreamBroken) as error:
                    held.failure = error
                except Exception as error:
                    logger.exception("a request's handler failed")
                    held.failure = error
                finally:
                    held.end()

            async def innermost(exchange: HttpExchange) -> HttpAnswer:
                place = self._change(held, exchange, where)
                group.start_soon(carry, place)
                return HttpAnswer.of(await held.answer())

            try:
                answer = await chained(self._middleware, innermost)(_exchange(request, where))
                head = self._checked(answer, held)
                if not stands_alone(answer):
                    held.release(head)
            except Exception as error:
                failure = error
            if failure is not None or answer is None or stands_alone(answer):
                group.cancel_scope.cancel()
        if failure is not None:
            _tell(request, held, failure)
        elif answer is not None and stands_alone(answer):  # whatever became of what was asked
            send_whole(request, head, own_body(answer, request.head.method))
        elif held.failure is not None:
            _tell(request, held, held.failure)

    def _change(self, held: HeldRequest, exchange: HttpExchange, where: Where) -> Where:
        if held.asked:
            raise RuntimeError("call_next may be called once")
        held.asked = True
        target = exchange.target.encode("ascii")
        head = changed_request(exchange, held.head, target=target)
        validate_request(head, self._limits)
        if target[:1] not in (b"/", b"*"):
            raise ValueError("a target is a path")
        head.target = held.head.target  # whose path may hold the token: ``where`` has what counts
        held.head = head
        return replace(where, target=target)

    def _checked(self, answer: HttpAnswer, held: HeldRequest) -> ResponseHead:
        if not isinstance(answer, HttpAnswer):
            raise TypeError(f"the middleware returned {type(answer).__name__}, not an HttpAnswer")
        if answer.head is not None and (held.response is None or (answer.status == 101) != held.switches):
            raise ValueError("only the answer of call_next may switch protocols, and it must")
        head = changed_answer(answer)
        if answer.head is None and not 200 <= answer.status <= 599:
            raise ValueError("an answer has a status from 200 to 599")
        validate_response(head, self._limits)
        return head


def _exchange(request: CallerRequest, where: Where) -> HttpExchange:
    tag = token_tag(where.tokens[0]) if isinstance(where, ToTunnel) else where.name
    return HttpExchange(
        method=request.head.method.decode("latin-1"),
        target=where.target.decode("latin-1"),
        fields=list(request.head.fields),
        caller=request.peer.forwarded_for or request.peer.address,
        tunnel=tag,
        upgrade=request.byte_stream or upgrade_of(request.head) is not None,
    )


def _tell(request: CallerRequest, held: HeldRequest, failure: Exception) -> None:
    if held.released:  # an answer has begun: it is broken off
        request.abort()
    elif isinstance(held.failure, HeadError):
        refuse(request, held.failure.status, held.failure.code, held.failure.detail)
    elif not request.gone:
        logger.error("middleware failed", exc_info=failure)
        refuse(request, 500, "internal_error", "the server failed to pass this request on")


class HeldRequest(PassingRequest):
    """``inner``, with what is answered held back until ``release``: at most one piece of the body is taken till
    then, and the sender waits with the rest."""

    def __init__(self, inner: CallerRequest) -> None:
        super().__init__(inner)
        self.asked = False
        self.released = False
        self.switches = False
        self.response: ResponseHead | None = None
        self.failure: Exception | None = None
        self._early: Buffer = b""
        self._complete = False
        self._told_end = False
        self._aborted = False
        self._trailers: Fields | None = None
        self._over = False
        self._news = anyio.Event()  # for the functions
        self._opened = anyio.Event()  # for an upgrade

    # -- for whoever holds it ------------------------------------------------------------------

    async def answer(self) -> ResponseHead:
        """The final head. Raises StreamBroken when there is none: the caller left, say."""
        await self._news.wait()
        if self.response is None:
            raise self.failure or StreamBroken("the exchange ended without an answer")
        return self.response

    def release(self, head: ResponseHead) -> None:
        """Let ``head`` and all behind it go."""
        self.response = head
        self.released = True
        self._opened.set()
        if not self.switches:
            self._inner.send_head(head)
            self.flush()
        if self._aborted:
            self._inner.abort()
        self._inner.wake()

    async def pushed(self) -> None:
        """Wait until it is released, and all that was held is on its way."""
        if self.response is None:
            return
        await self._opened.wait()
        while not self.switches and not self._push() and not self._inner.gone:
            self._inner.flush()
            await self._inner.wait(writable=True)

    def end(self) -> None:
        """The gateway is done with it."""
        self._over = True
        self._news.set()

    # -- for the gateway: the answer -----------------------------------------------------------

    def send_head(self, head: ResponseHead) -> None:
        self.response = head
        self._news.set()

    def try_send_body(self, data: Buffer) -> bool:
        if self.released and self._push():
            return self._inner.try_send_body(data)
        if self._early:
            return False
        self._early = bytes(data)
        return True

    def send_end(self, trailers: Fields | None = None) -> None:
        self._complete, self._trailers = True, trailers
        self._push()

    def _push(self) -> bool:
        """Give what was held. Whether nothing of it is left."""
        if not self.released:
            return False
        if self._early and not self._inner.try_send_body(self._early):
            return False
        self._early = b""
        if self._complete and not self._told_end:
            self._told_end = True
            self._inner.send_end(self._trailers)
        return True

    def flush(self) -> bool:
        if self.released:
            self._push()
            return self._inner.flush() and self._push()
        return not self._early

    def abort(self) -> None:
        """What is held back broke off: the functions may have an answer of their own all the same."""
        self._aborted = True
        if self.released:
            self._inner.abort()
        self._news.set()

    @property
    def gone(self) -> bool:
        return self._aborted or self._inner.gone

    async def wait(self, *, readable: bool = False, writable: bool = False) -> None:
        await self._inner.wait(readable=readable, writable=writable and self.released)

    async def upgrade(self, head: ResponseHead) -> ByteStream:
        self.switches = True
        self.send_head(head)
        await self._opened.wait()
        return await self._inner.upgrade(self.response or head)
