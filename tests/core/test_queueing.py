"""The tables, and what policies change; whole stories are in test_registry."""

from __future__ import annotations

from itertools import product

import pytest

from tunnelkit.core.decisions import Dispatch, Move, Recall
from tunnelkit.core.policies import POLICIES, POOL
from tunnelkit.core.queueing import (
    EXCHANGE_MOVES,
    PLACE_MOVES,
    Entry,
    ExchangeState,
    Place,
    PlaceState,
    TokenQueue,
)
from tunnelkit.errors import LocalProtocolError

EXCHANGE_MOVE_NAMES = sorted({move for moves in EXCHANGE_MOVES.values() for move in moves})
PLACE_MOVE_NAMES = sorted({move for moves in PLACE_MOVES.values() for move in moves})


def first(n: int) -> int:
    assert n > 1, "a tie of one needs no random number"
    return 0


def make_queue() -> TokenQueue:
    return TokenQueue(b"digest", POOL, first)


def make_place(queue: TokenQueue, session: str = "s", max_streams: int = 10) -> Place:
    return Place(session=session, queue=queue, max_streams=max_streams)


def make_entry(queue: TokenQueue, exchange: str, serial: int, until: float = 100.0) -> Entry:
    return Entry(exchange=exchange, queue=queue, serial=serial, until=until)


def test_both_say_who_they_are_and_how_they_stand() -> None:
    queue = make_queue()
    assert repr(make_place(queue)) == "<Place 's' NEW load=0>"
    assert repr(make_entry(queue, "x", 1)) == "<Entry 'x' QUEUED until=100>"


@pytest.mark.parametrize(("state", "move"), list(product(ExchangeState, EXCHANGE_MOVE_NAMES)))
def test_every_move_of_an_exchange(state: ExchangeState, move: str) -> None:
    entry = make_entry(make_queue(), "x", 1)
    entry.state = state
    if move in EXCHANGE_MOVES[state]:
        entry.advance(move)
        assert entry.state == EXCHANGE_MOVES[state][move]
    else:
        with pytest.raises(LocalProtocolError, match=f"cannot {move} an exchange that is {state.name}"):
            entry.advance(move)
        assert entry.state == state


@pytest.mark.parametrize(("state", "move"), list(product(PlaceState, PLACE_MOVE_NAMES)))
def test_every_move_of_a_session(state: PlaceState, move: str) -> None:
    place = make_place(make_queue())
    place.state = state
    if move in PLACE_MOVES[state]:
        place.advance(move)
        assert place.state is PLACE_MOVES[state][move]
    else:
        with pytest.raises(LocalProtocolError, match=f"cannot {move} a session that is {state.name}"):
            place.advance(move)
        assert place.state is state


def test_nothing_leads_out_of_the_last_states() -> None:
    assert not EXCHANGE_MOVES[ExchangeState.GONE]
    assert not PLACE_MOVES[PlaceState.REMOVED]


@pytest.mark.parametrize(
    ("load", "full", "refuses", "has_room"),
    [(0, False, False, True), (0, True, False, False), (1, False, False, False), (0, False, True, False)],
)
def test_room(load: int, full: bool, refuses: bool, has_room: bool) -> None:
    place = make_place(make_queue(), max_streams=1)
    place.load, place.full, place.refuses = load, full, refuses
    assert place.has_room is has_room


def test_an_empty_queue_is_idle_and_finds_nothing() -> None:
    queue = make_queue()
    assert queue.idle
    assert queue.find() is None
    assert queue.settle(0.0) == []
    assert queue.admits(0, POOL)
    assert queue.admits(1, POOL)
    assert not queue.admits(1, POOL, opening=1)


def test_waits_for_a_session_in_order() -> None:
    queue = make_queue()
    for serial, name in enumerate("abc"):
        queue.enter(make_entry(queue, name, serial), None)
    assert not queue.idle
    place = make_place(queue, max_streams=2)
    assert queue.attach(place, 1.0) == [Dispatch("a", "s"), Dispatch("b", "s")]
    assert list(queue.waiting) == ["c"]
    assert queue.leave(place.unsent["a"], "leave", 2.0) == [Dispatch("c", "s")]
    assert place.load == 2


def test_one_queue_joins_another_in_the_order_of_arrival() -> None:
    queue, other = make_queue(), make_queue()
    for number, name in enumerate("abcd"):
        mine = queue if name in "bd" else other
        mine.enter(make_entry(mine, name, number), None)
    queue.join(other)
    assert list(queue.waiting) == list("abcd")
    assert queue.exchanges == 4
    assert all(entry.queue is queue for entry in queue.waiting.values())


def test_what_is_past_its_time_is_not_sent() -> None:
    queue = make_queue()
    queue.enter(make_entry(queue, "late", 1, until=1.0), None)
    queue.enter(make_entry(queue, "early", 2, until=2.0), None)
    assert queue.attach(make_place(queue), 1.0) == [Dispatch("early", "s")]
    assert list(queue.waiting) == ["late"]


def test_detached_sessions_hold_and_attached_ones_are_preferred() -> None:
    queue = make_queue()
    one, two = make_place(queue, "one"), make_place(queue, "two")
    queue.attach(one, 0.0)
    queue.detach(one, 0.0)
    assert queue.find() is one
    queue.enter(make_entry(queue, "a", 1), one)
    assert list(queue.waiting) == ["a"]
    assert queue.attach(two, 0.0) == [Move("a", "two")]
    assert queue.find() is two
    assert (one.load, two.load) == (0, 1)


