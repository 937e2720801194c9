from __future__ import annotations

from math import inf

import pytest

from tunnelkit.config import Limits
from tunnelkit.core.failures import ConnectionFailed
from tunnelkit.core.liveness import Liveness

LIMITS = Limits()


# Functions, because the type checker would remember an attribute's value over the calls that change it.
def due(liveness: Liveness) -> bool:
    return liveness.due


def owes(liveness: Liveness) -> bool:
    return liveness.due or liveness.pong is not None


def started(*, active: bool = False, pings: bool = True) -> Liveness:
    liveness = Liveness(LIMITS)
    liveness.set_active(active)
    liveness.start(100.0, pings=pings)
    return liveness


@pytest.mark.parametrize(("active", "silence", "answer"), [(False, 20.0, 10.0), (True, 5.0, 5.0)])
def test_silence_is_asked_about_and_then_ends_the_connection(active: bool, silence: float, answer: float) -> None:
    liveness = started(active=active)
    assert liveness.deadline == 100 + silence
    liveness.check(100 + silence - 0.1, 90.0)
    assert not due(liveness)
    liveness.check(100 + silence, 90.0)
    assert due(liveness)
    assert owes(liveness)
    liveness.write_ping(100 + silence)
    assert not owes(liveness)
    assert liveness.deadline == 100 + silence + answer
    liveness.check(100 + silence + answer - 0.1, 90.0)
    with pytest.raises(ConnectionFailed) as caught:
        liveness.check(100 + silence + answer, 90.0)
    assert caught.value.code == "ping_timeout"
    assert caught.value.reason == f"no byte for {silence + answer:.0f} s"


def test_any_byte_is_life() -> None:
    liveness = started()
    liveness.check(120.0, 100.0)
    assert due(liveness)
    liveness.check(121.0, 120.5)
    assert not due(liveness)
    assert liveness.deadline == 140.5


def test_bytes_put_the_ping_off() -> None:
    liveness = started()
    liveness.check(120.0, 119.0)
    assert not due(liveness)
    assert liveness.deadline == 139.0


def test_a_ping_that_is_never_written_runs_out_too() -> None:
    """The writer is stuck: nothing else would notice."""
    liveness = started(active=True)
    liveness.check(105.0, 100.0)
    with pytest.raises(ConnectionFailed):
        liveness.check(110.0, 100.0)


def test_becoming_active_shortens_both_clocks() -> None:
    liveness = started()
    liveness.set_active(True)
    assert liveness.deadline == 105.0
    liveness.set_active(False)
    assert liveness.deadline == 120.0
    liveness.check(120.0, 100.0)
    assert liveness.deadline == 130.0
    liveness.set_active(True)
    assert liveness.active
    assert liveness.deadline == 125.0


def test_a_connection_with_its_own_liveness_is_never_pinged() -> None:
    liveness = started(pings=False, active=True)
    assert liveness.deadline == inf
    liveness.check(1e9, 100.0)
    assert not due(liveness)
    assert liveness.deadline == inf


def test_stop_forgets_what_belonged_to_the_connection() -> None:
    liveness = started()
    liveness.check(120.0, 100.0)
    payload = liveness.write_ping(120.0)
    liveness.pong = b"x"
    liveness.stop()
    assert not owes(liveness)
    assert liveness.deadline == inf
    liveness.set_active(True)
    assert liveness.deadline == inf
    assert liveness.answered(payload, 121.0) is None


def test_pongs_give_the_round_trip_once() -> None:
    liveness = started()
    assert liveness.answered(b"", 100.0) is None
    first = liveness.write_ping(120.0)
    second = liveness.write_ping(121.0)
    assert first != second
    assert liveness.answered(first, 122.0) is None
    assert liveness.answered(second, 121.5) == 0.5
    assert liveness.answered(second, 121.5) is None


def test_one_pong_is_owed_at_most() -> None:
    liveness = started()
    liveness.pong = b"first"
    liveness.pong = b""
    assert owes(liveness)
    assert liveness.write_pong() == b""
    assert not owes(liveness)
