from __future__ import annotations

import asyncio
import sys

import anyio
import pytest

from tunnelkit.net.loop import after_batch, in_batch, in_callback, loop_clock, runs_on_asyncio


@pytest.mark.anyio
async def test_the_clock_is_the_loops(anyio_backend_name: str) -> None:
    clock = loop_clock()
    before, now, after = anyio.current_time(), clock(), anyio.current_time()
    assert before <= now <= after
    assert runs_on_asyncio() is (anyio_backend_name == "asyncio")


def test_outside_of_a_loop_and_without_trio_the_clock_asks_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "trio", raising=False)
    clock = loop_clock()

    async def ask() -> float:
        return clock() - anyio.current_time()

    assert not runs_on_asyncio()
    assert abs(anyio.run(ask)) < 10


def test_a_callback_knows_its_loop_though_no_task_is_current() -> None:
    seen: list[tuple[bool, bool]] = []

    def look() -> None:
        in_callback(lambda: None)  # one inside another changes nothing
        seen.append((runs_on_asyncio(), abs(loop_clock()() - anyio.current_time()) < 10))

    async def main() -> None:
        asyncio.get_running_loop().call_soon(in_callback, look)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(lambda: seen.append((runs_on_asyncio(), False)))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == [(True, True), (False, False)]


def test_one_call_that_fails_after_a_batch_costs_itself_alone(caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []

    def fail() -> None:
        raise ValueError

    def batch() -> None:
        assert after_batch(lambda: called.append("first"))
        assert after_batch(fail)
        assert after_batch(lambda: called.append("last"))
        called.append("batch")

    in_batch(batch)
    assert called == ["batch", "first", "last"]
    assert "a call of the loop failed" in caplog.text
    assert not after_batch(lambda: None)
