"""Lives that end in order: a last word gets out even when the program around is cancelled, but not for long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

__all__ = ["run_to_the_end"]


async def run_to_the_end(work: Callable[[], Awaitable[None]], *, stop: Callable[[], None], timeout: float) -> None:
    """Run ``work``. When cancelled, call ``stop`` and give ``work`` ``timeout`` seconds to end by itself.

    What ``work`` raises comes out as it is, not in a group. A shield without a deadline could hang for ever, and
    without a shield nothing could be said any more.
    """
    shell = anyio.CancelScope(shield=True)
    ended = anyio.Event()
    failure: list[Exception] = []

    async def shielded() -> None:
        try:
            with shell:
                await work()
        except Exception as error:
            failure.append(error)
        finally:
            ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(shielded)
        try:
            await ended.wait()
        finally:
            if not ended.is_set():
                shell.deadline = anyio.current_time() + timeout
                stop()
    if failure:
        raise failure[0]
