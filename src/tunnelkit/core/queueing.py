"""The sessions of one token and the exchanges that wait for them: where each goes, in order.

Synchronous decisions only: a change goes in, a list of what is to be done comes out (design, section 8). An exchange
of which nothing was sent is *queued*: without a session, or on a detached one. It is in ``waiting`` then, oldest
first, whatever way it came there.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeAlias, TypeVar

from ..errors import LocalProtocolError
from .balance import Balance, least_load
from .policies import Policy

__all__ = [
    "EXCHANGE_MOVES",
    "PLACE_MOVES",
    "Decision",
    "Dispatch",
    "Entry",
    "ExchangeState",
    "Move",
    "Place",
    "PlaceState",
    "Recall",
    "TokenQueue",
]

S = TypeVar("S", bound=Hashable)  # a session, as the runtime names it
E = TypeVar("E", bound=Hashable)  # an exchange


# -- decisions -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Dispatch(Generic[S, E]):
    """Open a stream for ``exchange`` on ``session``."""

    exchange: E
    session: S


@dataclass(slots=True)
class Move(Generic[S, E]):
    """Withdraw ``exchange``, of which nothing was sent, from the session it is on; open a stream on ``session``."""

    exchange: E
    session: S


@dataclass(slots=True)
class Recall(Generic[E]):
    """Withdraw ``exchange``, of which nothing was sent, from the session it is on: it waits in the queue again."""

    exchange: E


Decision: TypeAlias = Dispatch[S, E] | Move[S, E] | Recall[E]


# -- state tables: a missing key is an illegal move ------------------------------------------------


class ExchangeState(enum.IntEnum):  # an int hashes much faster, and each exchange is looked up thrice
    QUEUED = enum.auto()  # on no session
    HELD = enum.auto()  # on a session that cannot send now
    PLACED = enum.auto()  # on an attached session, nothing sent yet
    SENT = enum.auto()  # a first byte was taken by a connection
    GONE = enum.auto()  # left: answered, refused, expired or cancelled


EXCHANGE_MOVES: Final[dict[ExchangeState, dict[str, ExchangeState]]] = {
    ExchangeState.QUEUED: {
        "hold": ExchangeState.HELD,
        "place": ExchangeState.PLACED,
        "leave": ExchangeState.GONE,
    },
    ExchangeState.HELD: {
        "hold": ExchangeState.HELD,
        "place": ExchangeState.PLACED,
        "recall": ExchangeState.QUEUED,
        "leave": ExchangeState.GONE,
    },
    ExchangeState.PLACED: {
        "hold": ExchangeState.HELD,
        "recall": ExchangeState.QUEUED,
        "send": ExchangeState.SENT,
        "finish": ExchangeState.GONE,
        "leave": ExchangeState.GONE,
    },
    ExchangeState.SENT: {
        "recall": ExchangeState.QUEUED,  # refused by the peer, or safe to repeat
        "finish": ExchangeState.GONE,
        "leave": ExchangeState.GONE,
    },
    ExchangeState.GONE: {},
}


class PlaceState(enum.IntEnum):
    NEW = enum.auto()
    ATTACHED = enum.auto()
    DETACHED = enum.auto()
    RETIRED = enum.auto()  # said GOAWAY: what runs goes on, whether attached or not, and nothing new comes
    REMOVED = enum.auto()


PLACE_MOVES: Final[dict[PlaceState, dict[str, PlaceState]]] = {
    PlaceState.NEW: {
        "attach": PlaceState.ATTACHED,
    },
    PlaceState.ATTACHED: {
        "attach": PlaceState.ATTACHED,  # taken over before its old connection's loss was noticed
        "detach": PlaceState.DETACHED,
        "retire": PlaceState.RETIRED,
        "remove": PlaceState.REMOVED,
    },
    PlaceState.DETACHED: {
        "attach": PlaceState.ATTACHED,
        "retire": PlaceState.RETIRED,
        "remove": PlaceState.REMOVED,
    },
    PlaceState.RETIRED: {
        "attach": PlaceState.RETIRED,
        "detach": PlaceState.RETIRED,
        "retire": PlaceState.RETIRED,
        "remove": PlaceState.REMOVED,
    },
    PlaceState.REMOVED: {},
}


# Looking a member up in its enum takes twice as long as calling a function (CPython 3.11): hence a name.
_ATTACHED: Final = PlaceState.ATTACHED


@dataclass(slots=True, eq=False)
class Place(Generic[S, E]):
    """A session, as far as its token's queue cares."""

    session: S
    queue: TokenQueue[S, E] = field(repr=False)
    max_streams: int
    state: PlaceState = PlaceState.NEW
    load: int = 0  # streams in use
    full: bool = False  # it said so itself: there is no room though load is below max_streams
    refuses: bool = False  # its client refused an exchange, and is not asked until ``registry`` says so
    patience: float = 0.0  # how long it was left alone when it last refused
    asked: float = float("-inf")  # when that was over
    unsent: dict[E, Entry[S, E]] = field(default_factory=dict, repr=False)  # in order

    @property
    def has_room(self) -> bool:
        return self.load < self.max_streams and not self.full and not self.refuses

    def advance(self, move: str) -> None:
        try:
            self.state = PLACE_MOVES[self.state][move]
        except KeyError:
            raise LocalProtocolError(f"cannot {move} a session that is {self.state.name}") from None


