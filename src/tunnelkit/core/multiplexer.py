"""Many streams over one session: bytes of the session in, events out; sends in, frames out (design, section 5).

Both ends have the same rights; only the parity of ids differs. The driver calls, in any order, and never from
within an event:

- ``receive_data`` with what the session received, then handles the events;
- ``open_stream``, ``send_*``, ``consume``, ``reset`` for its exchanges;
- ``frames_to_send`` when its connection can take bytes, then ``take_room_events``.

What arrives for a stream that is over is ignored, and so are calls for it: a reset may have crossed them. Calls
for streams that never were, and sends after the end, raise ``LocalProtocolError``. A peer that breaks a rule
costs itself the session (``RemoteProtocolError``, whose ``code`` is told to it), except where one stream can bear
it: a stream too many, or of an unknown kind, is reset with REFUSED, a head beyond ``head_block_limit`` with LIMIT.
"""

from __future__ import annotations

from collections.abc import KeysView, Mapping
from typing import Final

from ..config import Limits
from ..errors import LocalProtocolError
from .budget import Budget
from .company import LARGE
from .events import Data, Event, GoAway, HeadBlock, Opened, Progress, Reset, Room
from .failures import GoingAway, NoRoom
from .frames import DATA, HEAD, Buffer, StreamKind, encode_fields, encode_goaway
from .receiver import Receiver
from .scheduler import SCRAP
from .streams import CLOSED, LOCAL_MOVES, OPENED, Send, Stream, illegal_local, move_local
from .table import StreamTable

__all__ = [
    "Data",
    "Event",
    "GoAway",
    "HeadBlock",
    "Multiplexer",
    "Opened",
    "Progress",
    "Reset",
    "Room",
]

# A send below this size joins the one that waits before it. A caller may send its body by the byte, and kept as they
# came, the pieces in one send buffer would take megabytes.
_SMALL_SEND: Final = 1024

_SEND: Final = int(Send.SEND)
_SEND_FIN: Final = int(Send.SEND_FIN)


