"""Which event loop runs here, and its clock."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from time import monotonic
from typing import TypeAlias, TypeVar

import anyio

from .called_back import Here

try:
    from sniffio import current_async_library_cvar as _library
except ImportError:  # then anyio asks asyncio itself
    _library = None  # type: ignore[assignment]  # where it is imported, it is never None

__all__ = ["Clock", "after_batch", "in_batch", "in_callback", "loop_clock", "loop_ticks", "runs_on_asyncio"]

_logger = logging.getLogger("tunnelkit")

T = TypeVar("T")

Clock: TypeAlias = Callable[[], float]


_here = Here()


def in_callback(call: Callable[[], T]) -> T:
    """``call()``, from a callback of an asyncio loop, where no task is current by which anyio and this module would
    know the loop. The context is the callback's own (``loop.add_reader``, ``loop.call_soon``)."""
    if _library is not None:
        _library.set("asyncio")
    before, _here.called_back = _here.called_back, True
    try:
        return call()
    finally:
        _here.called_back = before


def in_batch(call_all: Callable[[], None]) -> None:
    """``call_all()``, which calls back many; and then what they asked for with ``after_batch``."""
    after = _here.after = []
    try:
        call_all()
    finally:
        _here.after = None
    for call in after:
        try:
            call()
        except Exception:
            _logger.exception("a call of the loop failed")


def after_batch(call: Callable[[], None]) -> bool:
    """Have it called once the batch of calls that this is one of is over. False, and nothing, outside of one."""
    after = _here.after
    if after is None:
        return False
    after.append(call)
    return True


def runs_on_asyncio() -> bool:
    """Whether the current task, or callback, is one of asyncio's (or uvloop's)."""
    # A running asyncio loop alone does not tell: in trio's guest mode it is trio's host.
    if _here.called_back:
        return True
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def loop_ticks() -> int:
    """How often a second the clock of the current task's loop moves; 0 where that is too often to matter. uvloop
    counts milliseconds, and whatever else has a clock of its own is taken to do so."""
    own = runs_on_asyncio() and type(asyncio.get_running_loop()).time is not asyncio.BaseEventLoop.time
    return 1000 if own else 0


def loop_clock() -> Clock:
    """``anyio.current_time`` without its search for the running loop, which costs ten times what the clock does: for
    what asks several times a request. Ask for it in a task, and use it in that task's event loop only."""
    if runs_on_asyncio():
        loop = asyncio.get_running_loop()
        # asyncio's own loops only pass the question on; others, uvloop say, have another clock.
        return monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time
    trio = sys.modules.get("trio")
    return anyio.current_time if trio is None else trio.lowlevel.current_clock().current_time
