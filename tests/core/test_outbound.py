from __future__ import annotations

import pytest

from tunnelkit.config import SMALLEST_WINDOW, Limits
from tunnelkit.core.budget import Budget
from tunnelkit.core.message import CONTROL_ALLOWANCE, HEADER_SIZE, Kind, split_header
from tunnelkit.core.outbound import LEAST_CONTROL_ROOM, LEAST_ROOM, Outbound
from tunnelkit.core.pace import FIRST_MESSAGE
from tunnelkit.errors import RemoteProtocolError

from .session_pair import ByteSource

LIMITS = Limits(replay_limit=40_000, replay_floor=10_000, control_reserve=1000)
LARGE = 1 << 20


class Sender:
    def __init__(self, limits: Limits = LIMITS, window: int = LARGE, budget: Budget | None = None) -> None:
        self.source = ByteSource()
        self.outbound = Outbound(self.source, limits, window, budget)
        self.outbound.attach(0, LARGE)

    def ready(self) -> bool:
        return self.outbound.has_output

    def pull(self, limit: int = LARGE) -> bytes:
        """The payload of the next message, after a look at its header."""
        replay = self.outbound.replay
        offset = replay.pointer
        expected = self.outbound.has_output
        message = self.outbound.message(7, 99, 0.0, limit)
        assert bool(message) is expected
        if not message:
            return b""
        assert split_header(message) == (Kind.DATA, 0, 0, 7, offset, 99)
        assert len(message) <= limit
        return message[HEADER_SIZE:]

    def fill(self) -> int:
        """Send until there is no room; how much is under way then."""
        while self.pull():
            pass
        return self.outbound.replay.end - self.outbound.replay.acked


def test_nothing_to_send() -> None:
    assert Sender().pull() == b""


def test_bytes_are_pulled_as_far_as_the_message_goes() -> None:
    sender = Sender()
    sender.source.bulk += b"x" * 5000
    assert len(sender.pull(1024)) == 1000
    assert len(sender.pull()) == 4000


def test_messages_keep_to_the_pace_and_to_the_connection() -> None:
    sender = Sender()
    sender.source.bulk += b"x" * 40_000
    assert len(sender.pull()) == FIRST_MESSAGE - HEADER_SIZE
    sender.outbound.attach(FIRST_MESSAGE - HEADER_SIZE, 4096)
    assert len(sender.pull()) == 4096 - HEADER_SIZE


def test_the_source_is_told_how_long_a_turn_is() -> None:
    sender = Sender()
    sender.source.bulk += b"x" * 30_000
    sent = len(sender.pull())
    assert sender.source.turn == LIMITS.frame_payload
    sender.outbound.acknowledge(sent, sent / 120e6)
    assert sender.pull()
    assert sender.source.turn == 30_000


@pytest.mark.parametrize(("own", "peer", "window"), [(40_000, 100_000, 40_000), (40_000, 20_000, 20_000)])
def test_a_full_window_stops_the_source(own: int, peer: int, window: int) -> None:
    sender = Sender(Limits(replay_limit=own), peer)
    sender.source.bulk += b"x" * 100_000
    assert window - LEAST_ROOM < sender.fill() <= window
    assert not sender.ready()
    sender.outbound.acknowledge(10_000, 0.0)
    assert sender.ready()
    assert window - LEAST_ROOM < sender.fill() <= window


def test_control_gets_out_though_the_window_is_full() -> None:
    sender = Sender()
    sender.source.bulk += b"x" * 100_000
    full = sender.fill()
    sender.source.control += b"c" * 100
    assert sender.pull() == b"c" * 100
    sender.source.control += b"c" * 100_000
    assert LIMITS.replay_limit < sender.fill() <= LIMITS.replay_limit + LIMITS.control_reserve
    assert sender.outbound.replay.end >= full + 1000
    assert LIMITS.replay_limit + LIMITS.control_reserve - sender.fill() < LEAST_CONTROL_ROOM


def test_control_keeps_to_what_every_peer_allows() -> None:
    sender = Sender(Limits(replay_limit=40_000, control_reserve=LARGE))
    sender.source.control += b"c" * (LARGE + LARGE)
    assert sender.fill() <= 40_000 + CONTROL_ALLOWANCE


def test_a_window_that_is_too_small() -> None:
    Sender(window=SMALLEST_WINDOW)
    with pytest.raises(RemoteProtocolError) as caught:
        Sender(window=SMALLEST_WINDOW - 1)
    assert caught.value.code == "bad_window"


def test_old_bytes_come_first_and_none_is_lost() -> None:
    sender = Sender()
    sender.source.bulk += bytes(range(200))
    assert sender.pull(124) == bytes(range(100))
    sender.outbound.attach(30, LARGE)
    assert sender.pull(54) == bytes(range(30, 60))
    assert sender.pull() == bytes(range(60, 100))
    assert sender.pull() == bytes(range(100, 200))


