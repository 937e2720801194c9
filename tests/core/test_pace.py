from __future__ import annotations

import pytest

from tunnelkit.config import Limits
from tunnelkit.core.pace import FIRST_MESSAGE, Pace

from .link_simulation import SimulatedLink
from .session_pair import KIB

LIMITS = Limits()
LARGEST = 64 * KIB


def attached() -> Pace:
    pace = Pace(LIMITS)
    pace.attached(0, LARGEST)
    return pace


def sample(pace: Pace, delivered: int, seconds: float, *, busy: bool = True) -> None:
    """A message is sent at second 0 and acknowledged later, with ``delivered`` bytes in between."""
    start = pace.acked
    pace.sent(start + delivered, 0.0, busy=busy)
    pace.acknowledged(start + delivered, seconds)


class TestSize:
    def test_it_begins_at_a_size_that_every_link_passes(self) -> None:
        assert attached().size == FIRST_MESSAGE

    @pytest.mark.parametrize(
        ("rate", "size"), [(1_000, LIMITS.min_message), (200_000, 20_000), (10_000_000, LARGEST)]
    )
    def test_it_is_what_passes_in_a_tenth_of_a_second(self, rate: int, size: int) -> None:
        pace = attached()
        sample(pace, rate, 1.0)
        assert pace.size == size

    def test_a_longer_time_makes_larger_messages(self) -> None:
        pace = Pace(Limits(message_time=2 * LIMITS.message_time))
        pace.attached(0, LARGEST)
        sample(pace, 200_000, 1.0)
        assert pace.size == 2 * 20_000

    @pytest.mark.parametrize(("at_once", "seconds"), [(None, 0.1), (1, 0.05 + 0.3), (4, 0.08 + 0.3 / 4)])
    def test_where_messages_wait_for_answers_it_fills_the_round_trip(
        self, at_once: int | None, seconds: float
    ) -> None:
        pace = Pace(LIMITS)
        pace.attached(0, 1024 * KIB)
        pace.sent(60_000, 0.0, busy=True, at_once=at_once)
        pace.acknowledged(60_000, 0.3)
        assert pace.size == pytest.approx(200_000 * seconds, abs=1)

    def test_it_keeps_to_the_connection(self) -> None:
        pace = attached()
        sample(pace, 10_000_000, 1.0)
        pace.attached(pace.acked, 8 * KIB)
        assert pace.size == 8 * KIB
        pace.attached(pace.acked, 1024 * KIB)
        assert pace.size == 1_000_000

    def test_it_rises_at_once_and_falls_slowly(self) -> None:
        pace = attached()
        sample(pace, 100_000, 1.0)
        sample(pace, 200_000, 1.0)
        assert pace.rate == 200_000
        sample(pace, 100_000, 1.0)
        assert pace.rate == 175_000

    def test_a_sender_with_little_to_send_lowers_nothing(self) -> None:
        pace = attached()
        sample(pace, 200_000, 1.0)
        sample(pace, 100, 1.0, busy=False)
        assert pace.rate == 200_000
        sample(pace, 300_000, 1.0, busy=False)
        assert pace.rate == 300_000

    def test_a_link_without_delay_gives_no_rate(self) -> None:
        pace = attached()
        sample(pace, 100, 0.0)
        assert pace.rate is None
        assert pace.size == FIRST_MESSAGE

    def test_a_stuck_connection_makes_messages_small(self) -> None:
        pace = attached()
        sample(pace, 200_000, 1.0)
        pace.detached(stuck=False)
        assert pace.size == 20_000
        pace.detached(stuck=True)
        assert pace.size == LIMITS.min_message
        pace.attached(0, LARGEST)
        assert pace.size == LIMITS.min_message

    def test_little_in_flight_makes_messages_small(self) -> None:
        pace = attached()
        sample(pace, 10_000_000, 1.0)
        assert pace.message_size == LARGEST
        pace.in_flight.bytes = 4 * 5000
        assert pace.message_size == 5000
        pace.in_flight.bytes = 4 * LARGEST
        assert pace.message_size == LARGEST
        pace.in_flight.bytes = LIMITS.min_message
        assert pace.message_size == LIMITS.min_message

    def test_the_smallest_message_is_no_larger_than_what_may_be_in_flight(self) -> None:
        pace = Pace(Limits(min_message=LARGEST))
        pace.attached(0, LARGEST)
        pace.in_flight.bytes = 16 * KIB
        assert pace.message_size == 16 * KIB

    def test_a_message_by_itself_may_be_all_that_is_in_flight(self) -> None:
        """As the answer of the only poll: were it a quarter, a quarter would pass."""
        pace = attached()
        pace.sent(10_000_000, 0.0, busy=True, at_once=1)
        pace.acknowledged(10_000_000, 1.0)
        pace.in_flight.bytes = 5000
        assert pace.message_size == 5000


