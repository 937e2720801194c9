"""The sessions of one token and the exchanges that wait for them: where each goes, in order.

Synchronous decisions only: a change goes in, a list of what is to be done comes out (design, section 8). An exchange
of which nothing was sent is *queued*: without a session, or on a detached one. It is in ``waiting`` then, oldest
first, whatever way it came there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum, auto
from operator import attrgetter
from typing import Final

from ..errors import LocalProtocolError
from .balance import Balance, least_load
from .decisions import Decision, Dispatch, ExchangeKey, Move, Recall, SessionKey
from .policies import Policy

__all__ = [
    "EXCHANGE_MOVES",
    "PLACE_MOVES",
    "Entry",
    "ExchangeState",
    "Place",
    "PlaceState",
    "TokenQueue",
]

# -- state tables: a missing key is an illegal move ------------------------------------------------


class ExchangeState(IntEnum):  # an int hashes much faster, and each exchange is looked up thrice
    QUEUED = auto()  # on no session
    HELD = auto()  # on a session that cannot send now
    PLACED = auto()  # on an attached session, nothing sent yet
    SENT = auto()  # a first byte was taken by a connection
    GONE = auto()  # left: answered, refused, expired or cancelled


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


class PlaceState(IntEnum):
    NEW = auto()
    ATTACHED = auto()
    DETACHED = auto()
    RETIRED = auto()  # said GOAWAY: what runs goes on, whether attached or not, and nothing new comes
    REMOVED = auto()


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


class Place:
    """A session, as far as its token's queue cares."""

    __slots__ = ("asked", "full", "load", "max_streams", "patience", "queue", "refuses", "session", "state", "unsent")

    def __init__(self, session: SessionKey, queue: TokenQueue, max_streams: int) -> None:
        self.session = session
        self.queue = queue
        self.max_streams = max_streams
        self.state = PlaceState.NEW
        self.load = 0  # streams in use
        self.full = False  # it said so itself: there is no room though load is below max_streams
        self.refuses = False  # its client refused an exchange, and is not asked until ``registry`` says so
        self.patience = 0.0  # how long it was left alone when it last refused
        self.asked = float("-inf")  # when that was over
        self.unsent: dict[ExchangeKey, Entry] = {}  # in order

    def __repr__(self) -> str:
        return f"<Place {self.session!r} {self.state.name} load={self.load}>"

    @property
    def has_room(self) -> bool:
        return self.load < self.max_streams and not self.full and not self.refuses

    def advance(self, move: str) -> None:
        try:
            self.state = PLACE_MOVES[self.state][move]
        except KeyError:
            raise LocalProtocolError(f"cannot {move} a session that is {self.state.name}") from None


class Entry:
    """An exchange that has not left yet."""

    __slots__ = ("exchange", "patient", "place", "queue", "serial", "state", "until")

    def __init__(
        self, exchange: ExchangeKey, queue: TokenQueue, serial: int, until: float, *, patient: bool = True
    ) -> None:
        self.exchange = exchange
        self.queue = queue
        self.serial = serial  # the order of arrival
        self.until = until  # it leaves if nothing was sent by then
        self.patient = patient  # False: it leaves as soon as no attached session is to be had
        self.state = ExchangeState.QUEUED
        self.place: Place | None = None

    def __repr__(self) -> str:
        return f"<Entry {self.exchange!r} {self.state.name} until={self.until:g}>"

    def advance(self, move: str) -> None:
        try:
            self.state = EXCHANGE_MOVES[self.state][move]
        except KeyError:
            raise LocalProtocolError(f"cannot {move} an exchange that is {self.state.name}") from None


# -- the queue -----------------------------------------------------------------------------------


