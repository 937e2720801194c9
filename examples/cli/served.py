"""What a tunnel client tells of the requests that it served."""

from __future__ import annotations

from collections import deque

from tunnelkit.events import EventStream, RequestFinished
from tunnelkit.logs import printable

from .console import say

__all__ = ["Requests", "request_line", "request_parts"]

LAST = 8  # kept for showing


class Requests:
    """Counts those that failed, and keeps the last; ``lines``: each is printed too."""

    def __init__(self, *, lines: bool = False) -> None:
        self.failed = 0  # 5xx, and what broke off
        self.last: deque[RequestFinished] = deque(maxlen=LAST)
        self._lines = lines

    async def follow(self, events: EventStream) -> None:
        """To the client's end."""
        async for event in events:
            if isinstance(event, RequestFinished):
                self.heard(event)

    def heard(self, request: RequestFinished) -> None:
        self.failed += request.outcome != "answered" or request.status is None or request.status >= 500
        self.last.append(request)
        if self._lines:
            say(request_line(request))


def request_line(request: RequestFinished) -> str:
    """``GET /path 200 12 ms``; what a caller wrote is escaped."""
    return " ".join(request_parts(request))


def request_parts(request: RequestFinished) -> tuple[str, str]:
    """What was asked, and what became of it."""
    status = "-" if request.status is None else str(request.status)
    end = "" if request.outcome == "answered" else f" {request.outcome}"
    what = f"{printable(request.method, 20)} {printable(request.target, 200)}"
    return what, f"{status} {request.seconds * 1000:.0f} ms{end}"
