"""The sending half of a session: what goes into the next DATA message.

Bytes that must go out again come first, then new ones from the source. A full replay buffer stops the source, but
for control frames: credit must get out, or two full pipes would wait for each other.
"""

from __future__ import annotations

from typing import Final, Protocol

from ..config import SMALLEST_WINDOW, Limits
from ..errors import RemoteProtocolError
from .message import CONTROL_ALLOWANCE, HEADER_SIZE, Buffer, Kind, build
from .pace import Pace
from .replay import Budget, ReplayBuffer, ReplayShare

__all__ = ["LEAST_CONTROL_ROOM", "LEAST_ROOM", "FrameSource", "Outbound"]

# Less room than this counts as none: a full buffer is not topped up by crumbs, and whatever waits in the
# multiplexer (an OPEN has up to 2,060 bytes, a control frame 20) goes out whole.
LEAST_ROOM: Final = 2304
LEAST_CONTROL_ROOM: Final = 64
_DATA: Final = int(Kind.DATA)


class FrameSource(Protocol):
    """Where new bytes come from: ``core.multiplexer.Multiplexer``."""

    @property
    def has_output(self) -> bool: ...

    @property
    def has_control(self) -> bool: ...

    def frames_to_send(self, limit: int, turn: int) -> list[Buffer]: ...

    def control_to_send(self, limit: int) -> list[Buffer]: ...


class Outbound:
    """Every byte below ``replay.end`` was put into a message, every one below ``replay.acked`` has arrived.

    What was put into a message counts as sent whatever becomes of it: if it is lost, so is its connection.
    """

    __slots__ = ("_began", "_control_reserve", "_share", "_source", "_starved", "pace", "replay")

    def __init__(self, source: FrameSource, limits: Limits, window: int, budget: Budget | None) -> None:
        if window < SMALLEST_WINDOW:
            raise RemoteProtocolError(f"a window of {window} bytes is too small", code="bad_window")
        self._source = source
        self.replay = ReplayBuffer(min(limits.replay_limit, window))
        self.pace = Pace(limits)
        self._share = ReplayShare(budget, max(limits.replay_floor, LEAST_ROOM))
        self._starved = False  # the budget gave nothing and the floor is full: the next ack gives room
        self._control_reserve = min(limits.control_reserve, CONTROL_ALLOWANCE)
        self._began = 0  # what the peer had when the connection was attached

    @property
    def has_output(self) -> bool:
        """Whether ``message`` would give one."""
        replay = self.replay
        if replay.pointer < replay.end:
            return not self._held_back()
        source = self._source
        if not source.has_output:
            return False
        if replay.room >= LEAST_ROOM and not self._starved and not (self.pace.in_flight.bytes and self._held_back()):
            return True
        return source.has_control and self._control_room() >= LEAST_CONTROL_ROOM

    def attach(self, peer_ack: int, max_message: int) -> None:
        """A new connection, whose peer has everything below ``peer_ack``: the rest goes out again."""
        if not self.replay.acked <= peer_ack <= self.replay.end:
            raise RemoteProtocolError(
                f"the peer has {peer_ack} bytes, not between {self.replay.acked} and {self.replay.end}",
                code="bad_ack",
            )
        self._take_ack(peer_ack)
        self.replay.rewind()
        self._began = peer_ack
        self.pace.attached(peer_ack, max_message)

    def detach(self) -> None:
        """The connection is over."""
        began, replay = self._began, self.replay
        self.pace.detached(stuck=replay.pointer > began and replay.acked == began)

    def clear(self) -> None:
        """The session is gone: let go of memory and budget."""
        self.replay.clear()
        self._share.settle(0)

    def acknowledge(self, ack: int, now: float) -> None:
        """An ack above the last one."""
        if ack > self.replay.end:
            raise RemoteProtocolError(f"{ack} acknowledged, {self.replay.end} sent", code="bad_ack")
        self._take_ack(ack)
        self.pace.acknowledged(ack, now)

    def message(self, epoch: int, ack: int, now: float, limit: int, at_once: int | None = None) -> bytes:
        """The next DATA message, at most ``limit`` bytes, or ``b""``. ``at_once``: see ``Pace.sent``."""
        size = self.pace.message_size  # which keeps to the connection's largest
        room = (limit if limit < size else size) - HEADER_SIZE
        replay = self.replay
        if replay.pointer < replay.end:
            return b"" if self._held_back() else self._old_bytes(epoch, ack, now, room, at_once)
        if self._source.has_output:
            return self._new_bytes(epoch, ack, now, room, at_once)
        return b""

    def _take_ack(self, ack: int) -> None:
        replay = self.replay
        replay.acknowledge(ack)
        self._share.settle(replay.end - ack)
        self._starved = False

    def _old_bytes(self, epoch: int, ack: int, now: float, room: int, at_once: int | None) -> bytes:
        replay = self.replay
        message = build(_DATA, epoch, replay.pointer, ack, replay.take(room))
        self.pace.sent(replay.pointer, now, busy=replay.pending, at_once=at_once)
        return message

    def _new_bytes(self, epoch: int, ack: int, now: float, room: int, at_once: int | None) -> bytes:
        pieces = self._pull(room)
        if not pieces:
            return b""
        replay = self.replay
        message = build(_DATA, epoch, replay.end, ack, pieces)
        replay.append(memoryview(message)[HEADER_SIZE:])
        self.pace.sent(replay.end, now, busy=self._source.has_output, at_once=at_once)
        return message

    def _pull(self, room: int) -> list[Buffer]:
        replay = self.replay
        space = replay.room
        if space >= LEAST_ROOM and not (self.pace.in_flight.bytes and self._held_back()):
            wanted = room if room < space else space
            allowed = self._share.allow(replay.end - replay.acked, wanted)
            if allowed >= min(wanted, LEAST_ROOM):
                return self._source.frames_to_send(allowed, self.pace.turn)
            self._starved = True
        control = self._control_room()
        if self._source.has_control and control >= LEAST_CONTROL_ROOM:
            return self._source.control_to_send(min(room, control))
        return []

    def _held_back(self) -> bool:
        """Whether enough is on its way at present."""
        return self.pace.holds_back(self.replay.pointer - self.replay.acked)

    def _control_room(self) -> int:
        """What control frames may use though the buffer is full: of the peer's window, and of our memory."""
        replay = self.replay
        return self._share.bound(replay.limit) + self._control_reserve - replay.end + replay.acked
