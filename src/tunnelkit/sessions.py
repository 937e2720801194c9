"""The server's table of sessions: offers, attaching, grace, and their ends.

A session is offered in answer to a handshake, comes to life when the client's ATTACH arrives on a connection, and
outlives that connection by the grace. What becomes of the requests of its token is the registry's to decide.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeAlias

import anyio

from .admission import UNLISTED, Admission
from .config import Limits
from .core.budget import Budget
from .core.decisions import Admitted, Decision, Expired, Full, Unlisted
from .core.metrics import Metrics
from .core.naming import name_key
from .core.opening import OpeningResult
from .core.registry import Registry
from .core.superseded import Superseded, Taken
from .core.tokens import token_digest, token_tag
from .errors import TERMINAL_CODES, ConnectionLost, RemoteProtocolError
from .event_stream import Events
from .granted_offer import GrantedOffer
from .handshake import Grant, Handshake, Refusal, Resume
from .link import Link
from .net.peer import Peer
from .net.timers import Timers
from .proof import FIRST_EPOCH, Purpose, epoch_key, verify
from .public_names import PublicNames
from .registration import Permit
from .server_events import tell_attached, tell_ended, tell_lost
from .server_session import ServerSession, log_attached, warn_of_stranger
from .transports.base import Accepted, Connection

__all__ = ["SessionTable"]

logger = logging.getLogger("tunnelkit.server")

# What waits in the registry is the gateway's business, which stands above this module.
_Decisions: TypeAlias = Iterable[Expired | Decision]


class SessionTable:
    """``execute`` carries out what the registry decides; ``started`` hears of each new session."""

    def __init__(
        self,
        *,
        limits: Limits,
        admission: Admission,
        registry: Registry,
        timers: Timers,
        budget: Budget,
        execute: Callable[[_Decisions], None],
        make_id: Callable[[], str],
        make_key: Callable[[], bytes],
        names: PublicNames,
        metrics: Metrics,
        events: Events,
        started: Callable[[ServerSession], None] = lambda session: None,
    ) -> None:
        self.limits = limits
        self.admission = admission
        self.draining = False
        self._registry = registry
        self._timers = timers
        self._budget = budget
        self._execute = execute
        self._make_id = make_id
        self._make_key = make_key
        self._names = names
        self._metrics = metrics
        self._events = events
        self._started = started
        self._sessions: dict[str, ServerSession] = {}
        self._by_token: dict[bytes, list[ServerSession]] = {}
        self._superseded = Superseded()
        self._openings: set[GrantedOffer] = set()
        self._made = 0  # sessions and openings of new ones
        self._served = 0  # connections
        self._then: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[ServerSession]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    # -- offers --------------------------------------------------------------------------------

    async def offer(self, handshake: Handshake, peer: Peer) -> Accepted | Refusal:
        """The answer to a handshake: see ``transports.base.Offer``."""
        answer = await self._decide(handshake, peer)
        if isinstance(answer, Refusal):
            self._metrics.refused(answer.code)
            logger.warning(
                "refused a registration: %s (%s) token=%s addr=%s",
                answer.detail,
                answer.code,
                token_tag(handshake.token),
                peer.forwarded_for or peer.address,
            )
        return answer

    async def _decide(self, handshake: Handshake, peer: Peer) -> Accepted | Refusal:
        # A resume is welcome to the end: what runs on the session may finish.
        if self.draining and handshake.resume is None:
            return _DRAINING
        permit = await self.admission.check(handshake, peer)
        if isinstance(permit, Refusal):
            self._end_refused(handshake, permit)
            return permit
        if self._is_superseded(handshake):
            return _SUPERSEDED
        if handshake.gives_up is not None:
            self._give_up(handshake)
        if handshake.resume is not None:
            return self._offer_resume(handshake, handshake.resume)
        return await self._offer_new(handshake, peer, permit)

    def _end_refused(self, handshake: Handshake, refusal: Refusal) -> None:
        """Who may not resume will not: nothing is to wait for it."""
        if handshake.resume is not None and refusal.code in TERMINAL_CODES:
            session = self._proven(handshake, handshake.resume, Purpose.RESUME)
            if session is not None:
                self.end(session, refusal.code)

    def _is_superseded(self, handshake: Handshake) -> bool:
        """Whether it goes on with, or gives up, a session whose place another client took: it had its turn."""
        for named, purpose in ((handshake.resume, Purpose.RESUME), (handshake.gives_up, Purpose.GIVE_UP)):
            taken = self._superseded.find(named.session_id) if named is not None else None
            if (
                named is not None
                and taken is not None
                and taken.digest == token_digest(handshake.token)
                and _is_right(named, purpose, taken.resume_key)
            ):
                return True
        return False

    def _offer_resume(self, handshake: Handshake, resume: Resume) -> Accepted | Refusal:
        session = self._proven(handshake, resume, Purpose.RESUME)
        if session is None:
            return Refusal(status=410, code="unknown_session", detail="no such session here: open a new one")
        if resume.epoch <= session.epoch:
            return Refusal(status=409, code="stale_epoch", detail="a later connection took this session already")
        return self._open(session, resume.epoch, resume_key=None)

    def _proven(self, handshake: Handshake, resume: Resume, purpose: Purpose) -> ServerSession | None:
        """The session that ``resume`` names, if it is this token's and the proof is right."""
        session = self._sessions.get(resume.session_id)
        if session is None or session.digest != token_digest(handshake.token):
            return None
        return session if _is_right(resume, purpose, session.resume_key) else None

    def _give_up(self, handshake: Handshake) -> None:
        assert handshake.gives_up is not None
        session = self._proven(handshake, handshake.gives_up, Purpose.GIVE_UP)
        if session is not None:
            self.end(session, "given_up")

    async def _offer_new(self, handshake: Handshake, peer: Peer, permit: Permit) -> Accepted | Refusal:
        digest = token_digest(handshake.token)
        wanted = handshake.name if permit.name is None else permit.name
        self._supersede_itself(handshake, digest)
        word = await self._ask_registry(digest, permit)
        if not isinstance(word, Admitted):
            return UNLISTED if isinstance(word, Unlisted) else self._full(digest, word)
        if self.draining:  # it may have begun meanwhile
            return _DRAINING
        # The floor of its replay buffer is the session's to its end, so that pressure never stops it (core.replay).
        if self._made >= self.limits.max_sessions or not self._budget.reserve(self.limits.replay_floor):
            return Refusal(status=503, code="overloaded", detail="the server is full", retry_after=10)
        self._made += 1
        name = self._names.claim(handshake.token, digest, wanted, self._names_beside(digest))
        if isinstance(name, Refusal):
            self._unmake("")
            return name
        session = self._make(handshake, peer, permit)
        session.name = name
        session.replaces = word.replaces or (wanted is not None and self._takes_over(permit, digest))
        return self._open(session, FIRST_EPOCH, resume_key=session.resume_key)

    def _takes_over(self, permit: Permit, digest: bytes) -> bool:
        """A name is one client's. Where it is let in the others are away, and are not to come back to it."""
        policy = permit.policy or self.admission.policies.of(digest)
        return policy.name == "reject"

    def _names_beside(self, digest: bytes) -> set[str]:
        """Those of the token's other clients, as far as they are there."""
        attached = {session.name for session in self._of_token(digest) if session.attached}
        return attached | {opening.session.name for opening in self._openings_of(digest)}

    def _unmake(self, name: str) -> None:
        """Give back what ``_offer_new`` took. Once a session: in ``end``, or when its opening comes to nothing."""
        self._names.release(name)
        self._made -= 1
        self._budget.release(self.limits.replay_floor)

    def _supersede_itself(self, handshake: Handshake, digest: bytes) -> None:
        """The same client object opens anew: it gave up its older sessions, whether it could say so or not. One that
        was not attached yet may never be: something in between may have swallowed ATTACH."""
        if handshake.instance:
            for session in self._of_token(digest):
                if session.instance == handshake.instance:
                    self._supersede(session)
            for opening in self._openings_of(digest):
                if opening.session.instance == handshake.instance:
                    opening.withdraw()

    def _of_token(self, digest: bytes) -> list[ServerSession]:
        return list(self._by_token.get(digest, ()))

    def _supersede(self, session: ServerSession) -> None:
        """Another client has its place. Its own, should it come back, is told so."""
        self._superseded.add(session.id, Taken(session.digest, session.resume_key))
        self.end(session, "superseded")

    async def _ask_registry(self, digest: bytes, permit: Permit) -> Admitted | Unlisted | Full:
        """Its word, asked for again once those in the way had to answer for their places."""
        word = self._may_register(digest, permit)
        if isinstance(word, Full):
            # A client that was killed behind a proxy is not known to be gone.
            async with anyio.create_task_group() as group:
                for session in word.sessions:
                    group.start_soon(self._ask_silent, session)
            word = self._may_register(digest, permit)
        return word

    def _may_register(self, digest: bytes, permit: Permit) -> Admitted | Unlisted | Full:
        opening = len(self._openings_of(digest))
        return self._registry.may_register(digest, opening=opening, policy=permit.policy, secret=permit.secret)

    def _openings_of(self, digest: bytes) -> list[GrantedOffer]:
        """Of new sessions."""
        return [opening for opening in self._openings if opening.session.digest == digest and opening.is_new]

    def _full(self, digest: bytes, word: Full) -> Refusal:
        # An opening has attached or died by its expiry. Of clients that live nobody knows when they leave: whoever
        # asks again has them asked again, and before those had the time to answer it would change nothing.
        expiries = [opening.expiry.when for opening in self._openings_of(digest) if opening.expiry is not None]
        wait = min(expiries) - anyio.current_time() if expiries else self.limits.silent_client_ping
        return Refusal(
            status=429,
            code="too_many_clients",
            detail=(
                f"this token has all the clients that it may have ({self.limits.max_clients_per_token})"
                if word.policy.admits(1, 0, secret=False)
                else "another client serves this token, and gives its place to nobody"
            ),
            retry_after=wait,
        )

    async def _ask_silent(self, session: ServerSession) -> None:
        link, connection = session.link, session.link.connection
        if connection is None or await link.answers(self.limits.silent_client_ping):
            return
        if link.connection is connection:
            failure = ConnectionLost("silent when a newcomer asked for its place")
            link.fence(failure)
            session.attachments += 1  # detached here and now, not when whoever served the connection notices
            self._detached(session)
            self._tell_lost(session, failure)

    def _make(self, handshake: Handshake, peer: Peer, permit: Permit) -> ServerSession:
        link = Link(
            client=False,
            limits=self.limits,
            budget=self._budget,
            peer_window=self.limits.replay_limit,
            peer_floor=self.limits.stream_floor,
            peer_max_streams=self.limits.max_streams,
            logger=logger,
            timers=self._timers,
            going_away=lambda: self._retire(session),
            ended=lambda code: self.end(session, code),
        )
        session = ServerSession(
            self._make_id(),
            handshake,
            peer,
            link,
            self._make_key(),
            permit,
            started=anyio.current_time(),
            end=self.end,
        )
        return session

    def _retire(self, session: ServerSession) -> None:
        """Its client drains: what runs goes on, and what was not sent goes elsewhere."""
        if session.ended is None:
            session.link.streams.tell_sent()
            self._execute(self._registry.retire(session, anyio.current_time()))

    def _open(self, session: ServerSession, epoch: int, *, resume_key: bytes | None) -> GrantedOffer:
        grant = Grant(
            session_id=session.id,
            resume_key=resume_key,
            replay_window=self.limits.replay_limit,
            stream_floor=self.limits.stream_floor,
            max_streams=self.limits.max_streams,
            grace=self.limits.grace,
            public_url=self._names.url(session.name, session.peer),
        )
        opening = GrantedOffer(self, session, grant, epoch, is_new=resume_key is not None)
        self._openings.add(opening)
        opening.expiry = self._timers.at(anyio.current_time() + self.limits.opening_timeout, opening.withdraw)
        return opening

    # -- attaching -----------------------------------------------------------------------------

    def closed(self, opening: GrantedOffer) -> None:
        """An opening came to nothing: it expired, was abandoned, or its connection never attached."""
        if opening in self._openings:
            self._openings.discard(opening)
            if opening.is_new:
                self._unmake(opening.session.name)

    async def attach(self, opening: GrantedOffer, connection: Connection, opened: OpeningResult) -> None:
        """The client's ATTACH arrived: the connection takes over, and is served to its end."""
        session, attached = opening.session, opened.attached
        assert attached is not None
        if opening not in self._openings or session.ended is not None or attached.epoch <= session.epoch:
            self.closed(opening)
            connection.abort()
            return
        self._openings.discard(opening)
        is_first = session.epoch == 0
        self._count_attached(session, connection, is_first)
        tell_attached(self._events, session, connection.transport, now=anyio.current_time())
        session.epoch = attached.epoch
        session.attachments += 1
        attachment = session.attachments
        if session.grace is not None:
            session.grace.cancel()
            session.grace = None
        if is_first:
            warn_of_stranger(session, [other for other in self._of_token(session.digest) if other.attached])
            self._add(session)
        log_attached(session, connection.transport, is_first=is_first)
        session.link.fence(ConnectionLost("a newer connection took over"))
        greeting = opening.greeting()
        policy = session.permit.policy if is_first else None
        self._execute(self._registry.attach(session.digest, session, anyio.current_time(), policy=policy))
        if is_first and session.name:
            key = name_key(session.name)
            self._execute(self._registry.adopt(key, session.digest, anyio.current_time()))
        if is_first and session.replaces:
            self._take_place(session)
        self._served += 1
        try:
            failure = await session.link.run(connection, opened, greeting=greeting)
        except RemoteProtocolError as error:
            logger.warning("a resume cannot go on: %s %s", error, session.label)
            connection.abort()
            self.end(session, error.code)
            return
        finally:
            self._served -= 1
            self._check_left()
            if session.attachments == attachment:
                self._detached(session)
        if session.ended is None and session.attachments == attachment:
            self._tell_lost(session, failure)

    def _count_attached(self, session: ServerSession, connection: Connection, is_first: bool) -> None:
        if is_first:
            self._metrics.registrations += 1
        else:
            self._metrics.attached(connection.transport, before=session.transport or None)

    def _take_place(self, newcomer: ServerSession) -> None:
        """Now that it is there, what was not sent on the others goes on at once."""
        for session in self._of_token(newcomer.digest):
            if session is not newcomer:
                logger.warning("superseded by a client from %s: %s", newcomer.address, session.label)
                self._supersede(session)

    def _tell_lost(self, session: ServerSession, failure: Exception) -> None:
        tell_lost(self._events, session, failure)
        logger.info("connection lost, the session is kept for %g s: %s %s", self.limits.grace, failure, session.label)

    def _detached(self, session: ServerSession) -> None:
        """The connection is over, whatever the reason. If the session is not, its grace begins."""
        now = session.lost_at = anyio.current_time()
        if session.ended is None:
            self._execute(self._registry.detach(session, now))
            session.grace = self._timers.at(now + self.limits.grace, lambda: self.end(session, "grace_expired"))

    def _add(self, session: ServerSession) -> None:
        self._sessions[session.id] = session
        self._by_token.setdefault(session.digest, []).append(session)
        self._names.serve(session.name)
        self._started(session)

    def _forget(self, session: ServerSession) -> None:
        if self._sessions.pop(session.id, None) is not None:
            siblings = self._by_token[session.digest]
            siblings.remove(session)
            if not siblings:
                del self._by_token[session.digest]

    def end(self, session: ServerSession, code: str) -> None:
        """End a session for good. Its unanswered requests fail truthfully and at once. Idempotent."""
        if session.ended is not None:
            return
        session.ended = code
        if session.epoch:
            self._metrics.ended(code)
            tell_ended(self._events, session, code)
        if session.grace is not None:
            session.grace.cancel()
        self._forget(session)
        # First what was not sent goes elsewhere, then what was sent fails: in this order nothing fails needlessly.
        session.link.streams.tell_sent()
        self._execute(self._registry.remove(session, anyio.current_time()))
        session.link.end(code)
        self._unmake(session.name)
        logger.info("session ended: %s %s", code, session.label)

    def end_tokens(self, digests: Collection[bytes], code: str) -> None:
        for digest in digests:
            for session in self._of_token(digest):
                self.end(session, code)

    def end_wrongly_named(self, owner: Callable[[str], bytes | None], code: str) -> None:
        """Those whose names the configuration has given to other tokens since."""
        for session in self:
            if session.name and owner(session.name) != session.digest:
                self.end(session, code)

    def end_all(self, code: str) -> None:
        self.draining = True
        for session in self:
            self.end(session, code)

    def all_left(self, then: Callable[[], None]) -> None:
        """Call ``then`` as soon as no connection of any session is served any more."""
        self._then = then
        self._check_left()

    def _check_left(self) -> None:
        if self._then is not None and not self._served:
            self._then()

    def drain(self) -> None:
        """Register nobody new; tell the clients that no stream comes any more."""
        self.draining = True
        for session in self:
            session.link.mux.goaway()
            session.link.ring()


def _is_right(named: Resume, purpose: Purpose, resume_key: bytes) -> bool:
    return verify(named.proof, epoch_key(resume_key, named.epoch), purpose, named.session_id, named.epoch)


_SUPERSEDED = Refusal(status=409, code="superseded", detail="another client has taken this one's place")
_DRAINING = Refusal(status=503, code="draining", detail="the server is shutting down", retry_after=1)
