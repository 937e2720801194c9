"""Do answers pass unbuffered? A streamed one tells: two messages, and half a second between."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import anyio

from ...errors import ConfigError, DialError
from .client_answers import Reply
from .client_call import FAILURES, Call
from .client_requests import Requests
from .wire import PROBE_MESSAGE, Op

__all__ = ["passes_unbuffered"]

# The messages must come so far apart. What gathers an answer gives both at once.
_APART: Final = 0.3

_NUMBER: Final = 1  # there is one probe a connection


async def passes_unbuffered(requests: Requests, timeout: float) -> bool:
    """Whether the pieces of an answer come when they are sent. False for any failure; never raises."""
    with suppress(DialError, ConfigError, *FAILURES), anyio.move_on_after(timeout):
        call = await requests.dial()
        try:
            times = await _arrivals(call, requests)
        finally:
            call.abort()
        return len(times) == 2 and times[1] - times[0] >= _APART
    return False


async def _arrivals(call: Call, requests: Requests) -> list[float]:
    """When each message came; none of an answer that is not streamed."""
    call.begin(requests.make(Op.PROBE, _NUMBER), number=_NUMBER)
    times: list[float] = []
    while not isinstance(result := call.step(), Reply):
        if result is None:
            await call.wait()
        elif result == PROBE_MESSAGE:
            times.append(anyio.current_time())
    return times
