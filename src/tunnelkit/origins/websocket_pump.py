"""An open websocket whose other end is an app in this process: messages over a byte stream, pumped by one task.

It reads ahead a little, so that pings are answered and a close is seen though the app is busy; what the app does not
take stops the caller, and what the caller does not take stops the app.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from ..errors import CallerGone, StreamBroken
from ..http.websocket import Close, Event, Message, MessageCodec, Ping
from ..net.stream import READ_AHEAD, ByteStream

__all__ = ["ABNORMAL", "CLOSE_TIMEOUT", "Closed", "WebSocketPump"]

CLOSE_TIMEOUT: Final = 5.0  # for the caller's half of the closing handshake
ABNORMAL: Final = 1006  # never sent: the connection ended without a close frame (RFC 6455 7.1.5)

# Messages, and bytes or characters of them, that wait for the app; one more may be under way.
WAITING_MESSAGES: Final = 64
WAITING_SIZE: Final = READ_AHEAD

# Events handled between two turns of the other tasks: one costs some 10 us and may have 6 bytes.
_TURN: Final = 64


@dataclass(frozen=True, slots=True)
class Closed:
    """No message comes any more: how it ended (RFC 6455 7.1.5, 7.1.6)."""

    code: int
    reason: str = ""


class WebSocketPump:
    """``run`` in one task; the rest is for the app's, any number of them. ``write_timeout`` is for what is still to
    be written when the websocket closes."""

    def __init__(self, stream: ByteStream, *, max_message: int, write_timeout: float) -> None:
        self.closed: Closed | None = None
        self._stream = stream
        self._codec = MessageCodec(client=False, max_message=max_message)
        self._events: Iterator[Event] = iter(())  # of what was read
        self._inbox: deque[Message] = deque()
        self._waiting = 0  # bytes or characters in it
        self._tail = memoryview(b"")  # of the frame under way
        self._pong: bytes | None = None  # at most one: the newest answers for all (RFC 6455 5.5.3)
        self._close: tuple[int, str] | None = None  # the close frame that is to be sent
        self._closing = False  # it was queued: no message is sent or taken any more
        self._ended = False  # nothing more can come
        self._bell: anyio.Event | None = None
        self._write_timeout = write_timeout
        self._scope = anyio.CancelScope()

    def __repr__(self) -> str:
        return f"<WebSocketPump {'open' if self.closed is None else self.closed}>"

    # -- the app's side ------------------------------------------------------------------------

    async def receive(self) -> Message | Closed:
        """The next message; what ended the websocket, again and again. Cancelling loses nothing."""
        await checkpoint()
        while not self._inbox:
            if self.closed is not None:
                return self.closed
            await self._wait()
        message = self._inbox.popleft()
        self._waiting -= len(message)
        self._stream.wake()
        return message

    async def send(self, message: Message) -> None:
        """Return when the stream has taken it. Raises CallerGone once the websocket is closed. Cancelled before its
        turn, it sends nothing; after that, all."""
        await checkpoint()
        while self._tail and self.closed is None:
            await self._wait()
        if self.closed is not None:
            raise CallerGone("the websocket is closed")
        self._tail = memoryview(self._codec.message(message))
        self._stream.wake()
        while self._tail and self.closed is None:
            await self._wait()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame behind what was sent before. The first word counts, the caller's too."""
        if not self._closing:
            self._queue_close(code, reason)
            self._lose(Closed(code, reason))
            self._stream.wake()

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.set()
            self._bell = None

    async def _wait(self) -> None:
        if self._bell is None:
            self._bell = anyio.Event()
        await self._bell.wait()

    # -- the caller's side ---------------------------------------------------------------------

    async def run(self) -> None:
        """Until both ends have closed, or the stream is broken. The closing handshake has its time limit."""
        try:
            with self._scope:
                while not self._over:
                    await self._turn()
                await self._stream.aclose()  # the server's end is the first to go (RFC 6455 7.1.1)
        except StreamBroken:
            pass  # the caller is gone, as _lose tells
        finally:
            self._lose(Closed(ABNORMAL))
            self._stream.abort()

    @property
    def _over(self) -> bool:
        return self._ended and not self._tail and self._close is None

    async def _turn(self) -> None:
        busy = self._read()
        flushed = self._flush()
        self._ring()
        if busy:
            await checkpoint()
        elif not self._over:
            await self._stream.wait(readable=self._wants, writable=not flushed)

    @property
    def _wants(self) -> bool:
        """Once it closes, what comes is dropped up to the peer's close frame."""
        if self._ended:
            return False
        return self._closing or (len(self._inbox) < WAITING_MESSAGES and self._waiting < WAITING_SIZE)

    def _read(self) -> bool:
        """Handle what is there; True if there may be more, and it is the others' turn."""
        for _ in range(_TURN):
            if not self._wants:
                return False
            event = next(self._events, None)
            if event is not None:
                self._handle(event)
            elif not self._read_more():
                return False
        return True

    def _read_more(self) -> bool:
        data = self._stream.receive_nowait()
        if data is None:
            return False
        if data:
            self._events = self._codec.receive(data)
        else:
            self._ended = True
            self._lose(Closed(ABNORMAL))
        return True

    def _handle(self, event: Event) -> None:
        if isinstance(event, Ping):
            self._pong = event.payload
        elif isinstance(event, Close):
            self._ended = True
            if not self._closing:  # the peer's code is given back to it
                self._queue_close(event.code, "" if event.by_peer else event.reason)
            self._lose(Closed(event.code, event.reason))
        elif not self._closing:
            self._inbox.append(event)
            self._waiting += len(event)

    def _lose(self, why: Closed) -> None:
        """The first reason stands."""
        self.closed = self.closed or why
        self._ring()

    # -- writing -------------------------------------------------------------------------------

    def _queue_close(self, code: int, reason: str) -> None:
        self._closing = True
        self._close = (code, reason)
        self._scope.deadline = anyio.current_time() + self._write_timeout

    def _flush(self) -> bool:
        """Give the stream what it takes; True when nothing is left."""
        while self._tail or self._load_control():
            taken = self._stream.try_send(self._tail)
            self._tail = self._tail[taken:]
            if self._tail:
                return False
        return True

    def _load_control(self) -> bool:
        """The next control frame, once the frame under way is out."""
        if self._pong is not None:
            frame, self._pong = self._codec.pong(self._pong), None
        elif self._close is not None:
            frame = self._codec.close(*self._close)
            self._close = None
            self._scope.deadline = anyio.current_time() + CLOSE_TIMEOUT
        else:
            return False
        self._tail = memoryview(frame)
        return True