@pytest.mark.parametrize("peer_ack", [29, 101])
def test_a_peer_that_disagrees_about_the_past(peer_ack: int) -> None:
    sender = Sender()
    sender.source.bulk += bytes(100)
    sender.pull()
    sender.outbound.acknowledge(30, 0.0)
    with pytest.raises(RemoteProtocolError) as caught:
        sender.outbound.attach(peer_ack, LARGE)
    assert caught.value.code == "bad_ack"


def test_an_ack_beyond_what_was_sent() -> None:
    sender = Sender()
    sender.source.bulk += bytes(100)
    sender.pull()
    with pytest.raises(RemoteProtocolError) as caught:
        sender.outbound.acknowledge(101, 0.0)
    assert caught.value.code == "bad_ack"
    assert sender.outbound.replay.acked == 0


def test_what_is_above_the_floor_is_taken_from_the_budget() -> None:
    budget = Budget(LARGE)
    sender = Sender(budget=budget)
    sender.source.bulk += b"x" * 40_000
    sent = sender.fill()
    assert budget.used >= sent - LIMITS.replay_floor > 0
    sender.outbound.acknowledge(sent, 0.0)
    assert budget.used == 0


def test_without_budget_a_session_keeps_to_its_floor() -> None:
    budget = Budget(LARGE)
    budget.reserve(LARGE)
    sender = Sender(budget=budget)
    sender.source.bulk += b"x" * 40_000
    sent = 0
    while sender.outbound.has_output:
        sent += len(sender.outbound.message(1, 0, 0.0, LARGE))
    assert LIMITS.replay_floor - LEAST_ROOM < sender.outbound.replay.end <= LIMITS.replay_floor
    sender.source.control += b"c" * 50
    assert sender.pull() == b"c" * 50
    assert not sender.ready()
    sender.outbound.acknowledge(5_000, 0.0)
    assert sender.ready()
    assert sender.outbound.message(1, 0, 0.0, LARGE)


def test_without_budget_control_keeps_to_its_reserve() -> None:
    budget = Budget(LARGE)
    budget.reserve(LARGE)
    sender = Sender(budget=budget)
    sender.source.control += b"c" * 40_000
    while sender.outbound.has_output:
        assert sender.outbound.message(1, 0, 0.0, LARGE)
    most = LIMITS.replay_floor + LIMITS.control_reserve
    assert most - LEAST_CONTROL_ROOM < sender.outbound.replay.end <= most


def test_the_floor_takes_a_small_message_without_budget() -> None:
    budget = Budget(LARGE)
    budget.reserve(LARGE)
    sender = Sender(budget=budget)
    sender.source.bulk += b"x" * 9_500
    assert len(sender.pull(9_024)) == 9_000
    assert sender.pull(124) == b"x" * 100


def test_clear_gives_back_memory_and_budget() -> None:
    budget = Budget(LARGE)
    sender = Sender(budget=budget)
    sender.source.bulk += b"x" * 40_000
    sender.fill()
    sender.outbound.clear()
    assert budget.used == 0
    assert not sender.outbound.replay.pending


@pytest.mark.parametrize(("sent", "acked", "size"), [
    (0, 0, FIRST_MESSAGE), (100, 0, LIMITS.min_message), (100, 1, FIRST_MESSAGE)
])  # fmt: skip
def test_a_connection_that_delivers_nothing_makes_messages_small(sent: int, acked: int, size: int) -> None:
    sender = Sender()
    sender.source.bulk += bytes(sent)
    sender.pull()
    sender.outbound.acknowledge(acked, 0.0)
    sender.outbound.detach()
    assert sender.outbound.pace.size == size


def test_enough_in_flight_holds_everything_but_control_back() -> None:
    sender = Sender()
    sender.source.bulk += bytes(30_000)
    sender.outbound.pace.in_flight.bytes = 20_000
    assert [len(sender.pull()) for _ in range(4)] == [5_000 - HEADER_SIZE] * 4
    assert sender.pull() == b""
    sender.source.control += b"c" * 50
    assert sender.pull() == b"c" * 50
    sender.outbound.acknowledge(5_000, 0.0)
    assert len(sender.pull()) == 5_000 - HEADER_SIZE
    assert sender.pull() == b""


def test_enough_in_flight_holds_old_bytes_back_too() -> None:
    sender = Sender()
    sender.source.bulk += bytes(20_000)
    sender.fill()
    sender.outbound.attach(0, LARGE)
    sender.outbound.pace.in_flight.bytes = 4_096
    assert len(sender.pull()) == 4_096 - HEADER_SIZE  # one may always be under way
    assert sender.outbound.replay.pending
    assert sender.pull() == b""
    sender.outbound.acknowledge(4_096 - HEADER_SIZE, 0.0)
    assert sender.pull()
