"""Many streams over one session: bytes of the session in, events out; sends in, frames out (design, section 5).

Both ends have the same rights; only the parity of ids differs. The driver calls, in any order, and never from
within an event:

- ``receive_data`` with what the session received, then handles the events;
- ``open_stream``, ``send_*``, ``consume``, ``reset`` for its exchanges;
- ``frames_to_send`` when its connection can take bytes, then ``take_room_events``.

What arrives for a stream that is over is ignored, and so are calls for it: a reset may have crossed them. Calls
for streams that never were, and sends after the end, raise ``LocalProtocolError``. A peer that breaks a rule costs
itself the session (``RemoteProtocolError``, whose ``code`` is told to it), except where one stream can bear it: a stream
too many, or of an unknown kind, is reset with REFUSED, a head beyond ``head_block_limit`` with LIMIT.
"""

from __future__ import annotations

from collections import deque
from collections.abc import KeysView, Mapping
from typing import Final

from ..config import Limits
from ..errors import LocalProtocolError, RemoteProtocolError
from .budget import Budget
from .credit import CreditPool
from .events import Data, Event, GoAway, HeadBlock, Opened, Progress, Reset, Room
from .frames import (
    CREDIT,
    DATA,
    DATA_FIN,
    GOAWAY,
    HEAD,
    HEAD_MORE,
    OPEN,
    RESET,
    Buffer,
    FrameDecoder,
    ResetCode,
    StreamKind,
    encode_fields,
    encode_goaway,
    parse_number,
    parse_open,
)
from .scheduler import SCRAP, ControlQueue, TurnQueue
from .streams import LOCAL_MOVES, REMOTE_MOVES, Half, Send, Stream

__all__ = [
    "Data",
    "Event",
    "GoAway",
    "GoingAway",
    "HeadBlock",
    "Multiplexer",
    "NoRoom",
    "Opened",
    "Progress",
    "Reset",
    "Room",
]

_KINDS: Final = {int(kind): kind for kind in StreamKind}


class NoRoom(LocalProtocolError):
    """No stream can open now: all that the peer permits are in use, or memory is short. Later one may."""


class GoingAway(LocalProtocolError):
    """The peer takes no new streams any more."""


