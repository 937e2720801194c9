"""A byte stream on a non-blocking socket and ``anyio.wait_readable``: the plain fallback on both backends.

Nothing is kept in user space: what is read was in the kernel, what is taken is in the kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..errors import StreamBroken
from .failures import reason_of, stream_broken
from .kernel import RESET_ON_CLOSE, nothing_came
from .loop import loop_clock
from .stream import READ_AHEAD, Buffer, ByteStream, Taker

__all__ = ["TURN", "SocketStream"]

# One stream may do this much without a wait; then it pretends once to be empty (or full), so that its task passes
# through the event loop though its peer is always ready. A call counts like _CALL_COST bytes.
TURN = 1024 * 1024
_CALL_COST = 1024


class SocketStream:
    """A connected stream socket: a ``ByteStream``. Takes it over; it must be non-blocking."""

    def __init__(
        self, sock: socket.socket, *, local: tuple[str, int] = ("", 0), peer: tuple[str, int] = ("", 0)
    ) -> None:
        self._socket = sock
        self._local_address = local
        self._peer_address = peer
        self._closed = self._eof_sent = self._woken = False
        self._failure: str | None = None
        self._waiting = 0
        self._doorbell: anyio.Event | None = None  # for a wait without a direction
        self._turn = TURN
        self._now = loop_clock()
        self._last_received = self._now()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "failed" if self._failure else "open"
        return f"<{type(self).__name__} {state} peer={self._peer_address}>"

    # -- reading -------------------------------------------------------------------------------

    def receive_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        if self._closed:
            raise stream_broken(None)
        if self._turn_is_over():
            return None
        data = self._receive(max_bytes)
        if data:
            self._last_received = self._now()
        elif self._failure is not None:
            # Only here: what came before a write failed, an early answer perhaps, can still be read.
            raise stream_broken(self._failure)
        return data

    async def receive(self, max_bytes: int = READ_AHEAD) -> bytes:
        return await ByteStream.receive(self, max_bytes)

    def is_silent(self) -> bool:
        return not self._is_over() and nothing_came(self._socket)

    def _receive(self, max_bytes: int) -> bytes | None:
        try:
            data = self._socket.recv(min(max_bytes, READ_AHEAD))
        except BlockingIOError:
            return None
        except OSError as exc:
            raise self._fail(exc) from exc
        self._turn -= len(data) + _CALL_COST
        return data

    # -- writing -------------------------------------------------------------------------------

    def try_send(self, data: Buffer) -> int:
        self._check_open()
        if self._eof_sent:
            raise StreamBroken("the sending half is closed")
        if self._turn_is_over():
            return 0
        view = memoryview(data)
        taken = 0
        while taken < len(view) and self._turn > 0 and (sent := self._send(view[taken:])):
            taken += sent
        return taken

    def try_send_headed(self, header: bytes, data: Buffer) -> int:
        return ByteStream.try_send_headed(self, header, data)

    async def send(self, data: Buffer) -> None:
        await ByteStream.send(self, data)

    def _send(self, data: memoryview) -> int:
        """What the kernel takes at once; 0 when it has no room."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise self._fail(exc) from exc
        self._turn -= sent + _CALL_COST
        return sent

    async def send_eof(self) -> None:
        self._check_open()
        self._eof_sent = True
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise self._fail(exc) from exc
        await checkpoint()

    def _turn_is_over(self) -> bool:
        if self._turn > 0:
            return False
        self._turn = TURN
        return True

    def _check_open(self) -> None:
        if self._is_over():
            raise stream_broken(self._failure)

    def _is_over(self) -> bool:
        return self._closed or self._failure is not None

    def _fail(self, exc: OSError) -> StreamBroken:
        self._failure = self._failure or reason_of(exc)
        self._notify()
        return stream_broken(self._failure)

    # -- waiting -------------------------------------------------------------------------------

    async def wait(self, *, readable: bool = False, writable: bool = False, taker: Taker | None = None) -> None:
        if self._woken or self._is_over():
            await checkpoint()
        else:
            if writable:
                # anyio's waits for an asyncio loop do not look, and a socket that always has room would never let a
                # cancellation in.
                await checkpoint_if_cancelled()
            self._waiting += 1
            try:
                if taker is None:
                    await self._wait_for(readable, writable)
                else:
                    await self._wait_beyond(taker)
            except anyio.ClosedResourceError:
                pass  # from notify_closing: this is how wake, abort and failure end it
            finally:
                self._waiting -= 1
        self._turn = TURN
        # Only now: a cancelled wait must not swallow a wake.
        self._woken = False

    def _wait_for(self, readable: bool, writable: bool) -> Awaitable[None]:
        if readable and writable:
            return self._wait_for_either()
        if readable:
            return anyio.wait_readable(self._socket)
        if writable:
            return anyio.wait_writable(self._socket)
        self._doorbell = self._doorbell or anyio.Event()
        return self._doorbell.wait()

    async def _wait_beyond(self, taker: Taker) -> None:
        """Wait for what ``taker`` does not see to by itself."""
        while not (self._woken or self._is_over()):
            await anyio.wait_readable(self._socket)
            self._turn = TURN
            if not taker():
                return

    async def _wait_for_either(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wait_writable, tasks.cancel_scope)
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(self._socket)
            tasks.cancel_scope.cancel()

    async def _wait_writable(self, scope: anyio.CancelScope) -> None:
        if not self._closed:  # before this task began: trio's own books break when they are shown a closed socket
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_writable(self._socket)
        scope.cancel()

    def wake(self) -> None:
        self._woken = True
        self._notify()

    def _notify(self) -> None:
        """Make the pending waits return."""
        if not self._waiting:
            return
        if self._doorbell is not None:
            self._doorbell.set()
            self._doorbell = None
        # Despite its name it closes nothing: it wakes whoever waits for the socket, on both backends, which is
        # cheaper than a cancel scope around every wait.
        anyio.notify_closing(self._socket)

    # -- closing -------------------------------------------------------------------------------

    def abort(self) -> None:
        if self._closed:
            return
        with suppress(OSError):  # not a socket that can reset (unix)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._notify()
        self._socket.close()

    async def aclose(self) -> None:
        if not self._closed:
            self._close()  # nothing is buffered here, and the kernel goes on sending what it has
        await checkpoint()

    # -- facts ---------------------------------------------------------------------------------

    @property
    def last_received(self) -> float:
        return self._last_received

    @property
    def write_buffered(self) -> int:
        return 0

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
