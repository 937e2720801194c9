from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tunnelkit.net.timers import Timers

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(timers: Timers) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: timers.run(task_status=task_status))
        yield
        tasks.cancel_scope.cancel()


async def test_they_call_back_in_the_order_of_their_times() -> None:
    timers = Timers()
    called: list[str] = []
    done = anyio.Event()
    now = anyio.current_time()
    timers.at(now + 0.02, done.set)
    timers.at(now + 0.01, lambda: called.append("second"))
    timers.at(now - 1, lambda: called.append("first"))
    timers.at(now + 0.01, lambda: called.append("third"))
    async with running(timers):
        await done.wait()
    assert called == ["first", "second", "third"]
    assert anyio.current_time() >= now + 0.02
    assert len(timers) == 0


async def test_an_earlier_one_set_while_it_sleeps_is_not_late() -> None:
    timers = Timers()
    late, early = anyio.Event(), anyio.Event()
    async with running(timers):
        await anyio.wait_all_tasks_blocked()
        timers.at(anyio.current_time() + 3600, late.set)
        await anyio.wait_all_tasks_blocked()
        timers.at(anyio.current_time() + 0.01, early.set)
        await early.wait()
    assert not late.is_set()
    assert len(timers) == 1


async def test_one_that_is_due_already_calls_back_at_once() -> None:
    timers = Timers()
    async with running(timers):
        await anyio.wait_all_tasks_blocked()
        past = anyio.Event()
        timers.at(0.0, past.set)
        await past.wait()


async def test_a_cancelled_one_never_calls_back() -> None:
    timers = Timers()
    called: list[int] = []
    done = anyio.Event()
    now = anyio.current_time()
    first = timers.at(now, lambda: called.append(1))
    timers.at(now, done.set)
    assert len(timers) == 2
    first.cancel()
    first.cancel()
    assert not first.active
    assert len(timers) == 1
    async with running(timers):
        await done.wait()
    assert called == []


async def test_one_that_another_cancels_when_both_are_due_does_not_call_back() -> None:
    timers = Timers()
    called: list[int] = []
    done = anyio.Event()
    timers.at(1.0, lambda: second.cancel())
    second = timers.at(2.0, lambda: called.append(2))
    timers.at(3.0, done.set)
    async with running(timers):
        await done.wait()
    assert called == []
    assert len(timers) == 0


async def test_a_callback_that_sets_one_for_now_does_not_keep_the_loop() -> None:
    timers = Timers()
    rounds = 0

    def again() -> None:
        nonlocal rounds
        rounds += 1
        timers.at(0.0, again)

    again()
    async with running(timers):
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
    assert rounds > 1


async def test_a_callback_that_raises_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    timers = Timers(logging.getLogger("tunnelkit.test"))
    done = anyio.Event()

    def fail() -> None:
        raise ValueError("boom")

    timers.at(0.0, fail)
    timers.at(1.0, done.set)
    async with running(timers):
        await done.wait()
    assert [(record.name, record.levelname) for record in caplog.records] == [("tunnelkit.test", "ERROR")]
    assert "boom" in caplog.text


async def test_cancelled_ones_do_not_pile_up() -> None:
    timers = Timers()
    far = anyio.current_time() + 3600
    kept = [timers.at(far + n, lambda: None) for n in range(10)]
    for n in range(10_000):
        timers.at(far + n, lambda: None).cancel()
        assert len(timers._heap) <= 200
    assert len(timers) == 10
    assert all(timer.active for timer in kept)


async def test_cancelling_one_that_called_back_does_nothing() -> None:
    timers = Timers()
    done = anyio.Event()
    timer = timers.at(0.0, done.set)
    async with running(timers):
        await done.wait()
    timer.cancel()
    assert len(timers) == 0


async def test_run_can_be_cancelled_and_run_again() -> None:
    timers = Timers()
    async with running(timers):
        pass
    done = anyio.Event()
    timers.at(0.0, done.set)
    async with running(timers):
        await done.wait()


def test_a_clock_of_milliseconds_is_not_asked_again_and_again() -> None:
    """uvloop's: a deadline between two of them would keep the loop busy until the second."""
    loop_class: Any = pytest.importorskip("uvloop").Loop
    asked = 0

    def call_at(self: Any, *args: Any, **named: Any) -> Any:
        nonlocal asked
        asked += 1
        return loop_class.call_at(self, *args, **named)

    async def main() -> None:
        timers = Timers()
        async with running(timers):
            for number in range(1, 11):
                done = anyio.Event()
                when = anyio.current_time() + 0.01 + number * 0.00037
                timers.at(when, done.set)
                await done.wait()
                assert anyio.current_time() >= when

    with asyncio.Runner(loop_factory=type("Counting", (loop_class,), {"call_at": call_at})) as runner:
        runner.run(main())
    assert asked <= 30
