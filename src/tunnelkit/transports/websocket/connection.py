"""An open websocket over a byte stream, as a transport connection.

One task sends and one receives; both may have bytes to write (a message, a pong), so the writing itself is
synchronous (``_flush``) and whoever comes by does it. Only waiting for room is arranged between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

import anyio
from anyio.lowlevel import checkpoint

from ...errors import ConnectionLost, LocalProtocolError, StreamBroken
from ...net.loop import loop_clock
from ...net.processor import PROCESSOR
from ...net.stream import ByteStream, Taker
from ..base import TURN
from .decoder import FrameError
from .frames import LARGE, MAX_MESSAGE, PAUSE, Close, Event, FrameReader, FrameWriter, Ping

__all__ = ["CLOSE_TIMEOUT", "WebSocketConnection"]

CLOSE_TIMEOUT = 1.0  # for the closing handshake and the end of the stream together

# A peer as fast as we are keeps a socket writable for ever: after so many messages without a real wait, the other
# tasks get their turn, and cancellation its chance.
_TURNS: Final = 4
# Or after fewer, where its turn is short: so many seconds are reckoned for each.
_MESSAGE_TIME: Final = 0.00015

_NORMAL = 1000
_NOTHING = memoryview(b"")


class WebSocketConnection:
    """A ``Connection``. ``early`` is what the peer sent right behind its half of the opening handshake."""

    transport = "websocket"
    max_message = MAX_MESSAGE
    ordered = True
    wants_pings = True
    at_once: int | None = None
    active = False
    turn = TURN

    def __init__(self, stream: ByteStream, *, client: bool, early: bytes = b"") -> None:
        self._stream = stream
        self._client = client
        self._reader = FrameReader(client=client)
        self._writer = FrameWriter(client=client)
        self._reader.feed(early)
        self._lost: ConnectionLost | None = None
        # What is left of the frame under way: first its header, where it was not joined with what follows.
        self._header = b""
        self._tail = _NOTHING
        self._pong: bytes | None = None  # at most one: RFC 6455 5.5.3 lets the newest answer for all
        self._close: bytes | None = None
        self._close_sent = False  # handed to _close: nothing may follow it (RFC 6455 5.5.1)
        self._close_received = False
        self._closed = False
        self._send_waits = False
        self._receive_writes = False
        self._waiting = 0
        self._left: anyio.Event | None = None
        self._turns = 0
        self._take: Callable[[bytes], None] | None = None  # who is given all that comes
        self._now = loop_clock()
        self._turn_ends = 0.0  # when the others are to have theirs

    def __repr__(self) -> str:
        side = "client" if self._client else "server"
        return f"<WebSocketConnection {side} {'lost' if self._lost else 'open'}>"

    # -- sending -------------------------------------------------------------------------------

    async def ready(self) -> int:
        """Wait until the last message and the stream's own write buffer have gone to the socket."""
        self._turns += 1
        if self._turns > _TURNS or self._turns * _MESSAGE_TIME >= self.turn:
            self._turns = 0
            await self._give_way()
        waited = False
        while True:
            # The stream says when there is room again, not when it is empty: one wait is its measure.
            self._check()
            if (not self._has_output or self._flush()) and (waited or not self._stream.write_buffered):
                return self.max_message
            await self._wait_to_send()
            waited = True

    async def send(self, message: bytes) -> None:
        self._check()
        if len(message) > self.max_message:
            raise LocalProtocolError(
                f"a message of {len(message)} bytes, at most {self.max_message} may be sent", code="message_too_big"
            )
        try:
            while self._has_output and not self._flush():  # a pong under way goes first
                await self._wait_to_send()
            self._load(message)
            # No task may wait for the connection after this, and the message must arrive all the same.
            while not self._flush() or self._stream.needs_wait:
                await self._wait_to_send()
        except ConnectionLost:
            raise
        except BaseException:
            self.abort()  # part of a frame may be out: nothing can follow it
            raise

    def room_now(self) -> int:
        # Under TLS a task has to carry on what was taken, and the caller of send_now is none.
        waits = self._lost is not None or self._has_output or self._stream.tls or self._stream.write_buffered
        return 0 if waits else self.max_message

    def send_now(self, message: bytes) -> None:
        self._load(message)
        if not self._flush():
            self._stream.wake()  # the receiver waits for room from now on

    def _load(self, message: bytes) -> None:
        """Its frame is the next under way."""
        if len(message) < LARGE:
            self._tail = memoryview(self._writer.message(message))
        else:
            self._header, payload = self._writer.headed(message)
            self._tail = memoryview(payload)

    def _flush(self) -> bool:
        """``_push``, for calls that fail with the connection."""
        self._check()
        try:
            return self._push()
        except StreamBroken as exc:
            raise self._broken(exc) from exc

    def _push(self) -> bool:
        """Give the frame under way, then control frames, to the stream; True when nothing is left."""
        while self._tail or self._load_control():
            taken = self._push_header() if self._header else self._stream.try_send(self._tail)
            self._tail = self._tail[taken:]
            if self._tail:
                return False
        return True

    def _push_header(self) -> int:
        """What the stream took of the frame behind its header, given both."""
        header = self._header
        taken = self._stream.try_send_headed(header, self._tail) - len(header)
        self._header = header[taken:] if taken < 0 else b""
        return max(taken, 0)

    def _load_control(self) -> bool:
        """The next control frame, once the frame under way is out."""
        if self._pong is not None:
            self._tail, self._pong = memoryview(self._writer.pong(self._pong)), None
        elif self._close is not None:
            self._tail, self._close = memoryview(self._close), None
        else:
            return False
        return True

    @property
    def _has_output(self) -> bool:
        return bool(self._tail) or self._pong is not None or self._close is not None

    # -- receiving -----------------------------------------------------------------------------

    async def receive_into(self, take: Callable[[bytes], None]) -> NoReturn:
        self._take = take
        self._begin_turn()
        try:
            while True:
                self._check()
                if not self._take_messages(take):
                    await self._give_way()
                elif self._lost is None and not self._read():
                    await self._wait_to_receive()
                    self._answer()
                else:
                    continue
                self._begin_turn()
        finally:
            self._take = None

    def _take_messages(self, take: Callable[[bytes], None]) -> bool:
        """Give all messages that are here. False: their turn is over, and there may be more."""
        while self._lost is None and (event := self._next_event()) is not None:
            if isinstance(event, bytes):
                take(event)
                if self._now() >= self._turn_ends:
                    return False
            elif event is PAUSE:
                return False
            else:
                self._handle_control(event)
        return True

    def _take_all(self) -> bool:
        """Bytes came while the receiver waits. True: it can wait on."""
        if self._take is None or not self._read():
            return False
        self._begin_turn()
        return self._take_messages(self._take) and self._lost is None and not self._has_output

    async def receive(self) -> bytes:
        while True:
            self._check()
            event = self._next_event()
            if isinstance(event, bytes):
                return event
            if event is PAUSE:
                await checkpoint()
            elif event is not None:
                self._handle_control(event)
            elif not self._read():
                await self._wait_to_receive()
                self._answer()

    def _next_event(self) -> Event | None:
        try:
            return self._reader.next_event()
        except FrameError as exc:
            # RFC 6455 7.1.7: say why, and read no further; ``aclose`` does the rest.
            self._queue_close(exc.close_code, str(exc))
            why = self._lose(ConnectionLost(f"the peer broke the protocol: {exc}", code=exc.close_code))
            self._answer()
            raise why from exc

    def _handle_control(self, event: Ping | Close) -> None:
        if isinstance(event, Ping):
            self._pong = event.payload
        else:
            self._close_received = True
            self._queue_close(event.code, "")
            self._lose(ConnectionLost(_describe(event), clean=True, code=event.code))
        self._answer()

    def _read(self) -> bool:
        """Feed what the stream has now; False when there is nothing yet."""
        try:
            data = self._stream.receive_nowait(self._reader.wanted)
        except StreamBroken as exc:
            raise self._broken(exc) from exc
        if data is None:
            return False
        if data:
            self._reader.feed(data)
        else:
            where = " in the middle of a frame" if self._reader.in_message else ""
            self._lose(ConnectionLost(f"the peer ended the stream{where} without a close frame"))
        return True

    def _answer(self) -> None:
        """Send a pong or close frame at once if the socket takes it; a sender that waits does it otherwise."""
        try:
            self._push()
        except StreamBroken as exc:
            self._broken(exc)

    # -- waiting: at most one task for each direction of the stream ----------------------------

    async def _wait_to_receive(self) -> None:
        """Wait for bytes; and for room, when a control frame is stuck and no sender waits for it anyway."""
        self._receive_writes = self._has_output and not self._send_waits
        taker = None if self._take is None or self._receive_writes else self._take_all
        try:
            await self._wait(readable=True, writable=self._receive_writes, taker=taker)
        finally:
            self._receive_writes = False

    async def _wait_to_send(self) -> None:
        self._send_waits = True
        try:
            while self._receive_writes:  # the receiver gives way
                await self._wait_for_others()
            await self._wait(readable=False, writable=True)
        except BaseException:
            self._stream.wake()  # the receiver takes over a control frame that is stuck
            raise
        finally:
            self._send_waits = False

    async def _wait(self, *, readable: bool, writable: bool, taker: Taker | None = None) -> None:
        self._turns = 0
        self._waiting += 1
        try:
            await self._stream.wait(readable=readable, writable=writable, taker=taker)
        finally:
            self._waiting -= 1
            if self._left is not None:
                self._left.set()
                self._left = None

    async def _give_way(self) -> None:
        """The other tasks have their turn; then other programs, where somebody waits for what they do."""
        await checkpoint()
        if self.turn < TURN:
            PROCESSOR.yield_now()

    def _begin_turn(self) -> None:
        self._turn_ends = self._now() + self.turn

    async def _wait_for_others(self) -> None:
        """Until some task has come out of its ``_wait``."""
        self._left = self._left or anyio.Event()
        self._stream.wake()
        await self._left.wait()

    # -- the end -------------------------------------------------------------------------------

    @property
    def last_received(self) -> float:
        return self._stream.last_received

    async def aclose(self, code: int = _NORMAL, reason: str = "") -> None:
        if self._closed:
            return
        self._closed = True
        failed = self._lost is not None and not self._close_received
        self._queue_close(code, reason)
        self._lose(ConnectionLost("closed at this end"))
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                await self._finish(failed)
            if self._has_output or self._stream.write_buffered:
                self._stream.abort()  # the peer does not read: waiting longer would not help
            await self._stream.aclose()
        except BaseException:
            self._stream.abort()
            raise

    async def _finish(self, failed: bool) -> None:
        """The rest of the closing handshake (RFC 6455 7.1.1); the server is the first to end the stream."""
        while self._waiting:
            await self._wait_for_others()
        try:
            while not self._push():
                await self._stream.wait(writable=True)
            while not failed and not self._close_received and await self._skip():
                pass
            if not self._client:
                await self._stream.send_eof()
            while await self._stream.receive():
                pass  # so that the kernel has no reason to send RST, which could overtake the close frame
        except StreamBroken:
            return

    async def _skip(self) -> bool:
        """Drop messages until the peer's close frame; False when there is nothing more to expect."""
        try:
            while (event := self._reader.next_event()) is not None:
                if isinstance(event, Close):
                    self._close_received = True
                    return False
                if event is PAUSE:
                    await checkpoint()
        except FrameError:
            return False
        data = await self._stream.receive()
        self._reader.feed(data)
        return bool(data)

    def abort(self) -> None:
        self._closed = True
        self._lose(ConnectionLost("aborted at this end"))
        self._stream.abort()

    def _queue_close(self, code: int | None, reason: str) -> None:
        if not self._close_sent:
            self._close_sent = True
            self._pong = None
            self._close = self._writer.close(code, reason)

    def _lose(self, why: ConnectionLost) -> ConnectionLost:
        """The connection is over; what to raise. The first reason stands."""
        self._lost = self._lost or why
        return _again(self._lost)

    def _broken(self, exc: StreamBroken) -> ConnectionLost:
        """The stream's failure is the connection's."""
        return self._lose(ConnectionLost(str(exc)))

    def _check(self) -> None:
        if self._lost is not None:
            raise _again(self._lost)


def _again(why: ConnectionLost) -> ConnectionLost:
    """A fresh one for every call: a raised exception collects its tracebacks."""
    return ConnectionLost(why.reason, clean=why.clean, code=why.code)


def _describe(close: Close) -> str:
    code = "no code" if close.code is None else f"code {close.code}"
    return f"the peer closed with {code}" + (f": {close.reason}" if close.reason else "")
