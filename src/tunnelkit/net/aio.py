"""A byte stream on asyncio and uvloop: a protocol of our own, bounded both ways.

anyio's asyncio stream bounds neither what it reads nor what a cancelled send leaves behind, and pays a turn of the
loop for every call (facts, trap 6). This one reads at most ``READ_AHEAD`` bytes ahead and takes at most
``WRITE_BUFFER`` bytes beyond what the kernel takes.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import NoReturn, TypeAlias, cast

import anyio
from anyio.lowlevel import checkpoint

from ..errors import StreamBroken
from .aio_protocol import StreamProtocol
from .buffer import ReadBuffer
from .failures import reason_of, stream_broken
from .kernel import RESET_ON_CLOSE, nothing_came
from .loop import in_callback, loop_clock
from .stream import CLOSE_TIMEOUT, READ_AHEAD, WRITE_BUFFER, Buffer, ByteStream, Taker

__all__ = ["AioStream"]

# Reads of a busy socket in one turn of the loop; then the others have theirs. Half as many cost an upload a tenth of
# its pace: whoever takes what was read is woken twice as often.
_DIRECT_READS = 16

_GATHERS = hasattr(socket.socket, "sendmsg")  # Windows has none

_local = threading.local()


def _shared_buffer() -> memoryview:
    """The receive buffer of this thread's event loop.

    Every loop fills the buffer and calls ``buffer_updated`` without running anything else in between (selector loops
    and uvloop read into it right after asking for it; the proactor copies into it from a buffer of its own), so that
    one serves all connections and an idle connection holds none.
    """
    try:
        buffer: memoryview = _local.buffer
    except AttributeError:
        buffer = _local.buffer = memoryview(bytearray(READ_AHEAD))
    return buffer


def _works_by_readiness(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether nothing else reads a paused transport's socket, or writes while its buffer is empty; a proactor's read
    may be under way even then."""
    return isinstance(loop, asyncio.SelectorEventLoop) or type(loop).__module__.startswith("uvloop")


# A wait: its future, whether it ends when bytes come, and when there is room; and who may take the bytes instead.
_Waiter: TypeAlias = "tuple[asyncio.Future[None], bool, bool, Taker | None]"


def _unchanging(data: Buffer) -> Buffer:
    """What a transport may keep by reference until it is sent: never the caller's own, changeable bytes."""
    if type(data) is bytes or (type(data) is memoryview and type(data.obj) is bytes):
        return data
    return bytes(data)


