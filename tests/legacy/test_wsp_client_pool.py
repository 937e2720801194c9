from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import ConfigError
from tunnelkit.legacy.wsp_client_pool import Backoff, PoolPlan, PoolSize


def dial(plan: PoolPlan) -> int:
    """As many as are missing."""
    count = plan.missing
    for _ in range(count):
        plan.dialling()
    return count


def make(idle: int = 3, most: int = 6) -> tuple[PoolPlan, Backoff]:
    backoff = Backoff(DEFAULT_LIMITS)
    return PoolPlan(PoolSize(poolidlesize=idle, poolmaxsize=most), backoff), backoff


def test_the_sizes_are_theirs() -> None:
    assert (PoolSize().poolidlesize, PoolSize().poolmaxsize) == (10, 100)


@pytest.mark.parametrize(("idle", "most", "field"), [(0, 5, "idle"), (5, 4, "max"), (10, 1001, "max")])
def test_sizes_that_make_no_pool_are_refused(idle: int, most: int, field: str) -> None:
    with pytest.raises(ConfigError, match=f"pool{field}size"):
        PoolSize(poolidlesize=idle, poolmaxsize=most)


def test_what_is_being_dialled_counts() -> None:
    plan, _ = make()
    assert [dial(plan), dial(plan)] == [3, 0]
    plan.connected()
    assert (plan.missing, plan.empty) == (0, False)


def test_the_pool_is_refilled_when_requests_come_up_to_its_bound() -> None:
    plan, _ = make()
    grown = []
    for _ in range(4):
        grown.append(dial(plan))
        for _ in range(grown[-1]):
            plan.connected()
        plan.begun()
    assert grown == [3, 1, 1, 1]
    plan.begun()
    plan.begun()
    assert plan.missing == 0
    plan.ended()
    assert (plan.missing, plan.empty) == (0, False)


def test_a_failure_is_followed_by_one_dial_at_a_time_ever_later() -> None:
    plan, backoff = make()
    dial(plan)
    for _ in range(3):  # together
        plan.dial_failed(10.0, 1.0)
    assert backoff.when == 10.0 + DEFAULT_LIMITS.retry_first
    waits = []
    for _ in range(12):
        now = backoff.when
        assert dial(plan) == 1
        plan.dial_failed(now, 1.0)
        waits.append(round(backoff.when - now, 6))
    assert waits[:3] == [0.2, 0.4, 0.8]
    assert waits[-1] == DEFAULT_LIMITS.retry_cap
    dial(plan)
    plan.connected()
    assert plan.missing == 1  # it is not known yet whether the server keeps what it takes
    backoff.worked()
    assert plan.missing == 2


@pytest.mark.parametrize(("proved", "waits"), [(True, False), (False, True)])
def test_a_connection_that_was_dropped_at_once_is_a_failure(proved: bool, waits: bool) -> None:
    plan, backoff = make()
    dial(plan)
    plan.connected()
    plan.lost(5.0, 0.5, busy=False, proved=proved)
    assert (backoff.when > 5.0) is waits
    assert plan.empty


def test_a_connection_that_is_lost_with_a_request_makes_room() -> None:
    plan, _ = make(idle=1, most=1)
    dial(plan)
    plan.connected()
    plan.begun()
    assert plan.missing == 0
    plan.lost(5.0, 0.5, busy=True, proved=True)
    assert (plan.missing, plan.empty) == (1, True)


@given(st.lists(st.sampled_from(["dial", "connect", "fail", "begin", "end", "lose idle", "lose busy"])))
def test_no_order_of_things_breaks_the_bounds(steps: list[str]) -> None:
    plan, _ = make()
    dialling = idle = busy = 0
    for now, step in enumerate(steps):
        if step == "dial":
            dialling += dial(plan)
        elif step == "connect" and dialling:
            plan.connected()
            dialling, idle = dialling - 1, idle + 1
        elif step == "fail" and dialling:
            plan.dial_failed(now, 0.5)
            dialling -= 1
        elif step == "begin" and idle:
            plan.begun()
            idle, busy = idle - 1, busy + 1
        elif step == "end" and busy:
            plan.ended()
            idle, busy = idle + 1, busy - 1
        elif step == "lose idle" and idle:
            plan.lost(now, 0.5, busy=False, proved=True)
            idle -= 1
        elif step == "lose busy" and busy:
            plan.lost(now, 0.5, busy=True, proved=True)
            busy -= 1
        assert dialling + idle + busy <= 6
        assert repr(plan) == f"<PoolPlan idle={idle} busy={busy} dialling={dialling}>"
