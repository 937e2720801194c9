"""The receiving half of a session: offsets, the window, early bytes, and when an ack is owed."""

from __future__ import annotations

from math import inf
from typing import Final

from ..config import KIB, Limits
from ..errors import RemoteProtocolError
from .failures import ConnectionFailed
from .message import CONTROL_ALLOWANCE, HEADER_SIZE
from .reorder import EarlyBytes

__all__ = ["ACK_AMPLE", "ACK_BESIDE", "Inbound"]

_ACKS_PER_WINDOW: Final = 8
# Bytes for which one is owed, however large the window is: two of them fit into what a peer leaves on a short way
# (``inflight``). And the same for who is considerate, so that its peer can leave less.
ACK_AMPLE: Final = 512 * KIB
ACK_BESIDE: Final = 128 * KIB
# Payloads below this size are copied out of their message: cheaper than a view, and than frames cut out of one.
_COPY_BELOW: Final = 16384


class Inbound:
    """``received`` is the offset below which every byte was handed out.

    An ack is owed for every DATA, a repeated one too: who repeats does not know what we have. It is *due* after an
    eighth of the window, ``ACK_AMPLE`` (or ``ACK_BESIDE``) or ``ack_delay``; before that it waits for a message to
    ride on. An ACK carries no bytes, so none is owed for it, and two idle ends fall silent.
    """

    __slots__ = (
        "_ack_deadline",
        "_considerate",
        "_early",
        "_eighth",
        "_gap_deadline",
        "_limits",
        "_owed",
        "_owed_limit",
        "_window",
        "ack_due",
        "deadline",
        "received",
    )

    def __init__(self, limits: Limits, window: int) -> None:
        self.received = 0
        self._limits = limits
        self._window = window + CONTROL_ALLOWANCE
        self._early = EarlyBytes(limits.replay_limit + CONTROL_ALLOWANCE)
        self._eighth = max(1, min(limits.replay_limit, window) // _ACKS_PER_WINDOW)
        self.ack_due = False
        self._owed = 0
        self.considerate = False
        self.forget()

    @property
    def considerate(self) -> bool:
        """Whether small exchanges come beside what is received. Set from outside; an ack may be due then."""
        return self._considerate

    @considerate.setter
    def considerate(self, considerate: bool) -> None:
        self._considerate = considerate
        self._owed_limit = min(self._eighth, ACK_BESIDE if considerate else ACK_AMPLE)
        # What is owed was to be acknowledged sooner, or is to be now: the peer may have no more on its way meanwhile.
        self.ack_due = self.ack_due or self._owed > 0

    def forget(self) -> None:
        """The connection is over. Early bytes were not acknowledged, so the peer sends them again."""
        self._early.clear()
        self._gap_deadline = inf  # while there are early bytes, something is missing before them
        self.deadline = inf  # when ``handle_timer`` is to be called, at the latest
        self.ack_written()

    def ack_written(self) -> None:
        """A message was pulled; every message carries the ack. ``deadline`` stays: it may be early."""
        self.ack_due = False
        self._owed = 0
        self._ack_deadline = inf

    def receive(self, message: bytes, offset: int, now: float, *, ordered: bool) -> list[bytes | memoryview]:
        """The new bytes that a DATA message brings into order. What is here already is dropped."""
        size = len(message) - HEADER_SIZE
        received = self.received
        if offset + size > received + self._window:
            raise RemoteProtocolError(f"offset {offset} lies beyond the window", code="bad_offset")
        if not size:
            raise RemoteProtocolError("DATA without a byte", code="empty_data")
        if offset > received:
            self._keep_early(message, offset, now, ordered=ordered)
            self._owe(size, now)
            return []
        self._owe(size, now)
        start = HEADER_SIZE + received - offset
        if start >= len(message):
            return []
        self.received = offset + size
        fresh = message[start:] if size < _COPY_BELOW else memoryview(message)[start:]
        return [fresh] if self._gap_deadline == inf else [fresh, *self._ripe(now)]

    def handle_timer(self, now: float) -> None:
        """Time has passed. Raises ``ConnectionFailed`` when a gap stayed open too long."""
        if now >= self._gap_deadline:
            raise ConnectionFailed(f"bytes at {self.received} are missing", code="gap_timeout")
        if now >= self._ack_deadline:
            self._ack_deadline = inf
            self.ack_due = True
        self.deadline = min(self._ack_deadline, self._gap_deadline)

    def _owe(self, size: int, now: float) -> None:
        self._owed += size
        if self._owed >= self._owed_limit:
            self.ack_due = True
        if self._ack_deadline == inf:
            self._ack_deadline = due = now + self._limits.ack_delay
            if due < self.deadline:
                self.deadline = due

    def _keep_early(self, message: bytes, offset: int, now: float, *, ordered: bool) -> None:
        if ordered:
            raise RemoteProtocolError(f"bytes from {self.received} to {offset} are missing", code="gap")
        if not self._early:
            self._open_gap(now)
        self._early.add(offset, memoryview(message)[HEADER_SIZE:])

    def _ripe(self, now: float) -> list[bytes]:
        """``received`` moved: the gap is filled, or what is missing now is another one."""
        self.received, ready = self._early.take(self.received)
        if not self._early:
            self._gap_deadline = inf
        elif ready:
            self._open_gap(now)
        return ready

    def _open_gap(self, now: float) -> None:
        self._gap_deadline = now + self._limits.gap_timeout
        self.deadline = min(self.deadline, self._gap_deadline)