class TestTurn:
    def test_it_begins_with_the_least(self) -> None:
        assert attached().turn == LIMITS.frame_payload

    @pytest.mark.parametrize(
        ("rate", "turn"), [(1_000, 16 * KIB), (12_500_000, 16 * KIB), (125_000_000, 31_250), (500_000_000, 65_535)]
    )
    def test_it_is_what_passes_in_a_quarter_of_a_millisecond(self, rate: int, turn: int) -> None:
        pace = attached()
        sample(pace, rate, 1.0)
        assert pace.turn == turn

    def test_it_falls_with_the_rate(self) -> None:
        pace = attached()
        sample(pace, 200_000_000, 1.0)
        sample(pace, 120_000_000, 1.0)
        assert pace.turn == 45_000
        for _ in range(30):
            sample(pace, 1_000_000, 1.0)
        assert pace.turn == LIMITS.frame_payload

    def test_a_stuck_connection_makes_turns_short(self) -> None:
        pace = attached()
        sample(pace, 200_000_000, 1.0)
        pace.detached(stuck=False)
        assert pace.turn == 50_000
        pace.detached(stuck=True)
        assert pace.turn == LIMITS.frame_payload

    def test_without_a_time_all_turns_are_the_least(self) -> None:
        pace = Pace(Limits(turn_time=0))
        pace.attached(0, LARGEST)
        sample(pace, 500_000_000, 1.0)
        assert pace.turn == LIMITS.frame_payload

    def test_no_turn_is_shorter_than_the_limits_say(self) -> None:
        pace = Pace(Limits(frame_payload=60_000))
        pace.attached(0, LARGEST)
        sample(pace, 200_000_000, 1.0)
        assert pace.turn == 60_000


class TestProbe:
    def test_one_message_at_a_time_is_measured(self) -> None:
        pace = attached()
        pace.sent(1000, 0.0, busy=True)
        pace.sent(2000, 0.5, busy=True)
        round_trips = []
        for acked, now in ((999, 0.9), (2000, 1.0), (3000, 2.0)):
            pace.acknowledged(acked, now)
            round_trips.append(pace.round_trip)
        assert round_trips == [None, 1.0, 1.0]
        assert pace.rate == 2000

    def test_what_was_acknowledged_before_is_not_counted(self) -> None:
        pace = attached()
        pace.acknowledged(5000, 0.0)
        pace.sent(6000, 1.0, busy=True)
        pace.acknowledged(6000, 2.0)
        assert pace.rate == 1000

    def test_a_lost_connection_ends_it(self) -> None:
        pace = attached()
        pace.sent(1000, 0.0, busy=True)
        pace.detached(stuck=False)
        pace.attached(0, LARGEST)
        pace.acknowledged(1000, 50.0)
        assert pace.round_trip is None

    def test_round_trips_are_smoothed(self) -> None:
        pace = attached()
        pace.observe_round_trip(0.8)
        pace.observe_round_trip(1.6)
        assert pace.round_trip == pytest.approx(0.9)


def received_in(link: SimulatedLink, seconds: float) -> int:
    before = link.pair.server.session.received
    link.run(seconds)
    return link.pair.server.session.received - before


