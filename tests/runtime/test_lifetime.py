"""Work that gets a last word when it is cancelled, but not for long."""

from __future__ import annotations

import anyio
import pytest

from tunnelkit.lifetime import run_to_the_end

pytestmark = pytest.mark.anyio


async def test_work_that_ends_by_itself_is_not_stopped() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    await run_to_the_end(work, stop=lambda: done.append("stop"), timeout=1)
    assert done == ["work"]


async def test_an_error_comes_out_as_it_is() -> None:
    async def work() -> None:
        raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        await run_to_the_end(work, stop=lambda: None, timeout=1)


async def test_cancelled_work_may_finish_what_stop_asked_for() -> None:
    stopping = anyio.Event()
    said: list[str] = []

    async def work() -> None:
        await stopping.wait()
        await anyio.lowlevel.checkpoint()
        said.append("farewell")

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run_to_the_end(work, stop=stopping.set, timeout=10))
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert said == ["farewell"]


async def test_work_that_ignores_stop_is_cut_at_the_deadline() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cut")

    with anyio.fail_after(10), anyio.CancelScope() as scope:
        scope.cancel()
        await run_to_the_end(work, stop=lambda: None, timeout=0.01)
    assert ended == ["cut"]
