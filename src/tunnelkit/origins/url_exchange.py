"""One exchange with an origin behind a URL: the connection it goes out on, and both messages, as they come."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from ..core.known_heads import KnownResponse
from ..errors import DialError, HeadError, StreamBroken
from ..forwarding import forward_response
from ..heads import ResponseHead
from ..http.client import OriginConnection
from ..http.client_codec import RequestBlock
from ..http.codec import Body, End
from ..http.pool import OriginPool
from .base import OriginExchange, Perch
from .patience import PatientDial

__all__ = ["UrlExchange"]

# What may be repeated though the origin may have acted on it (RFC 9110 9.2.2).
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


_END: Final = End([])


class UrlExchange:
    """What is ``Begun`` of it. Where a kept-alive connection is idle, the request is on its way once this is made.
    ``failed`` hears why no connection could be had, or what was wrong with the answer."""

    __slots__ = (
        "_connection",
        "_dial",
        "_exchange",
        "_failed",
        "_failure",
        "_last",
        "_pool",
        "_request",
        "_request_ended",
        "_starved",
    )

    def __init__(
        self,
        exchange: OriginExchange,
        request: RequestBlock,
        pool: OriginPool,
        dial: PatientDial,
        failed: Callable[[DialError | HeadError], None],
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._pool = pool
        self._dial = dial
        self._failed = failed
        self._request_ended = not exchange.has_body
        self._starved = False  # the tunnel took no more of the answer
        # How the answer ended, and why it failed, where that came before ``finish`` began.
        self._last: End | ResponseHead | None = None
        self._failure: Exception | None = None
        self._connection = pool.acquire_nowait()
        if self._connection is not None:
            self._send_request(self._connection)

    @property
    def perch(self) -> Perch | None:
        return self._connection

    def drop(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    def advance(self) -> bool:
        """An answer that is there as a whole is passed on, and its connection given back."""
        connection = self._connection
        if connection is None:
            return False
        try:
            self._last = self._pump_answer(connection)
        except Exception as error:
            self._failure = error
        return isinstance(self._last, End) and self._pool.keep(connection)

    async def finish(self) -> Perch | None:
        """A kept-alive connection that turns out to be dead is replaced once, where the request may be made again
        (RFC 9112 9.3.1)."""
        if self._connection is None or not await self._try(self._connection):
            self._connection = await self._connect()
            if self._connection is None:
                return None
            self._send_request(self._connection)
            await self._try(self._connection)
        return self._connection if self._pool.release(self._connection) else None

    async def _connect(self) -> OriginConnection | None:
        """None: nobody waits for the answer any more, or it is that the origin cannot be reached."""
        if not self._is_wanted():
            return None
        try:
            never_sent = self._connection is None or self._connection.request_untouched
            connection = await self._dial.connect(never_sent=never_sent, is_wanted=self._is_wanted)
        except DialError as error:
            self._failed(error)
            self._exchange.fail(*_DIAL_FAILURES.get(error.stage, _UNREACHABLE))
            return None
        if not self._is_wanted():  # it left while we dialled: the origin is not to see it
            self._pool.release(connection)
            return None
        return connection

    def _is_wanted(self) -> bool:
        return not self._exchange.gone

    async def _try(self, connection: OriginConnection) -> bool:
        """False: the connection was dead before it took the request, which may go out on another."""
        exchange, reused = self._exchange, connection.exchanges > 1
        try:
            await self._drive(connection)
        except (StreamBroken, HeadError) as error:
            connection.abort()
            repeatable = connection.request_untouched or self._request.method in IDEMPOTENT
            # One that has begun to answer was alive: what it lacks is not for another connection to give, and what
            # it said, an interim head perhaps, is with the caller (RFC 9110 9.2.2).
            repeatable = repeatable and not (connection.answer_begun or exchange.body_started)
            if reused and repeatable:
                return False
            self._tell_failure(error)
        except BaseException:
            connection.abort()
            raise
        return True

    def _tell_failure(self, error: StreamBroken | HeadError) -> None:
        if isinstance(error, HeadError):
            self._failed(error)
            self._exchange.fail(502, error.code, "the origin's answer is malformed or incomplete")
        else:
            self._exchange.fail(502, "origin_failed", "the origin broke its connection off")

    # -- both ways -----------------------------------------------------------------------------

    def _send_request(self, connection: OriginConnection) -> None:
        try:
            self._write_request(connection)
        except BaseException:
            connection.abort()  # nobody else has it
            raise

    def _write_request(self, connection: OriginConnection) -> None:
        exchange = self._exchange
        exchange.on_news(connection.wake)
        self._request_ended = not exchange.has_body
        if self._request_ended:
            gone = connection.send_whole(self._request)
        else:
            connection.send_block(self._request)
            gone = self._pump_body(connection)
            gone = connection.flush() and gone
        if not gone:
            connection.wake()  # a worker that waits there waits for the answer alone

    async def _drive(self, connection: OriginConnection) -> None:
        """Pump both ways until the answer is complete or nobody wants it. Raises StreamBroken or HeadError when the
        origin failed; the connection is spoilt then."""
        exchange = self._exchange
        self._raise_failure()
        while (last := self._last or self._pump_answer(connection)) is None:
            if exchange.gone:
                connection.abort()
                return
            fitted = self._pump_body(connection)
            flushed = connection.flush()
            # What did not fit may fit by now, though all before it is taken: nobody else comes back for it.
            await connection.wait(readable=not self._starved, writable=not (fitted and flushed))
        if isinstance(last, ResponseHead):
            await self._switch(connection, last)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # it knows this frame, which is not to know it

    async def _switch(self, connection: OriginConnection, head: ResponseHead) -> None:
        while not connection.flush():
            await connection.wait(writable=True)
        await self._exchange.splice(forward_response(head), connection.upgraded())
        connection.abort()

    def _pump_body(self, connection: OriginConnection) -> bool:
        """False when a piece that is there did not fit."""
        exchange = self._exchange
        while not self._request_ended and (piece := exchange.body_waiting) is not None:
            if not piece:
                connection.send_end(exchange.trailers or None)
                self._request_ended = True
            elif connection.try_send_body(piece):
                exchange.body_taken()
            else:
                return False
        return True

    def _pump_answer(self, connection: OriginConnection) -> End | ResponseHead | None:
        """What ends the HTTP of it, once that came: its end, or the head of a 101."""
        exchange = self._exchange
        while not (self._starved and self._is_starved()) and (event := connection.next_event_nowait()) is not None:
            if isinstance(event, Body):
                if connection.body_complete:
                    exchange.send_last(event.data)
                    last = connection.next_event_nowait()
                    assert isinstance(last, End)
                    return last
                exchange.send_body(event.data)
                self._starved = exchange.room <= 0
            elif isinstance(event, End):
                exchange.send_end(event.trailers or None)
                return event
            elif event.status == 101:
                return event
            elif event.status < 200:  # of which any number may come
                exchange.send_head(forward_response(event))
                self._starved = exchange.room <= 0
            else:
                body = connection.take_rest()
                self._send_final(connection, event, more=body is not None)
                if body is not None:  # as most small answers are that come in one piece
                    exchange.send_last(body)
                    return _END
        return None

    def _send_final(self, connection: OriginConnection, head: ResponseHead, *, more: bool) -> None:
        known = connection.plan(KnownResponse, partial(_known, head))
        self._exchange.send_known(known, more=more)

    def _is_starved(self) -> bool:
        self._starved = self._exchange.room <= 0
        return self._starved


def _known(head: ResponseHead) -> KnownResponse:
    return KnownResponse.outgoing(forward_response(head))


_UNREACHABLE = (502, "origin_unreachable", "the origin cannot be reached")
_DIAL_FAILURES = {
    "address": (403, "x_host_refused", "this X-Host leads to an address that the client does not connect to"),
    "connect": (502, "origin_unreachable", "the origin refused the connection, or cannot be reached"),
    "resolve": (502, "origin_unreachable", "the origin's name cannot be resolved"),
    "tls": (502, "origin_tls", "no secure connection to the origin"),
}
