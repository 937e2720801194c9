"""The messages of a websocket (RFC 6455 5), sans-IO, for an end that understands them: an app in the client's own
process, or a host whose callers' websockets come as messages.

wsproto has the frames. It bounds nothing and hands out fragments as they come: here a message is one event, and too
large a one is refused while it comes. The tunnel's own websockets carry other messages and have a codec of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import Final, TypeAlias

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.events import Ping as PingEvent
from wsproto.events import Pong as PongEvent
from wsproto.frame_protocol import LOCAL_ONLY_CLOSE_REASONS, CloseReason
from wsproto.utilities import generate_accept_token, generate_nonce

from ..heads import Fields, ResponseHead, field_values, list_items

__all__ = ["NO_STATUS", "Close", "Event", "Message", "MessageCodec", "Ping", "accept_key", "answers_key", "new_key"]

NO_STATUS: Final = 1005  # the close frame held no code (RFC 6455 7.4.1); never sent

Message: TypeAlias = str | bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered by ``pong`` with the same payload (RFC 6455 5.5.2)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The last event. ``by_peer`` False: the peer broke the protocol or a limit, and is to be told this code."""

    code: int
    reason: str
    by_peer: bool


Event: TypeAlias = str | bytes | Ping | Close


class MessageCodec:
    """One end of one websocket after its handshake. ``client``: it masks. ``max_message`` bounds what one message
    may hold, in bytes of binary and characters of text."""

    def __init__(self, *, client: bool, max_message: int) -> None:
        self._frames = Connection(ConnectionType.CLIENT if client else ConnectionType.SERVER)
        self._max_message = max_message
        self._text = StringIO()
        self._binary = BytesIO()
        self._size = 0  # of the message that is coming
        self._ended = False

    def __repr__(self) -> str:
        return f"<MessageCodec {self._frames.state.name.lower()}>"

    @property
    def closed(self) -> bool:
        """Both sides said that they close."""
        return self._frames.state is ConnectionState.CLOSED

    # -- reading -------------------------------------------------------------------------------

    def receive(self, data: bytes) -> Iterator[Event]:
        """The events of ``data``, in order, found as they are asked for; after ``Close`` none any more. Take all of
        them before the next call."""
        if self._ended:
            return
        self._frames.receive_data(data)
        for event in self._frames.events():
            found = self._take(event)
            if found is not None:
                yield found
            if isinstance(found, Close):
                return

    def _take(self, event: object) -> Event | None:
        if isinstance(event, TextMessage):
            return self._gather_text(event)
        if isinstance(event, BytesMessage):
            return self._gather_binary(event)
        if isinstance(event, PingEvent):
            return Ping(bytes(event.payload))
        if isinstance(event, CloseConnection):
            # wsproto makes the same event of a frame that it cannot take: then the peer has not closed.
            return self._end(int(event.code), event.reason or "", by_peer=self._frames.state is not _OPEN)
        return None  # a pong

    def _gather_text(self, event: TextMessage) -> Event | None:
        if (close := self._count(len(event.data))) is not None:
            return close
        if event.message_finished and not self._text.tell():
            return self._whole(event.data)
        self._text.write(event.data)
        if not event.message_finished:
            return None
        message, self._text = self._text.getvalue(), StringIO()
        return self._whole(message)

    def _gather_binary(self, event: BytesMessage) -> Event | None:
        if (close := self._count(len(event.data))) is not None:
            return close
        if event.message_finished and not self._binary.tell():
            return self._whole(bytes(event.data))
        self._binary.write(event.data)
        if not event.message_finished:
            return None
        message, self._binary = self._binary.getvalue(), BytesIO()
        return self._whole(message)

    def _count(self, size: int) -> Close | None:
        self._size += size
        if self._size <= self._max_message:
            return None
        return self._end(CloseReason.MESSAGE_TOO_BIG, f"a message above {self._max_message}", by_peer=False)

    def _whole(self, message: Message) -> Message:
        self._size = 0
        return message

    def _end(self, code: int, reason: str, *, by_peer: bool) -> Close:
        self._ended = True
        self._text, self._binary = StringIO(), BytesIO()
        return Close(int(code), reason, by_peer)

    # -- writing -------------------------------------------------------------------------------

    def message(self, data: Message) -> bytes:
        """One message in one frame; b"" once a side closes."""
        event = TextMessage(data) if isinstance(data, str) else BytesMessage(data)
        return self._frames.send(event) if self._frames.state is _OPEN else b""

    def pong(self, payload: bytes) -> bytes:
        return self._frames.send(PongEvent(payload)) if self._frames.state is _OPEN else b""

    def close(self, code: int = 1000, reason: str = "") -> bytes:
        """A close frame, or the answer to the peer's; b"" when one was sent before. A code that must not be sent
        goes out as none (RFC 6455 7.4.1), an overlong reason is cut."""
        if self._frames.state not in (_OPEN, ConnectionState.REMOTE_CLOSING):
            return b""
        if code in LOCAL_ONLY_CLOSE_REASONS or not 1000 <= code <= 4999:
            return self._frames.send(CloseConnection(CloseReason.NO_STATUS_RCVD))
        return self._frames.send(CloseConnection(code, reason))


_OPEN: Final = ConnectionState.OPEN


# -- the handshake's key (RFC 6455 4.1, 4.2.2) -------------------------------------------------------


def new_key() -> bytes:
    """A fresh Sec-WebSocket-Key."""
    return generate_nonce()


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a key."""
    return generate_accept_token(key)


def answers_key(head: ResponseHead, key: bytes) -> bool:
    """Whether a 101 switches to a websocket and was made for the request with ``key``."""
    fields: Fields = head.fields
    return (
        head.status == 101
        and b"websocket" in list_items(field_values(fields, b"upgrade"))
        and field_values(fields, b"sec-websocket-accept") == [generate_accept_token(key)]
    )
