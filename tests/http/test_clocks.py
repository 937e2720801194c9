from __future__ import annotations

import math
from dataclasses import replace

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.http.clocks import Deadline, Pace
from tunnelkit.net.timers import Timers

pytestmark = pytest.mark.anyio


async def test_a_deadline_that_moves_later_costs_no_timer() -> None:
    timers = Timers()
    deadline = Deadline(timers, lambda: None)
    now = anyio.current_time()
    for offset in (10, 20, 30):
        deadline.set(now + offset)
    assert len(timers) == 1
    deadline.set(now + 5)
    assert len(timers) == 1
    deadline.close()
    deadline.close()
    assert len(timers) == 0
    assert deadline.when == math.inf


async def test_a_deadline_strikes_where_it_was_moved_to() -> None:
    struck: list[float] = []
    event = anyio.Event()

    def strike() -> None:
        struck.append(anyio.current_time())
        event.set()

    timers = Timers()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(timers.run)
            deadline = Deadline(timers, strike)
            start = anyio.current_time()
            deadline.set(start + 0.01)
            deadline.set(start + 0.05)
            await event.wait()
            group.cancel_scope.cancel()
    assert len(struck) == 1
    assert struck[0] >= start + 0.05
    assert deadline.when == math.inf


async def test_a_cleared_deadline_does_not_strike() -> None:
    timers = Timers()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(timers.run)
            deadline = Deadline(timers, pytest.fail)
            start = anyio.current_time()
            deadline.set(start + 0.01)
            deadline.clear()
            later = anyio.Event()
            timers.at(start + 0.05, later.set)
            await later.wait()
            group.cancel_scope.cancel()


LIMITS = replace(DEFAULT_LIMITS, min_rate=100.0, min_rate_period=30.0)


def test_pace_of_a_peer_that_drips() -> None:
    pace = Pace(LIMITS)
    results = []
    for second in range(31):
        pace.wait(float(second))
        pace.wait(second + 0.5)  # already waiting
        pace.moved(1)
        results.append(pace.waited(second + 1.0))
    assert results == [True] * 29 + [False, True]


def test_pace_of_a_peer_that_is_just_fast_enough() -> None:
    pace = Pace(LIMITS)
    for second in range(100):
        pace.wait(float(second))
        pace.moved(100)
        assert pace.waited(second + 1.0)


def test_a_silent_peer_is_not_judged_by_its_pace() -> None:
    pace = Pace(LIMITS)
    pace.wait(0.0)
    assert pace.waited(100.0)


def test_only_waiting_for_the_peer_counts() -> None:
    pace = Pace(LIMITS)
    for second in range(0, 3600, 60):
        pace.wait(float(second))
        pace.moved(20)
        assert pace.waited(second + 0.1)
        assert pace.waited(second + 59.0)
