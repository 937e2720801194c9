from __future__ import annotations

import pytest

from tunnelkit.core.inflight import (
    ACKING,
    AMPLE,
    AMPLE_BESIDE,
    BASE_LIFETIME,
    DRAINED,
    FLOOR,
    LOOSE,
    SLACK,
    InFlightLimit,
)

RATE = 1e6


def observed(*samples: tuple[float, float]) -> InFlightLimit:
    """After round trips at the given seconds, at a constant rate."""
    limit = InFlightLimit()
    for now, round_trip in samples:
        limit.observe(now, round_trip, RATE)
    return limit


def held() -> InFlightLimit:
    """A queue showed itself at second 1."""
    return observed((0.0, 0.1), (1.0, 0.5))


def test_before_the_first_round_trip_there_is_no_limit() -> None:
    assert InFlightLimit().bytes is None


def test_without_a_queue_the_limit_is_ample() -> None:
    """However long the connection lives: nothing is measured anew for it."""
    assert observed((0.0, 0.1), (1.0, 2 * 0.1 + SLACK), (100.0, 0.2)).bytes == AMPLE
    assert observed((0.0, 0.4), (1.0, 2 * 0.4 + SLACK), (100.0, 0.8)).bytes == int(RATE * LOOSE * 0.4)


def test_without_a_queue_a_fast_and_long_way_has_room_for_what_it_carries() -> None:
    limit = observed((0.0, 0.1))
    limit.observe(1.0, 0.2, 100 * RATE)
    assert limit.bytes == int(100 * RATE * LOOSE * 0.1)


