"""Tells a trio run's streams when their sockets become ready, by callbacks: one task waits, for all of them.

trio's own waits are made for one task each: it asks the kernel anew for every wait, and every wait costs a turn of
the loop (facts). Here a socket is registered once, edge-triggered, and what is ready is called in one batch.
"""

from __future__ import annotations

import select
from contextlib import suppress
from typing import Protocol

import trio

from .loop import in_batch

__all__ = ["NOT_ALL", "READABLE", "WRITABLE", "Watched", "Watcher"]

# What the bits of an event say. An end or a failure is readable, a failure is writable too.
# NOT_ALL: who reads less than asked for has not read all; the end follows, or what is behind urgent bytes.
NOT_ALL = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
READABLE = select.EPOLLIN | NOT_ALL
WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR

_READING = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET

# So many are called at once; then the other tasks have their turn. As many again follow in the next.
_BATCH = 64


class Watched(Protocol):
    """What a watcher tells. Neither method may raise, and both come in the watcher's task."""

    def ready(self, events: int) -> None: ...

    def lost(self) -> None:
        """Nobody watches any more: the run is over."""


class Watcher:
    """The one of a trio run: ``Watcher.current()``."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}

    @classmethod
    def current(cls) -> Watcher:
        """Raises ``RuntimeError`` while the run ends, and ``OSError`` where there are no descriptors left."""
        watcher = _current.get(None)
        if watcher is None:
            watcher = cls()
            try:
                trio.lowlevel.spawn_system_task(watcher._watch, name="tunnelkit.net.edges")
            except BaseException:
                watcher._close()
                raise
            _current.set(watcher)
        return watcher

    # -- what is watched -----------------------------------------------------------------------

    def watch(self, fd: int, watched: Watched) -> None:
        """Tell of all that comes to ``fd``, and of what is there already. Raises ``OSError``, or ``ValueError`` once
        the run is over."""
        self._epoll.register(fd, _READING)
        self._watched[fd] = watched

    def watch_room(self, fd: int) -> None:
        """Tell of room too, from now on, and of what there is already. Not from the start: most sockets are never
        full, and their room would be the first news of each of them."""
        self._epoll.modify(fd, _READING | select.EPOLLOUT)

    def forget(self, fd: int) -> None:
        """Before ``fd`` is closed: the number may be another socket's a moment later."""
        self._watched.pop(fd, None)
        with suppress(OSError, ValueError):  # the watcher is closed, and with it all that it knew
            self._epoll.unregister(fd)

    # -- the task ------------------------------------------------------------------------------

    async def _watch(self) -> None:
        fd = self._epoll.fileno()
        try:
            while True:
                await trio.lowlevel.wait_readable(fd)
                in_batch(self._tell)
        except OSError:  # the kernel has no memory for one more watch, and what leaves this task would crash trio
            pass
        finally:
            self._close()

    def _tell(self) -> None:
        # All are looked up before the first is called: it may close a socket whose event is in this batch, and open
        # another that is given the same number.
        watched = self._watched
        for who, events in [(watched[fd], events) for fd, events in self._epoll.poll(0, _BATCH)]:
            who.ready(events)

    def _close(self) -> None:
        self._epoll.close()
        watched, self._watched = self._watched, {}
        for who in watched.values():
            who.lost()


_current: trio.lowlevel.RunVar[Watcher | None] = trio.lowlevel.RunVar("tunnelkit.net.edges")
