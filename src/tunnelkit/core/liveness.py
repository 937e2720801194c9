"""Is the connection alive? Any received byte is life; silence is asked about, and then ends it.

Pings and pongs are state, not a queue: at most one of each is owed, written when the link pulls.
"""

from __future__ import annotations

from math import inf
from typing import Final

from ..config import Limits
from .failures import ConnectionFailed

__all__ = ["LIVE_PING_LIMIT", "Liveness"]

# Payload of a PING once attached. Small, so that its PONG fits whatever a connection says it can take now.
LIVE_PING_LIMIT: Final = 128


class Liveness:
    """The pings of one session, on one connection after another.

    The clock for an answer starts when the ping is due, not when it was written: where the writer is stuck too,
    nothing else would notice.
    """

    __slots__ = (
        "_heard",
        "_limits",
        "_number",
        "_pinged_at",
        "_pings",
        "_written",
        "active",
        "deadline",
        "due",
        "pong",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.active = False  # whether exchanges run, so that a silent connection is found out sooner
        self._number = 0
        self.stop()

    def start(self, now: float, *, pings: bool) -> None:
        """A connection was attached; with ``pings`` False it has a liveness of its own."""
        self.stop()
        self._pings = pings
        self._heard = now
        self.deadline = self._next_deadline()

    def stop(self) -> None:
        """No connection: nothing is owed, nothing is due."""
        self.due = False  # a PING is to be written
        self.pong: bytes | None = None  # the payload of the PONG that is to be written; a later PING replaces it
        self.deadline = inf
        self._pings = False
        self._heard = 0.0
        self._pinged_at: float | None = None
        self._written: tuple[bytes, float] | None = None  # the last PING: its payload, when it was pulled

    def set_active(self, active: bool) -> None:
        self.active = active
        self.deadline = self._next_deadline()

    def check(self, now: float, last_received: float) -> None:
        """Decide what silence means. Raises ``ConnectionFailed`` when a ping was not answered in time."""
        if last_received > self._heard:
            self._heard = last_received
            self._pinged_at = None
            self.due = False
        self.deadline = self._next_deadline()
        if now < self.deadline:
            return
        if self._pinged_at is not None:
            raise ConnectionFailed(f"no byte for {now - self._heard:.0f} s", code="ping_timeout")
        self.due = True
        self._pinged_at = now
        self.deadline = self._next_deadline()

    def write_ping(self, now: float) -> bytes:
        """The payload of the PING that is due."""
        self.due = False
        self._number += 1
        payload = self._number.to_bytes(8)
        self._written = payload, now
        return payload

    def write_pong(self) -> bytes:
        """The payload of the PONG that is owed."""
        payload, self.pong = self.pong, None
        return payload or b""

    def answered(self, payload: bytes, now: float) -> float | None:
        """A PONG came: the round trip that it shows, or None when it answers no ping of this connection."""
        if self._written is None or self._written[0] != payload:
            return None
        started, self._written = self._written[1], None
        return now - started

    def _next_deadline(self) -> float:
        if not self._pings:
            return inf
        limits, active = self._limits, self.active
        if self._pinged_at is None:
            return self._heard + (limits.ping_active_silence if active else limits.ping_idle_silence)
        return self._pinged_at + (limits.ping_active_timeout if active else limits.ping_idle_timeout)
