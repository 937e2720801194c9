"""Session: a reliable, ordered byte stream in each direction, over connections that come and go.

Sans-IO. Every byte of a direction has an absolute offset. What was sent stays in the replay buffer until the peer
acknowledges it, and goes out again on the next connection; what the peer repeats is dropped by its offset. So a
message that was pulled and never sent, or sent and lost, or sent twice, changes nothing in what the ends read.

The session pulls new bytes from its *source* (the multiplexer) only when the link asks for a message.

=========  ==============================================================================
DETACHED   no connection; the start. Nothing goes out; late messages of an old one are ignored
ATTACHED   messages pass
CLOSING    ``close`` was called; only BYE goes out
GONE       the end: BYE was pulled or received, or the session cannot resume
=========  ==============================================================================
"""

from __future__ import annotations

from enum import Enum, auto
from math import inf
from typing import Final, Protocol

from ..config import Limits
from ..errors import LocalProtocolError, RemoteProtocolError
from .liveness import LIVE_PING_LIMIT, ConnectionFailed, Liveness
from .message import (
    CONTROL_ALLOWANCE,
    HEADER_SIZE,
    MAX_EPOCH,
    Buffer,
    Header,
    Kind,
    build,
    check_known,
    decode_bye,
    encode_bye,
    pack_header,
    split_header,
)
from .pace import Pace
from .reorder import EarlyBytes
from .replay import Budget, ReplayBuffer, ReplayShare

__all__ = ["TRANSITIONS", "ConnectionFailed", "FrameSource", "Input", "Session", "State"]


class FrameSource(Protocol):
    """Where new bytes come from: ``core.multiplexer.Multiplexer``."""

    @property
    def has_output(self) -> bool: ...

    @property
    def has_control(self) -> bool: ...

    def frames_to_send(self, limit: int) -> list[Buffer]: ...

    def control_to_send(self, limit: int) -> list[Buffer]: ...


class State(Enum):
    DETACHED = auto()
    ATTACHED = auto()
    CLOSING = auto()
    GONE = auto()


class Input(Enum):
    ATTACH = auto()
    REFUSE = auto()  # an ATTACH with an impossible ack
    DETACH = auto()
    CLOSE = auto()
    SEND_BYE = auto()
    RECEIVE_BYE = auto()


# A missing pair is an illegal move: LocalProtocolError, and nothing changes. Closing twice is closing once. A link
# that winds down detaches a session that BYE ended meanwhile. Detaching twice is a link that does not know whether
# it is fenced: it could take the session from its successor.
TRANSITIONS: Final = {
    (State.DETACHED, Input.ATTACH): State.ATTACHED,
    (State.DETACHED, Input.REFUSE): State.GONE,
    (State.DETACHED, Input.CLOSE): State.GONE,
    (State.ATTACHED, Input.DETACH): State.DETACHED,
    (State.ATTACHED, Input.CLOSE): State.CLOSING,
    (State.ATTACHED, Input.RECEIVE_BYE): State.GONE,
    (State.CLOSING, Input.CLOSE): State.CLOSING,
    (State.CLOSING, Input.SEND_BYE): State.GONE,
    (State.CLOSING, Input.DETACH): State.GONE,
    (State.GONE, Input.CLOSE): State.GONE,
    (State.GONE, Input.DETACH): State.GONE,
}

# Less room than this counts as none, or a full buffer would be topped up by crumbs.
_LEAST_ROOM: Final = 1024
# Payloads up to this size are copied out of their message: cheaper than a view.
_COPY_BELOW: Final = 4096
_ACKS_PER_WINDOW: Final = 8