class TokenQueue:
    """All of one token.

    Invariant, after each method: no exchange waits, that is not past its time, while a session has room that is
    attached and serves, or, where none is attached, without a session while a detached one has room.
    """

    __slots__ = ("_attached", "_balance", "_detached", "_pick", "exchanges", "places", "policy", "token", "waiting")

    def __init__(
        self, token: bytes, policy: Policy, pick: Callable[[int], int], balance: Balance = least_load
    ) -> None:
        self.token = token
        self.places: dict[SessionKey, Place] = {}
        self.waiting: dict[ExchangeKey, Entry] = {}  # queued and held, oldest first
        self.exchanges = 0  # not gone, wherever they are
        self._attached: Sequence[Place] = []  # that serve; kept, because every exchange asks
        self._detached: list[Place] = []
        self.policy = policy
        self._pick = pick
        self._balance = balance

    @property
    def idle(self) -> bool:
        """Nothing hangs on this queue: it can be forgotten."""
        return not self.places and not self.exchanges

    def sessions(self, state: PlaceState) -> list[SessionKey]:
        return [place.session for place in self.places.values() if place.state is state]

    def admits(self, limit: int, policy: Policy, *, opening: int = 0, secret: bool = False) -> bool:
        """One more client, by ``policy``. ``opening`` clients are about to attach for the first time."""
        # Detached sessions never count: a client that was killed and started again must get in (design, section 8).
        return policy.admits(len(self.sessions(PlaceState.ATTACHED)) + opening, limit, secret=secret)

    # -- exchanges ---------------------------------------------------------------------------------

    def find(self) -> Place | None:
        """Where a new exchange goes: on an attached session; if all are detached, on one of these; or nowhere."""
        places = self._attached or self._detached
        if len(places) == 1:
            return places[0] if places[0].has_room else None
        roomy = [place for place in places if place.has_room]
        return self._balance(roomy, self._pick) if roomy else None

    def enter(self, entry: Entry, place: Place | None) -> Dispatch | None:
        """A new exchange, for which ``find`` found ``place``."""
        self.exchanges += 1
        if place is None:
            self.waiting[entry.exchange] = entry
            return None
        self._put(entry, place)
        return Dispatch(entry.exchange, place.session)

    def join(self, other: TokenQueue) -> None:
        """All of ``other``, which has no sessions, belongs here from now on. To be settled."""
        for entry in other.waiting.values():
            entry.queue = self
        self.exchanges += other.exchanges
        self._wait(other.waiting.values())

    def leave(self, entry: Entry, move: str, now: float) -> list[Decision]:
        """The exchange is over; another may get its stream."""
        entry.advance(move)
        self.exchanges -= 1
        if self.waiting:
            self.waiting.pop(entry.exchange, None)
        if entry.place is None:
            return []
        self._take_off(entry)
        return self.settle(now) if self.waiting else []

    def put_back(self, entry: Entry, now: float, *, full: bool) -> list[Decision]:
        """Nothing of the exchange counts as sent any more; it waits where its arrival puts it."""
        entry.advance("recall")
        place = self._take_off(entry)
        place.full = full
        self._wait([entry])
        return self.settle(now)

    # -- sessions ----------------------------------------------------------------------------------

    def follow(self, policy: Policy, now: float) -> list[Decision]:
        """From now on share by ``policy``."""
        self.policy = policy
        self._sort_out()
        return self.settle(now)

    def attach(self, place: Place, now: float) -> list[Decision]:
        self._change(place, "attach")
        if place.state is PlaceState.ATTACHED:
            for entry in place.unsent.values():
                if entry.state is ExchangeState.HELD:
                    entry.advance("place")
                    del self.waiting[entry.exchange]
        return self.settle(now)

    def detach(self, place: Place, now: float) -> list[Decision]:
        self._change(place, "detach")
        self._hold(place)
        return self.settle(now)

    def close(self, place: Place, move: str, now: float) -> list[Decision]:
        """The session takes nothing new (``move`` "retire") or is over ("remove"): what it did not send goes on."""
        self._change(place, move)
        self._hold(place)
        decisions = self.settle(now)
        for entry in list(place.unsent.values()):
            entry.advance("recall")
            self._take_off(entry)
            decisions.append(Recall(entry.exchange))
        return decisions

    def settle(self, now: float) -> list[Decision]:
        """Bring what waits onto sessions as far as they have room, oldest first."""
        decisions: list[Decision] = []
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

    def _change(self, place: Place, move: str) -> None:
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

    def _bring(self, entry: Entry, place: Place) -> Decision:
        if entry.place is None:
            self._put(entry, place)
            return Dispatch(entry.exchange, place.session)
        self._take_off(entry)
        self._put(entry, place)
        return Move(entry.exchange, place.session)

    def _put(self, entry: Entry, place: Place) -> None:
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

    def _take_off(self, entry: Entry) -> Place:
        place = entry.place
        assert place is not None
        place.load -= 1
        place.full = False  # one stream less: it may have room again
        place.unsent.pop(entry.exchange, None)
        entry.place = None
        return place

    def _hold(self, place: Place) -> None:
        for entry in place.unsent.values():
            entry.advance("hold")
        self._wait(place.unsent.values())

    def _wait(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.waiting[entry.exchange] = entry
        # They come back among others that arrived before and after them. Rare, and nearly sorted.
        in_order = sorted(self.waiting.values(), key=attrgetter("serial"))
        self.waiting = {entry.exchange: entry for entry in in_order}


def _on_detached(entry: Entry) -> bool:
    return entry.place is not None and entry.place.state is PlaceState.DETACHED
