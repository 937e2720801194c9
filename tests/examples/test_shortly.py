from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import anyio
import pytest
import trio

from cli.shortly import SOON, Shortly


class Called:
    def __init__(self) -> None:
        self.times: list[float] = []
        self.bell = anyio.Event()

    def __call__(self) -> None:
        self.times.append(time.monotonic())
        self.bell.set()

    async def once_more(self) -> None:
        with anyio.fail_after(10):
            await self.bell.wait()
        self.bell = anyio.Event()


@pytest.mark.anyio
async def test_however_often_it_is_asked_it_calls_once_a_moment_later() -> None:
    called = Called()
    shortly = Shortly(called)
    for count in (1, 2):
        began = time.monotonic()
        assert shortly.ask()
        await anyio.lowlevel.checkpoint()
        assert shortly.ask()
        await called.once_more()
        assert len(called.times) == count
        assert called.times[-1] - began >= SOON * 0.9


def test_without_a_loop_it_does_not_call() -> None:
    called = Called()
    assert not Shortly(called).ask()
    assert not called.times


@pytest.mark.anyio
async def test_a_thread_has_no_loop_though_others_have() -> None:
    called = Called()
    shortly = Shortly(called)
    assert shortly.ask()
    assert not await anyio.to_thread.run_sync(shortly.ask)
    await called.once_more()
    assert len(called.times) == 1


def run(backend: str, function: Callable[[], Awaitable[None]]) -> None:
    anyio.run(function, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_run_after_the_other_is_served(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = Called()
    shortly = Shortly(called)

    async def ask_and_end() -> None:
        assert shortly.ask()

    async def ask_and_wait() -> None:
        called.bell = anyio.Event()
        assert shortly.ask()
        await called.once_more()

    with monkeypatch.context() as patch:
        patch.setattr("cli.shortly.SOON", 60.0)  # the run ends before
        run(backend, ask_and_end)
    before = len(called.times)
    assert before == (1 if backend == "trio" else 0)  # an asyncio loop that ends forgets what it was to call
    run(backend, ask_and_wait)
    assert len(called.times) == before + 1


def test_a_run_that_ends_takes_no_more() -> None:
    called = Called()
    shortly = Shortly(called)
    asked: list[bool] = []

    async def outlive_the_others() -> None:
        try:
            await trio.sleep_forever()
        finally:
            asked.append(shortly.ask())

    async def main() -> None:
        trio.lowlevel.spawn_system_task(outlive_the_others)
        await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    assert asked in ([False], [True])
    assert len(called.times) == sum(asked)


def test_what_the_call_raises_ends_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        failed = trio.Event()

        def fail() -> None:
            failed.set()
            raise ValueError("of the call")

        assert Shortly(fail).ask()
        with trio.fail_after(10):
            await failed.wait()

    trio.run(main)
    assert "ValueError: of the call" in capsys.readouterr().err


def test_asyncio_and_trio_may_take_turns() -> None:
    called = Called()
    shortly = Shortly(called)

    async def ask_and_wait() -> None:
        called.bell = anyio.Event()
        assert shortly.ask()
        await called.once_more()

    for count, backend in enumerate(["asyncio", "trio", "asyncio", "trio"], 1):
        run(backend, ask_and_wait)
        assert len(called.times) == count
    loop = asyncio.new_event_loop()
    loop.close()
    assert not shortly.ask()
