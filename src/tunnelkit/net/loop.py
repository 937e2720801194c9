"""Which event loop runs here, and its clock."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from time import monotonic
from typing import TypeAlias

import anyio

__all__ = ["Clock", "loop_clock", "runs_on_asyncio"]

Clock: TypeAlias = Callable[[], float]


def runs_on_asyncio() -> bool:
    """Whether the current task is one of asyncio's (or uvloop's)."""
    # A running asyncio loop alone does not tell: in trio's guest mode it is trio's host.
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def loop_clock() -> Clock:
    """``anyio.current_time`` without its search for the running loop, which costs ten times what the clock does: for
    what asks several times a request. Ask for it in a task, and use it in that task's event loop only."""
    if runs_on_asyncio():
        loop = asyncio.get_running_loop()
        # asyncio's own loops only pass the question on; others, uvloop say, have another clock.
        return monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time
    trio = sys.modules.get("trio")
    return anyio.current_time if trio is None else trio.lowlevel.current_clock().current_time
