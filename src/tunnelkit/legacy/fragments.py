"""Websocket messages in fragments, as they come and go: theirs hold whole HTTP messages and have no useful bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.lowlevel import checkpoint
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from ..config import DEFAULT_LIMITS
from ..errors import ConnectionLost, RemoteProtocolError, StreamBroken
from ..net.stream import Buffer, ByteStream

__all__ = ["FRAGMENT", "TURN", "WRITE_TIMEOUT", "Fragment", "FragmentSocket"]

# What their programs write at a time (gorilla's buffer as they set it).
FRAGMENT: Final = 102_400


# Seconds that a peer may take for one fragment.
WRITE_TIMEOUT: Final = DEFAULT_LIMITS.write_timeout
# Events between two turns of the other tasks: a read brings thousands of tiny fragments.
TURN: Final = 64


@dataclass(frozen=True, slots=True)
class Fragment:
    data: bytes
    last: bool  # of its message
    text: bool = False


class FragmentSocket:
    """One end of an open websocket over ``stream``. One task receives; ``send`` may be called by any number.
    ``texts``: whether text messages are spoken."""

    def __init__(self, stream: ByteStream, *, client: bool, early: bytes = b"", texts: bool = True) -> None:
        self._stream = stream
        self._texts = texts
        self._frames = Connection(ConnectionType.CLIENT if client else ConnectionType.SERVER, trailing_data=early)
        self._events = self._frames.events()
        self._asked: float | None = None  # when whoever receives began to wait for more
        self._taken = 0
        self._turn = anyio.Lock()  # a message's fragments are not mixed with another's
        self._pong: bytes | None = None
        self._ping_due = False
        self._pinged = anyio.Event()

    @property
    def last_received(self) -> float:
        return self._stream.last_received

    def silence(self, now: float) -> float:
        """Seconds for which nothing came though somebody waits for it."""
        return 0.0 if self._asked is None else now - self._asked

    # -- reading -------------------------------------------------------------------------------

    async def receive(self) -> Fragment:
        """The next piece of a message. Raises ``ConnectionLost`` at the end, ``RemoteProtocolError`` for what
        these programs never send. Cancelling loses nothing."""
        while True:
            self._taken += 1
            if self._taken % TURN == 0:
                await checkpoint()
            event = next(self._events, None)
            if event is None:
                await self._read()
            elif (fragment := self._take(event)) is not None:
                return fragment

    async def _read(self) -> None:
        self._asked = anyio.current_time()
        try:
            data = await self._stream.receive()
        except StreamBroken as error:
            raise ConnectionLost(str(error)) from error
        finally:
            self._asked = None
        if not data:
            raise ConnectionLost("the peer ended the connection")
        self._frames.receive_data(data)
        self._events = self._frames.events()

    def _take(self, event: Event) -> Fragment | None:
        if isinstance(event, BytesMessage):
            return Fragment(bytes(event.data), event.message_finished)
        if isinstance(event, TextMessage):
            if not self._texts:
                raise RemoteProtocolError("a text message where only binary ones are spoken", code="websocket_frame")
            return Fragment(event.data.encode(), event.message_finished, text=True)
        if isinstance(event, CloseConnection):
            if self._frames.state is ConnectionState.OPEN:  # made by wsproto, of a frame that it cannot take
                raise RemoteProtocolError(event.reason or "a malformed frame", code="websocket_frame")
            raise ConnectionLost(f"the peer closed with code {event.code}", clean=True, code=int(event.code))
        if isinstance(event, Ping):
            self._pong = bytes(event.payload)
            self._pinged.set()
        return None

    # -- writing -------------------------------------------------------------------------------

    async def answer_pings(self) -> None:
        """To be run beside: an answer must neither wait for a message to end nor hold up the reading."""
        while True:
            await self._pinged.wait()
            self._pinged = anyio.Event()
            async with self._turn:
                await self._send_control()

    async def _send_control(self) -> None:
        payload, self._pong = self._pong, None
        ping, self._ping_due = self._ping_due, False
        if self._frames.state is not ConnectionState.OPEN:
            return
        if payload is not None:
            await self._write(self._frames.send(Pong(payload)))
        if ping:
            await self._write(self._frames.send(Ping(b"")))

    async def ping(self) -> None:
        """One goes out, between the fragments of a message that is on its way: theirs count pings alone as life.
        Raises ``ConnectionLost``."""
        self._ping_due = True
        if not self._turn.locked():
            async with self._turn:
                await self._send_control()

    async def send(self, pieces: Iterable[bytes], *, wanted: Callable[[], bool]) -> bool:
        """One message, a fragment a piece; pings are answered between them. ``wanted`` is asked when its turn has
        come: False sends nothing. Raises ``ConnectionLost``. Cancelled before its turn, nothing was written; after
        it, the connection is of no more use."""
        async with self._turn:
            if not wanted():
                return False
            held: bytes | None = None
            for piece in pieces:
                if held is not None:
                    await self._send(BytesMessage(held, message_finished=False))
                    await self._send_control()
                held = piece
            await self._send(BytesMessage(held or b""))
            await self._send_control()
            return True

    async def send_text(self, text: bytes) -> None:
        """One text message. Raises ``ConnectionLost``. Cancelled, the connection is of no more use."""
        async with self._turn:
            await self._send(TextMessage(text.decode()))

    async def send_fragment(self, data: Buffer, *, last: bool) -> None:
        """A piece of a binary message that comes as it comes, by the one task that sends messages here. Raises
        ``ConnectionLost``. Cancelled, the connection is of no more use."""
        async with self._turn:
            await self._send(BytesMessage(bytes(data), message_finished=last))
            await self._send_control()

    async def _send(self, event: BytesMessage | TextMessage) -> None:
        if self._frames.state is not ConnectionState.OPEN:
            raise ConnectionLost("the peer closes the connection")
        await self._write(self._frames.send(event))

    async def _write(self, data: bytes) -> None:
        try:
            with anyio.fail_after(WRITE_TIMEOUT):
                await self._stream.send(data)
        except StreamBroken as error:
            raise ConnectionLost(str(error)) from error
        except TimeoutError as error:  # half of a frame was written
            self._stream.abort()
            raise ConnectionLost(f"the peer took nothing for {WRITE_TIMEOUT:g} s") from error

    # -- the end -------------------------------------------------------------------------------

    async def aclose(self, code: int, timeout: float = 1.0, *, skip: bool = False) -> None:
        """Say that it is over, where the peer still listens, and close. ``skip``: nobody receives any more, so read
        what comes until the peer ends it; unread it would have the kernel drop what is on its way there."""
        with anyio.move_on_after(timeout, shield=True):
            with suppress(ConnectionLost, StreamBroken):
                if self._frames.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                    await self._write(self._frames.send(CloseConnection(code)))
                while skip and await self._stream.receive():
                    pass
                await self._stream.aclose()
        self._stream.abort()

    def abort(self) -> None:
        self._stream.abort()