class TestSimulation:
    """Two sessions over a link on a virtual clock. The share is of what the link could carry."""

    @pytest.mark.parametrize(
        ("rate", "one_way", "max_message", "share"),
        [
            (32e3, 0.005, 64 * KIB, 0.97),
            (125e3, 0.050, 64 * KIB, 0.96),
            (125e3, 0.050, 1024 * KIB, 0.96),
            (1.25e6, 0.020, 64 * KIB, 0.97),
            (125e3, 0.400, 64 * KIB, 0.96),
        ],
    )
    def test_slow_links_are_used(self, rate: float, one_way: float, max_message: int, share: float) -> None:
        link = SimulatedLink(rate=rate, one_way=one_way, max_message=max_message)
        link.pair.client.write(bytes(int(rate * 40)))
        assert received_in(link, 30.0) >= share * rate * (30.0 - one_way)

    @pytest.mark.parametrize("max_message", [64 * KIB, 1024 * KIB])
    def test_a_fast_link_is_used(self, max_message: int) -> None:
        link = SimulatedLink(rate=1e9, one_way=0.0001, max_message=max_message)
        link.pair.client.write(bytes(60_000_000))
        assert received_in(link, 0.05) >= 0.95 * 0.05 * 1e9
        assert link.sizes[-1] > 60 * KIB
        assert link.pair.client.session.has_output

    def test_a_fast_and_long_link_is_used_as_far_as_the_window_goes(self) -> None:
        link = SimulatedLink(rate=1e9, one_way=0.050)
        link.pair.client.write(bytes(60_000_000))
        assert received_in(link, 1.05) >= 0.9 * LIMITS.replay_limit / 0.1

    def test_messages_shrink_to_a_tenth_of_a_second(self) -> None:
        link = SimulatedLink(rate=125e3, one_way=0.050)
        link.pair.client.write(bytes(2_000_000))
        link.run(10.0)
        assert all(size <= 0.120 * 125e3 for size in link.sizes[-10:])

    def test_a_small_request_beside_bulk(self) -> None:
        """What waits before it takes no longer than the way itself. Without a limit on what is in flight it waits for
        a full socket: 1.3 s."""
        link = SimulatedLink(rate=125e3, one_way=0.050)
        link.pair.client.write(bytes(6_000_000))
        link.run(12.0)
        delays = link.small_request_delays(60, 0.3)
        assert delays[30] < 0.25
        assert delays[-4] < 0.35
        assert delays[-1] < 0.6

    @pytest.mark.parametrize(("slots", "share"), [(1, 0.5), (4, 0.85)])
    @pytest.mark.parametrize("rate", [32e3, 1.25e6])
    def test_a_long_way_is_used_in_turns(self, rate: float, slots: int, share: float) -> None:
        """As polls and posts do. A tenth of a second's bytes a round trip would be less with every message."""
        link = SimulatedLink(rate=rate, one_way=0.15, max_message=1024 * KIB, slots=slots)
        link.pair.client.write(bytes(int(rate * 22)))
        link.run(6.0)
        assert received_in(link, 15.0) >= share * 15.0 * rate

    def test_a_small_request_beside_bulk_that_goes_in_turns(self) -> None:
        link = SimulatedLink(rate=125e3, one_way=0.050, max_message=1024 * KIB, slots=1)
        link.pair.client.write(bytes(4_000_000))
        link.run(12.0)  # once the shortest round trip was measured with a small message
        delays = link.small_request_delays(40, 0.3)
        assert delays[20] < 0.6
        assert delays[-1] < 1.0

    @pytest.mark.parametrize(("slots", "share"), [(None, 0.85), (1, 0.45)])
    @pytest.mark.parametrize(("before", "after"), [(0.001, 0.200), (0.100, 0.200)])
    def test_a_way_that_grows_longer_is_not_starved(
        self, before: float, after: float, slots: int | None, share: float
    ) -> None:
        link = SimulatedLink(rate=1.25e6, one_way=before, slots=slots, max_message=1024 * KIB if slots else 64 * KIB)
        link.pair.client.write(bytes(45_000_000))
        link.run(5.0)
        link.one_way = after
        link.run(6.0)
        assert received_in(link, 15.0) >= share * 15.0 * 1.25e6
