from __future__ import annotations

import anyio
import pytest

from tunnelkit.net.doorbell import Doorbell, Soon
from tunnelkit.net.loop import runs_on_asyncio

pytestmark = pytest.mark.anyio


async def test_it_wakes_who_waits() -> None:
    bell = Doorbell()
    woken = anyio.Event()

    async def listen() -> None:
        await bell.wait()
        woken.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        assert not woken.is_set()
        bell.ring()
        bell.ring()
        with anyio.fail_after(10):
            await woken.wait()


async def test_what_rang_before_counts_until_it_is_muffled() -> None:
    bell = Doorbell()
    bell.ring()
    await bell.wait()
    bell.muffle()
    with anyio.move_on_after(0) as scope:
        await bell.wait()
    assert scope.cancelled_caught


async def test_a_cancelled_wait_takes_no_ring_away() -> None:
    bell = Doorbell()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bell.wait)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    bell.ring()
    with anyio.fail_after(10):
        await bell.wait()


async def test_a_call_comes_soon_and_once(anyio_backend_name: str) -> None:
    calls: list[bool] = []
    soon = Soon(lambda: calls.append(runs_on_asyncio()))
    on_asyncio = anyio_backend_name == "asyncio"
    for count in range(3):
        assert soon.ask() is soon.ask() is soon.asked is on_asyncio
        assert len(calls) == count * on_asyncio
        await anyio.wait_all_tasks_blocked()
        assert calls == [True] * (count + 1) * on_asyncio
        assert not soon.asked


async def test_a_call_may_be_called_off() -> None:
    calls: list[None] = []
    soon = Soon(lambda: calls.append(None))
    soon.call_off()
    soon.ask()
    soon.call_off()
    await anyio.wait_all_tasks_blocked()
    assert not calls
    assert not soon.asked
