"""What leaves next: control frames first, then the streams in turn (design, section 5).

Control is state, not a queue of frames: a credit frame is written when it is pulled, with the limit of that
moment, so a stream never has two waiting. Streams take turns of ``Limits.frame_payload`` bytes. A stream's
first turn comes before the later turns of others, so that a small message does not wait for a round of
everybody's bulk; but after a turn's worth of such bytes one of the others is served, so that nobody starves.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from .frames import (
    CREDIT_SIZE,
    DATA_FIN,
    FIN,
    HEAD,
    HEADER_SIZE,
    MAX_PAYLOAD,
    MORE,
    OPEN,
    RESET_SIZE,
    Buffer,
    encode_credit,
    encode_open,
    encode_reset,
    pack_header,
)
from .streams import LOCAL_MOVES, REMOTE_MOVES, Half, Send, Stream

__all__ = ["SCRAP", "ControlQueue", "TurnQueue", "take_turn"]

# The rest of a message that is not worth a cut frame.
SCRAP: Final = 1024

_OPEN_SENT: Final = REMOTE_MOVES[Half.IDLE][OPEN]
_FIN_SENT: Final = LOCAL_MOVES[Half.ENDING][Send.FIN_SENT]


class ControlQueue:
    """Credit, resets and the goaway that wait to be sent."""

    __slots__ = ("_credits", "_goaway", "_resets")

    def __init__(self) -> None:
        self._goaway: bytes | None = None
        self._resets: deque[bytes] = deque()
        self._credits: deque[Stream] = deque()

    def __bool__(self) -> bool:
        return bool(self._credits or self._resets or self._goaway)

    @property
    def resets(self) -> int:
        return len(self._resets)

    def add_goaway(self, frame: bytes) -> None:
        self._goaway = frame

    def add_reset(self, stream_id: int, code: int) -> None:
        self._resets.append(encode_reset(stream_id, code))

    def add_credit(self, stream: Stream) -> None:
        if not stream.credit_due:
            stream.credit_due = True
            self._credits.append(stream)

    def drop_credit(self, stream: Stream) -> None:
        """The stream needs no credit any more."""
        if stream.credit_due:
            stream.credit_due = False
            self._credits.remove(stream)

    def clear(self) -> None:
        self._goaway = None
        self._resets.clear()
        self._credits.clear()

    def pull(self, pieces: list[Buffer], room: int) -> int:
        """Append the frames that fit into ``room`` and return the bytes they take."""
        left = room
        if self._goaway is not None and left >= RESET_SIZE:
            pieces.append(self._goaway)
            self._goaway = None
            left -= RESET_SIZE
        while self._resets and left >= RESET_SIZE:
            pieces.append(self._resets.popleft())
            left -= RESET_SIZE
        while self._credits and left >= CREDIT_SIZE:
            stream = self._credits.popleft()
            stream.credit_due = False
            pieces.append(encode_credit(stream.id, stream.window.limit))
            left -= CREDIT_SIZE
        return room - left


class TurnQueue:
    """The streams that have something to send, each at most once."""

    __slots__ = ("_ahead", "_first", "_later", "_turn")

    def __init__(self, turn: int) -> None:
        self._turn = turn
        self._first: deque[Stream] = deque()  # in the order of their opening: OPENs leave in order of ids
        self._later: deque[Stream] = deque()
        self._ahead = 0  # bytes of first turns since a later one was served

    def __bool__(self) -> bool:
        return bool(self._first or self._later)

    def add(self, stream: Stream) -> None:
        """Queue the stream if it has something to send and is not queued."""
        if not stream.queued and stream.sendable:
            stream.queued = True
            (self._later if stream.turns else self._first).append(stream)

    def drop(self, stream: Stream) -> None:
        if stream.queued:
            stream.queued = False
            (self._later if stream.turns else self._first).remove(stream)

    def clear(self) -> None:
        self._first.clear()
        self._later.clear()

    def serve(self, pieces: list[Buffer], room: int) -> tuple[Stream | None, int]:
        """One turn: append frames that fit into ``room``; whose turn it was and the bytes taken, or (None, 0)."""
        queue = self._next()
        stream = queue[0]
        # A stream alone need not be cut into turns.
        alone = len(self._first) + len(self._later) == 1
        used = take_turn(stream, pieces, room, MAX_PAYLOAD if alone else self._turn)
        if not used:
            return None, 0
        queue.popleft()
        self._ahead = self._ahead + used if queue is self._first else 0
        stream.turns += 1
        stream.queued = False
        self.add(stream)
        return stream, used

    def _next(self) -> deque[Stream]:
        if self._first and (self._ahead < self._turn or not self._later):
            return self._first
        return self._later


def take_turn(stream: Stream, pieces: list[Buffer], room: int, turn: int) -> int:
    """Append frames of one stream: up to ``turn`` bytes of payload, ``room`` bytes in all, and what its peer
    granted. Returns the bytes appended; 0 when nothing fits."""
    left = room
    if stream.opening is not None:
        frame = encode_open(stream.id, stream.kind, stream.window.limit, stream.opening)
        if len(frame) > left:
            return 0
        pieces.append(frame)
        left -= len(frame)
        stream.opening = None
        stream.remote = _OPEN_SENT
    if stream.out:
        left -= _take_buffers(stream, pieces, left, min(turn, stream.send_limit - stream.sent))
    elif stream.local is Half.ENDING and left >= HEADER_SIZE:
        pieces.append(pack_header(DATA_FIN, 0, stream.id))
        left -= HEADER_SIZE
        stream.local = _FIN_SENT
    return room - left


def _take_buffers(stream: Stream, pieces: list[Buffer], room: int, allowed: int) -> int:
    out = stream.out
    left = room
    taken = 0
    while out and left >= HEADER_SIZE:
        code, data = out[0]
        size = len(data)
        take = min(size, allowed - taken, left - HEADER_SIZE)
        if take == size:
            out.popleft()
            if not out and stream.local is Half.ENDING:
                code |= FIN
                stream.local = _FIN_SENT
        elif take > 0:
            view = memoryview(data)
            out[0] = (code, view[take:])
            data = view[:take]
            if code == HEAD:
                code |= MORE
        else:
            break
        pieces.append(pack_header(code, take, stream.id))
        if take:
            pieces.append(data)
        taken += take
        left -= take + HEADER_SIZE
    stream.sent += taken
    stream.buffered -= taken
    return room - left
