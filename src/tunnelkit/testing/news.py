"""Counters that can be waited for: what relay and middlebox have in common."""

from __future__ import annotations

from collections.abc import Callable

import anyio

__all__ = ["News"]


class News:
    """Rings whenever something was counted or changed, so that a test waits for the fault itself and not for time."""

    def __init__(self) -> None:
        self._bell = anyio.Event()

    async def until(self, condition: Callable[[], object], timeout: float = 30.0) -> None:
        """Wait until ``condition()`` holds. It is looked at now, and again whenever bytes passed, or a connection or
        a fault came or went. Raises ``TimeoutError``, with what was counted, after ``timeout`` seconds."""
        try:
            with anyio.fail_after(timeout):
                while not condition():
                    await self._bell.wait()
        except TimeoutError:
            raise TimeoutError(f"not within {timeout:g} s: {self!r}") from None

    def _ring(self) -> None:
        bell, self._bell = self._bell, anyio.Event()
        bell.set()
