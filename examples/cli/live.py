"""The client's state on a terminal, as it changes: with rich, where that is installed (the extra ``cli``).

Everything else goes on as without: lines that are printed and logged scroll by above.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from tunnelkit import TunnelClient
from tunnelkit.events import ClientEvent, Closed, Connected, Lost, Moved, Resumed, Retrying, Superseded
from tunnelkit.logs import printable

from .served import Requests, request_parts

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["TunnelView", "is_wanted", "render", "showing"]

REFRESH = 0.25  # seconds


def is_wanted(plain: bool) -> bool:
    """Whether there is a terminal to show it on, and something to draw it with."""
    drawable = sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return drawable and not plain and importlib.util.find_spec("rich") is not None


class TunnelView:
    """What is shown of one tunnel."""

    def __init__(self, client: TunnelClient, requests: Requests) -> None:
        self.client = client
        self.requests = requests
        self.status = "connecting"

    async def follow(self) -> None:
        """Keep ``status`` true, to the client's end."""
        async for event in self.client.events():
            self.status = status_after(event)

    def facts(self) -> list[tuple[str, str]]:
        client, failed = self.client, self.requests.failed
        trip = client.round_trip
        return [
            ("status", self.status),
            ("url", client.masked_url),
            ("transport", client.transport or "-"),
            ("round trip", "-" if trip is None else f"{trip * 1000:.0f} ms"),
            ("requests", f"{client.requests_active} running, {client.requests_served} served, {failed} failed"),
        ]


def status_after(event: ClientEvent) -> str:
    """What a tunnel is once that happened, in a few words."""
    match event:
        case Connected() | Resumed() | Moved():
            return "connected"
        case Lost(reason=reason):
            return f"reconnecting: {printable(reason, 100)}"
        case Retrying(reason=reason, delay=delay):
            return f"next try in {delay:.0f} s: {printable(reason, 100)}"
        case Superseded():
            return "superseded by another client"
        case Closed(reason=reason):
            return f"over: {printable(reason, 100)}"
    return "connecting"


# -- drawing -----------------------------------------------------------------------------------


def render(views: Sequence[TunnelView]) -> RenderableType:
    """All tunnels, each with its last requests."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for view in views:
        grid = Table.grid(padding=(0, 2))
        for name, value in view.facts():
            style = "green" if value == "connected" else "yellow" if name == "status" else ""
            grid.add_row(Text(name, style="bold"), Text(value, style=style, overflow="fold"))
        last = Table.grid(padding=(0, 1))
        for what, end in map(request_parts, view.requests.last):  # a line each, however long the target is
            last.add_row(Text(f"  {what}", no_wrap=True, overflow="ellipsis"), Text(end, no_wrap=True))
        parts += [grid, last, Text()]
    return Group(*parts)


@asynccontextmanager
async def showing(views: Sequence[TunnelView], console: Console | None = None) -> AsyncIterator[None]:
    """Draw them for as long as the block runs; what they were stays on the terminal."""
    from rich.live import Live

    both = sys.stderr.isatty()  # else it goes where it was sent
    with Live(render(views), console=console, auto_refresh=False, redirect_stderr=both) as live:

        async def redraw() -> None:
            while True:
                await anyio.sleep(REFRESH)
                live.update(render(views), refresh=True)

        async with anyio.create_task_group() as tasks:
            for view in views:
                tasks.start_soon(view.follow)
            tasks.start_soon(redraw)
            yield
            tasks.cancel_scope.cancel()
        live.update(render(views), refresh=True)
