from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS, KIB, MIB
from tunnelkit.core.budget import Budget
from tunnelkit.core.credit import CreditPool, ReceiveWindow
from tunnelkit.errors import RemoteProtocolError

FLOOR = 16 * KIB
# 8 floors of 16 KiB, and 1 MiB above them.
LIMITS = replace(
    DEFAULT_LIMITS,
    max_streams=8,
    receive_budget=MIB + 8 * FLOOR,
    stream_first_window=64 * KIB,
    stream_max_window=256 * KIB,
)
PER_STREAM = LIMITS.stream_floor + LIMITS.frame_payload


def a_pool(capacity: int = 64 * MIB, limits: object = LIMITS) -> CreditPool:
    assert isinstance(limits, type(LIMITS))
    return CreditPool(limits, Budget(capacity))


def a_window(pool: CreditPool, *, first: bool = False) -> ReceiveWindow:
    window = pool.open_window(first=first)
    assert window is not None
    return window


# -- opening -----------------------------------------------------------------------------------


def test_the_first_windows() -> None:
    pool = a_pool()
    assert a_window(pool).limit == FLOOR
    assert a_window(pool, first=True).limit == LIMITS.stream_first_window
    assert pool.above == 48 * KIB
    assert pool.budget.used == 2 * PER_STREAM + 48 * KIB


def test_the_first_window_of_ours_is_an_eighth_of_what_is_free() -> None:
    pool = a_pool(limits=replace(LIMITS, receive_budget=64 * KIB + 8 * FLOOR))
    assert a_window(pool, first=True).limit == FLOOR + 8 * KIB
    assert a_window(pool, first=True).limit == FLOOR + 7 * KIB


def test_every_permitted_stream_has_a_floor_however_greedy_the_others() -> None:
    pool = a_pool()
    greedy = [a_window(pool) for _ in range(4)]
    for window in greedy * 50:
        window.receive(window.limit - window.received)
        window.consume(window.held)
    assert [a_window(pool).limit for _ in range(4)] == [FLOOR] * 4
    assert pool.granted <= LIMITS.receive_budget


def test_a_stream_beyond_the_permitted_takes_its_floor_from_what_is_shared() -> None:
    pool = a_pool(limits=replace(LIMITS, receive_budget=9 * FLOOR))
    for _ in range(8):
        a_window(pool)
    assert pool.raise_step() == FLOOR // 8
    a_window(pool)
    assert pool.raise_step() == 0
    assert pool.open_window(first=True) is None


def test_without_room_in_the_process_no_stream_opens() -> None:
    pool = a_pool(PER_STREAM + 100)
    window = a_window(pool, first=True)
    assert window.limit == FLOOR  # near exhaustion there is nothing above the floor
    assert pool.open_window(first=True) is None
    assert pool.open == 1
    window.close()
    a_window(pool).close()
    assert pool.budget.used == 0


# -- receiving ---------------------------------------------------------------------------------


def test_the_peer_keeps_to_its_credit() -> None:
    window = a_window(a_pool())
    window.receive(FLOOR)
    assert window.held == FLOOR
    with pytest.raises(RemoteProtocolError, match="16385 bytes received where 16384 were allowed") as caught:
        window.receive(1)
    assert caught.value.code == "flow_control"


