"""Keeps a client's session alive: dials, attaches, resumes, gives up. What to try next is ``core.choice``'s word."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final, NoReturn, TypeAlias

import anyio

from .attaching import attach
from .client_session import STREAMS_LIMIT, ClientSession, agreed_limits, checked_key
from .config import Limits
from .core.budget import Budget
from .core.choice import Choice, Failed, GiveUp, Try
from .core.events import Opened
from .core.opening import ClientOpening, OpeningResult
from .core.tokens import token_tag
from .dialling import Dialling, Way, no_answer
from .errors import (
    ConfigError,
    ConnectionLost,
    DialError,
    LocalProtocolError,
    RegistrationRefused,
    RemoteProtocolError,
    SessionGone,
)
from .event_stream import Events
from .events import Connected, Lost, Moved, Resumed, Retrying, Superseded
from .guarded_tasks import GuardedTasks
from .handshake import Grant, Handshake, Resume
from .link import Link
from .moves import Stay
from .transports.base import Connection
from .tunnel_stream import Stream, StreamHandler

__all__ = ["Supervisor", "Way"]

logger = logging.getLogger("tunnelkit.client")

# A dial that keeps failing is one line a minute (design, section 11).
FAILURE_LOG_INTERVAL = 60.0
_NOT_CONNECTED: Final = "not connected: %s; trying on %s"

_Attached: TypeAlias = tuple[ClientSession, Connection, OpeningResult]


class Supervisor:
    """One client's session after the other. ``announce`` is the handshake but for what resumes or gives up."""

    def __init__(
        self,
        *,
        way: Way,
        announce: Handshake,
        limits: Limits,
        accept: Callable[[Stream, Opened], StreamHandler | None],
        events: Events,
    ) -> None:
        self.ready = anyio.Event()
        self.grant: Grant | None = None
        self.trouble = ""  # what the last dial that failed ran into
        self._way = way
        self._announce = announce
        self._limits = limits
        self._accept = accept
        self._events = events
        self._budget = Budget(limits.max_buffered_bytes)
        self._ranks = {name: rank for rank, name in enumerate(way.transports)}
        self._choice = Choice(limits, transports=tuple(way.transports), guessed=way.guessed)
        self._session: ClientSession | None = None
        self._stay: Stay | None = None  # while there is a connection
        self._given_up: Resume | None = None
        self._logged_at: dict[str, float] = {}  # by the kind of line
        self._bug: type[Exception] | None = None  # the last that a transport showed
        self._failure = ""  # of the last dial, not told yet
        self._fallback = ""  # why a transport is tried that is not the one before
        self._label = f"token={token_tag(announce.token)}"  # in every line: a process may run many tunnels
        self._trying: anyio.CancelScope | None = None
        self._closing = False

    @property
    def connection(self) -> Connection | None:
        """The one in use."""
        return self._stay.connection if self._stay is not None else None

    @property
    def round_trip(self) -> float | None:
        """Of the session, in seconds; None while nothing is known of it."""
        return self._session.link.session.round_trip if self._session is not None else None

    # -- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the server's word is final: raises RegistrationRefused. Returns after ``close``. What it raises is
        never in a group."""
        failure: Exception | None = None
        async with GuardedTasks(logger) as tasks:
            self._dialling = Dialling(way=self._way, announce=self._announce, limits=self._limits, tasks=tasks)
            try:
                await self._keep_connected()
            except Exception as error:
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _keep_connected(self) -> None:
        while not self._closing:
            move = self._choice.next(anyio.current_time(), random.random())
            if isinstance(move, GiveUp):
                self._give_up(move)
            self._tell_retrying(move)
            attached: _Attached | None = None
            with anyio.CancelScope() as self._trying:
                await anyio.sleep_until(move.when)
                attached = await self._try(move)
            if attached is not None:
                await self._serve(*attached)

    def _give_up(self, move: GiveUp) -> NoReturn:
        if move.code == "superseded":
            self._events.tell(Superseded(code=move.code))
        raise RegistrationRefused(409, move.code, "the server ended this client's session")

    async def _try(self, move: Try) -> _Attached | None:
        self._choice.dialling(anyio.current_time())
        if not move.resume:
            self._drop_session("given_up")
        try:
            return await self._connect(move)
        except RegistrationRefused as error:
            self._refused(error)
        except DialError as error:
            self._failed(error)
        except (ConnectionLost, RemoteProtocolError) as error:
            self._failed(DialError("handshake", f"the {move.transport} connection did not attach: {error}"))
        except (ConfigError, LocalProtocolError):
            raise  # the user's mistake: no dial will ever mend it
        except Exception as error:
            self._broke(move.transport, error)
        return None

    # -- dialling and attaching ----------------------------------------------------------------

    async def _connect(self, move: Try) -> _Attached:
        session = self._session
        if session is None:
            connection, grant = await self._dialling.open(move.transport, self._given_up, brief=move.brief)
        else:
            connection, opening = await self._dialling.resume(move.transport, session, brief=move.brief)
        try:
            if session is None:
                session = self._open_session(grant)
                opening = session.opening(session.next_epoch(), connection)
            return session, connection, await self._attach(session, connection, opening, move)
        except BaseException:
            connection.abort()
            raise

    def _open_session(self, grant: Grant) -> ClientSession:
        checked_key(grant)
        link = Link(
            client=True,
            limits=agreed_limits(self._limits, grant),
            budget=self._budget,
            peer_window=grant.replay_window,
            peer_floor=grant.stream_floor,
            peer_max_streams=min(grant.max_streams, STREAMS_LIMIT),
            logger=logger,
            accept=self._accept,
        )
        self._session = ClientSession(grant, link)
        self._choice.granted(grant.grace, anyio.current_time())
        return self._session

    async def _attach(
        self, session: ClientSession, connection: Connection, opening: ClientOpening, move: Try
    ) -> OpeningResult:
        timeout = self._limits.first_answer_timeout if move.brief else self._limits.opening_timeout
        with anyio.move_on_after(timeout):
            return await attach(session.link, connection, opening)
        raise no_answer(move.transport, timeout)

    # -- serving -------------------------------------------------------------------------------

    async def _serve(self, session: ClientSession, connection: Connection, opened: OpeningResult) -> None:
        if self._closing:  # since it attached, a moment ago
            connection.abort()
            return
        self._choice.connected(session.grant.grace, anyio.current_time())
        self._given_up = None
        self.grant = session.grant
        self._tell_attached(session, connection)
        self._stay = Stay(
            session=session,
            connection=connection,
            dialling=self._dialling,
            choice=self._choice,
            limits=self._limits,
            label=self._label,
            moved=self._tell_moved,
        )
        try:
            failure = await self._stay.run(opened)
        finally:
            self._stay = None
        self._lost(session, failure)

    def _tell_attached(self, session: ClientSession, connection: Connection) -> None:
        name, why = connection.transport, self._fallback
        if session.lost_at is None:
            logger.info("connected by %s %s", name, self._label)
            self._events.tell(Connected(transport=name, reason=why))
        else:
            away = anyio.current_time() - session.lost_at
            logger.info("resumed by %s after %.1f s %s", name, away, self._label)
            self._events.tell(Resumed(transport=name, away=away, reason=why))
        self._fallback = ""
        self._logged_at.clear()
        self.ready.set()

    def _tell_moved(self, connection: Connection) -> None:
        reason = "it carries messages again"
        logger.info("moved to %s: %s %s", connection.transport, reason, self._label)
        self._events.tell(Moved(transport=connection.transport, reason=reason))

    def _lost(self, session: ClientSession, failure: Exception) -> None:
        now, transport = anyio.current_time(), self._choice.transport
        progressed = session.link.progressed
        session.lost_at = now
        if not session.link.gone:
            self._choice.lost(now, progressed=progressed)
            logger.warning("connection lost: %s %s", failure, self._label)
            self._events.tell(Lost(reason=str(failure)))
            self._note_fallback(transport, f"the {transport} was lost: {failure}", now)
            return
        code = failure.code if isinstance(failure, SessionGone | RemoteProtocolError) else "closed"
        self._drop_session(code)
        self._choice.lost(now, progressed=progressed, bye=code)
        if not self._closing:
            logger.warning("session over: %s %s", code, self._label)
            self._events.tell(Lost(reason=f"the session is over: {code}"))

    def _drop_session(self, code: str) -> None:
        """What runs on it fails truthfully; the server is told with the next handshake, if it does not know."""
        session, self._session = self._session, None
        if session is not None:
            if not session.link.gone:
                self._given_up = session.farewell()
            session.link.end(code)

    # -- failures ------------------------------------------------------------------------------

    def _refused(self, error: RegistrationRefused) -> None:
        if error.code == "unknown_session":
            self._drop_session(error.code)
            self._given_up = None
        if error.terminal:
            self._choice.failed(Failed.of(error), anyio.current_time())
            self._drop_session(error.code)
            raise error
        self._failed(error)

    def _failed(self, error: DialError | RegistrationRefused) -> None:
        now, transport = anyio.current_time(), self._choice.transport
        self._choice.failed(Failed.of(error), now)
        self._failure = self.trouble = str(error)
        if not self._note_fallback(transport, str(error), now):
            grave = isinstance(error, DialError) and error.stage in ("tls", "transport")
            level = logging.ERROR if grave else logging.WARNING
            self._log_seldom(now, level, _NOT_CONNECTED, error)

    def _broke(self, transport: str, error: Exception) -> None:
        """A transport has a bug, which may be somebody else's. Only the server's word ends a client (design 4)."""
        failure = DialError("transport", f"the transport {transport!r} failed: {type(error).__name__}")
        if type(error) is not self._bug:
            self._bug = type(error)
            logger.error("%s; trying on slowly %s", failure, self._label, exc_info=error)
            self._logged_at[_NOT_CONNECTED] = anyio.current_time()
        self._failed(failure)

    def _note_fallback(self, transport: str, reason: str, now: float) -> bool:
        """Whether the next try is by a transport that is less wanted than that of the last: the user learns why."""
        following = self._choice.transport
        if self._ranks[following] <= self._ranks[transport]:
            if following != transport:
                self._fallback = ""
            return False
        self._fallback = reason
        self._log_seldom(now, logging.WARNING, "falling back to %s: %s %s", following, reason)
        return True

    def _log_seldom(self, now: float, level: int, line: str, *args: object) -> None:
        if now - self._logged_at.get(line, float("-inf")) >= FAILURE_LOG_INTERVAL:
            self._logged_at[line] = now
            logger.log(level, line, *args, self._label)

    def _tell_retrying(self, move: Try) -> None:
        failure, self._failure = self._failure, ""
        if failure:
            delay = max(0.0, move.when - anyio.current_time())
            self._events.tell(Retrying(reason=failure, delay=delay))

    # -- the end -------------------------------------------------------------------------------

    def goaway(self) -> None:
        """Take no new streams; the server is told."""
        if self._session is not None:
            self._session.link.mux.goaway()
            self._session.link.ring()

    async def settle(self) -> None:
        """Wait until the server has all that the session's exchanges gave it."""
        if self._session is not None:
            await self._session.link.settle()

    def close(self, code: str = "closed") -> None:
        """End the session with BYE; ``run`` returns when that is sent."""
        self._closing = True
        if self._trying is not None:
            self._trying.cancel()
        if self._stay is not None:
            self._stay.close()
        if self._session is not None:
            self._session.link.end(code)