@pytest.mark.parametrize(
    ("acks", "limit"),
    [
        ((), AMPLE_BESIDE),
        ((AMPLE_BESIDE // 3, 1), AMPLE_BESIDE),
        ((1, AMPLE_BESIDE - 1, 2), 2 * (AMPLE_BESIDE - 1)),
        ((AMPLE // 2,), AMPLE),
        ((2 * AMPLE,), AMPLE),
    ],
)
def test_who_is_considerate_leaves_as_little_on_a_short_way_as_its_peer_acknowledges_at_once(
    acks: tuple[int, ...], limit: int
) -> None:
    seen = InFlightLimit()
    seen.considerate = True
    for count in acks:
        seen.acknowledged(count)
    seen.observe(0.0, 0.01, RATE)
    assert (seen.bytes, seen.considerate) == (limit, True)
    seen.observe(1.0, 0.01, RATE)
    assert seen.bytes == AMPLE_BESIDE  # of the last acks alone


def test_who_is_considerate_leaves_what_a_long_way_carries() -> None:
    limit = InFlightLimit()
    limit.considerate = True
    limit.observe(0.0, 0.2, RATE)
    assert limit.bytes == int(RATE * LOOSE * 0.2) > AMPLE_BESIDE


def test_who_is_considerate_no_more_waits_for_no_ack() -> None:
    """Its peer may have stopped to acknowledge often in the same moment."""
    limit = InFlightLimit()
    limits = []
    for rate in (0.0, RATE, 1000 * RATE):
        if rate:
            limit.observe(0.0, 0.01, rate)
        for considerate in (True, False):
            limit.considerate = considerate
            limits.append(limit.bytes)
        limit.considerate = True
    ample = int(1000 * RATE * LOOSE * 0.01)
    assert limits == [None, None, AMPLE_BESIDE, AMPLE, ample, ample]


def test_a_queue_holds_who_is_considerate_and_who_is_not() -> None:
    limit = held()
    before = limit.bytes
    assert before is not None
    assert before < AMPLE_BESIDE
    limit.considerate = True
    limit.considerate = False
    assert limit.bytes == before


def test_without_a_queue_there_is_no_limit_to_messages_in_turns() -> None:
    limit = InFlightLimit()
    for now in (0.0, 1.0):
        limit.observe(now, 0.1, RATE, in_turns=True)
        assert limit.bytes is None


def test_a_queue_is_held_to_two_round_trips() -> None:
    assert held().bytes == int(RATE * 0.24)


def test_a_shorter_round_trip_shortens_the_queue() -> None:
    limit = held()
    limit.observe(2.0, 0.05, RATE)
    assert limit.bytes == int(RATE * 0.15)


def test_a_higher_rate_raises_the_limit_at_once() -> None:
    limit = held()
    limit.observe(2.0, 0.2, 2 * RATE)
    assert limit.bytes == int(2 * RATE * 0.24)


def test_there_is_a_floor() -> None:
    limit = InFlightLimit()
    limit.observe(0.0, 0.01, 1000.0)
    limit.observe(1.0, 5.0, 1000.0)
    assert limit.bytes == FLOOR


def test_the_shortest_round_trip_is_measured_anew() -> None:
    limit = held()
    limit.observe(BASE_LIFETIME, 0.3, RATE)
    assert limit.bytes == int(RATE * 0.24)
    start = BASE_LIFETIME + 0.1
    limit.observe(start, 0.3, RATE)
    assert limit.bytes == int(RATE * 0.1 / 8)
    limit.observe(start + 0.2, 0.3, RATE)  # it left before
    assert limit.bytes == int(RATE * 0.1 / 8)
    limit.observe(start + 0.3, 0.15, RATE)
    assert limit.bytes == int(RATE * (2 * 0.15 + ACKING))
    limit.observe(start + 0.5, 0.3, RATE)
    assert limit.bytes == int(RATE * (2 * 0.15 + ACKING))


def test_a_fallen_rate_measures_it_at_once() -> None:
    """The way may have grown longer: then the limit is what keeps the rate down."""
    limit = held()
    limit.observe(2.0, 0.6, RATE * 0.8)
    assert limit.bytes == int(RATE * 0.8 * 0.24)
    limit.observe(3.0, 0.6, RATE * 0.7)
    assert limit.bytes == int(RATE * 0.7 * 0.1 / 8)
    limit.observe(3.6, 0.6, RATE * 0.6)
    assert limit.bytes == int(RATE * 0.6 * 1.24)


def test_a_rate_that_the_limit_does_not_hold_down_may_rise_and_fall() -> None:
    """As on any fast way whose ends share their processors: one pause of either end showed a queue, once."""
    limit = observed((0.0, 0.001), (1.0, 0.5))
    for step in range(1, 100):
        limit.observe(1.0 + step * BASE_LIFETIME / 200, 0.02, RATE * (1 + 3 * (step % 3)))
        assert limit.bytes is not None
        assert limit.bytes >= int(RATE * 0.101)


def test_in_turns_it_is_measured_anew_though_there_is_no_limit() -> None:
    limit = observed((0.0, 0.1))
    limit.observe(BASE_LIFETIME, 0.2, RATE * 0.1, in_turns=True)
    unlimited = limit.bytes is None
    assert unlimited
    limit.observe(BASE_LIFETIME + 0.1, 0.3, RATE, in_turns=True)
    assert limit.bytes == int(RATE * 0.1 / 8)
    limit.observe(BASE_LIFETIME + 0.4, 0.2, RATE, in_turns=True)
    assert limit.shortest == 0.2
    assert limit.bytes == int(RATE * 0.44)


def test_a_drained_way_still_carries_a_message() -> None:
    limit = InFlightLimit()
    for now, round_trip in ((0.0, 0.01), (1.0, 1.0), (20.0, 1.0)):
        limit.observe(now, round_trip, 10_000.0)
    assert limit.bytes == DRAINED


def test_a_new_connection_starts_without() -> None:
    limit = held()
    limit.reset()
    assert limit.bytes is None
    limit.observe(100.0, 5.0, RATE)
    assert limit.bytes == int(RATE * LOOSE * 5.0)
