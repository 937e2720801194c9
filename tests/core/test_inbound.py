from __future__ import annotations

from math import inf

import pytest

from tunnelkit.config import Limits
from tunnelkit.core.failures import ConnectionFailed
from tunnelkit.core.inbound import ACK_AMPLE, ACK_BESIDE, Inbound
from tunnelkit.core.message import CONTROL_ALLOWANCE, Kind, build
from tunnelkit.errors import RemoteProtocolError

LIMITS = Limits(replay_limit=80_000)
DATA = bytes(range(256)) * 400


# A function, because the type checker would remember an attribute's value over the calls that change it.
def due(inbound: Inbound) -> bool:
    return inbound.ack_due


def receive(inbound: Inbound, start: int, end: int, now: float = 0.0, *, ordered: bool = True) -> bytes:
    message = build(Kind.DATA, 1, start, 0, [DATA[start:end]])
    return b"".join(inbound.receive(message, start, now, ordered=ordered))


def code_of(inbound: Inbound, start: int, end: int, *, ordered: bool = True) -> str:
    received = inbound.received
    with pytest.raises(RemoteProtocolError) as caught:
        receive(inbound, start, end, ordered=ordered)
    assert inbound.received == received
    return caught.value.code


@pytest.fixture
def inbound() -> Inbound:
    return Inbound(LIMITS, 80_000)


@pytest.mark.parametrize("ordered", [True, False])
def test_new_bytes_are_handed_out_once(inbound: Inbound, ordered: bool) -> None:
    assert receive(inbound, 0, 10, ordered=ordered) == DATA[:10]
    assert receive(inbound, 0, 10, ordered=ordered) == b""
    assert receive(inbound, 3, 7, ordered=ordered) == b""
    assert receive(inbound, 5, 20, ordered=ordered) == DATA[10:20]
    assert receive(inbound, 20, 30, ordered=ordered) == DATA[20:30]
    assert inbound.received == 30


def test_large_payloads_are_views_and_small_ones_are_not(inbound: Inbound) -> None:
    large = inbound.receive(build(Kind.DATA, 1, 0, 0, [DATA[:20_000]]), 0, 0.0, ordered=True)
    small = inbound.receive(build(Kind.DATA, 1, 20_000, 0, [b"x"]), 20_000, 0.0, ordered=True)
    assert isinstance(large[0], memoryview)
    assert isinstance(small[0], bytes)


def test_with_order_a_gap_is_an_error(inbound: Inbound) -> None:
    assert code_of(inbound, 1, 2) == "gap"


@pytest.mark.parametrize("ordered", [True, False])
def test_the_window_ends_where_it_was_agreed(inbound: Inbound, ordered: bool) -> None:
    end = 80_000 + CONTROL_ALLOWANCE
    message = build(Kind.DATA, 1, end - 1, 0, [b"x"])
    assert Inbound(LIMITS, 80_000).receive(message, end - 1, 0.0, ordered=False) == []
    with pytest.raises(RemoteProtocolError) as caught:
        inbound.receive(build(Kind.DATA, 1, end, 0, [b"x"]), end, 0.0, ordered=ordered)
    assert caught.value.code == "bad_offset"


def test_early_bytes_are_bounded_by_our_own_limit() -> None:
    """Whatever window the peer named."""
    inbound = Inbound(LIMITS, 2**40)
    piece = bytes(80_000 + CONTROL_ALLOWANCE)
    inbound.receive(build(Kind.DATA, 1, 10, 0, [piece]), 10, 0.0, ordered=False)
    with pytest.raises(RemoteProtocolError) as caught:
        inbound.receive(build(Kind.DATA, 1, 2**30, 0, [b"x"]), 2**30, 0.0, ordered=False)
    assert caught.value.code == "early_bytes"


def test_data_has_bytes(inbound: Inbound) -> None:
    assert code_of(inbound, 0, 0) == "empty_data"


def test_early_bytes_wait_for_their_turn(inbound: Inbound) -> None:
    assert receive(inbound, 10, 20, ordered=False) == b""
    assert receive(inbound, 30, 40, ordered=False) == b""
    assert receive(inbound, 0, 12, ordered=False) == DATA[:20]
    assert receive(inbound, 20, 30, ordered=False) == DATA[20:40]


def test_a_gap_that_stays_open_fails_the_connection(inbound: Inbound) -> None:
    receive(inbound, 10, 20, 5.0, ordered=False)
    inbound.handle_timer(14.9)
    assert inbound.deadline == 15.0
    with pytest.raises(ConnectionFailed) as caught:
        inbound.handle_timer(15.0)
    assert caught.value.code == "gap_timeout"


