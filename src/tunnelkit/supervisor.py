"""Keeps a client's session alive: dials, attaches, resumes, gives up. What to try next is ``core.choice``'s word."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn, TypeAlias

import anyio

from .config import Limits
from .core.budget import Budget
from .core.choice import Choice, Failed, GiveUp, Try
from .core.events import Opened
from .core.opening import ClientOpening, OpeningResult
from .core.tokens import token_tag
from .errors import (
    ConfigError,
    ConnectionLost,
    DialError,
    LocalProtocolError,
    RegistrationRefused,
    RemoteProtocolError,
    SessionGone,
)
from .events import Connected, Events, Lost, Resumed, Retrying, Superseded
from .handshake import Grant, Handshake, Resume
from .link import Link
from .proof import FIRST_EPOCH, KEY_SIZE, Prover, Purpose, attach_tag, epoch_key, proof
from .transports.base import Connection, Dialler, DialRequest, Transport
from .tunnel_stream import Stream, StreamHandler

__all__ = ["Supervisor", "Way"]

logger = logging.getLogger("tunnelkit.client")

# A dial that keeps failing is one line a minute (design, section 11).
FAILURE_LOG_INTERVAL = 60.0
# Seconds: no server keeps a session longer than a day.
GRACE_LIMIT = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How the server is reached."""

    url: str  # "http(s)://host:port/base"
    transports: Mapping[str, Transport]  # by name, the best first
    dialler: Dialler
    user_agent: str


class _ClientSession:
    """What the client knows of its session."""

    def __init__(self, grant: Grant, resume_key: bytes, link: Link) -> None:
        self.id = grant.session_id
        self.grant = grant
        self.link = link
        self.lost_at: float | None = None
        self._resume_key = resume_key
        self._epoch = 0

    def next_epoch(self) -> tuple[int, bytes]:
        """A new epoch and its tag: a try that failed may have taken over all the same."""
        self._epoch += 1
        return self._epoch, attach_tag(self._resume_key, self.id, self._epoch)

    def prover(self) -> Prover:
        """For the epoch that is tried now."""
        return Prover(self._resume_key, self.id, self._epoch)

    def farewell(self) -> Resume:
        """Names the session, with proof, as one that is given up."""
        self._epoch += 1
        tag = proof(epoch_key(self._resume_key, self._epoch), Purpose.GIVE_UP, self.id, self._epoch)
        return Resume(session_id=self.id, epoch=self._epoch, proof=tag)


_Attached: TypeAlias = tuple[_ClientSession, Connection, OpeningResult]