class Multiplexer:
    """``peer_floor`` is the first limit of every stream that we open, ``peer_max_streams`` how many of them there may
    be: both are told when the session opens. ``budget`` is shared by all sessions of the process."""

    def __init__(
        self, *, client: bool, limits: Limits, peer_floor: int, peer_max_streams: int, budget: Budget
    ) -> None:
        self._peer_floor = peer_floor
        self._peer_max_streams = peer_max_streams
        self._limits = limits
        self._budget = budget
        self._table = table = StreamTable(client=client, limits=limits, budget=budget)
        self._active = table.active
        self._control = table.control
        self._turns = table.turns
        self._receiver = Receiver(table, limits.max_streams + peer_max_streams)
        self._room: list[int] = []
        self._share_beside = min(limits.send_share, limits.send_share_beside)
        # Set from outside: whether to move small pieces, for the sake of small exchanges beside transfers.
        self.considerate = False

    def __repr__(self) -> str:
        role = "client" if self._table.parity else "server"
        return f"Multiplexer({role}, streams={len(self._active)}, pool={self._table.pool!r})"

    # -- streams -------------------------------------------------------------------------------

    @property
    def active_streams(self) -> int:
        """Streams that are open, or whose received bytes are not all consumed."""
        return len(self._active)

    @property
    def in_company(self) -> bool:
        """Small exchanges come beside transfers."""
        return self._table.company.present

    @property
    def in_company_of_few(self) -> bool:
        return self._table.company.of_few

    @property
    def streams(self) -> KeysView[int]:
        return self._active.keys()

    def open_stream(self, kind: StreamKind, fields: Mapping[int, bytes] | None = None) -> int:
        """Open a stream and return its id; OPEN leaves with the next pull. Raises ``NoRoom`` or ``GoingAway``."""
        table = self._table
        if self._receiver.peer_going:
            raise GoingAway("the peer takes no new streams", code="going_away")
        if table.mine >= self._peer_max_streams:
            raise NoRoom(f"all {self._peer_max_streams} streams are in use", code="no_room")
        encoded = encode_fields(fields) if fields else b""
        window = table.pool.open_window(first=True)
        if window is None:
            raise NoRoom("no memory is left for another stream", code="no_room")
        return table.add_mine(kind, encoded, window, self._peer_floor)

    @property
    def last_sent(self) -> int:
        """The id of the last stream of ours whose OPEN was pulled into a message; they leave in the order of ids."""
        return self._table.highest_sent

    def was_sent(self, stream_id: int) -> bool:
        """OPEN was pulled into a message (True too for streams of the peer)."""
        return self._table.was_sent(stream_id)

    def withdraw(self, stream_id: int) -> bool:
        """Let a stream vanish whose OPEN was never pulled. False when it was, or the stream is over: ``reset`` it."""
        stream = self._table.find(stream_id)
        if stream is None or stream.opening is None:
            return False
        self._table.remove(stream)
        return True

    def reset(self, stream_id: int, code: int) -> None:
        """End both halves at once and drop what waits. Of a stream that was never sent no trace is left."""
        stream = self._table.find(stream_id)
        if stream is not None:
            self._table.abandon(stream, code)

    def goaway(self, code: int = 0) -> None:
        """Refuse the streams that the peer opens from now on. The second call changes nothing."""
        if not self._receiver.refusing:
            self._receiver.refusing = True
            self._control.add_goaway(encode_goaway(self._table.highest_peer, code))

    def close(self) -> None:
        """The session is gone: give everything back. No event is made; the driver knows its streams."""
        for stream in list(self._active.values()):
            self._table.remove(stream)
        self._control.clear()

    # -- sending -------------------------------------------------------------------------------

    def send_room(self, stream_id: int) -> int:
        """Bytes that the stream's send buffer takes now, 0 when it is closed for sending. After the 0 of a full
        buffer a ``Room`` event follows."""
        stream = self._active.get(stream_id) or self._table.find(stream_id)
        if stream is None or stream.local is not OPENED:
            return 0
        room = self._room_of(stream)
        if not room:
            self._table.starved[stream_id] = None
        return room

    def _room_of(self, stream: Stream) -> int:
        limits = self._limits
        room = limits.send_buffer - stream.buffered
        # Few streams fill messages of any size; each may have half of what the others left of the session's share.
        # Less of it than a buffer of its own is none: it would only cut up what can leave whole.
        most = self._share_beside if self.considerate else limits.send_share
        share = (most - self._table.sending - stream.charged) // 2
        if share > room and share >= limits.send_buffer:
            room = share
        # Near exhaustion only the floor for sending is left, the least turn's worth, which is reserved.
        affordable = max(0, limits.frame_payload - stream.buffered) + self._budget.spare
        if affordable < room:
            room = affordable
        return room if room > 0 else 0

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
        stream = self._table.find(stream_id)
        if stream is not None:
            move_local(stream, _SEND_FIN)
            self._turns.add(stream)

    def _send(self, stream_id: int, code: int, data: Buffer, fin: bool) -> None:
        stream = self._active.get(stream_id) or self._table.find(stream_id)
        if stream is None:
            return
        move = _SEND_FIN if fin else _SEND
        half = LOCAL_MOVES[stream.local].get(move)
        if half is None:
            raise illegal_local(stream, move)
        stream.local = half
        size = len(data)
        stream.buffered += size
        out = stream.out
        if out and code == DATA and size < _SMALL_SEND:
            last, waiting = out[-1]
            if last == DATA and len(waiting) < _SMALL_SEND:
                out.pop()
                data = b"".join((waiting, data))
        out.append((code, data))
        if stream.buffered > self._limits.frame_payload:
            self._table.count_sending(stream)
        if not stream.queued:
            self._turns.add(stream)

    # -- frames out ----------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        return self._control.waiting or self._turns.size > 0

    @property
    def has_control(self) -> bool:
        return self._control.waiting

    def control_to_send(self, limit: int) -> list[Buffer]:
        """Control frames of at most ``limit`` bytes together."""
        pieces: list[Buffer] = []
        self._control.pull(pieces, limit)
        return pieces

    def frames_to_send(self, limit: int, turn: int = 0) -> list[Buffer]:
        """Whole frames, in pieces, of at most ``limit`` bytes together. A limit of 2,100 always makes progress.
        ``turn``: what one of several streams may have in a row, at least ``limits.frame_payload``."""
        pieces: list[Buffer] = []
        table, turns = self._table, self._turns
        before = limit
        if self._control.waiting:
            limit -= self._control.pull(pieces, limit)
        message = limit  # nothing waits for more room than control frames leave: they may come in each
        least = self._limits.frame_payload
        if turn < least:
            turn = least
        while turns.size and (limit > SCRAP or not pieces):
            stream, used = turns.serve(pieces, limit, turn, message)
            if stream is None:
                break
            limit -= used
            if used >= LARGE:
                table.company.pieces += 1
            if stream.mine and stream.id > table.highest_sent:
                table.highest_sent = stream.id
            if stream.charged:
                table.count_sending(stream)
            if stream.local is CLOSED:
                if stream.remote is CLOSED and stream.finished:
                    table.finish(stream)
            elif table.starved:
                self._check_room(stream)
        table.company.moved(before - limit)
        return pieces

    def take_room_events(self) -> list[Room]:
        """The streams whose full send buffers have room again since the last call."""
        if not self._room:
            return []
        streams = [stream for stream_id in self._room if (stream := self._active.get(stream_id)) is not None]
        self._room = []
        return [Room(stream.id) for stream in streams if stream.local is OPENED]

    def _check_room(self, stream: Stream) -> None:
        starved = self._table.starved
        if stream.id in starved and stream.buffered * 2 <= self._limits.send_buffer and self._room_of(stream):
            del starved[stream.id]
            self._room.append(stream.id)

    # -- frames in -----------------------------------------------------------------------------

    def receive_data(self, data: bytes | memoryview, now: float) -> list[Event]:
        """The events in bytes of the session. Raises ``RemoteProtocolError``: the session is to be ended.

        A stream that is opened and reset within one call leaves no event at all (hazard 10).
        """
        self._table.company.moved(len(data))
        return self._receiver.receive(data, now)

    def consume(self, stream_id: int, n: int) -> bool:
        """The application used ``n`` bytes of the stream's data. Credit is granted on this alone. True when there is
        a credit to be sent for it."""
        stream = self._active.get(stream_id) or self._table.find(stream_id)
        if stream is None:
            return False
        window = stream.window
        if not 0 <= n <= window.received - window.consumed:
            raise LocalProtocolError(f"{n} bytes consumed on stream {stream_id}, which holds {window.held}")
        grants = window.consume(n)
        if grants:
            self._control.add_credit(stream)
        if stream.local is CLOSED and stream.remote is CLOSED and window.consumed == window.received:
            self._table.finish(stream)
        return grants
