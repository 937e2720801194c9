"""What a tunnel client tells of the requests that it served."""

from __future__ import annotations

from collections import deque

from tunnelkit.events import Served
from tunnelkit.logs import printable

from .console import say

__all__ = ["Requests", "request_line"]

LAST = 8  # kept for showing


class Requests:
    """Counts them, and keeps the last; ``lines``: each is printed too."""

    def __init__(self, *, lines: bool = False) -> None:
        self.count = 0
        self.failed = 0  # 5xx, and what broke off
        self.last: deque[Served] = deque(maxlen=LAST)
        self._lines = lines

    def heard(self, served: Served) -> None:
        self.count += 1
        self.failed += not served.complete or served.status is None or served.status >= 500
        self.last.append(served)
        if self._lines:
            say(request_line(served))


def request_line(served: Served) -> str:
    """``GET /path 200 12 ms``; what a caller wrote is escaped."""
    outcome = "-" if served.status is None else str(served.status)
    end = "" if served.complete else " broken off"
    where = f"{printable(served.x_host, 100)} " if served.x_host else ""
    target = f"{printable(served.method, 20)} {where}{printable(served.target, 200)}"
    return f"{target} {outcome} {served.seconds * 1000:.0f} ms{end}"
