"""What leaves next: control frames first, then the streams in turn (design, section 5).

Control is state, not a queue of frames: a credit frame is written when it is pulled, with the limit of that
moment, so a stream never has two waiting. Streams take turns, of a size that ``pace`` knows. A stream's
first turn comes before the later turns of others, so that a small message does not wait for a round of
everybody's bulk; but after a turn's worth of such bytes one of the others is served, so that nobody starves.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from .frames import (
    CREDIT_SIZE,
    DATA_FIN,
    FIN,
    HEAD,
    HEADER_SIZE,
    MAX_PAYLOAD,
    MORE,
    RESET_SIZE,
    Buffer,
    encode_credit,
    encode_reset,
    pack_header,
)
from .streams import AFTER_FIN, AFTER_OPEN, ENDING, Stream

__all__ = ["SCRAP", "ControlQueue", "TurnQueue", "take_turn"]

# The rest of a message that is not worth a cut frame.
SCRAP: Final = 1024


class ControlQueue:
    """Credit, resets and the goaway that wait to be sent."""

    __slots__ = ("_credits", "_goaway", "_resets", "waiting")

    def __init__(self) -> None:
        self.waiting = False
        self._goaway: bytes | None = None
        self._resets: list[bytes] = []
        self._credits: dict[int, Stream] = {}  # by id, in the order of asking

    @property
    def resets(self) -> int:
        return len(self._resets)

    def add_goaway(self, frame: bytes) -> None:
        self._goaway = frame
        self.waiting = True

    def add_reset(self, stream_id: int, code: int) -> None:
        self._resets.append(encode_reset(stream_id, code))
        self.waiting = True

    def add_credit(self, stream: Stream) -> None:
        self._credits[stream.id] = stream
        self.waiting = True

    def drop_credit(self, stream: Stream) -> None:
        """The stream needs no credit any more."""
        if self._credits.pop(stream.id, None) is not None:
            self._update()

    def clear(self) -> None:
        self._goaway = None
        self._resets.clear()
        self._credits.clear()
        self._update()

    def pull(self, pieces: list[Buffer], room: int) -> int:
        """Append the frames that fit into ``room`` and return the bytes they take."""
        left = room
        if self._goaway is not None and left >= RESET_SIZE:
            pieces.append(self._goaway)
            self._goaway = None
            left -= RESET_SIZE
        if self._resets:
            resets = self._resets[: left // RESET_SIZE]
            del self._resets[: len(resets)]
            pieces += resets
            left -= RESET_SIZE * len(resets)
        for stream in list(islice(self._credits.values(), left // CREDIT_SIZE)):
            del self._credits[stream.id]
            pieces.append(encode_credit(stream.id, stream.window.limit))
            left -= CREDIT_SIZE
        self._update()
        return room - left

    def _update(self) -> None:
        self.waiting = bool(self._credits or self._resets or self._goaway)


class TurnQueue:
    """The streams that have something to send, each at most once."""

    __slots__ = ("_ahead", "_first", "_later", "size")

    def __init__(self) -> None:
        self.size = 0
        # Lists, though they are queues: an empty deque takes 760 bytes in every idle tunnel, and no more streams wait
        # here than a session may have.
        self._first: list[Stream] = []  # in the order of their opening: OPENs leave in order of ids
        self._later: list[Stream] = []
        self._ahead = 0  # bytes of first turns since a later one was served

    def add(self, stream: Stream) -> None:
        """Queue the stream if it has something to send and is not queued."""
        if not stream.queued and ((stream.out and stream.sent < stream.send_limit) or stream.sendable):
            stream.queued = True
            self.size += 1
            (self._later if stream.served else self._first).append(stream)

    def add_new(self, stream: Stream) -> None:
        """Queue a stream whose OPEN is to be sent."""
        stream.queued = True
        self.size += 1
        self._first.append(stream)

    def drop(self, stream: Stream) -> None:
        if stream.queued:
            stream.queued = False
            self.size -= 1
            (self._later if stream.served else self._first).remove(stream)

    def serve(self, pieces: list[Buffer], room: int, turn: int, message: int = 0) -> tuple[Stream | None, int]:
        """One turn, of ``turn`` bytes of payload where others wait: append frames that fit into ``room``. Gives whose
        it was and the bytes taken, or (None, 0). ``message``: what streams may have of that of ``pieces``."""
        queue = self._first if self._first and (self._ahead < turn or not self._later) else self._later
        stream = queue[0]
        # A stream alone need not be cut into turns. Beside others its pieces are cut to fill the message: if they
        # waited, each new stream would send a message of its own.
        if self.size > 1:
            used = take_turn(stream, pieces, room, turn)
        else:
            used = take_turn(stream, pieces, room, MAX_PAYLOAD, message)
        if not used:
            self._ahead = turn  # what waits for the next message goes ahead of first turns there
            return None, 0
        del queue[0]
        self.size -= 1
        self._ahead = 0 if stream.served else self._ahead + used
        stream.served = True
        stream.queued = False
        if stream.out or stream.local is ENDING:
            self.add(stream)
        return stream, used


def take_turn(stream: Stream, pieces: list[Buffer], room: int, turn: int, message: int = 0) -> int:
    """Append frames of one stream: up to ``turn`` bytes of payload, ``room`` bytes in all, and what its peer
    granted. Returns the bytes appended; 0 when nothing fits.

    Behind others, what nearly fills a ``message`` and may leave in one turn is not cut for the rest of this one: it
    would leave a rest itself, and so would all that follow it.
    """
    left = room
    if stream.opening is not None:
        if len(stream.opening) > left:
            return 0
        pieces.append(stream.opening)
        left -= len(stream.opening)
        stream.opening = None
        stream.remote = AFTER_OPEN
    if stream.out:
        credit = stream.send_limit - stream.sent
        left -= _take_buffers(stream, pieces, left, credit if credit < turn else turn, message)
    elif stream.local is ENDING and left >= HEADER_SIZE:
        pieces.append(pack_header(DATA_FIN, 0, stream.id))
        left -= HEADER_SIZE
        stream.local = AFTER_FIN
    return room - left


def _take_buffers(stream: Stream, pieces: list[Buffer], room: int, allowed: int, message: int) -> int:
    out = stream.out
    left = room - HEADER_SIZE  # for the next payload
    taken = whole = 0
    for code, data in out:
        size = len(data)
        if size > allowed - taken or size > left:
            break
        whole += 1
        if whole == len(out) and stream.local is ENDING:
            code |= FIN
            stream.local = AFTER_FIN
        pieces.append(pack_header(code, size, stream.id))
        pieces.append(data)
        taken += size
        left -= size + HEADER_SIZE
    del out[:whole]
    if out:
        part = min(allowed - taken, left)
        size = len(out[0][1])
        waits = pieces and size <= allowed and _waits(size, left, message)
        if part > 0 and (left >= SCRAP or not taken) and not waits:
            _take_part(stream, pieces, part)
            taken += part
            left -= part + HEADER_SIZE
    stream.sent += taken
    stream.buffered -= taken
    return room - HEADER_SIZE - left


def _waits(size: int, left: int, message: int) -> bool:
    """Whether a piece that the rest of a message cannot hold is to leave whole in the next."""
    return left < size <= message - HEADER_SIZE and size * 4 >= message * 3


def _take_part(stream: Stream, pieces: list[Buffer], size: int) -> None:
    """Append ``size`` bytes of the first that waits, which has more."""
    code, data = stream.out[0]
    view = memoryview(data)
    stream.out[0] = (code, view[size:])
    pieces.append(pack_header(code | MORE if code == HEAD else code, size, stream.id))
    pieces.append(view[:size])