@dataclass(slots=True, eq=False)
class Entry(Generic[S, E]):
    """An exchange that has not left yet."""

    exchange: E
    queue: TokenQueue[S, E] = field(repr=False)
    serial: int  # the order of arrival
    until: float  # it leaves if nothing was sent by then
    patient: bool = True  # False: it leaves as soon as no attached session is to be had
    state: ExchangeState = ExchangeState.QUEUED
    place: Place[S, E] | None = None

    def advance(self, move: str) -> None:
        try:
            self.state = EXCHANGE_MOVES[self.state][move]
        except KeyError:
            raise LocalProtocolError(f"cannot {move} an exchange that is {self.state.name}") from None


# -- the queue -----------------------------------------------------------------------------------


class TokenQueue(Generic[S, E]):
    """All of one token.

    Invariant, after each method: no exchange waits, that is not past its time, while a session has room that is
    attached and serves, or, where none is attached, without a session while a detached one has room.
    """

    __slots__ = ("_attached", "_balance", "_detached", "_pick", "exchanges", "places", "policy", "token", "waiting")

    def __init__(
        self, token: bytes, policy: Policy, pick: Callable[[int], int], balance: Balance = least_load
    ) -> None:
        self.token = token
        self.places: dict[S, Place[S, E]] = {}
        self.waiting: dict[E, Entry[S, E]] = {}  # queued and held, oldest first
        self.exchanges = 0  # not gone, wherever they are
        self._attached: Sequence[Place[S, E]] = []  # that serve; kept, because every exchange asks
        self._detached: list[Place[S, E]] = []
        self.policy = policy
        self._pick = pick
        self._balance = balance

    @property
    def idle(self) -> bool:
        """Nothing hangs on this queue: it can be forgotten."""
        return not self.places and not self.exchanges

    def sessions(self, state: PlaceState) -> list[S]:
        return [place.session for place in self.places.values() if place.state is state]

    def admits(self, limit: int, policy: Policy, *, opening: int = 0, secret: bool = False) -> bool:
        """One more client, by ``policy``. ``opening`` clients are about to attach for the first time."""
        # Detached sessions never count: a client that was killed and started again must get in (design, section 8).
        return policy.admits(len(self.sessions(PlaceState.ATTACHED)) + opening, limit, secret=secret)

    # -- exchanges ---------------------------------------------------------------------------------

    def find(self) -> Place[S, E] | None:
        """Where a new exchange goes: on an attached session; if all are detached, on one of these; or nowhere."""
        places = self._attached or self._detached
        if len(places) == 1:
            return places[0] if places[0].has_room else None
        roomy = [place for place in places if place.has_room]
        return self._balance(roomy, self._pick) if roomy else None

    def enter(self, entry: Entry[S, E], place: Place[S, E] | None) -> Dispatch[S, E] | None:
        """A new exchange, for which ``find`` found ``place``."""
        self.exchanges += 1
        if place is None:
            self.waiting[entry.exchange] = entry
            return None
        self._put(entry, place)
        return Dispatch(entry.exchange, place.session)

    def join(self, other: TokenQueue[S, E]) -> None:
        """All of ``other``, which has no sessions, belongs here from now on. To be settled."""
        for entry in other.waiting.values():
            entry.queue = self
        self.exchanges += other.exchanges
        self._wait(other.waiting.values())

    def leave(self, entry: Entry[S, E], move: str, now: float) -> list[Decision[S, E]]:
        """The exchange is over; another may get its stream."""
        entry.advance(move)
        self.exchanges -= 1
        if self.waiting:
            self.waiting.pop(entry.exchange, None)
        if entry.place is None:
            return []
        self._take_off(entry)
        return self.settle(now) if self.waiting else []

    def put_back(self, entry: Entry[S, E], now: float, *, full: bool) -> list[Decision[S, E]]:
        """Nothing of the exchange counts as sent any more; it waits where its arrival puts it."""
        entry.advance("recall")
        place = self._take_off(entry)
        place.full = full
        self._wait([entry])
        return self.settle(now)

    # -- sessions ----------------------------------------------------------------------------------

    def follow(self, policy: Policy, now: float) -> list[Decision[S, E]]:
        """From now on share by ``policy``."""
        self.policy = policy
        self._sort_out()
        return self.settle(now)

    def attach(self, place: Place[S, E], now: float) -> list[Decision[S, E]]:
        self._change(place, "attach")
        if place.state is PlaceState.ATTACHED:
            for entry in place.unsent.values():
                if entry.state is ExchangeState.HELD:
                    entry.advance("place")
                    del self.waiting[entry.exchange]
        return self.settle(now)

    def detach(self, place: Place[S, E], now: float) -> list[Decision[S, E]]:
        self._change(place, "detach")
        self._hold(place)
        return self.settle(now)

    def close(self, place: Place[S, E], move: str, now: float) -> list[Decision[S, E]]:
        """The session takes nothing new (``move`` "retire") or is over ("remove"): what it did not send goes on."""
        self._change(place, move)
        self._hold(place)
        decisions = self.settle(now)
        for entry in list(place.unsent.values()):
            entry.advance("recall")
            self._take_off(entry)
            decisions.append(Recall(entry.exchange))
        return decisions

    def settle(self, now: float) -> list[Decision[S, E]]:
        """Bring what waits onto sessions as far as they have room, oldest first."""
        decisions: list[Decision[S, E]] = []
        if not self.waiting:
            return decisions
        for entry in list(self.waiting.values()):
            if entry.until <= now or (not self._attached and _on_detached(entry)):
                continue  # too late to be sent: ``expire`` takes it out; or well where it is
            place = self.find()
            if place is None:
                break
            decisions.append(self._bring(entry, place))
        return decisions

    # -- inside ------------------------------------------------------------------------------------

    def _change(self, place: Place[S, E], move: str) -> None:
        place.advance(move)
        if place.state in (PlaceState.REMOVED, PlaceState.DETACHED):
            del self.places[place.session]
        if place.state is not PlaceState.REMOVED:
            self.places[place.session] = place  # behind the others, if it had left them
        self._sort_out()

    def _sort_out(self) -> None:
        attached = [one for one in self.places.values() if one.state is PlaceState.ATTACHED]
        self._attached = self.policy.serving(attached)
        self._detached = [one for one in self.places.values() if one.state is PlaceState.DETACHED]

    def _bring(self, entry: Entry[S, E], place: Place[S, E]) -> Decision[S, E]:
        if entry.place is None:
            self._put(entry, place)
            return Dispatch(entry.exchange, place.session)
        self._take_off(entry)
        self._put(entry, place)
        return Move(entry.exchange, place.session)

    def _put(self, entry: Entry[S, E], place: Place[S, E]) -> None:
        place.load += 1
        place.unsent[entry.exchange] = entry
        entry.place = place
        if place.state is _ATTACHED:
            entry.advance("place")
            if self.waiting:
                self.waiting.pop(entry.exchange, None)
        else:
            entry.advance("hold")
            self.waiting[entry.exchange] = entry  # where it was, or at the end

    def _take_off(self, entry: Entry[S, E]) -> Place[S, E]:
        place = entry.place
        assert place is not None
        place.load -= 1
        place.full = False  # one stream less: it may have room again
        place.unsent.pop(entry.exchange, None)
        entry.place = None
        return place

    def _hold(self, place: Place[S, E]) -> None:
        for entry in place.unsent.values():
            entry.advance("hold")
        self._wait(place.unsent.values())

    def _wait(self, entries: Iterable[Entry[S, E]]) -> None:
        for entry in entries:
            self.waiting[entry.exchange] = entry
        # They come back among others that arrived before and after them. Rare, and nearly sorted.
        self.waiting = dict(sorted(self.waiting.items(), key=lambda item: item[1].serial))


def _on_detached(entry: Entry[S, E]) -> bool:
    return entry.place is not None and entry.place.state is PlaceState.DETACHED
