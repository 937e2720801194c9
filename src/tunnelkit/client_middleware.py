"""Middleware at the client: what an origin sees of an exchange, whose answer waits for the functions around it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import anyio

from .config import Limits
from .errors import StreamBroken, TunnelkitError
from .forwarding import upgrade_of
from .heads import Fields, ResponseHead, validate_request, validate_response
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
from .origins.base import Origin, OriginExchange
from .origins.passing import PassingExchange
from .problem import problem

__all__ = ["AroundOrigin", "HeldExchange", "around_origins"]

logger = logging.getLogger("tunnelkit.client")


def around_origins(middleware: Sequence[Middleware], *, limits: Limits) -> Callable[[Origin], Origin]:
    """What puts ``middleware`` around any origin."""
    return lambda origin: AroundOrigin(origin, middleware, limits=limits)


class AroundOrigin(Origin):
    """``origin`` with ``middleware`` around each of its exchanges."""

    def __init__(self, origin: Origin, middleware: Sequence[Middleware], *, limits: Limits) -> None:
        self._origin = origin
        self._middleware = middleware
        self._limits = limits

    async def serve(self, exchange: OriginExchange) -> None:
        """What a function raises is a 502 for this request alone. Cancelled, all of it is."""
        answer: HttpAnswer | None = None
        failure: Exception | None = None
        held = HeldExchange(exchange)
        async with anyio.create_task_group() as group:

            async def carry() -> None:
                try:
                    await self._origin.begin(held).finish()
                    if not held.ended:
                        held.fail(502, "origin_failed", "the origin gave no complete answer")
                except Exception as error:
                    if not isinstance(error, TunnelkitError):
                        logger.exception("an origin failed")
                    held.fail(502, "origin_failed", "the origin failed")
                finally:
                    held.end()

            async def innermost(request: HttpExchange) -> HttpAnswer:
                self._change(held, request)
                group.start_soon(carry)
                return HttpAnswer.of(await held.answer())

            try:
                answer = await chained(self._middleware, innermost)(_exchange(exchange))
                head = self._checked(answer, held)
                if not stands_alone(answer):
                    held.release(head)
            except Exception as error:
                failure = error
            if failure is not None or answer is None or stands_alone(answer):
                group.cancel_scope.cancel()
        if failure is not None:
            if not exchange.gone:
                logger.error("middleware failed", exc_info=failure)
            exchange.fail(502, "origin_failed", "the middleware at the tunnel client failed")
        elif answer is not None and stands_alone(answer):
            await _send_whole(exchange, head, own_body(answer, exchange.head.method))

    def _change(self, held: HeldExchange, request: HttpExchange) -> None:
        if held.asked:
            raise RuntimeError("call_next may be called once")
        held.asked = True
        target = request.target.encode("ascii")
        if target[:1] not in (b"/", b"*"):
            raise ValueError("a target is a path")
        head = changed_request(request, held.head, target=target)
        validate_request(head, self._limits)
        held.head = head

    def _checked(self, answer: HttpAnswer, held: HeldExchange) -> ResponseHead:
        if not isinstance(answer, HttpAnswer):
            raise TypeError(f"the middleware returned {type(answer).__name__}, not an HttpAnswer")
        if answer.head is not None and (held.response is None or (answer.status == 101) != held.switches):
            raise ValueError("only the answer of call_next may switch protocols, and it must")
        if answer.head is None and not 200 <= answer.status <= 599:
            raise ValueError("an answer has a status from 200 to 599")
        head = changed_answer(answer)
        validate_response(head, self._limits)
        return head

    async def aclose(self) -> None:
        """The origin inside is closed by whoever made it."""


def _exchange(exchange: OriginExchange) -> HttpExchange:
    return HttpExchange(
        method=exchange.head.method.decode("latin-1"),
        target=exchange.head.target.decode("latin-1"),
        fields=list(exchange.head.fields),
        caller=exchange.caller,
        upgrade=upgrade_of(exchange.head) is not None,
    )


async def _send_whole(exchange: OriginExchange, head: ResponseHead, body: bytes) -> None:
    exchange.send_head(head)
    news = anyio.Event()
    exchange.on_news(lambda: news.set())
    rest = memoryview(body)
    while rest and not exchange.gone:
        room = exchange.room
        if room > 0:
            exchange.send_body(rest[:room])
            rest = rest[room:]
        else:
            news = anyio.Event()
            await news.wait()
    exchange.send_end()


class HeldExchange(PassingExchange):
    """``inner``, with what is answered held back until ``release``. There is no room until then, so no more of the
    body is held than an origin sends unasked: one piece."""

    def __init__(self, inner: OriginExchange) -> None:
        super().__init__(inner)
        self.asked = False
        self.switches = False
        self.ended = False  # it was answered whole, or failed
        self.response: ResponseHead | None = None
        self._released = False
        self._held: list[Callable[[], None]] = []  # what was sent meanwhile
        self._wake: Callable[[], None] = _nobody
        self._news = anyio.Event()  # for the functions
        self._opened = anyio.Event()  # for an upgrade

    # -- for whoever holds it ------------------------------------------------------------------

    async def answer(self) -> ResponseHead:
        """The final head. Raises StreamBroken when there is none: the caller left, say."""
        await self._news.wait()
        if self.response is None:
            raise StreamBroken("the exchange ended without an answer")
        return self.response

    def release(self, head: ResponseHead) -> None:
        """Let ``head`` and all behind it go."""
        self.response = head
        self._released = True
        if not self.switches:
            self._inner.send_head(head)
        for send in self._held:
            send()
        self._held.clear()
        self._opened.set()
        self._wake()

    def end(self) -> None:
        """The origin is done with it."""
        self._news.set()

    def _send(self, send: Callable[[], None]) -> None:
        if self._released:
            send()
        else:
            self._held.append(send)

    # -- for the origin: the answer ------------------------------------------------------------

    @property
    def room(self) -> int:
        return self._inner.room if self._released else 0

    def send_head(self, head: ResponseHead, *, fin: bool = False) -> None:
        if head.status < 200 and head.status != 101:
            self._inner.send_head(head)
            return
        self.response = head
        self._news.set()
        if fin:
            self.send_end()

    def send_body(self, data: Buffer) -> None:
        if self._released:
            self._inner.send_body(data)
        else:
            kept = bytes(data)
            self._held.append(lambda: self._inner.send_body(kept))

    def send_end(self, trailers: Fields | None = None) -> None:
        self.ended = True
        self._send(lambda: self._inner.send_end(trailers))

    @property
    def answered(self) -> bool:
        return self.response is not None

    def fail(self, status: int, code: str, detail: str) -> None:
        if self.ended:
            return
        if self.response is None:
            head, body = problem(status, code, detail, self.head)
            self.send_head(head)
            self.send_body(body)
            self.send_end()
        else:
            self.ended = True
            self._send(lambda: self._inner.fail(status, code, detail))

    async def splice(self, head: ResponseHead, peer: ByteStream) -> None:
        self.switches = self.ended = True
        self.response = head
        self._news.set()
        await self._opened.wait()
        await self._inner.splice(self.response, peer)

    def on_news(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._inner.on_news(wake)


def _nobody() -> None:
    """Whom nobody waits for."""
