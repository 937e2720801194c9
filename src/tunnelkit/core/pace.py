"""How large a message may be, from the rate that acknowledgements show (design, section 5).

A small answer waits behind the message that is being written, so a message holds what passes in about
``limits.message_time``. One message at a time is a *probe*: when its last byte is acknowledged, what was
delivered since it left gives the rate. One probe costs nothing per message and gives a sample a round trip.

Where only so many messages may be under way (a poll is answered by one, and the next poll takes a round trip), that
rate is what such messages brought, and less than the way would carry. A message that keeps to it is smaller than the
last, and the rate falls again: so there it holds besides what passed in its share of the shortest round trip.

A stream's turn is sized by the same rate (``limits.turn_time``). In turns of 16 KiB each piece of 64 KiB that an
origin gave is four frames and four writes to its caller, much of what long answers at once cost; where 64 KiB pass in
no time, hardly anybody gains by the cuts.
"""

from __future__ import annotations

from typing import Final

from ..config import KIB, Limits
from .frames import MAX_PAYLOAD
from .inflight import InFlightLimit

__all__ = ["FIRST_MESSAGE", "Pace"]

# Before anything is known: small enough to pass in half a second at 32 KB/s, and two or three round trips below
# any larger size.
FIRST_MESSAGE: Final = 16 * KIB


class Pace:
    """Sizes messages for one direction of a session, and the ``turn`` of one stream in them, in bytes of payload.
    ``size`` counts the header too."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.rate: float | None = None  # bytes a second
        self.round_trip: float | None = None  # smoothed, seconds
        self.in_flight = InFlightLimit()
        self.size = max(FIRST_MESSAGE, limits.min_message)
        self.turn = limits.frame_payload
        self._largest = self.size
        self._at_once: int | None = None
        self.acked = 0
        self._probe_end: int | None = None
        self._probe_busy = False
        self._probe_from = 0
        self._probe_sent = 0.0

    @property
    def message_size(self) -> int:
        """``size``, or less while little may be in flight: then four of those that follow one another are."""
        limit = self.in_flight.bytes
        if limit is None:
            return self.size
        if self._at_once is None:
            limit = min(limit, max(limit // 4, self._limits.min_message))
        return min(self.size, limit)

    def holds_back(self, under_way: int) -> bool:
        """Whether no other message may leave, with so many bytes unacknowledged. One may always be under way."""
        limit = self.in_flight.bytes
        if limit is None or not under_way:
            return False
        return under_way >= limit if self._at_once is not None else under_way + self.message_size > limit

    def attached(self, acked: int, max_message: int) -> None:
        """A new connection. Size and rate carry over: most often it goes the same way as the last."""
        self.acked = acked
        self._largest = max_message
        self.in_flight.reset()
        self._resize()
        self._probe_end = None

    def detached(self, *, stuck: bool) -> None:
        """A connection ended. A ``stuck`` one took bytes and delivered none: perhaps too slow for one message."""
        self._probe_end = None
        if stuck:
            self.rate = None
            self.size = self._limits.min_message
            self.turn = self._limits.frame_payload

    def sent(self, end: int, now: float, *, busy: bool, at_once: int | None = None) -> None:
        """Bytes up to ``end`` left in a message; ``busy`` tells that more was waiting behind it. ``at_once``: so many
        messages leave in a round trip; None where they may follow one another."""
        if self._probe_end is None:
            self._at_once = at_once
            self._probe_end = end
            self._probe_busy = busy
            self._probe_from = self.acked
            self._probe_sent = now

    def acknowledged(self, acked: int, now: float) -> None:
        """The peer has everything below ``acked``."""
        self.in_flight.acknowledged(acked - self.acked)
        self.acked = acked
        if self._probe_end is None or acked < self._probe_end:
            return
        elapsed = now - self._probe_sent
        delivered = acked - self._probe_from
        busy = self._probe_busy
        self._probe_end = None
        self.observe_round_trip(elapsed)
        if elapsed > 0:
            rate = self._observe_rate(delivered / elapsed, busy=busy)
            self.in_flight.observe(now, elapsed, rate, in_turns=self._at_once is not None)
            self._resize()

    def observe_round_trip(self, sample: float) -> None:
        """Smoothed as TCP does (RFC 6298 2.3)."""
        self.round_trip = sample if self.round_trip is None else self.round_trip + (sample - self.round_trip) / 8

    def _observe_rate(self, sample: float, *, busy: bool) -> float:
        """Up at once, down slowly; a sender with little to send shows nothing about what would pass."""
        if self.rate is None or sample > self.rate:
            self.rate = sample
        elif busy:
            self.rate += (sample - self.rate) / 4
        return self.rate

    def _resize(self) -> None:
        size = self.size if self.rate is None else int(self.rate * self._message_time())
        if size < self._limits.min_message:
            size = self._limits.min_message
        self.size = size if size < self._largest else self._largest
        if self.rate is not None:
            self.turn = max(self._limits.frame_payload, min(MAX_PAYLOAD, int(self.rate * self._limits.turn_time)))

    def _message_time(self) -> float:
        time, at_once = self._limits.message_time, self._at_once
        if at_once is None or (shortest := self.in_flight.shortest) is None:
            return time
        return time * at_once / (at_once + 1) + shortest / at_once