def test_what_is_passed_on_counts_as_received_and_consumed() -> None:
    passed, kept = a_window(a_pool()), a_window(a_pool())
    for size in (FLOOR // 2 - 1, 1, 5):
        kept.receive(size)
        assert passed.pass_on(size) == kept.consume(size)
        assert (passed.limit, passed.held) == (kept.limit, 0)
    with pytest.raises(RemoteProtocolError, match="bytes received where") as caught:
        passed.pass_on(passed.limit)
    assert caught.value.code == "flow_control"


# -- granting ----------------------------------------------------------------------------------


def test_nothing_is_granted_for_what_is_not_consumed() -> None:
    window = a_window(a_pool())
    window.receive(FLOOR)
    assert not window.consume(0)
    assert window.limit == FLOOR


def test_a_grant_waits_for_half_of_the_window() -> None:
    window = a_window(a_pool())
    window.receive(FLOOR // 2)
    assert not window.consume(FLOOR // 2 - 1)
    assert window.limit == FLOOR
    assert window.consume(1)
    # The floor, whole again, and an eighth of 1 MiB.
    assert window.limit == FLOOR // 2 + FLOOR + 128 * KIB


def test_a_grant_waits_for_an_eighth_when_the_peer_is_about_to_stall() -> None:
    window = a_window(a_pool())
    window.receive(FLOOR * 3 // 4)
    assert not window.consume(FLOOR // 8 - 1)
    assert window.consume(1)
    assert window.limit > FLOOR


def test_a_large_window_is_granted_in_steps_of_the_first_window() -> None:
    pool = a_pool(limits=replace(LIMITS, receive_budget=16 * MIB, stream_max_window=4 * MIB))
    window = a_window(pool)
    while window.limit - window.consumed < 4 * MIB:
        window.receive(8 * KIB)
        window.consume(8 * KIB)
    limit = window.limit
    window.receive(64 * KIB)
    assert not window.consume(64 * KIB - 1)
    assert window.consume(1)
    assert window.limit == limit + 64 * KIB


def test_no_window_passes_the_largest() -> None:
    pool = a_pool(limits=replace(LIMITS, receive_budget=64 * MIB))
    window = a_window(pool)
    for _ in range(100):
        window.receive(FLOOR // 2)
        window.consume(FLOOR // 2)
        assert window.limit - window.consumed <= LIMITS.stream_max_window
    assert window.limit - window.consumed > LIMITS.stream_max_window - 64 * KIB


def test_under_pressure_a_window_shrinks_to_its_floor_without_crumbs() -> None:
    pool = a_pool()
    window = a_window(pool)
    window.receive(FLOOR)
    window.consume(FLOOR)
    budget = pool.budget
    assert window.limit - window.consumed == FLOOR + 128 * KIB
    budget.charge(budget.capacity)
    grants: list[int] = []
    while len(grants) < 3:
        window.receive(KIB)
        if window.consume(KIB):
            grants.append(window.limit - window.consumed)
    assert grants == [FLOOR] * 3
    assert pool.above == 0


def test_a_stalled_peer_is_never_stuck() -> None:
    """Whatever the windows were, a reader that consumed all that came is granted more."""
    pool = a_pool()
    window = a_window(pool, first=True)
    for pressure in (0, pool.budget.spare, 0, pool.budget.spare):
        pool.budget.charge(pressure)
        for _ in range(20):
            window.receive(window.limit - window.received)
            assert window.consume(window.held)
            assert window.limit - window.received >= FLOOR
        pool.budget.release(pressure)


def test_many_streams_share_alike() -> None:
    pool = a_pool()
    windows = [a_window(pool) for _ in range(8)]
    for _ in range(200):
        for window in windows:
            window.receive(min(8 * KIB, window.limit - window.received))
            window.consume(window.held)
    sizes = [window.limit - window.consumed for window in windows]
    assert max(sizes) < 3 * min(sizes)
    assert pool.granted <= LIMITS.receive_budget


# -- ending ------------------------------------------------------------------------------------


def test_the_end_returns_what_was_not_used() -> None:
    pool = a_pool()
    window = a_window(pool, first=True)
    window.receive(20 * KIB)
    window.end()
    assert pool.above == 4 * KIB
    assert not window.consume(10 * KIB)
    assert pool.above == 0
    assert not window.consume(10 * KIB)
    assert window.limit == LIMITS.stream_first_window
    window.close()
    assert (pool.open, pool.above, pool.budget.used) == (0, 0, 0)


def test_the_end_of_a_window_at_its_floor() -> None:
    pool = a_pool()
    window = a_window(pool)
    window.receive(10)
    window.end()
    assert not window.consume(10)
    window.close()
    assert pool.budget.used == 0


KINDS = ["open", "first", "receive", "pass", "consume", "end", "close", "charge"]
STEPS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(KINDS), st.integers(0, 300 * KIB)), max_size=80)


@given(STEPS)
def test_the_accounting_is_exact_in_every_order(steps: list[tuple[int, str, int]]) -> None:
    pool = a_pool(4 * MIB)
    windows: dict[int, ReceiveWindow] = {}
    charged = 0
    for key, step, size in steps:
        window = windows.get(key)
        if step in ("open", "first"):
            if window is None and (fresh := pool.open_window(first=step == "first")) is not None:
                windows[key] = fresh
        elif step == "charge":
            pool.budget.release(charged)
            charged = size * 10
            pool.budget.charge(charged)
        elif window is not None:
            _step(windows, key, step, size)
        assert pool.granted <= LIMITS.receive_budget
        assert pool.budget.used == charged + len(windows) * PER_STREAM + pool.above
        # What peers may still have in memory here is never more than what is counted.
        outstanding = sum((w.received if w.ended else w.limit) - w.consumed for w in windows.values())
        assert outstanding <= pool.granted
        assert all(w.limit - w.consumed <= LIMITS.stream_max_window for w in windows.values())
    for window in windows.values():
        window.close()
    assert (pool.open, pool.above, pool.budget.used) == (0, 0, charged)


def _step(windows: dict[int, ReceiveWindow], key: int, step: str, size: int) -> None:
    window = windows[key]
    limit = window.limit
    if step == "receive" and not window.ended:
        window.receive(min(size, window.limit - window.received))
    elif step == "pass" and not window.ended:
        assert window.pass_on(min(size, window.limit - window.received)) == (window.limit > limit)
    elif step == "consume":
        assert window.consume(min(size, window.held)) == (window.limit > limit)
    elif step == "end":
        window.end()
    elif step == "close":
        windows.pop(key).close()
    assert window.limit >= limit


def test_repr() -> None:
    pool = a_pool()
    window = a_window(pool)
    assert repr(window) == "ReceiveWindow(limit=16384, received=0, consumed=0)"
    assert repr(pool) == f"CreditPool(open=1, above=0, size={LIMITS.receive_budget})"
