"""The streams of a session: which there are, which there were, and how one leaves."""

from __future__ import annotations

from ..config import Limits
from ..errors import LocalProtocolError
from .budget import Budget
from .company import Company
from .credit import CreditPool, ReceiveWindow
from .frames import encode_open
from .scheduler import ControlQueue, TurnQueue
from .streams import CLOSED, Half, Stream

__all__ = ["StreamTable"]


class StreamTable:
    """Shared by the multiplexer and its receiver. Whatever holds memory for a stream is given back in ``remove``."""

    __slots__ = (
        "active",
        "budget",
        "company",
        "control",
        "heads",
        "highest_peer",
        "highest_sent",
        "limits",
        "mine",
        "next_id",
        "parity",
        "pool",
        "sending",
        "starved",
        "turns",
    )

    def __init__(self, *, client: bool, limits: Limits, budget: Budget) -> None:
        self.limits = limits
        self.budget = budget
        self.pool = CreditPool(limits, budget)
        self.company = Company()
        self.control = ControlQueue()
        self.turns = TurnQueue()
        self.active: dict[int, Stream] = {}
        self.mine = 0  # of them opened by us
        self.parity = 1 if client else 0  # of our ids
        self.next_id = 1 if client else 2
        self.highest_sent = 0  # the last id whose OPEN was pulled
        self.highest_peer = 0  # the last id that the peer opened
        self.heads: dict[int, bytearray] = {}  # head blocks that came in part
        self.sending = 0  # bytes that all streams buffer above their floors for sending
        # Streams whose sender was told that there is no room. Its values are nothing: an empty dict takes a quarter
        # of what an empty set does.
        self.starved: dict[int, None] = {}

    # -- coming --------------------------------------------------------------------------------

    def add_mine(self, kind: int, fields: bytes, window: ReceiveWindow, send_limit: int) -> int:
        stream_id = self.next_id
        self.next_id = stream_id + 2
        self.mine += 1
        opening = encode_open(stream_id, kind, window.limit, fields)
        stream = Stream(stream_id, window, send_limit, opening)
        self._add(stream)
        self.turns.add_new(stream)
        return stream_id

    def add_peers(self, stream_id: int, window: ReceiveWindow, send_limit: int) -> None:
        self._add(Stream(stream_id, window, send_limit, None))

    def _add(self, stream: Stream) -> None:
        company = self.company
        company.opened(alone=not self.active)
        stream.streams_before, stream.pieces_before = company.streams, company.pieces
        self.active[stream.id] = stream

    # -- being ---------------------------------------------------------------------------------

    def find(self, stream_id: int) -> Stream | None:
        """The stream, or None when it is over. Raises ``LocalProtocolError`` when it never was."""
        stream = self.active.get(stream_id)
        if stream is None and not self._was_opened(stream_id):
            raise LocalProtocolError(f"stream {stream_id} was never opened")
        return stream

    def _was_opened(self, stream_id: int) -> bool:
        if stream_id & 1 == self.parity:
            return 0 < stream_id < self.next_id
        return 0 < stream_id <= self.highest_peer

    def was_sent(self, stream_id: int) -> bool:
        """The peer knows, or knew, the stream."""
        stream = self.active.get(stream_id)
        if stream is not None:
            return stream.opening is None
        # OPENs leave in the order of ids. (A withdrawn id below a sent one counts as sent: nobody asks.)
        return 0 < stream_id <= (self.highest_sent if stream_id & 1 == self.parity else self.highest_peer)

    def count_sending(self, stream: Stream) -> None:
        """Let the process's budget count what the stream buffers above the floor for sending, which was
        reserved when it opened."""
        above = max(0, stream.buffered - self.limits.frame_payload)
        self.sending += above - stream.charged
        if above > stream.charged:
            self.budget.charge(above - stream.charged)
        else:
            self.budget.release(stream.charged - above)
        stream.charged = above

    # -- leaving -------------------------------------------------------------------------------

    def finish(self, stream: Stream) -> None:
        """Take out a stream that ended in order: nothing of it waits anywhere."""
        self._take_out(stream)
        self.company.ended(stream.window.received + stream.sent, stream.streams_before, stream.pieces_before)

    def _take_out(self, stream: Stream) -> None:
        del self.active[stream.id]
        if stream.mine:
            self.mine -= 1
        stream.window.close()
        if self.starved:
            self.starved.pop(stream.id, None)

    def remove(self, stream: Stream) -> None:
        """Take out a stream at any point of its life."""
        stream.local = stream.remote = Half.GONE
        self.turns.drop(stream)
        self.control.drop_credit(stream)
        self.drop_head(stream.id)
        self.budget.release(stream.charged)
        self.sending -= stream.charged
        self._take_out(stream)

    def abandon(self, stream: Stream, code: int) -> None:
        """End a stream by ourselves. The peer is told if it knows the stream and has not seen it end."""
        tell = stream.opening is None and not (stream.local is CLOSED and stream.remote is CLOSED)
        self.remove(stream)
        if tell:
            self.control.add_reset(stream.id, code)

    # -- heads in pieces -----------------------------------------------------------------------

    def keep_head(self, stream_id: int, piece: bytes) -> bool:
        """Keep a piece of a head block. Its credit is granted again before the block is whole, or a block larger than
        the window could never come: so the process's budget counts it meanwhile. False: too large."""
        head = self.heads.setdefault(stream_id, bytearray())
        if len(head) + len(piece) > self.limits.head_block_limit or not self.budget.reserve(len(piece)):
            return False
        head += piece
        return True

    def drop_head(self, stream_id: int) -> bytes:
        """Forget the pieces and return them joined."""
        head = self.heads.pop(stream_id, None)
        if head is None:
            return b""
        self.budget.release(len(head))
        return bytes(head)
