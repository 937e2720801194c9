"""How much may be unacknowledged: no more than keeps the way busy (design, section 5).

A slow link hides a second of bulk in the sockets and routers before it, and every small answer waits behind that.
A round trip far above the shortest one seen is such a queue: from then on what is in flight is held to about two
round trips' worth at the rate that acknowledgements show. A fast link shows no such queue, but where the peer works
at bulk more slowly than we send it, a whole window of it gathers in the sockets: so there is a limit there too, and
it is ample.

1. Until a round trip exceeds twice the shortest by ``SLACK``, for delayed acks and for programs that were busy, the
   limit is what passes in ``LOOSE`` times the shortest, and at least ``AMPLE``. For who is considerate it is at
   least what two of the peer's acks bring, from ``AMPLE_BESIDE`` to ``AMPLE``: so nobody has to know what the peer
   does. There is no limit where messages go in turns: how many may be under way is limited there already.
2. From then on the limit is what passes in the *target*, which is twice the shortest and ``ACKING``, or ``SLACK``
   above it where that is more; and at least ``FLOOR``. Neither starves anybody: a rate that was held down by it is at
   most half of what fits in the shortest round trip, so it doubles with every round trip.
3. Then, the shortest round trip is valid for ``BASE_LIFETIME``, and only while the rate stays near the best one seen
   with it, or round trips below half of the target show that it is not the limit that holds it down: on a fast way
   rates rise and fall by themselves. Then the queue is drained, to measure it anew: were it kept for ever, a way that
   grew longer would be taken for a queue and starved; were it only replaced, a standing queue would be taken for the
   way and grow.
4. Where messages go in turns, how large they are depends on it too (``pace``), and a first one that took long to pass
   would make them large for good: there it is measured anew after the same time, though there is no limit.
"""

from __future__ import annotations

from typing import Final

from ..config import KIB

__all__ = ["ACKING", "AMPLE", "AMPLE_BESIDE", "BASE_LIFETIME", "DRAINED", "FLOOR", "LOOSE", "SLACK", "InFlightLimit"]

SLACK: Final = 0.100  # seconds
# What the ack of a message of bulk takes longer: it is given for a whole one, and waits for others (``ack_delay``).
ACKING: Final = 0.040  # seconds
# Two of the acks that a peer gives at the latest (``inbound.ACK_AMPLE``), so that none is waited for.
AMPLE: Final = 1024 * KIB
# The same of a peer that is considerate: it acknowledges each third message of 64 KiB (``inbound.ACK_BESIDE``).
AMPLE_BESIDE: Final = 384 * KIB
LOOSE: Final = 4  # a way may well grow to this many times its shortest before it is measured anew
FLOOR: Final = 16 * KIB
DRAINED: Final = 4 * KIB
BASE_LIFETIME: Final = 10.0  # seconds
_NEAR: Final = 0.75


class InFlightLimit:
    """``bytes`` may be unacknowledged on this connection; None is no limit."""

    __slots__ = ("_base", "_base_at", "_best_rate", "_considerate", "_draining_since", "_queued", "_step", "bytes")

    def __init__(self) -> None:
        self._considerate = False
        self.reset()

    def reset(self) -> None:
        """A new connection, perhaps on another way."""
        self.bytes: int | None = None
        self._step = 0  # most that one ack brought since the last observation
        self._queued = False  # a queue showed itself, or was looked for
        self._base: float | None = None
        self._base_at = 0.0
        self._best_rate = 0.0
        self._draining_since: float | None = None

    @property
    def shortest(self) -> float | None:
        """The shortest round trip, in seconds; None before the first."""
        return self._base

    @property
    def considerate(self) -> bool:
        """Whether few small exchanges come beside what is sent. Set from outside."""
        return self._considerate

    @considerate.setter
    def considerate(self, considerate: bool) -> None:
        self._considerate = considerate
        if not considerate and self.bytes is not None and not self._queued:
            self.bytes = max(self.bytes, AMPLE)  # at once: the peer may not acknowledge as often any more

    def acknowledged(self, count: int) -> None:
        """So many bytes more were, by one ack."""
        if count > self._step:
            self._step = count

    def observe(self, now: float, round_trip: float, rate: float, *, in_turns: bool = False) -> None:
        """A message was acknowledged ``round_trip`` after it left, while ``rate`` bytes passed a second.
        ``in_turns``: see rule 4."""
        base = self._measure_base(now, round_trip)
        if rate > self._best_rate:
            self._best_rate = rate
        target = max(2 * base + ACKING, base + SLACK)
        held_down = rate < _NEAR * self._best_rate and 2 * round_trip >= target
        if self._draining_since is None and self._is_stale(now, held_down=held_down, in_turns=in_turns):
            self._draining_since = now
        if self._draining_since is not None:
            self._queued = True
            self.bytes = max(DRAINED, int(rate * base / 8))
        elif self._queued or round_trip > 2 * base + SLACK:
            self._queued = True
            self.bytes = max(FLOOR, int(rate * target))
        else:
            self.bytes = None if in_turns else max(self._ample(), int(rate * LOOSE * base))
        self._step = 0

    def _ample(self) -> int:
        return max(AMPLE_BESIDE, min(AMPLE, 2 * self._step)) if self._considerate else AMPLE

    def _measure_base(self, now: float, round_trip: float) -> float:
        """The shortest round trip. While draining, only a message that left into the drained way counts."""
        drained = self._draining_since is not None and now - round_trip >= self._draining_since
        if drained:
            self._draining_since = None
            self._best_rate = 0.0
        if self._base is None or round_trip <= self._base or drained:
            self._base, self._base_at = round_trip, now
        return self._base

    def _is_stale(self, now: float, *, held_down: bool, in_turns: bool) -> bool:
        old = now - self._base_at > BASE_LIFETIME
        if not self._queued:
            return old and in_turns
        return old or held_down
