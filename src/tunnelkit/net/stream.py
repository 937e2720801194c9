"""The byte stream that everything stands on: callers' sockets, origins, links, TLS over any of them.

One small interface, non-blocking at its heart. A *driver* task calls ``receive_nowait`` and
``try_send`` until they have nothing to give or take, then ``wait``s. Nothing here holds more than it
may: at most ``READ_AHEAD`` bytes read and not taken, at most ``WRITE_BUFFER`` bytes taken and not yet
in the kernel (facts: anyio's own asyncio stream bounds neither).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeAlias

from ..errors import StreamBroken

__all__ = ["CLOSE_TIMEOUT", "READ_AHEAD", "RELAY_READ", "WRITE_BUFFER", "Buffer", "ByteStream", "Taker"]

READ_AHEAD = 64 * 1024
# A read of what goes on through a tunnel: what one of its messages carries, with all that stands in front of it. Read
# in larger pieces, bulk is cut anew for each message, and every message brings two.
RELAY_READ = READ_AHEAD - 256
WRITE_BUFFER = 64 * 1024
CLOSE_TIMEOUT = 5.0  # seconds that aclose may take to send what is buffered

Buffer: TypeAlias = bytes | bytearray | memoryview
# Takes what came, in place of the task that waits for it. True: it took all there was, and the task may wait on.
Taker: TypeAlias = Callable[[], bool]


class ByteStream(Protocol):
    """A reliable, ordered, bidirectional flow of bytes with half-close.

    One task reads and one task writes at a time (they may be the same). After any ``StreamBroken``, and after
    a cancelled ``send``, the stream is only good for ``abort``: nobody knows how much of it is out.
    """

    __slots__ = ()

    # -- reading -------------------------------------------------------------------------------

    @abstractmethod
    def receive_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        """What is there now, 1 to ``max_bytes`` bytes; ``b""`` at the end; ``None`` when nothing is there yet.

        Raises ``StreamBroken`` when the stream failed (reset, aborted, TLS truncated).
        """

    async def receive(self, max_bytes: int = READ_AHEAD) -> bytes:
        """Wait for 1 to ``max_bytes`` bytes; ``b""`` at the end. Cancelling loses nothing."""
        while (data := self.receive_nowait(max_bytes)) is None:
            await self.wait(readable=True)
        return data

    def is_silent(self) -> bool:
        """Of a stream from which nothing is expected: whether it lives and nothing came, be it untold by the event
        loop so far. After False it is only good for ``abort`` or ``aclose``."""
        try:
            return self.receive_nowait(1) is None
        except StreamBroken:
            return False

    # -- writing -------------------------------------------------------------------------------

    @abstractmethod
    def try_send(self, data: Buffer) -> int:
        """Take as many leading bytes as fit now without waiting and say how many; 0 when full.

        Bytes not taken stay the caller's. Raises ``StreamBroken`` when the stream failed or was closed.
        """

    def try_send_headed(self, header: bytes, data: Buffer) -> int:
        """``try_send`` of ``header`` and ``data`` as one. A stream may spare itself the copy that joins them."""
        return self.try_send(b"".join((header, data)))

    async def send(self, data: Buffer) -> None:
        """Send all of ``data``. Cancelled, some unknown part was sent: ``abort`` the stream."""
        view = memoryview(data)[self.try_send(data) :]
        while view:
            await self.wait(writable=True)
            view = view[self.try_send(view) :]

    @abstractmethod
    async def send_eof(self) -> None:
        """Half-close: the peer reads the end after what was sent. A TLS stream sends close_notify. Idempotent."""

    # -- waiting -------------------------------------------------------------------------------

    @abstractmethod
    async def wait(self, *, readable: bool = False, writable: bool = False, taker: Taker | None = None) -> None:
        """Return when one of the asked for is possible (data, end or failure count as readable; failure as
        writable) or when ``wake`` was called since the last return of a ``wait``.

        With neither asked for, only ``wake`` or failure returns. Spurious returns are allowed. At most one task
        may wait for each direction. Cancelling changes nothing.

        ``taker``, of who waits to read alone, is called where ``wait`` would have returned because something can be
        read: a task's turn of the loop costs more than much of what is done in it. It runs in a callback of the
        loop, or in the task; what it raises, ``wait`` raises. A stream need not call it.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make the pending ``wait``s return, or, when there are none, the next one. Synchronous and cheap."""

    # -- closing -------------------------------------------------------------------------------

    @abstractmethod
    def abort(self) -> None:
        """Close at once and drop what is buffered (a TCP peer sees RST, a unix socket's peer only an end).
        Idempotent, synchronous."""

    @abstractmethod
    async def aclose(self) -> None:
        """Send what is buffered, then close both directions; bounded by a deadline of its own, after which, or
        when cancelled, it aborts. Idempotent."""

    # -- facts ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def last_received(self) -> float:
        """``anyio.current_time()`` when the last bytes came from the peer (at first: when it was opened)."""

    @property
    @abstractmethod
    def write_buffered(self) -> int:
        """Bytes taken and not yet in the kernel."""

    @property
    def needs_wait(self) -> bool:
        """Whether bytes that were taken go no further until some task ``wait``s again. Whoever stops using the
        stream without closing it must wait until this is False, or its peer may wait for them for ever."""
        return False

    @property
    @abstractmethod
    def peer_address(self) -> tuple[str, int]:
        """(address, port) of the peer; ("", 0) where there is none (unix, memory)."""

    @property
    @abstractmethod
    def local_address(self) -> tuple[str, int]:
        """(address, port) of this end; ("", 0) where there is none."""

    @property
    def tls(self) -> bool:
        """Whether the bytes are encrypted on their way."""
        return False

    @property
    def peer_certificate(self) -> dict[str, object] | None:
        """What ``ssl.SSLObject.getpeercert`` says, under TLS with a verified client certificate; else None."""
        return None