def test_what_a_detached_session_holds_stays_there_while_none_is_attached() -> None:
    queue = make_queue()
    one, two = make_place(queue, "one", max_streams=1), make_place(queue, "two")
    for place in (one, two):
        queue.attach(place, 0.0)
    queue.enter(make_entry(queue, "a", 1), one)
    assert queue.detach(two, 0.0) == []
    assert queue.detach(one, 0.0) == []
    assert list(queue.waiting) == ["a"]
    assert queue.attach(one, 0.0) == []
    assert not queue.waiting
    assert one.unsent["a"].state is ExchangeState.PLACED


def test_a_session_that_closes_gives_back_what_it_did_not_send() -> None:
    queue = make_queue()
    one, two = make_place(queue, "one"), make_place(queue, "two", max_streams=1)
    queue.attach(one, 0.0)
    for serial, name in enumerate("abc"):
        queue.enter(make_entry(queue, name, serial), one)
    queue.attach(two, 0.0)
    assert queue.close(one, "retire", 0.0) == [Move("a", "two"), Recall("b"), Recall("c")]
    assert list(queue.waiting) == ["b", "c"]
    assert queue.sessions(PlaceState.RETIRED) == ["one"]
    assert queue.close(one, "remove", 0.0) == []
    assert list(queue.places) == ["two"]


def test_put_back_takes_the_place_of_its_arrival() -> None:
    queue = make_queue()
    place = make_place(queue, max_streams=1)
    queue.attach(place, 0.0)
    entry = make_entry(queue, "a", 1)
    queue.enter(entry, place)
    queue.enter(make_entry(queue, "b", 2), None)
    assert queue.put_back(entry, 0.0, full=True) == []
    assert list(queue.waiting) == ["a", "b"]
    place.full = False
    assert queue.settle(0.0) == [Dispatch("a", "s")]


def test_a_finished_stream_makes_a_full_session_try_again() -> None:
    queue = make_queue()
    place = make_place(queue)
    queue.attach(place, 0.0)
    entries = [make_entry(queue, name, serial) for serial, name in enumerate("ab")]
    for entry in entries:
        queue.enter(entry, place)
    queue.put_back(entries[1], 0.0, full=True)
    assert queue.leave(entries[0], "finish", 0.0) == [Dispatch("b", "s")]
    assert queue.leave(entries[1], "finish", 0.0) == []
    assert queue.exchanges == 0


def test_one_that_waits_leaves_without_touching_others() -> None:
    queue = make_queue()
    entry = make_entry(queue, "a", 1)
    queue.enter(entry, None)
    assert queue.leave(entry, "leave", 0.0) == []
    assert queue.idle


def test_a_resumed_session_may_have_sent_before() -> None:
    queue = make_queue()
    place = make_place(queue)
    queue.attach(place, 0.0)
    queue.enter(make_entry(queue, "a", 1), place)
    # Taken over before its loss was noticed: what is placed on it stays as it is.
    assert queue.attach(place, 1.0) == []
    assert place.unsent["a"].state is ExchangeState.PLACED
    queue.close(place, "retire", 2.0)
    assert queue.attach(place, 3.0) == []
    assert place.state is PlaceState.RETIRED


def test_several_sessions_share_by_load() -> None:
    queue = make_queue()
    places = [make_place(queue, name, max_streams=2) for name in ("one", "two")]
    for place in places:
        queue.attach(place, 0.0)
    taken = []
    for serial in range(4):
        found = queue.find()
        assert found is not None
        queue.enter(make_entry(queue, str(serial), serial), found)
        taken.append(found.session)
    assert taken == ["one", "two", "one", "two"]
    assert queue.find() is None


# -- policies ----------------------------------------------------------------------------------


def attached(queue: TokenQueue, *sessions: str) -> list[Place]:
    places = [make_place(queue, session) for session in sessions]
    for place in places:
        queue.attach(place, 0.0)
    return places


def found(queue: TokenQueue) -> str | None:
    place = queue.find()
    return None if place is None else place.session


def test_a_standby_serves_when_the_one_before_it_is_gone_and_goes_on_when_that_comes_back() -> None:
    queue = TokenQueue(b"digest", POLICIES["standby"], first)
    one, _ = attached(queue, "one", "two")
    assert found(queue) == "one"
    queue.detach(one, 0.0)
    assert found(queue) == "two"
    queue.attach(one, 0.0)
    assert found(queue) == "two"


def test_a_standby_takes_nothing_though_the_active_one_is_full() -> None:
    queue = TokenQueue(b"digest", POLICIES["standby"], first)
    one, _ = attached(queue, "one", "two")
    one.full = True
    assert found(queue) is None


def test_another_policy_lets_those_serve_that_stood_by() -> None:
    queue = TokenQueue(b"digest", POLICIES["standby"], first)
    one, _ = attached(queue, "one", "two")
    one.full = True
    entry = make_entry(queue, "x", 1)
    queue.enter(entry, None)
    assert queue.follow(POOL, 0.0) == [Dispatch("x", "two")]
