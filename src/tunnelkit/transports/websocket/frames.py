"""RFC 6455 frames for one connection, without I/O: wsproto decodes, and this module bounds it.

wsproto limits neither a message nor a frame and hands out fragments as they come. Here every size is judged as
soon as the frame's header is there, and one binary message comes out as one ``bytes``.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from wsproto.frame_protocol import (
    LOCAL_ONLY_CLOSE_REASONS,
    MAX_CLOSE_REASON,
    MIN_LIBRARY_CLOSE_REASON,
    CloseReason,
    Frame,
    FrameProtocol,
    MessageDecoder,
    Opcode,
    ParseFailed,
)

from ...net.stream import READ_AHEAD, Buffer
from .decoder import BoundedDecoder, FrameError
from .masking import DEFAULT_MASK

__all__ = [
    "LARGE",
    "MAX_MESSAGE",
    "PAUSE",
    "TURN",
    "Close",
    "Event",
    "FrameReader",
    "FrameWriter",
    "Pause",
    "Ping",
]

_LARGEST_HEADER = 8  # of a masked frame below 64 KiB: 2 bytes, 16-bit length, 4 bytes of mask

# The largest message, chosen so that its frame fits in one read and in one write buffer of a byte stream.
MAX_MESSAGE: Final = READ_AHEAD - _LARGEST_HEADER

_HALF: Final = READ_AHEAD // 2
_KEYS: Final = 128  # drawn at once
_FIN_BINARY = 0x82
_MASKED = 0x80
_LENGTH = 0x7F
_LENGTH_16 = 126


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The peer closes. ``code`` is None when it gave none (what RFC 6455 7.1.5 calls 1005)."""

    code: int | None
    reason: str


class Pause(Enum):
    """There is more to read, and it is the others' turn."""

    PAUSE = "pause"


PAUSE: Final = Pause.PAUSE
SMALL_PIECE: Final = 1024
LARGE: Final = 16 * 1024  # a message from which on a copy costs more than what avoids it
# Frames by wsproto's way between two pauses. One costs 17 us and may have no more than 6 bytes: a single read of them
# would hold everybody up for 180 ms.
TURN: Final = 64

# A message is handed out as plain bytes: it is by far the commonest event.
Event: TypeAlias = bytes | Ping | Close | Pause


_mask = DEFAULT_MASK


# -- reading -------------------------------------------------------------------------------------


class FrameReader:
    """Bytes in, events out. ``feed`` once, then ``next_event`` until it gives None; then ``feed`` again.

    Raises ``FrameError`` from ``next_event``; after that, and after a ``Close``, it ignores what comes
    (RFC 6455 5.5.1, 7.1.7).
    """

    def __init__(self, *, client: bool, max_message: int = MAX_MESSAGE) -> None:
        self._client = client
        self._max_message = max_message
        # wsproto's way, made for the first frame that is not a plain one: most connections never see one.
        self._decoder: BoundedDecoder | None = None
        self._messages: MessageDecoder | None = None
        self._partial = bytearray()  # of a fragmented message: at most max_message bytes
        self._begun: list[Buffer] = []  # a plain frame that is not there as a whole, in pieces
        self._missing = 0  # bytes of that
        self._frame_size = 0  # of the last plain one of which a read holds no two
        self._data = b""  # fed, and not yet looked at
        self._position = 0
        self._between = True  # between two messages, and wsproto's decoder is empty
        self._ended = False
        self._odd = 0  # frames by wsproto's way since the last feed or pause

    @property
    def in_message(self) -> bool:
        """Whether the end of the stream now would tear a frame or a message."""
        return not self._between or self._missing > 0

    @property
    def wanted(self) -> int:
        """Bytes that the next read is to give at most: the rest of the frame under way, or as many as the last large
        one had. Bulk comes in frames of one size, and a frame that begins where a read does need not be joined."""
        return self._missing or self._frame_size or READ_AHEAD

    def feed(self, data: bytes) -> None:
        self._odd = 0
        if self._ended:
            return
        if self._missing:
            self._gather(data)
            self._missing = max(self._missing - len(data), 0)
            if self._missing:
                return
            data = b"".join(self._begun)  # the one copy: a frame seldom begins where a read does
            self._begun.clear()
        if self._between:
            self._data, self._position = data, 0
        else:
            self._odd_way().receive_bytes(data)

    def _odd_way(self) -> BoundedDecoder:
        if self._decoder is None:
            self._decoder = BoundedDecoder(client=self._client, max_message=self._max_message)
        return self._decoder

    def _gather(self, data: bytes) -> None:
        """Pieces that are small are joined: who sends by the byte is to cost no object for each."""
        if len(data) >= SMALL_PIECE:
            self._begun.append(data)
        elif type(last := self._begun[-1]) is bytearray:
            last += data
        else:
            self._begun.append(bytearray(data))

    def next_event(self) -> Event | None:
        if self._ended:
            return None
        if self._between:
            message = self._whole_message()
            if message is not None:
                return message
            if self._position >= len(self._data):
                return None
            self._odd_way().receive_bytes(self._data[self._position :])
            self._data, self._between = b"", False
        return self._decode()

    def _whole_message(self) -> bytes | None:
        """The fast path: a plain frame (binary, unfragmented), at a sixth of the cost of wsproto's way.

        None: there is none, or it is not there as a whole; what is left unread then is wsproto's.
        """
        data, start = self._data, self._position + 2
        if len(data) < start or data[start - 2] != _FIN_BINARY:
            return None
        length = data[start - 1] ^ (0 if self._client else _MASKED)
        if length == _LENGTH_16 and len(data) >= start + 2:
            length = data[start] << 8 | data[start + 1]
            if length < _LENGTH_16:
                return None
            start += 2
        elif length >= _LENGTH_16:  # 64-bit length (never within max_message), cut short, or wrongly (un)masked
            return None
        body = start if self._client else start + 4
        end = body + length
        if length > self._max_message:
            return None
        if end > len(data):
            self._begun.append(memoryview(data)[self._position :])
            self._missing = end - len(data)
            self._position = len(data)
            return None
        if length >= _HALF:
            self._frame_size = end - self._position
        self._position = end
        if self._client:
            return data[body:end]
        return _mask(memoryview(data)[body:end], data[start:body])

    def _decode(self) -> Event | None:
        decoder = self._odd_way()
        try:
            while self._odd < TURN and (frame := decoder.process_buffer()) is not None:
                self._odd += 1
                event = self._take(frame)
                if event is not None:
                    return event
        except ParseFailed as exc:
            self._end()
            raise FrameError(str(exc), int(exc.code)) from exc
        if self._odd >= TURN:
            self._odd = 0
            return PAUSE
        if not self._in_fragments and decoder.header is None and not len(decoder.buffer):
            self._between = True
        return None

    @property
    def _in_fragments(self) -> bool:
        return self._messages is not None and self._messages.opcode is not None

    def _take(self, frame: Frame) -> Event | None:
        if frame.opcode.iscontrol():
            return self._take_control(frame)
        if self._messages is None:
            self._messages = MessageDecoder()
        frame = self._messages.process_frame(frame)
        assert isinstance(frame.payload, bytes)
        if not (frame.frame_finished and frame.message_finished):
            self._partial += frame.payload
            return None
        message = frame.payload
        if self._partial:
            message = b"".join((self._partial, message))
            self._partial.clear()
        self._leave_decoder()
        return message

    def _leave_decoder(self) -> None:
        """A message is complete: what wsproto's decoder still holds is taken back to the fast path."""
        buffer = self._odd_way().buffer
        self._data, self._position = bytes(buffer.consume_at_most(len(buffer))), 0
        buffer.commit()
        self._between = True

    def _take_control(self, frame: Frame) -> Event | None:
        assert isinstance(frame.payload, bytes)
        if frame.opcode is Opcode.PING:
            return Ping(frame.payload)
        if frame.opcode is Opcode.CLOSE:
            close = _parse_close(frame.payload)
            self._end()
            return close
        return None  # a pong that nobody asked for: RFC 6455 5.5.3

    def _end(self) -> None:
        self._ended = True
        self._data = b""
        self._partial.clear()
        self._begun.clear()
        self._decoder = None


