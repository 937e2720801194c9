"""Any story of callers and clients: each exchange leaves exactly once, in order, and the runtime is never misled."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tunnelkit.config import Limits
from tunnelkit.core.decisions import Decision, Dispatch, Expired, Move, Queued, Recall, Rejected
from tunnelkit.core.queueing import ExchangeState, PlaceState
from tunnelkit.core.registry import Registry

TOKENS = [b"\x01" * 32, b"\x02" * 32, b"\x03" * 32]  # the last is not listed
NAME = b"\x04" * 32  # stands for a name, and has no sessions
LIMITS = Limits(
    max_requests_per_tunnel=3,
    startup_waiting=2,
    startup_wait=20.0,
    queue_timeout=30.0,
    known_token_time=50.0,
    known_tokens=1,
)
MAX_STREAMS = 2


class Stories(RuleBasedStateMachine):
    """The machine is the runtime: it carries out decisions, and knows by itself where each exchange is."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.registry: Registry = Registry(LIMITS, started_at=0.0, pick=lambda n: n - 1, listed=frozenset(TOKENS[:2]))
        self.token_of: dict[int, bytes] = {}
        self.on: dict[int, int | None] = {}  # exchange -> session; those that have not left
        self.sent: set[int] = set()
        self.left: set[int] = set()
        self.deadline: dict[int, float] = {}
        self.attached: dict[int, bool] = {}  # sessions that are not gone
        self.retired: set[int] = set()
        self.session_token: dict[int, bytes] = {}
        self.no_room: set[int] = set()  # sessions that refuse the next stream
        self.next_id = 0

    # -- carrying out ------------------------------------------------------------------------------

    def execute(self, decisions: list[Expired | Decision] | list[Decision]) -> None:
        last = -1
        for decision in list(decisions):
            exchange = decision.exchange
            assert exchange not in self.left
            if isinstance(decision, Expired):
                self.leave(exchange)
                continue
            assert exchange not in self.sent, "what was sent is never taken away"
            if isinstance(decision, Recall):
                assert self.on[exchange] is not None
                self.on[exchange] = None
                continue
            assert (self.on[exchange] is not None) == isinstance(decision, Move)
            self.open(exchange, decision.session)
            if len({self.token_of[one.exchange] for one in decisions}) == 1:
                assert exchange > last, "first come, first served"
                last = exchange

    def open(self, exchange: int, session: int) -> None:
        assert session in self.attached
        assert session not in self.retired
        assert self.session_token[session] == self.token_of[exchange]
        assert self.deadline[exchange] > self.now or exchange == self.next_id - 1
        if not self.attached[session]:
            assert not any(
                attached and other not in self.retired and self.session_token[other] == self.session_token[session]
                for other, attached in self.attached.items()
            ), "on a detached session only while none is attached"
        self.on[exchange] = session
        if session in self.no_room:
            self.no_room.discard(session)
            self.on[exchange] = None
            # The runtime finds out while it carries out a list of decisions: the rest of that still stands.
            full = exchange % 2 == 0
            self.execute(self.registry.again(exchange, self.now, full=full, refused=not full))

    def leave(self, exchange: int) -> None:
        assert exchange not in self.left, "each exchange leaves exactly once"
        self.left.add(exchange)
        self.on.pop(exchange, None)
        self.sent.discard(exchange)

    # -- what happens ------------------------------------------------------------------------------

    @rule(data=st.data())
    @precondition(lambda self: self.attached)
    def adopt(self, data: st.DataObject) -> None:
        """A token that has a session turns out to have the name."""
        token = self.session_token[data.draw(st.sampled_from(sorted(self.attached)))]
        for exchange in self.on:
            if self.token_of[exchange] == NAME:
                self.token_of[exchange] = token
        self.execute(self.registry.adopt(NAME, token, self.now))
        assert self.registry.queued(NAME) == 0

    @rule(token=st.sampled_from([*TOKENS, NAME]), wait=st.sampled_from([None, None, 0.0, 7.0]))
    def submit(self, token: bytes, wait: float | None) -> None:
        exchange = self.next_id
        self.next_id += 1
        self.token_of[exchange] = token
        self.deadline[exchange] = self.now + (wait or LIMITS.queue_timeout)
        queued = self.registry.queued(token)
        outcome = self.registry.submit(token, exchange, self.now, wait=wait, named=token == NAME)
        if isinstance(outcome, Rejected):
            self.leave(exchange)
            return
        self.on[exchange] = None
        if isinstance(outcome, Dispatch):
            self.open(exchange, outcome.session)
        else:
            assert outcome == Queued()
        assert queued < LIMITS.max_requests_per_tunnel or self.registry.queued(token) == queued

    @rule(data=st.data())
    @precondition(lambda self: self.on)
    def cancel(self, data: st.DataObject) -> None:
        exchange = data.draw(st.sampled_from(sorted(self.on)))
        self.leave(exchange)
        self.execute(self.registry.cancel(exchange, self.now))
        assert self.registry.cancel(exchange, self.now) == []

    @rule(data=st.data())
    @precondition(lambda self: self.sendable())
    def send(self, data: st.DataObject) -> None:
        exchange = data.draw(st.sampled_from(self.sendable()))
        self.registry.sent(exchange)
        self.sent.add(exchange)

    def sendable(self) -> list[int]:
        return [
            exchange
            for exchange, session in self.on.items()
            if exchange not in self.sent and session is not None and self.attached.get(session)
        ]

    @rule(data=st.data(), again=st.booleans())
    @precondition(lambda self: self.sent)
    def answer(self, data: st.DataObject, again: bool) -> None:
        exchange = data.draw(st.sampled_from(sorted(self.sent)))
        if again:
            self.sent.discard(exchange)
            self.on[exchange] = None
            self.execute(self.registry.again(exchange, self.now))
        else:
            self.leave(exchange)
            self.execute(self.registry.finished(exchange, self.now))

    @rule(token=st.sampled_from(TOKENS))
    def connect(self, token: bytes) -> None:
        session = self.next_id
        self.next_id += 1
        self.attached[session] = True
        self.session_token[session] = token
        self.execute(self.registry.attach(token, session, self.now, max_streams=MAX_STREAMS))

    @rule(data=st.data())
    @precondition(lambda self: self.attached)
    def resume(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.attached)))
        self.attached[session] = True
        self.execute(self.registry.attach(self.session_token[session], session, self.now))

    @rule(data=st.data())
    @precondition(lambda self: any(self.attached.values()))
    def lose(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(one for one, attached in self.attached.items() if attached)))
        self.attached[session] = False
        self.execute(self.registry.detach(session, self.now))

    @rule(data=st.data())
    @precondition(lambda self: self.attached)
    def end(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.attached)))
        del self.attached[session]
        self.no_room.discard(session)
        self.execute(self.registry.remove(session, self.now))

    @rule(data=st.data())
    @precondition(lambda self: self.attached)
    def retire(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.attached)))
        self.retired.add(session)
        self.execute(self.registry.retire(session, self.now))

    @rule(data=st.data())
    @precondition(lambda self: self.attached)
    def fill(self, data: st.DataObject) -> None:
        self.no_room.add(data.draw(st.sampled_from(sorted(self.attached))))

    @rule(seconds=st.sampled_from([0.05, 1.0, 10.0, 40.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (when := self.registry.next_timer()) is not None and when <= until:
            self.now = max(self.now, when)
            self.execute(self.registry.expire(self.now))
        self.now = until

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def knows_where_each_exchange_is(self) -> None:
        assert set(self.registry._entries) == set(self.on)
        for exchange, entry in self.registry._entries.items():
            assert (entry.state is ExchangeState.SENT) == (exchange in self.sent)
            assert (entry.place.session if entry.place else None) == self.on[exchange]

    @invariant()
    def counts_streams(self) -> None:
        assert set(self.registry._places) == set(self.attached)
        for session, place in self.registry._places.items():
            assert place.load == sum(1 for other in self.on.values() if other == session) <= MAX_STREAMS
            assert self.registry.attached(place.queue.token).count(session) == (
                self.attached[session] and session not in self.retired
            )

    @invariant()
    def lets_nothing_wait_without_need(self) -> None:
        for queue in self.registry._queues.values():
            assert [entry.serial for entry in queue.waiting.values()] == sorted(
                entry.serial for entry in queue.waiting.values()
            )
            waits = [entry for entry in queue.waiting.values() if entry.until > self.now]
            if waits:
                assert not [
                    place for place in queue.places.values() if place.state is PlaceState.ATTACHED and place.has_room
                ]

    @invariant()
    def has_a_deadline_for_all_that_was_not_sent(self) -> None:
        unsent = set(self.on) - self.sent
        assert {exchange for exchange in self.on if exchange in self.registry._deadlines} == unsent

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.registry._strangers) <= LIMITS.startup_waiting
        assert len(self.registry._recent) <= LIMITS.known_tokens
        assert len(self.registry._queues) <= len(TOKENS) + 1  # the name

    def teardown(self) -> None:
        for exchange in sorted(self.on):
            self.leave(exchange)
            self.execute(self.registry.cancel(exchange, self.now))
        for session in sorted(self.attached):
            del self.attached[session]
            self.execute(self.registry.remove(session, self.now))
        assert repr(self.registry) == "<Registry tokens=0 sessions=0 exchanges=0>"
        assert self.registry.next_timer() is None
        assert len(self.left) == len(self.token_of)


TestStories = Stories.TestCase
TestStories.settings = settings(stateful_step_count=40)
pytestmark = pytest.mark.timeout(120)
