"""Session: a reliable, ordered byte stream in each direction, over connections that come and go.

Sans-IO. Every byte of a direction has an absolute offset. What was sent stays in the replay buffer until the peer
acknowledges it, and goes out again on the next connection; what the peer repeats is dropped by its offset. So a
message that was pulled and never sent, or sent and lost, or sent twice, changes nothing in what the ends read.

The session pulls new bytes from its *source* (the multiplexer) only when the link asks for a message.

DETACHED   no connection: the start. Nothing goes out; late messages of an old connection are ignored.
ATTACHED   messages pass.
CLOSING    ``close`` was called: only BYE goes out.
GONE       the end: BYE was pulled or received, or the session cannot resume.
"""

from __future__ import annotations

from enum import Enum, auto
from math import inf
from typing import Final

from ..config import Limits
from ..errors import LocalProtocolError, RemoteProtocolError
from .inbound import Inbound
from .liveness import LIVE_PING_LIMIT, Liveness
from .message import HEADER_SIZE, MAX_EPOCH, Kind, build, check_known, decode_bye, encode_bye, split_header
from .outbound import FrameSource, Outbound
from .replay import Budget

__all__ = ["TRANSITIONS", "FrameSource", "Input", "Session", "State"]


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

# Enum members looked up once: these stand on the path of every message.
_ATTACHED: Final = State.ATTACHED
_DATA: Final = int(Kind.DATA)