class AioStream:
    """A connected stream socket under an asyncio transport: a ``ByteStream``. Made by ``AioStream.open``."""

    __slots__ = (
        "_buffer",
        "_by_readiness",
        "_closed",
        "_eof_received",
        "_eof_sent",
        "_failure",
        "_held",
        "_last_received",
        "_local_address",
        "_loop",
        "_lost",
        "_now",
        "_over",
        "_paused",
        "_peer_address",
        "_raised",
        "_reads_last_words",
        "_socket",
        "_transport",
        "_turn",
        "_waiters",
        "_woken",
    )

    _transport: asyncio.Transport

    def __init__(self, sock: socket.socket, addresses: tuple[tuple[str, int], tuple[str, int]]) -> None:
        self._socket = sock
        self._local_address, self._peer_address = addresses
        self._loop = asyncio.get_running_loop()
        self._now = loop_clock()
        self._buffer = _shared_buffer()
        self._held = ReadBuffer()
        self._waiters: list[_Waiter] = []
        self._lost = self._loop.create_future()  # done by connection_lost
        self._failure: str | None = None
        self._raised: Exception | None = None  # by a taker, and not by its wait so far
        self._eof_received = self._eof_sent = self._paused = self._closed = self._over = self._woken = False
        self._by_readiness = _works_by_readiness(self._loop)
        self._reads_last_words = isinstance(
            self._loop, asyncio.SelectorEventLoop
        )  # uvloop has closed the socket then
        self._turn = _DIRECT_READS
        self._last_received = self._now()

    @classmethod
    async def open(
        cls, sock: socket.socket, *, local: tuple[str, int] = ("", 0), peer: tuple[str, int] = ("", 0)
    ) -> AioStream:
        """Take over a connected, non-blocking socket. It is closed if this fails or is cancelled."""
        loop = asyncio.get_running_loop()
        stream = cls(sock, (local, peer))
        try:
            await loop.connect_accepted_socket(StreamProtocol(stream), sock)
        except OSError as exc:
            sock.close()
            raise stream_broken(exc) from exc
        except BaseException:
            sock.close()
            raise
        return stream

    def __repr__(self) -> str:
        state = "closed" if self._closed else "failed" if self._lost.done() else "open"
        return f"<AioStream {state} peer={self._peer_address} held={self._held.size}>"

    # -- the protocol: called by the loop ------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        # 0: "resume_writing" comes when all is in the kernel; how much more may wait is decided by try_send.
        self._transport.set_write_buffer_limits(high=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        held = self._held.size
        return self._buffer[: READ_AHEAD - held] if held else self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._last_received = self._now()
        held = self._held
        held.append(self._buffer[:nbytes].tobytes())
        if held.size >= READ_AHEAD:
            self._paused = True
            self._transport.pause_reading()
        self._wake_waiters(readable=True)

    def eof_received(self) -> bool:
        self._eof_received = True
        self._wake_waiters(readable=True)
        return True  # half-close: our side stays open for writing

    def resume_writing(self) -> None:
        self._wake_waiters(writable=True)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._failure = self._failure or reason_of(exc)
        self._over = True
        if exc is not None and not self._closed and self._reads_last_words:
            self._read_last_words()
        if not self._lost.done():
            self._lost.set_result(None)
        self._wake_waiters(all_of_them=True)

    def _read_last_words(self) -> None:
        """What came before the reset that a write ran into: an early answer, perhaps. The loop closes the socket
        after this without looking."""
        with suppress(OSError):
            while (room := READ_AHEAD - self._held.size) and (data := self._socket.recv(room)):
                self._held.append(data)

    # -- reading -------------------------------------------------------------------------------

    def receive_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        if self._held.size:
            return self._held.take(max_bytes)
        if self._over and (self._closed or not self._ended):
            raise stream_broken(self._failure)
        if self._eof_received:
            return b""
        return self._receive_more(max_bytes) if self._paused else None

    async def receive(self, max_bytes: int = READ_AHEAD) -> bytes:
        return await ByteStream.receive(self, max_bytes)

    def is_silent(self) -> bool:
        if self._held.size or self._eof_received or self._over:
            return False
        return not self._by_readiness or nothing_came(self._socket)

    def _receive_more(self, max_bytes: int) -> bytes | None:
        """What was held is taken, and there may be more: look before the loop is asked to watch the socket again.

        A fast peer is so read without two changes of the selector and a turn of the loop for every 64 KiB.
        """
        if not self._by_readiness:
            self._resume_reading()
            return None
        if self._turn <= 0:  # ``wait`` begins the next
            return None
        try:
            data = self._socket.recv(min(max_bytes, READ_AHEAD))
        except BlockingIOError:
            self._resume_reading()
            return None
        except OSError as exc:
            self._failure = reason_of(exc)
            self._over = True
            self._transport.abort()
            raise stream_broken(exc) from exc
        self._eof_received = not data  # for good, so reading stays paused then
        if data:
            self._turn -= 1
            self._last_received = self._now()
        return data

    def _resume_reading(self) -> None:
        self._paused = False
        self._turn = _DIRECT_READS
        if not self._transport.is_closing():  # a write failed: connection_lost comes next
            self._transport.resume_reading()

    # -- writing -------------------------------------------------------------------------------

    def try_send(self, data: Buffer) -> int:
        transport = self._transport
        if self._closed or transport.is_closing():
            raise stream_broken(self._failure)
        if self._eof_sent:
            raise StreamBroken("the sending half is closed")
        buffered = transport.get_write_buffer_size()
        taken = 0 if buffered else self._send_directly(data)
        if taken == len(data):
            return taken
        view = memoryview(data)
        room = WRITE_BUFFER - buffered
        while room > 0 and taken < len(view):
            piece = view[taken : taken + room]
            transport.write(_unchanging(piece))
            taken += len(piece)
            room = 0 if transport.is_closing() else WRITE_BUFFER - transport.get_write_buffer_size()
        return taken

    def try_send_headed(self, header: bytes, data: Buffer) -> int:
        taken = 0 if self._closed or self._eof_sent or self.write_buffered else self._send_both_directly(header, data)
        if taken == len(header) + len(data):
            return taken
        return taken + self.try_send(memoryview(b"".join((header, data)))[taken:])

    async def send(self, data: Buffer) -> None:
        await ByteStream.send(self, data)

    def _send_directly(self, data: Buffer) -> int:
        """What the kernel takes, while nothing waits before it: the transport would do no more, and some defer it to
        the end of the loop's turn."""
        if not self._by_readiness:
            return 0
        try:
            return self._socket.send(data)
        except OSError:  # full, or failed: which the transport finds out, and tells as it does
            return 0

    def _send_both_directly(self, header: bytes, data: Buffer) -> int:
        if not (self._by_readiness and _GATHERS) or self._transport.is_closing():
            return 0
        try:
            return self._socket.sendmsg((header, data))
        except OSError:
            return 0

    async def send_eof(self) -> None:
        if self._closed or self._transport.is_closing():
            raise stream_broken(self._failure)
        self._eof_sent = True
        try:
            self._transport.write_eof()  # idempotent too
        except OSError as exc:  # reset a moment ago: the loop does not know yet
            raise stream_broken(exc) from exc
        await checkpoint()

    # -- waiting -------------------------------------------------------------------------------

    async def wait(self, *, readable: bool = False, writable: bool = False, taker: Taker | None = None) -> None:
        if readable and self._paused and not (self._held.size or self._eof_received or self._over):
            if self._turn <= 0:  # the kernel may well have more: to look costs less than to have the loop look
                self._turn = _DIRECT_READS
                await checkpoint()
                return
            self._resume_reading()
        if self._is_ready(readable, writable):
            await checkpoint()
        else:
            waiter = self._loop.create_future(), readable, writable, taker
            self._waiters.append(waiter)
            try:
                await waiter[0]
            finally:
                self._waiters.remove(waiter)
            if taker is not None and self._raised is not None:
                self._raise()
        # Only now: a cancelled wait must not swallow a wake.
        self._woken = False

    def _raise(self) -> NoReturn:
        raised, self._raised = self._raised, None
        assert raised is not None
        try:
            raise raised
        finally:
            del raised  # it knows this frame, which is not to know it

    def wake(self) -> None:
        self._woken = True
        self._wake_waiters(all_of_them=True)

    def _is_ready(self, readable: bool, writable: bool) -> bool:
        if self._woken or self._over or (readable and (self._held.size or self._eof_received)):
            return True
        return writable and self._transport.get_write_buffer_size() < WRITE_BUFFER

    def _wake_waiters(self, *, readable: bool = False, writable: bool = False, all_of_them: bool = False) -> None:
        for future, for_reading, for_writing, taker in self._waiters:
            wanted = all_of_them or (readable and for_reading) or (writable and for_writing)
            if wanted and not future.done() and (all_of_them or taker is None or not self._taken(taker, future)):
                future.set_result(None)

    def _taken(self, taker: Taker, waiter: asyncio.Future[None]) -> bool:
        """Whether ``taker`` saw to what came, so that its task need not be woken; or was woken by what it did."""
        if self._paused:  # a fast peer's: the task reads on without the loop, and without changes of its selector
            return False
        try:
            taken = in_callback(taker)
        except Exception as exc:
            self._raised = exc  # not the future's: it may have been woken before it was raised
            return waiter.done()
        return waiter.done() or (taken and not self._held.size)

    @property
    def _ended(self) -> bool:
        """The peer's half ended in order before the connection did."""
        return self._eof_received and self._failure is None

    # -- closing -------------------------------------------------------------------------------

    def abort(self) -> None:
        if not self._lost.done():
            with suppress(OSError):  # not a socket that can reset (unix), or already closed by the loop
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._transport.abort()
        self._close_state()

    def _close_state(self) -> None:
        self._closed = self._over = True
        self._held.clear()
        self._wake_waiters(all_of_them=True)

    async def aclose(self) -> None:
        self._close_state()
        if self._lost.done():
            return
        self._transport.close()  # flushes first
        if not self.write_buffered:
            await checkpoint()
            return
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                await asyncio.shield(self._lost)
        finally:
            self.abort()

    # -- facts ---------------------------------------------------------------------------------

    @property
    def last_received(self) -> float:
        return self._last_received

    @property
    def write_buffered(self) -> int:
        return 0 if self._lost.done() else self._transport.get_write_buffer_size()

    @property
    def needs_wait(self) -> bool:
        return False

    @property
    def peer_address(self) -> tuple[str, int]:
        return self._peer_address

    @property
    def local_address(self) -> tuple[str, int]:
        return self._local_address

    @property
    def tls(self) -> bool:
        return False

    @property
    def peer_certificate(self) -> dict[str, object] | None:
        return None
