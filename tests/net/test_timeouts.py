from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from tunnelkit.net.timeouts import Timeouts
from tunnelkit.net.timers import Timers

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running() -> AsyncIterator[Timers]:
    timers = Timers()
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: timers.run(task_status=task_status))
        yield timers
        tasks.cancel_scope.cancel()


async def test_each_strikes_after_its_time_in_the_order_of_starting() -> None:
    struck: list[str] = []
    done = anyio.Event()

    def strike(key: str) -> None:
        struck.append(key)
        if len(struck) == 3:
            done.set()

    async with running() as timers:
        began = anyio.current_time()
        timeouts = Timeouts(timers, 0.02, strike)
        for key in ("a", "b", "c"):
            timeouts.start(key)
        assert len(timeouts) == 3
        assert len(timers) == 1  # one timer serves all
        with anyio.fail_after(10):
            await done.wait()
        assert anyio.current_time() - began >= 0.019  # uvloop counts milliseconds
    assert struck == ["a", "b", "c"]
    assert len(timeouts) == 0


async def test_what_was_stopped_does_not_strike_and_what_was_restarted_strikes_later() -> None:
    struck: list[str] = []
    done = anyio.Event()

    def strike(key: str) -> None:
        struck.append(key)
        if key == "last":
            done.set()

    async with running() as timers:
        timeouts = Timeouts(timers, 0.05, strike)
        for key in ("stopped", "restarted", "plain"):
            timeouts.start(key)
        timeouts.stop("stopped")
        timeouts.stop("stopped")
        timeouts.restart("restarted")
        timeouts.restart("stopped")  # it waits no more
        timeouts.start("last")
        with anyio.fail_after(10):
            await done.wait()
    assert struck == ["plain", "restarted", "last"]


async def test_a_strike_may_stop_and_start_others() -> None:
    struck: list[str] = []
    done = anyio.Event()

    def strike(key: str) -> None:
        struck.append(key)
        if key == "first":
            timeouts.stop("second")
            timeouts.start("third")
        else:
            done.set()

    async with running() as timers:
        timeouts = Timeouts(timers, 0.01, strike)
        timeouts.start("first")
        timeouts.start("second")
        with anyio.fail_after(10):
            await done.wait()
    assert struck == ["first", "third"]


async def test_a_strike_that_fails_costs_no_other() -> None:
    done = anyio.Event()

    def strike(key: str) -> None:
        if key == "bad":
            raise ValueError("a bug")
        done.set()

    async with running() as timers:
        timeouts = Timeouts(timers, 0.01, strike)
        timeouts.start("bad")
        timeouts.start("good")
        with anyio.fail_after(10):
            await done.wait()
