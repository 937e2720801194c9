"""One session's pump: the one bridge between the sans-IO core and anyio.

A ``Link`` lives as long as its session and owns its core. ``run`` serves one connection: a reader, a writer, and a
timer of the core's. The reader feeds the core, whose events go to the streams' handlers (``link_streams``); the
writer pulls one message whenever the connection is ready and the bell was rung (facts: pull, not push). No await
stands between what is taken out of the core and the send that carries it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import anyio

from .config import Limits
from .core.budget import Budget
from .core.events import Opened
from .core.failures import ConnectionFailed
from .core.frames import StreamKind
from .core.multiplexer import Multiplexer
from .core.opening import OpeningResult
from .core.session import Session, State
from .errors import ConnectionLost, RemoteProtocolError, SessionGone
from .link_run import LinkRun
from .link_streams import LinkStreams
from .net.doorbell import Soon
from .net.loop import loop_clock
from .net.timers import Timer, Timers
from .transports.base import SHORT_TURN, SHORTEST_TURN, TURN, Connection
from .tunnel_stream import Stream, StreamHandler

__all__ = ["Link"]

# Seconds that a last message (BYE) and an orderly close may take.
CLOSE_TIMEOUT = 1.0
LAST_WORD_LIMIT = 4096  # bytes that any transport takes in one message
# Exchanges that share a message, or half as many where few are: with all of a turn's in one the ends work by turns.
SHARED = 16

_GONE: Final = State.GONE
_OVER: Final = (State.GONE, State.CLOSING)


class Link:
    """``accept`` makes the handler of a stream that the peer opens, or None to refuse it.

    ``going_away`` is called (synchronously) when the peer said that it takes no new streams; ``ended``, with a code,
    when the session is over but for our own doing: it must call ``end`` (which is all that it does by default),
    after whatever is to happen before the streams fail. ``timers``: those that run for many links, where there are.
    """

    def __init__(
        self,
        *,
        client: bool,
        limits: Limits,
        budget: Budget,
        peer_window: int,
        peer_floor: int,
        peer_max_streams: int,
        logger: logging.Logger,
        timers: Timers | None = None,
        accept: Callable[[Stream, Opened], StreamHandler | None] | None = None,
        going_away: Callable[[], None] | None = None,
        ended: Callable[[str], None] | None = None,
    ) -> None:
        self.limits = limits
        self.mux = Multiplexer(
            client=client, limits=limits, peer_floor=peer_floor, peer_max_streams=peer_max_streams, budget=budget
        )
        self.session = Session(source=self.mux, limits=limits, peer_window=peer_window, budget=budget)
        self.streams = LinkStreams(
            self.mux,
            ring=self.ring,
            flush=self.flush,
            emptied=self._rest,
            accept=accept,
            going_away=going_away,
            logger=logger,
        )
        self._ended = ended or self.end
        self._logger = logger
        self._run: LinkRun | None = None
        self._now = loop_clock()
        self._gathered = 0  # exchanges that had all they have to say put in since the last message
        self._soon = Soon(self._send_now)
        self._timers = Timers(logger) if timers is None else timers  # which are falsy as long as they are empty
        self._runs_timers = timers is None
        self._timer: Timer | None = None
        self._progressed = False
        self._heard: anyio.Event | None = None  # made by whoever waits for the next message

    # -- for handlers --------------------------------------------------------------------------

    @property
    def connection(self) -> Connection | None:
        return self._run.connection if self._run else None

    @property
    def gone(self) -> bool:
        """The session is over, or about to be."""
        return self.session.state in _OVER

    @property
    def progressed(self) -> bool:
        """Whether the last connection was worth something: it moved an offset, or showed that it is alive."""
        return self._progressed

    def open_stream(
        self, kind: StreamKind, handler: StreamHandler, fields: Mapping[int, bytes] | None = None
    ) -> Stream:
        """Open a stream. Raises what ``Multiplexer.open_stream`` raises when there is no room, and SessionGone."""
        session = self.session
        if session.state in _OVER:
            raise SessionGone("closed")
        stream = self.streams.open(kind, handler, fields or {})
        if not session.active:
            self._activate()
        return stream

    def _activate(self) -> None:
        self._set_active(True)
        self._check_timer()

    def _rest(self) -> None:
        """No exchange is under way. Where silence is asked about by pings, ``_tick`` sees to it: who asks one
        thing after the other would have it change twice for each."""
        run = self._run
        if run is None or not run.connection.wants_pings:
            self._set_active(False)

    def _set_active(self, active: bool) -> None:
        self.session.active = active
        if self._run is not None:
            self._run.connection.active = active

    def ring(self) -> None:
        """There may be something to send."""
        run = self._run
        if run is None or self._soon.asked:  # without a connection, the next one's writer looks by itself
            return
        # Where the way takes it at once, that needs no task.
        at_once = run.bell.awaited and not self.gone and run.connection.room_now()
        if not (at_once and self._soon.ask()):
            run.bell.ring()

    def flush(self) -> None:
        """One has no more to add: send at once where it is alone, or enough have gathered to share a message."""
        self._gathered = gathered = self._gathered + 1
        count = len(self.streams.by_id)
        if count == 1 or gathered >= SHARED or (gathered >= SHARED // 2 and gathered * 2 >= count):
            self._soon.call_off()
            self._send_now()
        else:
            self.ring()

    def _send_now(self) -> None:
        """Send a message, if the way takes one without waiting. A writer that is at work is left to it."""
        run = self._run
        if run is None:
            return
        if run.bell.awaited and not run.held and not self.gone:
            try:
                self._send_message(run)
            except Exception as error:
                self._fail(run, error)
                return
        if self._has_output(run) or self.gone:
            run.bell.ring()
        else:
            self._check_timer()

    def _send_message(self, run: LinkRun) -> None:
        connection = run.connection
        room = connection.room_now()
        message = self.session.data_to_send(self._now(), room, connection.at_once) if room else b""
        if message:
            with suppress(ConnectionLost):  # which the reader hears of too
                connection.send_now(message)
            self._after_message()

    # -- one connection ------------------------------------------------------------------------

    async def run(self, connection: Connection, opened: OpeningResult, *, greeting: bytes = b"") -> Exception:
        """Serve ``connection`` from its ATTACH on until it or the session ends; return why.

        ``greeting`` goes out first (the server's ATTACH). A connection served before is fenced first. When
        cancelled, the connection is dropped; the session is detached and can be resumed. Raises RemoteProtocolError
        when the peer's ack cannot be (the session cannot go on then).
        """
        self.fence(ConnectionLost("another connection took over"))
        assert opened.attached is not None
        self.session.attach(
            opened.attached.epoch,
            opened.attached.peer_ack,
            anyio.current_time(),
            max_message=connection.max_message,
            ordered=connection.ordered,
            pings=connection.wants_pings,
        )
        run = LinkRun(connection)
        try:
            await self._serve(run, greeting, opened.unread)
            self._leave(run)
            failure = run.failure or ConnectionLost("it took nothing any more")
            await self._close(run, failure)
        finally:
            self._leave(run)
            connection.abort()
        return failure

    def fence(self, reason: Exception) -> None:
        """Detach from the connection served now: nothing that it still does changes the session."""
        run = self._run
        if run is None:
            return
        self._leave(run)
        run.end(reason)
        run.connection.abort()

    def hold(self) -> None:
        """Take nothing more out of the session for the connection served now: ATTACH goes out on another, and the
        peer must not hear of later bytes than those that it acknowledges. Only a farewell still passes."""
        if self._run is not None:
            self._run.held = True

    async def answers(self, timeout: float) -> bool:
        """Ask the peer for a sign of life; whether one came within ``timeout`` seconds."""
        if self._run is None:
            return False
        heard = self._next_message()
        self.session.ask()
        self.ring()
        with anyio.move_on_after(timeout):
            await heard.wait()
        return heard.is_set()

    async def settle(self) -> None:
        """Wait until every stream is over and the peer has all that was sent, or the session is gone. While there
        is no connection, that is a wait for the next one."""
        while not self.gone and (
            self.mux.active_streams or self.mux.has_output or self.session.acked < self.session.sent
        ):
            await self._next_message().wait()

    def _next_message(self) -> anyio.Event:
        """Set when the peer is heard again, or the session ends."""
        if self._heard is None:
            self._heard = anyio.Event()
        return self._heard

    def _tell_heard(self) -> None:
        if self._heard is not None:
            self._heard.set()
            self._heard = None

    def end(self, code: str) -> None:
        """End the session with ``code``: the peer is told when a connection is there, every stream is over.

        Where the connection takes no farewell, ``run`` ends after ``CLOSE_TIMEOUT`` all the same. Idempotent.
        """
        if not self.gone:
            self.session.close(code, anyio.current_time())
            self.ring()
            if self._run is not None:
                self._run.group.cancel_scope.deadline = anyio.current_time() + CLOSE_TIMEOUT
        self.streams.fail_all()
        self.mux.close()
        self._tell_heard()

    def _leave(self, run: LinkRun) -> None:
        if self._run is run:
            self._run = None
            if self._timer is not None:
                self._timer.cancel()
            self.streams.tell_sent()
            self._progressed = self.session.progressed or run.was_alive
            self.session.detach(anyio.current_time())

    async def _serve(self, run: LinkRun, greeting: bytes, unread: bytes | None) -> None:
        async with run.group as group:
            self._run = run  # only now: on trio there is nothing before that could be cancelled
            if self._runs_timers:
                group.start_soon(self._timers.run)
            group.start_soon(self._guard, run, self._write, greeting)
            await self._guard(run, self._read, unread)

    async def _guard(self, run: LinkRun, part: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await part(run, *args)
        except Exception as error:
            self._fail(run, error)

    def _fail(self, run: LinkRun, error: Exception) -> None:
        if isinstance(error, ConnectionFailed):  # of this connection alone: the session resumes
            run.end(ConnectionLost(str(error)))
        elif isinstance(error, RemoteProtocolError):
            self._break_off(run, error)
        elif isinstance(error, (ConnectionLost, SessionGone)):
            run.end(error)
        else:  # a bug of ours: it costs this session, not all the others of the process
            self._logger.error("session ended: it failed", exc_info=error)
            self._bid_farewell(run, "internal_error")
            run.end(SessionGone("internal_error"))

    def _break_off(self, run: LinkRun, error: RemoteProtocolError) -> None:
        """The peer broke a rule of the wire: what the ends believe of each other cannot be trusted any more."""
        self._logger.warning("session ended: the peer broke the protocol: %s (%s)", error, error.code)
        self._bid_farewell(run, error.code)
        run.end(error)

    def _bid_farewell(self, run: LinkRun, code: str) -> None:
        """End the session; BYE is taken while the session still has this connection."""
        if self._run is run and not self.gone:
            now = anyio.current_time()
            self.session.close(code, now)
            run.farewell = self.session.data_to_send(now, LAST_WORD_LIMIT)
            self._ended(code)

    async def _read(self, run: LinkRun, unread: bytes | None) -> None:
        self._set_active(bool(self.streams.by_id))  # it may have been kept, see ``_rest``
        self._check_timer()
        self._consider(run)
        if unread is not None:
            self._receive(unread)
        await run.connection.receive_into(partial(self._take, run))

    def _take(self, run: LinkRun, message: bytes) -> None:
        if self._run is not run:
            raise ConnectionLost("it is not this session's connection any more")
        self._receive(message)
        self._consider(run)

    def _consider(self, run: LinkRun) -> None:
        """Whether to be quick for small exchanges beside transfers. Not where messages go in turns: few of them fit
        into a round trip, and smaller ones would bring that much less."""
        mux, connection = self.mux, run.connection
        mux.considerate = considerate = mux.in_company and connection.at_once is None
        few = considerate and mux.in_company_of_few
        self._consider_acks(few=few, wanted=connection.wants_pings)
        turn = SHORTEST_TURN if few else SHORT_TURN if considerate else TURN
        if turn != run.turn:
            connection.turn = run.turn = turn

    def _consider_acks(self, *, few: bool, wanted: bool) -> None:
        """``wanted``: a message that brings nothing else is cheap. Acks come soon beside many too, so that the peer
        does not wait for them should it count fewer."""
        session = self.session
        session.sends_little = few and wanted
        soon = wanted and self.mux.in_company
        if soon is not session.acks_soon:
            session.acks_soon = soon
            if session.has_output:
                self.ring()

    def _receive(self, message: bytes) -> None:
        now = self._now()
        self._tell_heard()
        streams, session = self.streams, self.session
        if streams.unsent:
            streams.tell_sent()  # an answer may come before the send that carried its request has returned
        streams.receive(session.receive_message(message, now), now)
        if session.state is _GONE:
            code = session.peer_bye or "closed"
            self._ended(code)
            raise SessionGone(code)
        if session.has_output or self.mux.has_output:
            self.ring()
        if streams.by_id and not session.active:
            self._activate()
        else:
            self._check_timer()

    async def _write(self, run: LinkRun, greeting: bytes) -> None:
        connection = run.connection
        if greeting:
            await connection.ready()
            await self._send(run, greeting)
        while self._run is run:
            run.bell.muffle()
            message = b""
            # Asked for only when there is something to send: a transport may have to wait for it.
            if self._has_output(run):
                room = await connection.ready()
                if self._run is not run:
                    return
                if self._has_output(run):  # it may be held by now
                    message = self.session.data_to_send(self._now(), room, connection.at_once)
            if message:
                await self._send(run, message)
                self._after_message()
            elif self.session.state is _GONE:
                raise SessionGone("closed")
            else:
                self._check_timer()
                await run.bell.wait()

    def _after_message(self) -> None:
        self._gathered = 0
        if self.streams.unsent:
            self.streams.tell_sent()
        self.streams.tell_room()

    def _has_output(self, run: LinkRun) -> bool:
        return self.session.has_output and (not run.held or self.gone)

    async def _send(self, run: LinkRun, message: bytes) -> None:
        try:
            await run.connection.send(message)
        except BaseException:
            run.spoilt = True
            raise

    def _tick(self) -> None:
        run = self._run
        if run is None:
            return
        if not self.streams.by_id:
            self._set_active(False)
        try:
            self.session.handle_timer(self._now(), run.connection.last_received)
        except Exception as error:
            self._fail(run, error)
            return
        if self.session.has_output:
            self.ring()
        self._check_timer()

    def _check_timer(self) -> None:
        """Set the timer anew only for a deadline that is earlier; later ones are found when it rings."""
        due, timer = self.session.next_timer(), self._timer
        if due is None or (timer is not None and timer.active and timer.when <= due):
            return
        if timer is not None:
            timer.cancel()
        self._timer = self._timers.at(due, self._tick)

    async def _close(self, run: LinkRun, failure: Exception) -> None:
        """Tell the peer why, as far as that is possible in a moment, and close."""
        if run.spoilt or isinstance(failure, ConnectionLost):
            return
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                if run.farewell:
                    await run.connection.ready()
                    await run.connection.send(run.farewell)
                await run.connection.aclose(1002 if isinstance(failure, RemoteProtocolError) else 1000)
        except (ConnectionLost, ConnectionFailed):
            pass
        except Exception as error:  # a bug of the transport's: why the connection ended stays what it was
            self._logger.warning("closing a connection failed", exc_info=error)