def _checked_key(grant: Grant) -> bytes:
    """The resume key of a new session's grant, all of which is checked: any transport may have brought it."""
    key = grant.resume_key
    if key is None or len(key) != KEY_SIZE:
        raise RemoteProtocolError("the server granted a session without a proper key", code="bad_grant")
    if not 0 <= grant.grace <= GRACE_LIMIT:  # false for NaN too
        raise RemoteProtocolError(f"the server granted a grace of {grant.grace} s", code="bad_grant")
    if grant.max_streams < 1:
        raise RemoteProtocolError("the server granted no stream", code="bad_grant")
    return key


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
        self.connection: Connection | None = None
        self.grant: Grant | None = None
        self._way = way
        self._announce = announce
        self._limits = limits
        self._accept = accept
        self._events = events
        self._budget = Budget(limits.max_buffered_bytes)
        self._choice = Choice(limits, transports=tuple(way.transports))
        self._session: _ClientSession | None = None
        self._given_up: Resume | None = None
        self._logged_at = -FAILURE_LOG_INTERVAL
        self._bug: type[Exception] | None = None  # the last that a transport showed
        self._failure = ""  # of the last dial, not told yet
        self.trouble = ""  # what the last dial that failed ran into
        self._tag = token_tag(announce.token)  # in every line: a process may run many tunnels
        self._dialling: anyio.CancelScope | None = None
        self._closing = False

    # -- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the server's word is final: raises RegistrationRefused. Returns after ``close``. What it raises is
        never in a group."""
        failure: Exception | None = None
        async with anyio.create_task_group() as self._tasks:
            try:
                await self._keep_connected()
            except Exception as error:
                failure = error
            self._tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _keep_connected(self) -> None:
        while not self._closing:
            move = self._choice.next(anyio.current_time(), random.random())
            if isinstance(move, GiveUp):
                self._give_up(move)
            self._tell_retrying(move)
            attached: _Attached | None = None
            with anyio.CancelScope() as self._dialling:
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
            with anyio.fail_after(self._limits.dial_timeout + self._limits.opening_timeout):
                return await self._connect(move)
        except RegistrationRefused as error:
            self._refused(error)
        except DialError as error:
            self._failed(error)
        except (ConnectionLost, RemoteProtocolError, TimeoutError) as error:
            self._failed(DialError("handshake", f"the connection did not attach: {error or 'no answer in time'}"))
        except (ConfigError, LocalProtocolError):
            raise  # the user's mistake: no dial will ever mend it
        except Exception as error:
            self._broke(move.transport, error)
        return None

    # -- dialling and attaching ----------------------------------------------------------------

    async def _connect(self, move: Try) -> _Attached:
        session = self._session
        announce, epoch, tag = self._handshake(session)
        transport = self._way.transports[move.transport]
        connection, grant = await transport.dial(
            DialRequest(
                url=self._way.url,
                handshake=announce,
                dialler=self._way.dialler,
                timeout=self._limits.dial_timeout,
                user_agent=self._way.user_agent,
                tasks=self._tasks,
                prover=partial(self._prover, session),
            )
        )
        try:
            if session is None:
                session = self._open_session(grant)
                epoch, tag = session.next_epoch()
            opening = ClientOpening(epoch, tag, self._limits, ordered=connection.ordered)
            opened = await self._attach(session, connection, opening)
        except BaseException:
            connection.abort()
            raise
        return session, connection, opened

    def _prover(self, session: _ClientSession | None, grant: Grant) -> Prover:
        """Of the connection that is being dialled. A new session's is its first."""
        if session is None:
            return Prover(_checked_key(grant), grant.session_id, FIRST_EPOCH)
        return session.prover()

    def _handshake(self, session: _ClientSession | None) -> tuple[Handshake, int, bytes]:
        if session is None:
            return replace(self._announce, gives_up=self._given_up), 0, b""
        epoch, tag = session.next_epoch()
        resume = Resume(session_id=session.id, epoch=epoch, proof=tag)
        return replace(self._announce, resume=resume), epoch, tag

    def _open_session(self, grant: Grant) -> _ClientSession:
        resume_key = _checked_key(grant)
        link = Link(
            client=True,
            limits=self._agreed(grant),
            budget=self._budget,
            peer_window=grant.replay_window,
            peer_floor=grant.stream_floor,
            peer_max_streams=grant.max_streams,
            logger=logger,
            accept=self._accept,
        )
        self._session = _ClientSession(grant, resume_key, link)
        self._choice.granted(grant.grace, anyio.current_time())
        return self._session

    def _agreed(self, grant: Grant) -> Limits:
        """The floor is one number for both ends: what either grants without a word is what the other counts on.
        The budget stays our own: it may hold fewer of the server's floors."""
        limits, floor = self._limits, grant.stream_floor
        if not 0 < floor <= min(limits.stream_max_window, limits.receive_budget):
            raise RemoteProtocolError(f"the server granted a floor of {floor} bytes a stream", code="bad_grant")
        return replace(
            limits,
            stream_floor=floor,
            stream_first_window=max(limits.stream_first_window, floor),
            max_streams=min(limits.max_streams, limits.receive_budget // floor),
        )

    async def _attach(self, session: _ClientSession, connection: Connection, opening: ClientOpening) -> OpeningResult:
        await connection.ready()
        await connection.send(opening.attach_message(session.link.session.received))
        while True:
            result = opening.receive_message(await connection.receive())
            if result.reply is not None:
                await connection.send(result.reply)
            if result.attached is not None:
                return result

    # -- serving -------------------------------------------------------------------------------

    async def _serve(self, session: _ClientSession, connection: Connection, opened: OpeningResult) -> None:
        if self._closing:  # since it attached, a moment ago
            connection.abort()
            return
        self._choice.connected(session.grant.grace)
        self._given_up = None
        self.connection = connection
        self.grant = session.grant
        self._tell_attached(session, connection)
        try:
            failure = await session.link.run(connection, opened)
        except RemoteProtocolError as error:
            failure = error
            connection.abort()
        finally:
            self.connection = None
        if session.link.progressed:
            self._choice.progress()
        self._lost(session, failure)

    def _tell_attached(self, session: _ClientSession, connection: Connection) -> None:
        if session.lost_at is None:
            logger.info("connected by %s token=%s", connection.transport, self._tag)
            self._events.tell(Connected(transport=connection.transport))
        else:
            away = anyio.current_time() - session.lost_at
            logger.info("resumed by %s after %.1f s token=%s", connection.transport, away, self._tag)
            self._events.tell(Resumed(transport=connection.transport, away=away))
        self._logged_at = -FAILURE_LOG_INTERVAL
        self.ready.set()

    def _lost(self, session: _ClientSession, failure: Exception) -> None:
        now = anyio.current_time()
        session.lost_at = now
        if not session.link.gone:
            self._choice.lost(now)
            logger.warning("connection lost: %s token=%s", failure, self._tag)
            self._events.tell(Lost(reason=str(failure)))
            return
        code = failure.code if isinstance(failure, SessionGone | RemoteProtocolError) else "closed"
        self._drop_session(code)
        self._choice.lost(now, bye=code)
        if not self._closing:
            logger.warning("session over: %s token=%s", code, self._tag)
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
        now = anyio.current_time()
        if error.code == "unknown_session":
            self._drop_session(error.code)
            self._given_up = None
        self._choice.failed(Failed.of(error), now)
        if error.terminal:
            self._drop_session(error.code)
            raise error
        self._log_failure(error, now)

    def _failed(self, error: DialError) -> None:
        now = anyio.current_time()
        self._choice.failed(Failed.of(error), now)
        self._log_failure(error, now)

    def _broke(self, transport: str, error: Exception) -> None:
        """A transport has a bug, which may be somebody else's. Only the server's word ends a client (design 4)."""
        failure = DialError("transport", f"the transport {transport!r} failed: {type(error).__name__}")
        if type(error) is not self._bug:
            self._bug = type(error)
            self._logged_at = anyio.current_time()
            logger.error("%s; trying on slowly token=%s", failure, self._tag, exc_info=error)
        self._failed(failure)

    def _log_failure(self, error: Exception, now: float) -> None:
        level = logging.WARNING
        if isinstance(error, DialError) and error.stage in ("tls", "transport"):
            level = logging.ERROR
        if now - self._logged_at >= FAILURE_LOG_INTERVAL:
            self._logged_at = now
            logger.log(level, "not connected: %s; trying on token=%s", error, self._tag)
        self._failure = self.trouble = str(error)

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
        if self._dialling is not None:
            self._dialling.cancel()
        if self._session is not None:
            self._session.link.end(code)