def test_the_next_gap_has_its_own_time(inbound: Inbound) -> None:
    receive(inbound, 10, 20, 5.0, ordered=False)
    receive(inbound, 30, 40, 6.0, ordered=False)
    receive(inbound, 0, 5, 7.0, ordered=False)
    with pytest.raises(ConnectionFailed):
        inbound.handle_timer(15.0)
    receive(inbound, 5, 10, 8.0, ordered=False)
    inbound.handle_timer(17.9)
    with pytest.raises(ConnectionFailed):
        inbound.handle_timer(18.0)
    receive(inbound, 20, 30, 9.0, ordered=False)
    inbound.handle_timer(1000.0)
    assert inbound.deadline == inf


def test_an_ack_is_due_after_its_delay(inbound: Inbound) -> None:
    receive(inbound, 0, 10, 1.0)
    assert not due(inbound)
    receive(inbound, 10, 20, 1.01)
    assert inbound.deadline == 1.02
    inbound.handle_timer(1.019)
    assert not due(inbound)
    inbound.handle_timer(1.02)
    assert due(inbound)
    assert inbound.deadline == inf


def test_the_deadline_of_an_ack_that_went_out_stays(inbound: Inbound) -> None:
    """It may be early: moving it for every message would cost more than to look once in vain."""
    receive(inbound, 0, 10, 1.0)
    first = inbound.deadline
    inbound.ack_written()
    receive(inbound, 10, 20, 1.001)
    assert inbound.deadline == first
    inbound.handle_timer(first)
    assert not due(inbound)
    assert inbound.deadline == 1.001 + LIMITS.ack_delay


def test_an_ack_is_due_after_an_eighth_of_the_window(inbound: Inbound) -> None:
    receive(inbound, 0, 9_999)
    assert not due(inbound)
    receive(inbound, 9_999, 10_000)
    assert due(inbound)


@pytest.mark.parametrize("window", [4 * ACK_BESIDE, 8 * ACK_BESIDE, 16 * ACK_BESIDE, 8 * ACK_AMPLE, 64 * ACK_AMPLE])
def test_who_is_considerate_owes_an_ack_sooner_and_not_later(window: int) -> None:
    inbound = Inbound(Limits(replay_limit=window), window)
    seen = []
    for considerate in (False, True, False):
        inbound.considerate = considerate
        assert inbound.considerate is considerate
        inbound.ack_written()
        before = inbound.received
        while not due(inbound):
            message = build(Kind.DATA, 1, inbound.received, 0, [bytes(1024)])
            inbound.receive(message, inbound.received, 0.0, ordered=True)
        seen.append(inbound.received - before)
    eighth = window // 8
    assert seen == [min(eighth, ACK_AMPLE), min(eighth, ACK_BESIDE), min(eighth, ACK_AMPLE)]


def test_what_is_owed_is_due_when_others_are_considered_and_when_they_are_not_any_more(inbound: Inbound) -> None:
    """The peer may have nothing else on its way until it is acknowledged."""
    seen = []
    for considerate in (True, False):
        inbound.considerate = considerate
        seen.append(due(inbound))
        receive(inbound, inbound.received, inbound.received + 10)
        seen.append(due(inbound))
        inbound.considerate = not considerate
        seen.append(due(inbound))
        inbound.ack_written()
    assert seen == [False, False, True] * 2


def test_repeated_bytes_are_acknowledged_too(inbound: Inbound) -> None:
    """The peer that repeats them does not know that they are here."""
    receive(inbound, 0, 10)
    inbound.ack_written()
    inbound.handle_timer(1.0)
    assert not due(inbound)
    receive(inbound, 0, 10, 2.0)
    inbound.handle_timer(2.02)
    assert due(inbound)


def test_a_written_ack_settles_everything(inbound: Inbound) -> None:
    receive(inbound, 0, 10_000)
    inbound.ack_written()
    assert not due(inbound)
    inbound.handle_timer(5.0)
    assert not due(inbound)
    assert inbound.deadline == inf
    receive(inbound, 10_000, 19_999)
    assert not due(inbound)


def test_forget_drops_early_bytes(inbound: Inbound) -> None:
    receive(inbound, 0, 10)
    receive(inbound, 20, 30, ordered=False)
    inbound.forget()
    assert inbound.deadline == inf
    assert receive(inbound, 10, 20, ordered=False) == DATA[10:20]
    assert inbound.received == 20