class Multiplexer:
    """``peer_floor`` is the first limit of every stream that we open, ``peer_max_streams`` how many of them there may
    be: both are told when the session opens. ``budget`` is shared by all sessions of the process."""

    def __init__(
        self, *, client: bool, limits: Limits, peer_floor: int, peer_max_streams: int, budget: Budget
    ) -> None:
        self._limits = limits
        self._budget = budget
        self._peer_floor = peer_floor
        self._peer_max_streams = peer_max_streams
        self._pool = CreditPool(limits, budget)
        self._decoder = FrameDecoder()
        self._control = ControlQueue()
        self._turns = TurnQueue(limits.frame_payload)
        self._streams: dict[int, Stream] = {}
        self._mine = 0  # of them opened by us
        self._parity = 1 if client else 0
        self._next_id = 1 if client else 2
        self._highest_sent = 0  # the last id whose OPEN was pulled
        self._highest_peer = 0  # the last id that the peer opened
        self._last_accepted: int | None = None  # set by goaway()
        self._peer_going = False
        self._room: list[int] = []
        self._calls = 0  # of receive_data
        self._stillborn: set[int] = set()  # opened and reset within the present call
        self._early_resets: deque[float] = deque(maxlen=limits.resets_before_answer)

    def __repr__(self) -> str:
        role = "client" if self._parity else "server"
        return f"Multiplexer({role}, streams={len(self._streams)}, pool={self._pool!r})"

    # -- streams -------------------------------------------------------------------------------

    @property
    def active_streams(self) -> int:
        """Streams that are open, or whose received bytes are not all consumed."""
        return len(self._streams)

    @property
    def streams(self) -> KeysView[int]:
        return self._streams.keys()

    @property
    def can_open(self) -> bool:
        """``open_stream`` would not raise now."""
        return not self._peer_going and self._mine < self._peer_max_streams and self._pool.has_room

    def open_stream(self, kind: StreamKind, fields: Mapping[int, bytes] | None = None) -> int:
        """Open a stream and return its id; OPEN leaves with the next pull. Raises ``NoRoom`` or ``GoingAway``."""
        if self._peer_going:
            raise GoingAway("the peer takes no new streams", code="going_away")
        if self._mine >= self._peer_max_streams:
            raise NoRoom(f"all {self._peer_max_streams} streams are in use", code="no_room")
        opening = encode_fields(fields) if fields else b""
        window = self._pool.open_window(first=True)
        if window is None:
            raise NoRoom("no memory is left for another stream", code="no_room")
        stream_id = self._next_id
        self._next_id += 2
        self._mine += 1
        stream = self._streams[stream_id] = Stream(stream_id, kind, window, self._peer_floor, opening)
        self._turns.add(stream)
        return stream_id

    def was_sent(self, stream_id: int) -> bool:
        """OPEN was pulled into a message (True too for streams of the peer)."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream.opening is None
        if stream_id & 1 == self._parity:
            return stream_id <= self._highest_sent
        return stream_id <= self._highest_peer

    def withdraw(self, stream_id: int) -> bool:
        """Let a stream vanish whose OPEN was never pulled; False when it was (or the stream is over): use ``reset``."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.opening is None:
            return False
        self._remove(stream)
        return True

    def reset(self, stream_id: int, code: int) -> None:
        """End both halves at once and drop what waits. Of a stream that was never sent no trace is left."""
        stream = self._find(stream_id)
        if stream is not None:
            self._abandon(stream, code)

    def goaway(self, code: int = 0) -> None:
        """Refuse the streams that the peer opens from now on. The second call changes nothing."""
        if self._last_accepted is None:
            self._last_accepted = self._highest_peer
            self._control.add_goaway(encode_goaway(self._highest_peer, code))

    def close(self) -> None:
        """The session is gone: give everything back. No event is made; the driver knows its streams."""
        for stream in list(self._streams.values()):
            self._remove(stream)
        self._control.clear()

    # -- sending -------------------------------------------------------------------------------

    def send_room(self, stream_id: int) -> int:
        """Bytes that the stream's send buffer takes now, 0 when it is closed for sending. After a 0 of a full buffer
        a ``Room`` event follows."""
        stream = self._find(stream_id)
        if stream is None or stream.local is not Half.OPEN:
            return 0
        room = self._limits.send_buffer - stream.buffered
        # Near exhaustion only the floor for sending is left, a turn's worth, which is reserved.
        room = min(room, self._limits.frame_payload - stream.buffered + stream.charged + self._budget.spare)
        if room <= 0:
            stream.starved = True
            return 0
        return room

    def send_head(self, stream_id: int, block: bytes, *, fin: bool = False) -> None:
        """Buffer a whole head block. It may pass ``send_room``, never ``head_block_limit``."""
        if len(block) > self._limits.head_block_limit:
            raise LocalProtocolError(f"a head block of {len(block)} bytes is too large")
        self._send(stream_id, HEAD, block, fin)

    def send_data(self, stream_id: int, data: Buffer, *, fin: bool = False) -> None:
        """Buffer ``data`` by reference, at most ``send_room`` bytes. It must not change until it has left."""
        if len(data):
            self._send(stream_id, DATA, data, fin)
        elif fin:
            self.send_fin(stream_id)

    def send_fin(self, stream_id: int) -> None:
        """End our half: FIN rides on the last frame that waits."""
        stream = self._find(stream_id)
        if stream is not None:
            _move_local(stream, Send.SEND_FIN)
            self._turns.add(stream)

    def _send(self, stream_id: int, code: int, data: Buffer, fin: bool) -> None:
        stream = self._find(stream_id)
        if stream is None:
            return
        _move_local(stream, Send.SEND_FIN if fin else Send.SEND)
        stream.out.append((code, data))
        stream.buffered += len(data)
        if stream.buffered > self._limits.frame_payload:
            self._charge(stream)
        self._turns.add(stream)

    def _charge(self, stream: Stream) -> None:
        """Count in the process's budget what is buffered above the floor for sending."""
        above = max(0, stream.buffered - self._limits.frame_payload)
        if above > stream.charged:
            self._budget.charge(above - stream.charged)
        else:
            self._budget.release(stream.charged - above)
        stream.charged = above

    # -- frames out ----------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        return bool(self._control) or bool(self._turns)

    @property
    def has_control(self) -> bool:
        return bool(self._control)

    def control_to_send(self, limit: int) -> list[Buffer]:
        """Control frames of at most ``limit`` bytes together."""
        pieces: list[Buffer] = []
        self._control.pull(pieces, limit)
        return pieces

    def frames_to_send(self, limit: int) -> list[Buffer]:
        """Whole frames, in pieces, of at most ``limit`` bytes together. A limit of 2,100 always makes progress."""
        pieces: list[Buffer] = []
        if self._control:
            limit -= self._control.pull(pieces, limit)
        while self._turns and (limit > SCRAP or not pieces):
            stream, used = self._turns.serve(pieces, limit)
            if stream is None:
                break
            limit -= used
            self._after_turn(stream)
        return pieces

    def take_room_events(self) -> list[Room]:
        """The streams whose full send buffers have room again since the last call."""
        if not self._room:
            return []
        events = [Room(stream_id) for stream_id in self._room if stream_id in self._streams]
        self._room = []
        return events

    def _after_turn(self, stream: Stream) -> None:
        if stream.mine and stream.id > self._highest_sent:
            self._highest_sent = stream.id
        if stream.charged:
            self._charge(stream)
        if stream.starved and stream.buffered * 2 <= self._limits.send_buffer:
            stream.starved = False
            self._room.append(stream.id)
        if stream.finished:
            self._finish(stream)

    # -- frames in -----------------------------------------------------------------------------

    def receive_data(self, data: bytes | memoryview, now: float) -> list[Event]:
        """The events in bytes of the session. Raises ``RemoteProtocolError``: the session is to be ended.

        A stream that is opened and reset within one call leaves no event at all (hazard 10).
        """
        events: list[Event] = []
        streams = self._streams
        self._calls += 1
        for code, stream_id, payload in self._decoder.feed(data):
            stream = streams.get(stream_id)
            if stream is None or code == GOAWAY:
                self._receive_for_none(code, stream_id, payload, events)
                continue
            half = REMOTE_MOVES[stream.remote].get(code)
            if half is None:
                raise RemoteProtocolError(
                    f"frame {code:#06x} on stream {stream_id}, which is {stream.remote.name}", code="stream_state"
                )
            stream.remote = half
            if code == DATA or code == DATA_FIN:
                stream.window.receive(len(payload))
                if payload or half is Half.CLOSED:
                    events.append(Data(stream_id, payload, half is Half.CLOSED))
                if half is Half.CLOSED:
                    self._receive_end(stream)
            elif code == CREDIT:
                self._receive_credit(stream, payload, events)
            elif code == RESET:
                self._receive_reset(stream, parse_number(payload), now, events)
            else:
                self._receive_head(stream, code, payload, events)
        return self._without_stillborn(events) if self._stillborn else events

    def _receive_for_none(self, code: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        """A frame for no stream in the table: OPEN, GOAWAY, or something late for a stream that is over."""
        if code == GOAWAY:
            self._receive_goaway(stream_id, parse_number(payload), events)
        elif code == OPEN:
            self._receive_open(stream_id, payload, events)
        elif not stream_id or not self.was_sent(stream_id):
            raise RemoteProtocolError(f"frame {code:#06x} for stream {stream_id}, never opened", code="stream_id")

    def _receive_open(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id & 1 == self._parity or stream_id <= self._highest_peer:
            raise RemoteProtocolError(f"the peer may not open stream {stream_id}", code="stream_id")
        self._highest_peer = stream_id
        kind_number, limit, fields = parse_open(payload)
        kind = _KINDS.get(kind_number)
        window = None
        if kind is not None and self._last_accepted is None:
            if len(self._streams) - self._mine < self._limits.max_streams:
                window = self._pool.open_window(first=False)
        if kind is None or window is None:
            self._refuse(stream_id)
            return
        stream = self._streams[stream_id] = Stream(stream_id, kind, window, limit, None)
        stream.born = self._calls
        events.append(Opened(stream_id, kind, fields))

    def _refuse(self, stream_id: int) -> None:
        # One stream too many is a race: a stream counts here until what it brought is consumed. But a peer that
        # keeps its limit never makes us owe it more resets than it may have streams.
        if self._control.resets >= self._limits.max_streams + self._peer_max_streams:
            raise RemoteProtocolError("far too many streams", code="too_many_streams")
        self._control.add_reset(stream_id, ResetCode.REFUSED)

    def _receive_head(self, stream: Stream, code: int, payload: bytes, events: list[Event]) -> None:
        window = stream.window
        window.receive(len(payload))
        if code == HEAD_MORE or stream.head is not None:
            if not self._gather(stream, payload):
                self._abandon(stream, ResetCode.LIMIT)
                self._tell_reset(stream, ResetCode.LIMIT, events)
                return
        if code != HEAD_MORE:
            events.append(HeadBlock(stream.id, self._take_head(stream, payload), stream.remote is Half.CLOSED))
        if stream.remote is Half.CLOSED:
            window.consume(len(payload))
            self._receive_end(stream)
        elif window.consume(len(payload)):
            self._control.add_credit(stream)

    def _gather(self, stream: Stream, piece: bytes) -> bool:
        """Keep a piece of a head block. Its credit is granted again before the block is whole, or a block larger than
        the window could never come: so it is counted in the process's budget meanwhile. False: too large."""
        if stream.head is None:
            stream.head = bytearray()
        if len(stream.head) + len(piece) > self._limits.head_block_limit or not self._budget.reserve(len(piece)):
            return False
        stream.head += piece
        return True

    def _take_head(self, stream: Stream, payload: bytes) -> bytes:
        if stream.head is None:
            return payload
        block = bytes(stream.head)
        self._drop_head(stream)
        return block

    def _drop_head(self, stream: Stream) -> None:
        if stream.head is not None:
            self._budget.release(len(stream.head))
            stream.head = None

    def _receive_end(self, stream: Stream) -> None:
        stream.window.end()
        self._control.drop_credit(stream)
        if stream.finished:
            self._finish(stream)

    def _receive_credit(self, stream: Stream, payload: bytes, events: list[Event]) -> None:
        limit = parse_number(payload)
        if limit > stream.send_limit:
            stream.send_limit = limit
            events.append(Progress(stream.id, limit))
            self._turns.add(stream)

    def _receive_reset(self, stream: Stream, code: int, now: float, events: list[Event]) -> None:
        if not stream.mine and not stream.sent and stream.local is not Half.CLOSED:
            self._count_early_reset(now)
        self._remove(stream)
        self._tell_reset(stream, code, events)

    def _tell_reset(self, stream: Stream, code: int, events: list[Event]) -> None:
        if stream.born == self._calls:
            self._stillborn.add(stream.id)
        else:
            events.append(Reset(stream.id, code))

    def _count_early_reset(self, now: float) -> None:
        """Opening and resetting costs the peer little and us much (CVE-2023-44487): it is rationed."""
        early = self._early_resets
        if len(early) == early.maxlen and now - early[0] <= self._limits.resets_window:
            raise RemoteProtocolError("too many streams reset before any answer", code="reset_flood")
        early.append(now)

    def _without_stillborn(self, events: list[Event]) -> list[Event]:
        stillborn = self._stillborn
        self._stillborn = set()
        return [event for event in events if isinstance(event, GoAway) or event.stream_id not in stillborn]

    def _receive_goaway(self, last: int, code: int, events: list[Event]) -> None:
        if last and (last & 1 != self._parity or last > self._highest_sent):
            raise RemoteProtocolError(f"goaway names stream {last}, which was never opened", code="stream_id")
        self._peer_going = True
        for stream in [stream for stream in self._streams.values() if stream.mine and stream.id > last]:
            self._remove(stream)
            events.append(Reset(stream.id, ResetCode.REFUSED))
        events.append(GoAway(last, code))

    # -- consuming -----------------------------------------------------------------------------

    def consume(self, stream_id: int, n: int) -> None:
        """The application used ``n`` bytes of the stream's data. Credit is granted on this alone."""
        stream = self._find(stream_id)
        if stream is None:
            return
        window = stream.window
        if not 0 <= n <= window.held:
            raise LocalProtocolError(f"{n} bytes consumed on stream {stream_id}, which holds {window.held}")
        if window.consume(n):
            self._control.add_credit(stream)
        if stream.finished:
            self._finish(stream)

    # -- the table -----------------------------------------------------------------------------

    def _find(self, stream_id: int) -> Stream | None:
        """The stream, or None when it is over. Raises ``LocalProtocolError`` when it never was."""
        stream = self._streams.get(stream_id)
        if stream is None and not self._was_opened(stream_id):
            raise LocalProtocolError(f"stream {stream_id} was never opened")
        return stream

    def _was_opened(self, stream_id: int) -> bool:
        if stream_id & 1 == self._parity:
            return 0 < stream_id < self._next_id
        return 0 < stream_id <= self._highest_peer

    def _abandon(self, stream: Stream, code: int) -> None:
        """End a stream by ourselves. The peer is told if it knows the stream and has not seen it end."""
        known = stream.opening is None
        over = stream.local is Half.CLOSED and stream.remote is Half.CLOSED
        self._remove(stream)
        if known and not over:
            self._control.add_reset(stream.id, code)

    def _remove(self, stream: Stream) -> None:
        """Take a stream out at any point of its life."""
        stream.local = stream.remote = Half.GONE
        self._turns.drop(stream)
        self._control.drop_credit(stream)
        self._drop_head(stream)
        if stream.charged:
            self._budget.release(stream.charged)
        self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        """Take a stream out that ended in order: nothing of it waits anywhere."""
        del self._streams[stream.id]
        if stream.mine:
            self._mine -= 1
        stream.window.close()


def _move_local(stream: Stream, move: Send) -> None:
    half = LOCAL_MOVES[stream.local].get(move)
    if half is None:
        raise LocalProtocolError(f"{move.name} on stream {stream.id}, whose own half is {stream.local.name}")
    stream.local = half
