"""A pair of byte streams inside one process: for tests, and for embedding without sockets."""

from __future__ import annotations

import anyio
from anyio.lowlevel import checkpoint

from ..errors import StreamBroken
from .buffer import ReadBuffer
from .stream import READ_AHEAD, Buffer, ByteStream, Taker

__all__ = ["MemoryStream", "memory_pair"]


def memory_pair(capacity: int = READ_AHEAD) -> tuple[MemoryStream, MemoryStream]:
    """Two joined ends; each direction holds at most ``capacity`` bytes."""
    one, other = MemoryStream(capacity), MemoryStream(capacity)
    one._peer, other._peer = other, one
    return one, other


class MemoryStream(ByteStream):
    """One end. ``stall`` and ``cut`` are faults that a test switches on."""

    _peer: MemoryStream

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held = ReadBuffer()  # sent by the peer, not yet received
        self._eof_received = self._eof_sent = False
        self._closed = self._broken = self._stalled = self._woken = False
        self._waiters: list[_Waiter] = []
        self._last_received = anyio.current_time()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "failed" if self._broken else "open"
        return f"<MemoryStream {state} held={len(self._held)}>"

    # -- faults --------------------------------------------------------------------------------

    def stall(self) -> None:
        """Nothing that the peer sends (data, end) reaches this end until ``resume``; what it sends piles up to the
        capacity."""
        self._stalled = True

    def resume(self) -> None:
        self._stalled = False
        self._ring()

    def cut(self) -> None:
        """Both ends fail at once, as if the wire was cut; what was on its way is lost."""
        for end in (self, self._peer):
            end._broken = True
            end._held.clear()
            end._ring()

    # -- reading -------------------------------------------------------------------------------

    def receive_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        self._check()
        if self._stalled:
            return None
        if self._held:
            data = self._held.take(max_bytes)
            self._last_received = anyio.current_time()
            self._peer._ring()
            return data
        return b"" if self._eof_received else None

    # -- writing -------------------------------------------------------------------------------

    def try_send(self, data: Buffer) -> int:
        self._check()
        if self._eof_sent:
            raise StreamBroken("the sending half is closed")
        peer = self._peer
        if peer._closed:
            raise StreamBroken("the peer closed the connection")
        taken = min(len(data), peer._room)
        if taken:
            peer._held.append(bytes(memoryview(data)[:taken]))
            peer._ring()
        return taken

    async def send_eof(self) -> None:
        self._check()
        self._finish()
        await checkpoint()

    def _finish(self) -> None:
        self._eof_sent = True
        self._peer._eof_received = True
        self._peer._ring()

    @property
    def _room(self) -> int:
        return self._capacity - len(self._held)

    def _check(self) -> None:
        if self._closed:
            raise StreamBroken("closed")
        if self._broken:
            raise StreamBroken("connection reset by the peer")

    # -- waiting -------------------------------------------------------------------------------

    async def wait(self, *, readable: bool = False, writable: bool = False, taker: Taker | None = None) -> None:
        waiter = _Waiter(readable, writable)
        if self._is_ready(waiter):
            await checkpoint()
        else:
            self._waiters.append(waiter)
            try:
                await waiter.event.wait()
            finally:
                self._waiters.remove(waiter)
        # Only now: a cancelled wait must not swallow a wake.
        self._woken = False

    def wake(self) -> None:
        self._woken = True
        self._ring()

    def _ring(self) -> None:
        for waiter in self._waiters:
            if self._is_ready(waiter):
                waiter.event.set()

    def _is_ready(self, waiter: _Waiter) -> bool:
        if self._woken or self._closed or self._broken:
            return True
        if waiter.readable and not self._stalled and (self._held or self._eof_received):
            return True
        return waiter.writable and (self._eof_sent or self._peer._closed or self._peer._room > 0)

    # -- closing -------------------------------------------------------------------------------

    def abort(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._held.clear()
        self._peer._broken = True
        self._peer._held.clear()
        self._peer._ring()
        self._ring()

    async def aclose(self) -> None:
        if not self._closed:
            self._finish()
            self._closed = True
            self._held.clear()
            self._ring()
        await checkpoint()

    # -- facts ---------------------------------------------------------------------------------

    @property
    def last_received(self) -> float:
        return self._last_received

    @property
    def write_buffered(self) -> int:
        return 0

    @property
    def peer_address(self) -> tuple[str, int]:
        return "", 0

    @property
    def local_address(self) -> tuple[str, int]:
        return "", 0


class _Waiter:
    __slots__ = ("event", "readable", "writable")

    def __init__(self, readable: bool, writable: bool) -> None:
        self.event = anyio.Event()
        self.readable = readable
        self.writable = writable