class Session:
    """One end of a session.

    ``source`` gives the bytes to send. ``peer_window`` is the grant's ``replay_window``, the same number at both
    ends: how far either may send beyond what was received. ``budget`` is shared by all sessions of the process.
    """

    def __init__(self, *, source: FrameSource, limits: Limits, peer_window: int, budget: Budget | None) -> None:
        self.source = source
        self.received = 0  # every byte below this offset was handed out
        self.peer_bye: str | None = None  # the code of the peer's BYE
        self._limits = limits
        self._state = State.DETACHED
        self._epoch = 0
        self._bye: bytes | None = None
        window = min(limits.replay_limit, peer_window)
        self._replay = ReplayBuffer(window)
        self._share = ReplayShare(budget, limits.replay_floor)
        self._starved = False  # the budget gave nothing, and the floor is full
        self._least_room = min(_LEAST_ROOM, window // 4)
        self._receive_window = peer_window + CONTROL_ALLOWANCE
        self._early = EarlyBytes(limits.replay_limit + CONTROL_ALLOWANCE)
        self._pace = Pace(limits)
        self._liveness = Liveness(limits)
        self._owed = 0  # bytes received since our last ack
        self._owed_limit = max(1, window // _ACKS_PER_WINDOW)
        self._ack_due = False
        self._ack_deadline = inf
        self._gap_deadline = inf
        self._timer: float | None = None
        self._max_message = 0
        self._ordered = True
        self._attach_marks = (0, 0)

    # -- what the link may look at ---------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    @property
    def epoch(self) -> int:
        """Of the last connection that was attached; 0 before the first."""
        return self._epoch

    @property
    def sent(self) -> int:
        """Every byte below this offset was put into a message."""
        return self._replay.end

    @property
    def acked(self) -> int:
        """Every byte below this offset was received by the peer."""
        return self._replay.acked

    @property
    def progressed(self) -> bool:
        """Whether this connection moved an offset, either way."""
        return self._attach_marks != (self._replay.acked, self.received)

    @property
    def round_trip(self) -> float | None:
        """Smoothed, in seconds; None before the first sample. Acks may add ``ack_delay`` to it."""
        return self._pace.round_trip

    @property
    def active(self) -> bool:
        """Whether exchanges run: then silence is asked about sooner. Setting it may bring ``next_timer`` forward."""
        return self._liveness.active

    @active.setter
    def active(self, active: bool) -> None:
        if active != self._liveness.active:
            self._liveness.active = active
            self._arm(self._liveness.deadline)

    @property
    def has_output(self) -> bool:
        """Whether ``data_to_send`` has something now; cheap."""
        if self._state is not State.ATTACHED:
            return self._state is State.CLOSING
        if self._ack_due or self._liveness.due or self._liveness.pong is not None or self._replay.pending:
            return True
        source = self.source
        if not source.has_output:
            return False
        if self._replay.room >= self._least_room and not self._starved:
            return True
        return source.has_control and self._control_room() >= self._least_room

    def __repr__(self) -> str:
        return (
            f"<Session {self._state.name} epoch {self._epoch} received {self.received} "
            f"sent {self._replay.end} acked {self._replay.acked}>"
        )

    # -- connections come and go -----------------------------------------------------------------

    def attach(
        self,
        epoch: int,
        peer_ack: int,
        now: float,
        *,
        max_message: int,
        ordered: bool = True,
        pings: bool = True,
    ) -> None:
        """Use a new connection, whose opening said that the peer has everything below ``peer_ack``.

        What it has not goes out again. Raises ``RemoteProtocolError`` when ``peer_ack`` is impossible: the ends
        disagree about the past, the session is gone.
        """
        state = self._after(Input.ATTACH)
        if not self._epoch < epoch <= MAX_EPOCH:
            raise LocalProtocolError(f"epoch {epoch} does not follow {self._epoch}", code="bad_epoch")
        if not self._replay.acked <= peer_ack <= self._replay.end:
            self._end(Input.REFUSE)
            raise RemoteProtocolError(
                f"the peer has {peer_ack} bytes, not between {self._replay.acked} and {self._replay.end}",
                code="bad_ack",
            )
        self._state = state
        self._epoch = epoch
        self._max_message = max_message
        self._ordered = ordered
        self._acknowledged(peer_ack, now)
        self._replay.rewind()
        self._attach_marks = (peer_ack, self.received)
        self._pace.attached(peer_ack, max_message)
        self._liveness.start(now, pings=pings)
        self._timer = None
        self._arm(self._liveness.deadline)

    def detach(self, now: float) -> None:
        """The connection is lost or given up. Bytes stay; what belonged to the connection is forgotten."""
        state = self._after(Input.DETACH)
        if self._state is State.CLOSING:
            self._end(Input.DETACH)
        elif self._state is State.ATTACHED:
            self._pace.detached(progress=self.progressed)
            self._forget_connection()
        self._state = state

    def close(self, code: str, now: float) -> None:
        """End the session: BYE with ``code`` is the last message that goes out, at once."""
        bye = encode_bye(code)
        state = self._after(Input.CLOSE)
        if self._state is State.DETACHED:
            self._end(Input.CLOSE)
        elif self._state is State.ATTACHED:
            self._bye = bye
        self._state = state
        self._timer = None

    # -- messages --------------------------------------------------------------------------------

    def receive_message(self, message: bytes, now: float) -> list[bytes | memoryview]:
        """One message in; the bytes of the stream that are new and in order out.

        Raises ``RemoteProtocolError``: the connection is to be dropped; the session may resume on another. In
        any state but ATTACHED the message comes late and is ignored.
        """
        if self._state is not State.ATTACHED:
            return []
        header = split_header(message)
        kind, flags, reserved, epoch, offset, ack = header
        if (kind != Kind.DATA or flags or reserved) and not check_known(header):
            return []
        if epoch != self._epoch:
            return self._other_epoch(epoch)
        if ack > self._replay.acked:
            self._check_ack(ack)
            self._acknowledged(ack, now)
        if kind == Kind.DATA:
            return self._receive_data(message, offset, now)
        self._receive_control(header, message, now)
        return []

    def data_to_send(self, now: float, limit: int) -> bytes:
        """The next message, at most ``limit`` bytes, or ``b""``. Every message carries our ack.

        Pulled bytes count as sent, whatever becomes of the message: if it is lost, so is its connection, and they
        go out again on the next.
        """
        if self._state is not State.ATTACHED:
            return self._farewell()
        liveness = self._liveness
        if liveness.pong is not None:
            message = self._bare(Kind.PONG, liveness.write_pong())
        elif liveness.due:
            message = self._bare(Kind.PING, liveness.write_ping(now))
        else:
            message = self._stream_message(now, limit)
            if not message and self._ack_due:
                message = self._bare(Kind.ACK)
        if message:
            self._owed = 0
            self._ack_due = False
            self._ack_deadline = inf
        return message

    # -- time ------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When ``handle_timer`` is to be called, at the latest; never too late, sometimes early."""
        return self._timer

    def handle_timer(self, now: float, last_received: float) -> None:
        """Time has passed; ``last_received`` is when the connection's last byte came, any byte.

        ``has_output`` may be true afterwards. Raises ``ConnectionFailed``.
        """
        if self._state is not State.ATTACHED:
            self._timer = None
            return
        if now >= self._gap_deadline:
            raise ConnectionFailed(f"bytes at {self.received} are missing", code="gap_timeout")
        if now >= self._ack_deadline:
            self._ack_deadline = inf
            self._ack_due = True
        self._liveness.check(now, last_received)
        self._timer = None
        self._arm(min(self._ack_deadline, self._gap_deadline, self._liveness.deadline))

    # -- receiving -------------------------------------------------------------------------------

    def _receive_data(self, message: bytes, offset: int, now: float) -> list[bytes | memoryview]:
        size = len(message) - HEADER_SIZE
        received = self.received
        if not size:
            raise RemoteProtocolError("DATA without a byte", code="empty_data")
        if offset + size > received + self._receive_window:
            raise RemoteProtocolError(f"offset {offset} lies beyond the window", code="bad_offset")
        if offset > received and self._ordered:
            raise RemoteProtocolError(f"bytes from {received} to {offset} are missing", code="gap")
        self._owe(size, now)
        if offset > received:
            self._keep_early(message, offset, now)
            return []
        start = HEADER_SIZE + received - offset
        if start >= len(message):
            return []
        self.received = offset + size
        fresh = message[start:] if size < _COPY_BELOW else memoryview(message)[start:]
        if self._early:
            return [fresh, *self._ripe_early(now)]
        return [fresh]

    def _owe(self, size: int, now: float) -> None:
        """An ack is owed for every DATA, repeated ones too: who repeats does not know what we have."""
        self._owed += size
        if self._owed >= self._owed_limit:
            self._ack_due = True
        if self._ack_deadline == inf:
            self._ack_deadline = now + self._limits.ack_delay
            self._arm(self._ack_deadline)

    def _keep_early(self, message: bytes, offset: int, now: float) -> None:
        if not self._early:
            self._gap_deadline = now + self._limits.gap_timeout
            self._arm(self._gap_deadline)
        self._early.add(offset, memoryview(message)[HEADER_SIZE:])

    def _ripe_early(self, now: float) -> list[bytes]:
        """``received`` moved: the gap is filled, or the next one begins now."""
        self.received, ready = self._early.take(self.received)
        self._gap_deadline = now + self._limits.gap_timeout if self._early else inf
        return ready

    def _receive_control(self, header: Header, message: bytes, now: float) -> None:
        kind = header[0]
        payload = message[HEADER_SIZE:]
        if kind == Kind.BYE:
            self.peer_bye = decode_bye(payload)
            self._end(Input.RECEIVE_BYE)
        elif kind == Kind.PING:
            self._liveness.pong = _echo(payload)
        elif kind == Kind.PONG:
            self._receive_pong(payload, now)
        elif kind == Kind.ACK:
            if payload:
                raise RemoteProtocolError("ACK has no payload", code="bad_ack")
        elif self._ordered:
            # Without order, the answer to ATTACH may come behind what it allowed, or come twice.
            raise RemoteProtocolError("ATTACH on a connection that is attached", code="unexpected_attach")

    def _receive_pong(self, payload: bytes, now: float) -> None:
        sample = self._liveness.answered(_echo(payload), now)
        if sample is not None:
            self._pace.observe_round_trip(sample)

    def _other_epoch(self, epoch: int) -> list[bytes | memoryview]:
        """Only a connection without order can carry a straggler from before ATTACH."""
        if epoch > self._epoch or self._ordered:
            raise RemoteProtocolError(f"epoch {epoch} on a connection of epoch {self._epoch}", code="bad_epoch")
        return []

    def _check_ack(self, ack: int) -> None:
        if ack > self._replay.end:
            raise RemoteProtocolError(f"{ack} acknowledged, {self._replay.end} sent", code="bad_ack")

    def _acknowledged(self, ack: int, now: float) -> None:
        replay = self._replay
        replay.acknowledge(ack)
        self._share.settle(replay.end - ack)
        self._starved = False
        self._pace.acknowledged(ack, now)

    # -- sending ---------------------------------------------------------------------------------

    def _stream_message(self, now: float, limit: int) -> bytes:
        room = min(limit, self._max_message, self._pace.size) - HEADER_SIZE
        replay = self._replay
        if replay.pending:
            message = build(Kind.DATA, self._epoch, replay.pointer, self.received, replay.take(room))
            self._pace.sent(replay.pointer, now, busy=replay.pending)
            return message
        if not self.source.has_output:
            return b""
        pieces = self._pull(room)
        if not pieces:
            return b""
        message = b"".join((pack_header(Kind.DATA, self._epoch, replay.end, self.received), *pieces))
        replay.append(memoryview(message)[HEADER_SIZE:])
        self._pace.sent(replay.end, now, busy=self.source.has_output)
        return message

    def _pull(self, room: int) -> list[Buffer]:
        """New pieces from the source, or only control frames when the replay buffer is full."""
        replay, source = self._replay, self.source
        space = replay.room
        if space >= self._least_room:
            space = self._share.allow(replay.end - replay.acked, min(room, space))
            if space >= min(room, self._least_room):
                return source.frames_to_send(space)
            self._starved = True
        control = self._control_room()
        if source.has_control and control >= self._least_room:
            return source.control_to_send(min(room, control))
        return []

    def _control_room(self) -> int:
        """What control frames may use of the peer's window when the buffer is full."""
        replay = self._replay
        return replay.limit + min(self._limits.control_reserve, CONTROL_ALLOWANCE) - replay.end + replay.acked

    def _bare(self, kind: Kind, payload: bytes = b"") -> bytes:
        return build(kind, self._epoch, 0, self.received, (payload,))

    def _farewell(self) -> bytes:
        bye = self._bye
        if self._state is not State.CLOSING or bye is None:
            return b""
        message = self._bare(Kind.BYE, bye)
        self._end(Input.SEND_BYE)
        return message

    # -- state -----------------------------------------------------------------------------------

    def _after(self, move: Input) -> State:
        state = TRANSITIONS.get((self._state, move))
        if state is None:
            raise LocalProtocolError(f"{move.name} is no move for a session that is {self._state.name}")
        return state

    def _end(self, move: Input) -> None:
        """The session is gone: let go of all it held."""
        self._state = self._after(move)
        self._forget_connection()
        self._replay.clear()
        self._share.settle(0)
        self._bye = None

    def _forget_connection(self) -> None:
        self._early.clear()  # not acknowledged: the peer sends them again
        self._liveness.stop()
        self._owed = 0
        self._ack_due = False
        self._ack_deadline = self._gap_deadline = inf
        self._timer = None

    def _arm(self, when: float) -> None:
        """Bring the timer forward. It is never put off: an early call costs less than keeping it exact."""
        if when != inf and (self._timer is None or when < self._timer):
            self._timer = when


def _echo(payload: bytes) -> bytes:
    if len(payload) > LIVE_PING_LIMIT:
        raise RemoteProtocolError("the payload of a PING or PONG is too long", code="ping_too_long")
    return payload