class Session:
    """One end of a session.

    ``source`` gives the bytes to send. ``peer_window`` is the grant's ``replay_window``, the same number at both
    ends: how far either may send beyond what was received. ``budget`` is shared by all sessions of the process;
    what a session holds above ``limits.replay_floor`` is taken from it (the floor itself is reserved by whoever
    makes sessions).
    """

    def __init__(self, *, source: FrameSource, limits: Limits, peer_window: int, budget: Budget | None) -> None:
        self.peer_bye: str | None = None  # the code of the peer's BYE
        self.state = State.DETACHED  # changed here alone, by TRANSITIONS
        self._epoch = 0
        self._ordered = True
        self._bye = b""
        self._inbound = Inbound(limits, peer_window)
        self._outbound = Outbound(source, limits, peer_window, budget)
        self._liveness = Liveness(limits)
        self._timer = inf
        self._marks = (0, 0)  # acked and received when the connection was attached
        self._answered = False  # a ping of this connection was

    def __repr__(self) -> str:
        return (
            f"<Session {self.state.name} epoch {self._epoch} received {self.received} "
            f"sent {self.sent} acked {self.acked}>"
        )

    # -- what the link may look at ---------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Of the last connection that was attached; 0 before the first."""
        return self._epoch

    @property
    def received(self) -> int:
        """Every byte below this offset was handed out."""
        return self._inbound.received

    @property
    def sent(self) -> int:
        """Every byte below this offset was put into a message."""
        return self._outbound.replay.end

    @property
    def acked(self) -> int:
        """Every byte below this offset was received by the peer."""
        return self._outbound.replay.acked

    @property
    def progressed(self) -> bool:
        """Whether this connection moved an offset, either way, or brought the answer to a ping."""
        return self._answered or self._marks != (self.acked, self.received)

    @property
    def round_trip(self) -> float | None:
        """Smoothed, in seconds; None before the first sample. Where acks gave it, ``ack_delay`` may be in it."""
        return self._outbound.pace.round_trip

    @property
    def active(self) -> bool:
        """Whether exchanges run: then silence is asked about sooner. Setting it may bring ``next_timer`` forward."""
        return self._liveness.active

    @active.setter
    def active(self, active: bool) -> None:
        liveness = self._liveness
        if active is not liveness.active:
            liveness.set_active(active)
            if liveness.deadline < self._timer:
                self._timer = liveness.deadline

    @property
    def acks_soon(self) -> bool:
        """Whether small exchanges come beside what is received: acks come sooner, so that less of it may be on its
        way. Setting it may make an ack due."""
        return self._inbound.considerate

    @acks_soon.setter
    def acks_soon(self, soon: bool) -> None:
        self._inbound.considerate = soon

    @property
    def sends_little(self) -> bool:
        """Whether few small exchanges come beside what is sent: then less of it is on its way."""
        return self._outbound.pace.in_flight.considerate

    @sends_little.setter
    def sends_little(self, little: bool) -> None:
        self._outbound.pace.in_flight.considerate = little

    def ask(self) -> None:
        """Write a PING with the next message, whatever the clocks say; its answer is a sign of life."""
        if self.state is State.ATTACHED:
            self._liveness.due = True

    @property
    def has_output(self) -> bool:
        """Whether ``data_to_send`` has something now."""
        if self.state is not _ATTACHED:
            return self.state is State.CLOSING
        liveness = self._liveness
        return self._inbound.ack_due or liveness.due or liveness.pong is not None or self._outbound.has_output

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
        disagree about the past, and the session is gone.
        """
        state = self._after(Input.ATTACH)
        if not self._epoch < epoch <= MAX_EPOCH:
            raise LocalProtocolError(f"epoch {epoch} does not follow {self._epoch}", code="bad_epoch")
        try:
            self._outbound.attach(peer_ack, max_message)
        except RemoteProtocolError:
            self._end(Input.REFUSE)
            raise
        self.state = state
        self._epoch = epoch
        self._ordered = ordered
        self._marks = (self.acked, self.received)
        self._answered = False
        self._liveness.start(now, pings=pings)
        self._timer = self._liveness.deadline

    def detach(self, now: float) -> None:
        """The connection is lost or given up. Bytes stay; what belonged to the connection is forgotten."""
        state = self._after(Input.DETACH)
        if state is not State.DETACHED:
            self._end(Input.DETACH)
            return
        self.state = state
        self._outbound.detach()
        self._forget_connection()

    def close(self, code: str, now: float) -> None:
        """End the session: BYE with ``code`` goes out next, and is the last message."""
        bye = encode_bye(code)
        state = self._after(Input.CLOSE)
        if state is State.GONE:
            self._end(Input.CLOSE)
        elif self.state is not state:
            self.state = state
            self._bye = bye
            self._forget_connection()

    # -- messages --------------------------------------------------------------------------------

    def receive_message(self, message: bytes, now: float) -> list[bytes | memoryview]:
        """One message in; the bytes of the stream that are new and in order out.

        Raises ``RemoteProtocolError`` when the peer broke a rule; nothing of the message was handed out. In any
        state but ATTACHED the message comes late and is ignored.
        """
        if self.state is not _ATTACHED:
            return []
        header = split_header(message)
        kind, flags, reserved, epoch, offset, ack = header
        if (kind != _DATA or flags or reserved) and not check_known(header):
            return []
        if epoch != self._epoch:
            return self._other_epoch(epoch)
        if ack > self._outbound.replay.acked:
            self._outbound.acknowledge(ack, now)
        if kind != _DATA:
            self._receive_control(Kind(kind), message[HEADER_SIZE:], now)
            return []
        inbound = self._inbound
        fresh = inbound.receive(message, offset, now, ordered=self._ordered)
        if inbound.deadline < self._timer:
            self._timer = inbound.deadline
        return fresh

    def data_to_send(self, now: float, limit: int, at_once: int | None = None) -> bytes:
        """The next message, at most ``limit`` bytes, or ``b""``. Every message carries our ack. ``at_once``: so many
        leave in a round trip, where one must wait for what becomes of those before.

        Pulled bytes count as sent, whatever becomes of the message: if it is lost, so is its connection, and they
        go out again on the next.
        """
        if self.state is not _ATTACHED:
            return self._farewell()
        inbound, liveness = self._inbound, self._liveness
        if liveness.due or liveness.pong is not None:
            message = self._answer(now)
        else:
            message = self._outbound.message(self._epoch, inbound.received, now, limit, at_once)
            if not message:
                if not inbound.ack_due:
                    return b""
                message = self._bare(Kind.ACK)
        inbound.ack_written()
        return message

    # -- time ------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When ``handle_timer`` is to be called, at the latest: never too late, sometimes early."""
        return None if self._timer == inf else self._timer

    def handle_timer(self, now: float, last_received: float) -> None:
        """Time has passed; ``last_received`` is when the connection's last byte came, any byte.

        ``has_output`` may be true afterwards. Raises ``ConnectionFailed``.
        """
        if self.state is _ATTACHED:
            self._inbound.handle_timer(now)
            self._liveness.check(now, last_received)
            self._timer = min(self._inbound.deadline, self._liveness.deadline)

    # -- inside ----------------------------------------------------------------------------------

    def _receive_control(self, kind: Kind, payload: bytes, now: float) -> None:
        if kind is Kind.BYE:
            self.peer_bye = decode_bye(payload)
            self._end(Input.RECEIVE_BYE)
        elif kind is Kind.PING:
            self._liveness.pong = _echo(payload)
        elif kind is Kind.PONG:
            self._receive_pong(_echo(payload), now)
        elif kind is Kind.ACK:
            if payload:
                raise RemoteProtocolError("ACK has no payload", code="bad_ack")
        elif self._ordered:
            # Without order, the answer to ATTACH may come behind what it allowed, or come twice.
            raise RemoteProtocolError("ATTACH on a connection that is attached", code="unexpected_attach")

    def _receive_pong(self, payload: bytes, now: float) -> None:
        sample = self._liveness.answered(payload, now)
        if sample is not None:
            self._answered = True
            self._outbound.pace.observe_round_trip(sample)

    def _other_epoch(self, epoch: int) -> list[bytes | memoryview]:
        """Only a connection without order can carry a straggler from before ATTACH."""
        if epoch > self._epoch or self._ordered:
            raise RemoteProtocolError(f"epoch {epoch} on a connection of epoch {self._epoch}", code="bad_epoch")
        return []

    def _answer(self, now: float) -> bytes:
        liveness = self._liveness
        if liveness.pong is not None:
            return self._bare(Kind.PONG, liveness.write_pong())
        return self._bare(Kind.PING, liveness.write_ping(now))

    def _farewell(self) -> bytes:
        if self.state is not State.CLOSING:
            return b""
        self._end(Input.SEND_BYE)
        return self._bare(Kind.BYE, self._bye)

    def _bare(self, kind: Kind, payload: bytes = b"") -> bytes:
        return build(kind, self._epoch, 0, self._inbound.received, (payload,))

    def _after(self, move: Input) -> State:
        state = TRANSITIONS.get((self.state, move))
        if state is None:
            raise LocalProtocolError(f"{move.name} is no move for a session that is {self.state.name}")
        return state

    def _end(self, move: Input) -> None:
        """The session is gone: let go of all that it held."""
        self.state = self._after(move)
        self._forget_connection()
        self._outbound.clear()

    def _forget_connection(self) -> None:
        self._inbound.forget()
        self._liveness.stop()
        self._timer = inf


def _echo(payload: bytes) -> bytes:
    if len(payload) > LIVE_PING_LIMIT:
        raise RemoteProtocolError("the payload of a PING or PONG is too long", code="ping_too_long")
    return payload
