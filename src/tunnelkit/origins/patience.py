"""New connections to an origin, also by waiting for one that starts again (``core.restarts`` says for how long)."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from ..core.restarts import Restarts
from ..errors import DialError
from ..http.client import OriginConnection
from ..http.pool import OriginPool

__all__ = ["PatientDial"]


class PatientDial:
    """Of one origin. ``patience``: seconds, 0 for none."""

    def __init__(self, pool: OriginPool, patience: float) -> None:
        self._pool = pool
        self._restarts = Restarts(patience)

    async def connect(
        self, *, never_sent: bool = False, is_wanted: Callable[[], bool] = lambda: True
    ) -> OriginConnection:
        """``never_sent``: it is for a request that no origin saw, which may wait while it ``is_wanted``. Raises
        ``DialError``."""
        self._restarts.waiting += 1
        try:
            while True:
                try:
                    connection = await self._pool.connect()
                except DialError as error:
                    wait = self._wait(error) if never_sent else None
                    if wait is None or not is_wanted():
                        raise
                    await anyio.sleep(wait)
                else:
                    self._restarts.reached()
                    return connection
        finally:
            self._restarts.waiting -= 1

    def _wait(self, error: DialError) -> float | None:
        return self._restarts.refused(anyio.current_time()) if error.stage == "connect" else None
