from __future__ import annotations

import sys

import anyio
import pytest

from tunnelkit.net.loop import loop_clock, runs_on_asyncio


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
