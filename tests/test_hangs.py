"""Tests that hang are ended, and tell where they hung."""

from __future__ import annotations

import anyio
import pytest

from .hangs import ended_after, waits

pytestmark = pytest.mark.anyio


async def test_a_test_that_ends_is_let_alone() -> None:
    seen: list[object] = []

    async def fine(argument: int) -> None:
        seen.append(argument)

    limited = ended_after(3600, fine)
    assert limited.__name__ == "fine"
    await limited(argument=1)
    assert seen == [1]


async def _raises(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [ValueError("as it is"), SystemExit(3), ExceptionGroup("own", [OSError()])])
async def test_what_a_test_raises_comes_out_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        await ended_after(3600, _raises)(error=error)
    assert raised.value is error


async def _stuck(event: anyio.Event) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_waits_for_ever, event)
        await anyio.sleep_forever()


async def _waits_for_ever(event: anyio.Event) -> None:
    await event.wait()


async def test_a_test_that_hangs_fails_and_tells_where(capsys: pytest.CaptureFixture[str]) -> None:
    with anyio.fail_after(10), pytest.raises(TimeoutError):
        await ended_after(0.5, _stuck)(event=anyio.Event())
    told = capsys.readouterr().err
    assert "not over after 0.5 s" in told
    assert f"{__file__}:" in told
    assert " _waits_for_ever\n" in told


async def test_where_all_tasks_are() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_waits_for_ever, anyio.Event())
        await anyio.wait_all_tasks_blocked()
        assert " _waits_for_ever\n" in waits() + "\n"
        group.cancel_scope.cancel()


async def test_every_test_of_an_event_loop_is_limited(request: pytest.FixtureRequest) -> None:
    assert request.node.obj.__wrapped__.__name__ == "test_every_test_of_an_event_loop_is_limited"
