"""The front: serves callers' connections, one task each.

A connection is a loop: read a head, let the handler answer, finish, read the next. What goes wrong on it costs
the connection, never the listener. A request that comes whole while the task waits for it is begun right where its
bytes came in; where its answer then fits the caller's socket, the task sleeps on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import TypeAlias

import anyio
import anyio.lowlevel

from ..config import DEFAULT_LIMITS, Limits
from ..errors import HeadError, StreamBroken
from ..heads import RequestHead, ResponseHead
from ..net.peer import Peer
from ..net.stream import READ_AHEAD, ByteStream
from ..net.timers import Timers
from .caller import Begun, CallerConnection, FrontRequest
from .codec import HeadParser
from .codec_moves import Signal
from .dates import Dates
from .parsers import DEFAULT_PARSER

__all__ = ["Beginner", "ErrorResponder", "Front", "Handler", "plain_error"]

Handler: TypeAlias = Callable[[FrontRequest], Awaitable[None]]
Beginner: TypeAlias = Callable[[FrontRequest], Begun | None]
ErrorResponder: TypeAlias = Callable[[RequestHead | None, HeadError], tuple[ResponseHead, bytes]]

_logger = logging.getLogger("tunnelkit.server")


def plain_error(head: RequestHead | None, error: HeadError) -> tuple[ResponseHead, bytes]:
    """An answer in plain text."""
    body = f"{error.status} {error.detail}\n".encode("utf-8", "replace")
    try:
        reason = HTTPStatus(error.status).phrase.encode("ascii")
    except ValueError:
        reason = b""
    fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Content-Length", b"%d" % len(body))]
    return ResponseHead(error.status, fields, reason), body


class Front:
    """``handler`` answers a request before it returns, or the front does so with 500. ``begin`` is asked first about
    one that came whole; None, with nothing done, leaves it to ``handler``. ``half_close_answers``: a caller that ends
    its sending half still gets its answer (design, section 8). ``dates``: answers without a Date get one."""

    def __init__(
        self,
        handler: Handler,
        *,
        begin: Beginner | None = None,
        timers: Timers,
        limits: Limits = DEFAULT_LIMITS,
        parser: HeadParser = DEFAULT_PARSER,
        error_responder: ErrorResponder = plain_error,
        half_close_answers: bool = False,
        dates: Dates | None = None,
    ) -> None:
        self._handler = handler
        self._begin = begin
        self._timers = timers
        self._limits = limits
        self._parser = parser
        self._error_responder = error_responder
        self._half_close_answers = half_close_answers
        self._dates = dates
        self._connections: set[CallerConnection] = set()
        self._draining = False
        self._ended = anyio.Event()  # a connection; replaced by ``quiet``

    @property
    def connections(self) -> int:
        return len(self._connections)

    def drain(self) -> None:
        """Let every request that runs be the last of its connection; connections without one end now. Who connects
        from now on may ask once, to be told. The connections of tunnel clients live on: what carries the exchanges
        that still run, and at last the word that the server closes, has no other way."""
        self._draining = True
        for connection in self._connections:
            if not connection.is_link:
                connection.closing = True
                connection.stream.wake()

    async def quiet(self) -> None:
        """Wait, while draining, until every answer is with its caller and the connections are closed, but for those
        that were upgraded, those of tunnel clients, and those on which nobody asks for anything."""
        while any(connection.unfinished for connection in self._connections):
            self._ended = anyio.Event()
            await self._ended.wait()

    def abort(self) -> None:
        """Break every connection off."""
        for connection in self._connections:
            connection.break_off()

    async def serve_connection(self, stream: ByteStream, peer: Peer) -> None:
        """Serve ``stream`` to its end and close it. Raises nothing but cancellation, which breaks it off."""
        connection = CallerConnection(
            stream,
            peer,
            limits=self._limits,
            timers=self._timers,
            parser=self._parser,
            answers_half_close=self._half_close_answers,
            dates=self._dates,
        )
        connection.closing = connection.may_ask = self._draining
        if self._begin is not None:
            connection.taker = partial(self._take, connection)
        self._connections.add(connection)
        try:
            await self._serve(connection)
            await stream.aclose()
        except StreamBroken:
            connection.break_off()
        except Exception:
            _logger.exception("serving a caller's connection failed")
            connection.break_off()
        except BaseException:
            connection.break_off()
            raise
        finally:
            connection.close_clocks()
            self._connections.discard(connection)
            self._ended.set()
            self._forget_request(connection)

    def _forget_request(self, connection: CallerConnection) -> None:
        try:
            connection.forget_request()
        except Exception:
            _logger.exception("taking leave of a request failed")

    async def _serve(self, connection: CallerConnection) -> None:
        try:
            while (request := await self._next_request(connection)) is not None:
                lives_on = await self._exchange(connection, request)
                del request  # it is not kept while the next one is waited for
                if not lives_on:
                    return
                connection.codec.start_next_cycle()
                if connection.codec.buffered:  # pipelined: of requests answered at once, one a turn of the loop
                    await anyio.lowlevel.checkpoint()
        except HeadError as error:
            await self._refuse(connection, None, error)

    # -- heads ---------------------------------------------------------------------------------

    async def _next_request(self, connection: CallerConnection) -> FrontRequest | None:
        """None when the connection is over. Raises ``HeadError`` for a head that is refused."""
        codec = connection.codec
        connection.in_head = None
        while True:
            event = codec.next_event()
            if isinstance(event, RequestHead):
                request = self._request(connection, event)
                # As the taker would: a connection whose requests come fast would never rest again, if those that its
                # task happens to read were handled by it to their ends.
                if not self._begun(connection, request):
                    return request
            elif event is Signal.CLOSED:
                return None
            elif connection.read(READ_AHEAD):
                continue
            elif not self._expect_head(connection):
                return None
            await connection.stream.wait(readable=True, taker=connection.taker)
            if connection.request is not None:
                return connection.request

    def _expect_head(self, connection: CallerConnection) -> bool:
        """Let the clock run for what is to come next. False when nothing is, or not any more."""
        mid_head = connection.codec.mid_head
        if connection.late and mid_head and not connection.dead:
            raise HeadError(408, "request_timeout", "the request's head did not come in time")
        if connection.dead or connection.late:
            return False
        if connection.closing and not mid_head and not connection.may_ask:
            return False
        in_head = connection.fresh or mid_head
        if in_head is not connection.in_head:  # in all for a head, however many pieces it comes in
            connection.in_head = in_head
            time = self._limits.head_timeout if in_head else self._limits.keep_alive_idle
            connection.read_clock.set(connection.now() + time)
        return True

    def _request(self, connection: CallerConnection, head: RequestHead) -> FrontRequest:
        connection.read_clock.clear()
        connection.in_head = None
        # It came in the moment in which its time was over: what follows is not to pay for that.
        connection.fresh = connection.may_ask = connection.is_link = connection.late = False
        connection.closing = self._draining
        return FrontRequest(connection, head)

    def _take(self, connection: CallerConnection) -> bool:
        """Bytes came while the task waits: begin the request that they are. False leaves it, as far as it was read,
        to the task."""
        if not connection.let_go() or not connection.read(READ_AHEAD):
            return False
        head = connection.codec.next_event()
        if not isinstance(head, RequestHead):
            return False
        return self._begun(connection, self._request(connection, head))

    def _begun(self, connection: CallerConnection, request: FrontRequest) -> bool:
        """Begin the request, where that can be done without waiting. False leaves it to the task."""
        connection.request = request
        whole = (not request.has_body or request.received) and not connection.codec.buffered
        if self._begin is None or connection.taker is None or not whole:
            return False
        try:
            connection.begun = self._begin(request)
        except Exception as error:
            connection.begun = _Failed(error)
            return False
        return connection.begun is not None

    # -- exchanges -----------------------------------------------------------------------------

    async def _exchange(self, connection: CallerConnection, request: FrontRequest) -> bool:
        """One request and its answer. Whether the connection lives on."""
        begun, connection.request, connection.begun = connection.begun, None, None
        try:
            await (self._handler(request) if begun is None else begun.finish())
        except HeadError as error:
            self._answer_failure(connection, request, error)
        except Exception as error:
            if not (connection.dead and isinstance(error, StreamBroken)):
                _logger.exception("a request's handler failed")
            self._answer_failure(connection, request, _INTERNAL)
        return await self._finish(connection, request)

    def _answer_failure(self, connection: CallerConnection, request: FrontRequest, error: HeadError) -> None:
        if request.answered or connection.gone:
            connection.break_off()
        else:
            self._answer(connection, request.head, error)

    async def _finish(self, connection: CallerConnection, request: FrontRequest) -> bool:
        if request.rested:
            return not connection.gone
        if request.upgraded or connection.dead:
            return False
        if connection.gone and not request.complete:
            connection.break_off()
            return False
        if not request.answered:
            _logger.error("a request's handler returned without an answer")
            self._answer(connection, request.head, _INTERNAL)
        if not request.complete:
            connection.break_off()  # never completed by us: a partial answer is seen to be partial
            return False
        if not connection.flush():
            await connection.drain_output()
        codec = connection.codec
        if codec.persists and (request.received or await request.discard_rest()) and codec.keep_alive:
            return not connection.gone
        if not connection.dead and (not request.received or codec.buffered):
            await self._linger(connection)
        return False

    # -- refusing and closing ------------------------------------------------------------------

    async def _refuse(self, connection: CallerConnection, head: RequestHead | None, error: HeadError) -> None:
        self._answer(connection, head, error)
        await connection.drain_output()
        await self._linger(connection)

    def _answer(self, connection: CallerConnection, head: RequestHead | None, error: HeadError) -> None:
        """The connection ends with this answer."""
        codec = connection.codec
        response, body = self._error_responder(head, error)
        connection.add(
            codec.encode_head(connection.dated(response), close=True), *codec.encode_body(body), codec.encode_end()
        )

    async def _linger(self, connection: CallerConnection) -> None:
        """RFC 9112 9.6: end our half, then read on for a while. Closing with bytes unread would make the kernel
        send RST, which destroys the answer at a caller that has not read it yet."""
        now = connection.now()
        connection.late = False
        connection.write_clock.set(now + self._limits.write_timeout)
        await connection.stream.send_eof()
        connection.write_clock.clear()
        connection.read_clock.set(connection.now() + self._limits.linger_time)
        left = self._limits.linger_bytes
        while not connection.late:
            data = connection.stream.receive_nowait() if left > 0 else None
            if data == b"":
                return
            if data is None:  # with enough read, TCP holds the rest back until our time is over
                await connection.stream.wait(readable=left > 0)
            else:
                left -= len(data)


class _Failed:
    """What could not be begun, for the task to tell."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def finish(self) -> None:
        raise self._error

    def drop(self) -> None: ...


_INTERNAL = HeadError(500, "internal_error", "the server failed to answer this request")
