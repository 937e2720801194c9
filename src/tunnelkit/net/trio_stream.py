"""A byte stream for trio on Linux: a socket whose edges a ``Watcher`` tells, in callbacks.

It reads and writes as ``SocketStream`` does; only its waits cost less, and takers are called without the task.
"""

from __future__ import annotations

import errno
import socket
from functools import partial

import trio

from ..errors import StreamBroken
from .edges import NOT_ALL, READABLE, WRITABLE, Watcher
from .sockets import TURN, SocketStream
from .stream import Taker

__all__ = ["TrioStream"]

# Bytes: a read that gives less, and less than was asked for, has given all there was. A larger one is part of a flow,
# of which more may have come meanwhile: to look costs less than to wait.
SHORT = 4096


class _Waiter:
    """One ``wait``."""

    __slots__ = ("error", "parked", "readable", "taker", "task", "writable")

    def __init__(self, readable: bool, writable: bool, taker: Taker | None) -> None:
        self.task = trio.lowlevel.current_task()
        self.readable = readable
        self.writable = writable
        self.taker = taker
        self.parked = True
        self.error: BaseException | None = None  # what the taker raised


class TrioStream(SocketStream):
    """A connected stream socket. Takes it over; it must be non-blocking.

    Raises ``OSError``, ``ValueError`` or ``RuntimeError`` where it cannot be watched, and leaves the socket alone.
    """

    def __init__(
        self, sock: socket.socket, *, local: tuple[str, int] = ("", 0), peer: tuple[str, int] = ("", 0)
    ) -> None:
        super().__init__(sock, local=local, peer=peer)
        # What the kernel may still have, or have room for: true until it says no, and from the next edge on.
        self._readable = self._writable = True
        self._short_is_all = True  # after a short read, more will be told of
        self._told_of_room = False
        self._waiters: list[_Waiter] = []
        self._watcher = Watcher.current()
        self._watcher.watch(sock.fileno(), self)

    # -- reading and writing -------------------------------------------------------------------

    def _receive(self, max_bytes: int) -> bytes | None:
        if not self._readable:
            return None
        data = super()._receive(max_bytes)
        if data is None or (self._short_is_all and 0 < len(data) < min(max_bytes, SHORT)):
            self._readable = False
        return data

    def _send(self, data: memoryview) -> int:
        if not self._writable:
            return 0
        sent = super()._send(data)
        if not sent:
            self._writable = False
            if not self._told_of_room:
                self._told_of_room = True
                self._watcher.watch_room(self._socket.fileno())
        return sent

    # -- called by the watcher -----------------------------------------------------------------

    def ready(self, events: int) -> None:
        if self._closed:  # by another's callback, a moment ago
            return
        readable, writable = bool(events & READABLE), bool(events & WRITABLE)
        self._readable |= readable
        self._writable |= writable
        self._short_is_all &= not events & NOT_ALL
        for waiter in tuple(self._waiters):
            if not (waiter.parked and ((readable and waiter.readable) or (writable and waiter.writable))):
                continue
            if waiter.taker is None or not self._taken(waiter.taker, waiter):
                self._rouse(waiter)

    def _taken(self, taker: Taker, waiter: _Waiter) -> bool:
        """Whether ``taker`` saw to what came, so that its task need not be woken; or was woken by what it did."""
        self._turn = TURN
        try:
            # In the waiting task's context, where it would run without us. Whatever it raises is the wait's: the
            # watcher's task may not fail.
            taken = waiter.task.context.run(taker)
        except BaseException as exc:
            waiter.error = exc
            taken = False
        return not waiter.parked or (taken and not self._readable)

    def lost(self) -> None:
        self._fail(OSError(errno.ECANCELED, "the event loop has ended"))

    def _fail(self, exc: OSError) -> StreamBroken:
        # There may be last words, of which no edge has told yet.
        self._readable = True
        self._short_is_all = False
        return super()._fail(exc)

    # -- waiting -------------------------------------------------------------------------------

    async def wait(self, *, readable: bool = False, writable: bool = False, taker: Taker | None = None) -> None:
        if self._woken or (readable and self._readable) or (writable and self._writable) or self._is_over():
            await trio.lowlevel.checkpoint()
        else:
            await self._park(_Waiter(readable, writable, taker))
        self._turn = TURN
        # Only now: a cancelled wait must not swallow a wake.
        self._woken = False

    async def _park(self, waiter: _Waiter) -> None:
        self._waiters.append(waiter)
        await trio.lowlevel.wait_task_rescheduled(partial(self._cancelled, waiter))
        if waiter.error is not None:
            raise waiter.error

    def _cancelled(self, waiter: _Waiter, _: object) -> trio.lowlevel.Abort:
        self._unpark(waiter)
        return trio.lowlevel.Abort.SUCCEEDED

    def _unpark(self, waiter: _Waiter) -> None:
        waiter.parked = False
        self._waiters.remove(waiter)

    def _rouse(self, waiter: _Waiter) -> None:
        self._unpark(waiter)
        trio.lowlevel.reschedule(waiter.task)

    def _notify(self) -> None:
        for waiter in tuple(self._waiters):
            self._rouse(waiter)

    # -- closing -------------------------------------------------------------------------------

    def _close(self) -> None:
        self._watcher.forget(self._socket.fileno())
        super()._close()
