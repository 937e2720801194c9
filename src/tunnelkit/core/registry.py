"""Which tokens are known, which sessions serve them, which exchanges wait, and for how long (design, section 8).

The server's one place for these decisions: synchronous, without clock, I/O or tokens in the clear (a token is its
digest here, see ``core.tokens``). A method takes what happened and gives what is to be done, in order; the caller
does all of it before it tells more, but for ``again``, should a session turn out to have no room.

Each exchange leaves exactly once: by the ``Rejected`` of its ``submit``, by an ``Expired``, by ``finished`` or by
``cancel``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..config import Limits
from ..errors import LocalProtocolError
from .balance import Balance, least_load
from .deadlines import Deadlines
from .decisions import (
    Admission,
    Admitted,
    Decision,
    Dispatch,
    ExchangeKey,
    Expired,
    Full,
    Queued,
    Rejected,
    SessionKey,
    Unlisted,
)
from .policies import POOLS, Policies, Policy
from .queueing import Entry, ExchangeState, Place, PlaceState, TokenQueue

__all__ = ["Registry"]

# What a caller is told to wait when the queue is full: it drains as soon as a client is back.
RETRY_AFTER = 1.0
# A session that had no room for a stream is tried again after this, should nothing of its own end before: the room
# may have been taken by others (``Limits.max_buffered_bytes`` is the whole server's).
FULL_RETRY = 0.1
# A session whose client refuses what it is given is left alone for as long, then for twice that, up to this: it could
# refuse for ever, and all that wait at once.
REFUSED_RETRY_CAP = 5.0


# Looking a member up in its enum takes twice as long as calling a function (CPython 3.11): hence names.
_ATTACHED: Final = PlaceState.ATTACHED
_SENT: Final = ExchangeState.SENT

_QUEUED = Queued()
_UNKNOWN = Rejected(404, "no_tunnel", "no tunnel client has registered with this token, or not for a long time")
_FULL = Rejected(503, "queue_full", "too many requests wait for this tunnel", RETRY_AFTER)
_TIMEOUT = Rejected(504, "queue_timeout", "no tunnel client took the request in time")
_NO_CLIENT = Rejected(503, "no_client", "no tunnel client is connected that could take the request now", RETRY_AFTER)


class Registry:
    """Tokens, their sessions and their queues. The runtime names sessions and exchanges."""

    def __init__(
        self,
        limits: Limits,
        *,
        started_at: float,
        pick: Callable[[int], int],
        listed: frozenset[bytes] = frozenset(),
        listed_only: bool = False,
        policies: Policies = POOLS,
        balance: Balance = least_load,
    ) -> None:
        """``pick(n)`` is random in range(n); ``listed`` holds digests of tokens."""
        self._limits = limits
        self._pick = pick
        self._policies = policies
        self._balance = balance
        self._listed = listed
        self._listed_only = listed_only
        self._startup_end = started_at + limits.startup_wait
        self._queues: dict[bytes, TokenQueue] = {}  # of tokens with sessions or exchanges
        self._recent: dict[bytes, float] = {}  # tokens without session: until when they are known, oldest first
        self._places: dict[SessionKey, Place] = {}
        self._entries: dict[ExchangeKey, Entry] = {}
        # Those for unknown tokens, in start-up: until when they would wait for known ones.
        self._strangers: dict[ExchangeKey, float] = {}
        self._deadlines = Deadlines()  # of exchanges
        self._retries = Deadlines()  # of sessions
        self._serial = 0

    def __repr__(self) -> str:
        return f"<Registry tokens={len(self._queues)} sessions={len(self._places)} exchanges={len(self._entries)}>"

    # -- facts -------------------------------------------------------------------------------------

    def is_known(self, token: bytes, now: float) -> bool:
        """Listed, or with a session within the last ``known_token_time``."""
        if token in self._listed:
            return True
        if self._listed_only:
            return False
        queue = self._queues.get(token)
        return (queue is not None and bool(queue.places)) or self._recent.get(token, now) > now

    def known_tokens(self, now: float) -> set[bytes]:
        """The tokens that are known and not merely listed: with a session, or with one not long ago."""
        with_sessions = {token for token, queue in self._queues.items() if queue.places}
        return with_sessions | {token for token, until in self._recent.items() if until > now}

    def queued(self, token: bytes) -> int:
        """How many exchanges of which nothing was sent wait for a session that can send."""
        queue = self._queues.get(token)
        return 0 if queue is None else len(queue.waiting)

    def queue_lengths(self) -> list[int]:
        """Of the tokens for which any exchange waits."""
        return [len(queue.waiting) for queue in self._queues.values() if queue.waiting]

    def attached(self, token: bytes) -> list[SessionKey]:
        """The token's sessions that take exchanges now."""
        queue = self._queues.get(token)
        return [] if queue is None else queue.sessions(PlaceState.ATTACHED)

    def others(self, exchange: ExchangeKey, session: SessionKey | None) -> bool:
        """Whether a session other than ``session`` could take the exchange now."""
        return any(other != session for other in self.attached(self._entry(exchange).queue.token))

    def next_timer(self) -> float | None:
        """When ``expire`` is to be called. It may change with every call of any method."""
        due, retry = self._deadlines.next(), self._retries.next()
        if due is None or retry is None:
            return retry if due is None else due
        return min(due, retry)

    # -- exchanges ---------------------------------------------------------------------------------

    def submit(
        self,
        token: bytes,
        exchange: ExchangeKey,
        now: float,
        *,
        deadline: float | None = None,
        wait: float | None = None,
        named: bool = False,
    ) -> Dispatch | Queued | Rejected:
        """A new exchange. ``deadline``: when it leaves if nothing was sent (default: ``queue_timeout`` from now).
        ``wait``: the caller's own bound on that, in seconds; 0 needs an attached session at once. ``named``: it came
        for a name, and ``token`` may be what stands for one that nobody has.
        """
        if exchange in self._entries:
            raise LocalProtocolError("this exchange was submitted before and has not left")
        queue = self._queues.get(token)
        known = (queue is not None and bool(queue.places) and not self._listed_only) or self.is_known(token, now)
        if not known and (refusal := self._refuse_stranger(now, named=named)) is not None:
            return refusal
        if queue is None:
            queue = self._new_queue(token)
        place = queue.find()
        # On an attached session it is on its way. Only what waits for one is queued, or a burst would be refused.
        if place is None or place.state is not _ATTACHED:
            if wait is not None and wait <= 0:
                return _NO_CLIENT
            if len(queue.waiting) >= self._limits.max_requests_per_tunnel:
                return _FULL
        until = now + self._limits.queue_timeout if deadline is None else deadline
        if wait is not None and 0 < wait < until - now:
            until = now + wait
        self._serial += 1
        entry = Entry(exchange, queue, self._serial, until, patient=wait is None or wait > 0)
        self._entries[exchange] = entry
        self._queues[token] = queue
        if not known:
            self._bound_by_startup(entry)
        self._deadlines.add(entry.until, exchange)
        return queue.enter(entry, place) or _QUEUED

    def sent(self, exchange: ExchangeKey) -> None:
        """A first byte of it was taken by a connection: it is not queued any more, and its deadline is void.

        To be told before anything else is asked: what was not told as sent may be moved, recalled or expired.
        """
        entry = self._entry(exchange)
        entry.advance("send")
        assert entry.place is not None
        del entry.place.unsent[exchange]
        self._deadlines.cancel(exchange)

    def again(
        self, exchange: ExchangeKey, now: float, *, full: bool = False, refused: bool = False
    ) -> list[Decision]:
        """It is to be dispatched once more: its session had no room for it (``full``), or the peer refused it
        (``refused``), or it was lost and may be repeated. It takes the place in the queue that its arrival gives it,
        and, when it was sent, its old deadline back. Its stream counts as closed.
        """
        entry = self._entry(exchange)
        place = entry.place
        if (full or refused) and place is not None and place.state is not PlaceState.REMOVED:
            self._rest(place, now, refused=refused)
        decisions = entry.queue.put_back(entry, now, full=full)
        self._deadlines.add(entry.until, exchange)
        self._hurry(entry.queue, now)
        return decisions

    def finished(self, exchange: ExchangeKey, now: float) -> list[Decision]:
        """Its stream is closed. Illegal for one that is not on an attached session and was not sent either."""
        return self._leave(self._entry(exchange), "finish", now)

    def cancel(self, exchange: ExchangeKey, now: float) -> list[Decision]:
        """Its caller is gone, wherever it is. Nothing happens when it has left already: both may come at once."""
        entry = self._entries.get(exchange)
        return [] if entry is None else self._leave(entry, "leave", now)

    # -- sessions ----------------------------------------------------------------------------------

    def may_register(
        self, token: bytes, *, opening: int = 0, policy: Policy | None = None, secret: bool = False
    ) -> Admission:
        """May one more client of ``token`` register, while ``opening`` others that may are about to attach? A resume
        is never asked about. ``policy``: what was granted to it in place of the token's own; ``secret``: it showed
        more than the token."""
        if self._listed_only and token not in self._listed:
            return Unlisted()
        queue = self._queues.get(token) or self._new_queue(token)
        wanted = policy or queue.policy
        if queue.admits(self._limits.max_clients_per_token, wanted, opening=opening, secret=secret):
            return Admitted(replaces=wanted.replaces(secret=secret))
        return Full(tuple(queue.sessions(PlaceState.ATTACHED)), wanted)

    def attach(
        self,
        token: bytes,
        session: SessionKey,
        now: float,
        *,
        max_streams: int | None = None,
        policy: Policy | None = None,
    ) -> list[Decision]:
        """A session has a connection: a new one, one that resumed, or one whose connection was replaced. ``policy``:
        granted to it; its token's clients share by that from now on."""
        place = self._places.get(session)
        if place is None:
            place = self._new_place(token, session, self._limits.max_streams if max_streams is None else max_streams)
        elif place.queue.token != token:
            raise LocalProtocolError("a session cannot change its token")
        decisions = [] if policy is None else place.queue.follow(policy, now)
        return decisions + place.queue.attach(place, now)

    def adopt(self, stranger: bytes, token: bytes, now: float) -> list[Decision]:
        """What waits for a key that nobody knows (of a name, after a restart) waits for ``token`` from now on, which
        has a session. In the order of arrival; for a while there may be more than a queue holds."""
        strangers = self._queues.get(stranger)
        if strangers is None:
            return []
        if strangers.places:
            raise LocalProtocolError("a token with sessions cannot be adopted")
        del self._queues[stranger]
        for entry in strangers.waiting.values():
            self._know(entry)
        queue = self._queues[token]
        queue.join(strangers)
        return queue.settle(now)

    def detach(self, session: SessionKey, now: float) -> list[Decision]:
        """A session lost its connection and is in grace."""
        place = self._place(session)
        decisions = place.queue.detach(place, now)
        self._hurry(place.queue, now)
        return decisions

    def retire(self, session: SessionKey, now: float) -> list[Decision]:
        """A session takes nothing new (its client drains); what runs goes on."""
        place = self._place(session)
        decisions = place.queue.close(place, "retire", now)
        self._hurry(place.queue, now)
        return decisions

    def remove(self, session: SessionKey, now: float) -> list[Decision]:
        """A session is gone. Its exchanges that were sent stay until ``again``, ``finished`` or ``cancel``."""
        place = self._place(session)
        queue = place.queue
        decisions = queue.close(place, "remove", now)
        del self._places[session]
        self._retries.cancel(session)
        self._hurry(queue, now)
        if not queue.places:
            self._remember(queue.token, now)
            self._forget_if_idle(queue)
        return decisions

    def room(self, session: SessionKey, now: float) -> list[Decision]:
        """A session that was full has room again."""
        place = self._place(session)
        self._retries.cancel(session)
        place.full = place.refuses = False
        return place.queue.settle(now)

    # -- time and configuration --------------------------------------------------------------------

    def expire(self, now: float) -> list[Expired | Decision]:
        """What is due at ``now``: exchanges that leave, and what that makes room for."""
        decisions: list[Expired | Decision] = []
        for exchange in self._deadlines.expire(now):
            decisions += self._expire(self._entries[exchange], now)
        for session in self._retries.expire(now):
            decisions += self.room(session, now)
        self._forget_old(now)
        return decisions

    def relist(self, listed: frozenset[bytes], *, listed_only: bool) -> None:
        """The configuration was read again. For tokens that it no longer holds, see ``withdraw``."""
        self._listed = listed
        self._listed_only = listed_only

    def follow(self, policies: Policies, now: float) -> list[Decision]:
        """The configuration was read again. What was granted to clients holds where it says the same as before."""
        before, self._policies = self._policies, policies
        decisions: list[Decision] = []
        for token, queue in self._queues.items():
            if policies.of(token) is not before.of(token):
                decisions += queue.follow(policies.of(token), now)
        return decisions

    def withdraw(self, token: bytes, now: float) -> list[Expired]:
        """A token is not served any more. Its sessions were removed before; those that wait for it leave."""
        self._recent.pop(token, None)
        queue = self._queues.get(token)
        if queue is None:
            return []
        if queue.places:
            raise LocalProtocolError("a token cannot be withdrawn while it has sessions")
        waiting = list(queue.waiting.values())
        for entry in waiting:
            self._leave(entry, "leave", now)
        return [Expired(entry.exchange, _UNKNOWN) for entry in waiting]

    # -- inside ------------------------------------------------------------------------------------

    def _refuse_stranger(self, now: float, *, named: bool) -> Rejected | None:
        """For an unknown token. After a restart its client may not have come back yet, so it waits for a while; with
        listed tokens only one that could come would be known, but for a name it may be any of them."""
        if (self._listed_only and not named) or now >= self._startup_end:
            return _UNKNOWN
        if len(self._strangers) >= self._limits.startup_waiting:
            return _FULL
        return None

    def _rest(self, place: Place, now: float, *, refused: bool) -> None:
        """Try ``place`` again in a while. Many refusals at once are one."""
        if place.refuses:
            return
        delay = FULL_RETRY
        if refused:
            place.refuses = True
            if now - place.asked < 2 * REFUSED_RETRY_CAP:
                delay = min(2 * place.patience, REFUSED_RETRY_CAP)
            place.patience, place.asked = delay, now + delay
        self._retries.add(now + delay, place.session)

    def _new_queue(self, token: bytes) -> TokenQueue:
        return TokenQueue(token, self._policies.of(token), self._pick, self._balance)

    def _new_place(self, token: bytes, session: SessionKey, max_streams: int) -> Place:
        queue = self._queues.get(token)
        if queue is None:
            queue = self._queues[token] = self._new_queue(token)
        self._recent.pop(token, None)
        for entry in queue.waiting.values():
            self._know(entry)
        place = self._places[session] = Place(session, queue, max_streams)
        return place

    def _know(self, entry: Entry) -> None:
        """Its token is known now: it waits for its own deadline."""
        if (until := self._strangers.pop(entry.exchange, None)) is not None:
            entry.until = until
            self._deadlines.add(until, entry.exchange)

    def _bound_by_startup(self, entry: Entry) -> None:
        self._strangers[entry.exchange] = entry.until
        entry.until = min(entry.until, self._startup_end)

    def _hurry(self, queue: TokenQueue, now: float) -> None:
        """Those that would not wait for a session, and have none to be sent on any more, are due at once."""
        for entry in queue.waiting.values():
            if not entry.patient:
                entry.until = min(entry.until, now)
                self._deadlines.add(entry.until, entry.exchange)

    def _leave(self, entry: Entry, move: str, now: float) -> list[Decision]:
        exchange, queue, was_sent = entry.exchange, entry.queue, entry.state is _SENT
        decisions = queue.leave(entry, move, now)
        del self._entries[exchange]
        if not was_sent:  # else its deadline is void
            self._deadlines.cancel(exchange)
        if self._strangers:
            self._strangers.pop(exchange, None)
        if not queue.exchanges:
            self._forget_if_idle(queue)
        return decisions

    def _expire(self, entry: Entry, now: float) -> list[Expired | Decision]:
        rejected = _TIMEOUT if entry.patient or entry.state is ExchangeState.PLACED else _NO_CLIENT
        if self._strangers.get(entry.exchange, entry.until) > entry.until:
            rejected = _UNKNOWN  # the end of the start-up, not its own deadline, came first
        return [Expired(entry.exchange, rejected), *self._leave(entry, "leave", now)]

    def _remember(self, token: bytes, now: float) -> None:
        self._recent[token] = now + self._limits.known_token_time
        if len(self._recent) > self._limits.known_tokens:
            del self._recent[next(iter(self._recent))]

    def _forget_old(self, now: float) -> None:
        while self._recent:
            oldest = next(iter(self._recent))
            if self._recent[oldest] > now:
                break
            del self._recent[oldest]

    def _forget_if_idle(self, queue: TokenQueue) -> None:
        if queue.idle:
            self._queues.pop(queue.token, None)

    def _entry(self, exchange: ExchangeKey) -> Entry:
        try:
            return self._entries[exchange]
        except KeyError:
            raise LocalProtocolError("this exchange was never submitted, or has left") from None

    def _place(self, session: SessionKey) -> Place:
        try:
            return self._places[session]
        except KeyError:
            raise LocalProtocolError("this session was never attached, or was removed") from None