def _parse_close(payload: bytes) -> Close:
    """RFC 6455 5.5.1 and 7.4."""
    if not payload:
        return Close(None, "")
    if len(payload) == 1:
        raise ParseFailed("a close frame with one byte")
    (code,) = struct.unpack_from("!H", payload)
    if not _may_be_sent(code):
        raise ParseFailed(f"a close frame with code {code}")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError as exc:
        raise ParseFailed("a close reason that is not UTF-8", CloseReason.INVALID_FRAME_PAYLOAD_DATA) from exc


_DEFINED_CODES = frozenset(map(int, CloseReason)) - frozenset(map(int, LOCAL_ONLY_CLOSE_REASONS))


def _may_be_sent(code: int) -> bool:
    if MIN_LIBRARY_CLOSE_REASON <= code <= MAX_CLOSE_REASON:
        return True
    return code in _DEFINED_CODES


# -- writing -------------------------------------------------------------------------------------


# It keeps nothing of the control frames that it writes.
_CONTROL: Final = {client: FrameProtocol(client, []) for client in (False, True)}


class FrameWriter:
    """What one side sends, as bytes of frames. A client masks with a fresh key for every frame (RFC 6455 5.3)."""

    def __init__(self, *, client: bool) -> None:
        self._client = client
        self._control = _CONTROL[client]
        self._keys = b""  # drawn, and the first of those not used
        self._next_key = 0

    def message(self, payload: Buffer) -> bytes:
        """One binary message in one frame: written here, because wsproto copies the payload four times and its
        masker cannot be chosen."""
        return b"".join(self.headed(payload))

    def headed(self, payload: Buffer) -> tuple[bytes, Buffer]:
        """The same in two: the frame's header, and what follows it, which for a server is ``payload`` itself."""
        length = len(payload)
        bit = _MASKED if self._client else 0
        if length < _LENGTH_16:
            header = bytes((_FIN_BINARY, bit | length))
        else:
            header = struct.pack("!BBH", _FIN_BINARY, bit | _LENGTH_16, length)
        if not self._client:
            return header, payload
        key = self._draw_key()
        return header + key, _mask(payload, key)

    def _draw_key(self) -> bytes:
        """RFC 6455 10.3: from a strong source, which is asked for many at once."""
        start = self._next_key
        if start == len(self._keys):
            self._keys, start = os.urandom(_KEYS * 4), 0
        self._next_key = end = start + 4
        return self._keys[start:end]

    def pong(self, payload: bytes) -> bytes:
        return bytes(self._control.pong(payload))

    def close(self, code: int | None, reason: str = "") -> bytes:
        """``code`` None sends none. One that must not be sent goes out as 1000, an overlong reason is cut."""
        if code is None:
            return bytes(self._control.close())
        return bytes(self._control.close(code if _may_be_sent(code) else CloseReason.NORMAL_CLOSURE, reason))
