"""Two session cores on a fake link with a virtual clock, and a source of plain bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tunnelkit.config import Limits
from tunnelkit.core.message import Buffer
from tunnelkit.core.session import Session, State

KIB = 1024


class ByteSource:
    """A source without frames: what is written comes out, control bytes before others."""

    def __init__(self) -> None:
        self.control = bytearray()
        self.bulk = bytearray()
        self.turn = 0  # the last that was said

    @property
    def has_output(self) -> bool:
        return bool(self.control or self.bulk)

    @property
    def has_control(self) -> bool:
        return bool(self.control)

    def control_to_send(self, limit: int) -> list[Buffer]:
        piece = bytes(self.control[:limit])
        del self.control[:limit]
        return [piece] if piece else []

    def frames_to_send(self, limit: int, turn: int) -> list[Buffer]:
        self.turn = turn
        pieces = self.control_to_send(limit)
        rest = limit - sum(len(piece) for piece in pieces)
        if rest and self.bulk:
            pieces.append(bytes(self.bulk[:rest]))
            del self.bulk[:rest]
        return pieces


class End:
    """One end: its session, what the application wrote and what it read."""

    def __init__(self, limits: Limits, window: int) -> None:
        self.source = ByteSource()
        self.session = Session(source=self.source, limits=limits, peer_window=window, budget=None)
        self.wrote = bytearray()
        self.read = bytearray()
        self.last_received = 0.0

    def write(self, data: bytes) -> None:
        self.source.bulk += data
        self.wrote += data

    def receive(self, message: bytes, now: float) -> None:
        self.last_received = now
        for piece in self.session.receive_message(message, now):
            self.read += piece


class Pair:
    """A client and a server end. Messages wait in ``wires`` until they are delivered, lost or cut."""

    def __init__(self, limits: Limits | None = None, *, window: int | None = None) -> None:
        self.limits = limits or Limits()
        window = window or self.limits.replay_limit
        self.now = 0.0
        self.epoch = 0
        self.client = End(self.limits, window)
        self.server = End(self.limits, window)
        self.wires: dict[End, deque[bytes]] = {self.client: deque(), self.server: deque()}  # by the receiver

    @property
    def ends(self) -> Sequence[End]:
        return self.client, self.server

    def peer(self, end: End) -> End:
        return self.server if end is self.client else self.client

    def attach(self, *, ordered: bool = True, pings: bool = True, max_message: int = 64 * KIB) -> None:
        """A new connection for both ends, as after ATTACH and its answer; what was under way is lost."""
        self.cut()
        self.epoch += 1
        for end in self.ends:
            end.session.attach(
                self.epoch,
                self.peer(end).session.received,
                self.now,
                max_message=max_message,
                ordered=ordered,
                pings=pings,
            )
            end.last_received = self.now

    def cut(self, *, noticed_by: Sequence[End] | None = None) -> None:
        """Lose what is under way; the ends that notice detach."""
        for wire in self.wires.values():
            wire.clear()
        for end in self.ends if noticed_by is None else noticed_by:
            if end.session.state is State.ATTACHED:
                end.session.detach(self.now)

    def pull(self, end: End, limit: int = 64 * KIB) -> bytes:
        """One message from ``end`` onto the wire."""
        message = end.session.data_to_send(self.now, limit)
        if message:
            self.wires[self.peer(end)].append(message)
        return message

    def deliver(self, end: End) -> None:
        """The next message that is under way to ``end``."""
        end.receive(self.wires[end].popleft(), self.now)

    def exchange(self) -> int:
        """Pull and deliver until nothing moves; the number of messages."""
        count = 0
        moved = True
        while moved:
            moved = False
            for end in self.ends:
                while self.pull(end):
                    moved = True
                while self.wires[end]:
                    self.deliver(end)
                    count += 1
        return count

    def advance(self, seconds: float) -> int:
        """Let time pass: timers fire when they are due, messages arrive at once. The number of messages."""
        stop = self.now + seconds
        count = self.exchange()
        while (when := self._next_timer()) is not None and when <= stop:
            self.now = max(self.now, when)
            for end in self.ends:
                end.session.handle_timer(self.now, end.last_received)
            count += self.exchange()
        self.now = stop
        return count

    def settle(self) -> None:
        """Everything that was written has arrived and is acknowledged."""
        self.advance(1.0)
        for end in self.ends:
            assert end.read == self.peer(end).wrote
            assert end.session.acked == end.session.sent == len(end.wrote)

    def _next_timer(self) -> float | None:
        timers = [end.session.next_timer() for end in self.ends]
        return min((when for when in timers if when is not None), default=None)
