"""Who may send how much: the receiver's side of flow control (design, section 5).

Credit is per stream and absolute: a limit offset up to which the peer may send, so a repeated or late
credit frame does no harm. The policy, as numbered rules:

1. Credit is granted for what the application *consumed*, never for what was merely received.
2. Every permitted stream owns a floor, set apart for it in the session's budget and reserved in the process's
   when the stream opens, together with a floor for sending. Without room for them no stream opens.
3. Above the floor a raise is at most an eighth of what is free *now*, in the session and in the process, and no
   window passes ``stream_max_window``. As consumed bytes return to what is free before the raise, windows shrink
   by themselves when many streams compete, and a lone stream gets the largest.
4. The first window of a stream that we open is min(``stream_first_window``, floor + an eighth), that of a
   stream that the peer opens is the floor.
5. A grant waits until it is worth a frame: half of the window (``stream_first_window`` at most), but only an
   eighth of it when the peer has less than a quarter left. Whoever consumed all that came has opened enough.
6. When the peer's half ends, what it did not use returns at once; when the stream ends, everything.
"""

from __future__ import annotations

from ..config import Limits
from ..errors import RemoteProtocolError
from .budget import Budget

__all__ = ["CreditPool", "ReceiveWindow"]


class CreditPool:
    """The receive budget of one session. Streams' windows come from it and return to it."""

    __slots__ = (
        "_first_extra",
        "_max_streams",
        "_shared",
        "above",
        "budget",
        "first_window",
        "floor",
        "max_window",
        "open",
        "per_stream",
        "size",
    )

    def __init__(self, limits: Limits, budget: Budget) -> None:
        self.budget = budget
        self.size = limits.receive_budget
        self.floor = limits.stream_floor
        self.first_window = limits.stream_first_window
        self.max_window = limits.stream_max_window
        # The floor for sending lets every stream move the least turn's worth, whatever the pressure.
        self.per_stream = limits.stream_floor + limits.frame_payload
        self.open = 0  # streams that hold a floor
        self.above = 0  # bytes granted above floors
        self._max_streams = limits.max_streams
        self._first_extra = self.first_window - self.floor
        self._shared = self.size - limits.max_streams * self.floor  # what is above all permitted floors

    def __repr__(self) -> str:
        return f"CreditPool(open={self.open}, above={self.above}, size={self.size})"

    @property
    def granted(self) -> int:
        """What all peers' halves together may have in memory here: never above the session's budget."""
        return self.open * self.floor + self.above

    def open_window(self, *, first: bool) -> ReceiveWindow | None:
        """The window of a new stream, ``first`` when we are its opener; None when there is no room for a floor."""
        count = self.open + 1
        budget = self.budget
        if count * self.floor + self.above > self.size or not budget.reserve(self.per_stream):
            return None
        self.open = count
        if not first:
            return ReceiveWindow(self, 0)
        extra = self.raise_step()
        if extra > self._first_extra:
            extra = self._first_extra
        self.above += extra
        budget.used += extra  # charged
        return ReceiveWindow(self, extra)

    def raise_step(self) -> int:
        """The largest raise there is now (rule 3)."""
        free = self._shared - self.above
        if self.open > self._max_streams:  # streams in both directions
            free -= (self.open - self._max_streams) * self.floor
        budget = self.budget
        spare = budget.soft - budget.used
        if spare < free:
            free = spare
        return free >> 3 if free > 0 else 0


class ReceiveWindow:
    """One stream's receiving side. All offsets are absolute."""

    __slots__ = ("_above", "_mark", "_pool", "_size", "consumed", "ended", "limit", "received")

    def __init__(self, pool: CreditPool, above: int) -> None:
        self._pool = pool
        self._above = above  # what the pool counts for this stream above its floor
        self._size = self.limit = pool.floor + above  # _size: the window when it was last granted
        self._mark = self._size >> 1  # consumed offset from which a grant may be worth its frame
        self.received = 0
        self.consumed = 0
        self.ended = False

    def __repr__(self) -> str:
        return f"ReceiveWindow(limit={self.limit}, received={self.received}, consumed={self.consumed})"

    @property
    def held(self) -> int:
        """Bytes received and not consumed."""
        return self.received - self.consumed

    def receive(self, size: int) -> None:
        """Count what came. Raises ``RemoteProtocolError`` when it is more than was granted."""
        self.received += size
        if self.received > self.limit:
            raise self._too_much()

    def pass_on(self, size: int) -> bool:
        """``receive`` and ``consume`` in one: for what does not wait here for the application."""
        self.received += size
        if self.received > self.limit:
            raise self._too_much()
        self.consumed += size
        if self.consumed < self._mark and (self.limit - self.received) * 4 > self._size:
            return False
        return self._grant(self.limit - self.consumed)

    def consume(self, size: int) -> bool:
        """Count what the application took; True when ``limit`` rose and the peer is to be told."""
        self.consumed += size
        if self.ended:
            if self._above:
                self._settle(self.received - self.consumed)
            return False
        if self.consumed < self._mark and (self.limit - self.received) * 4 > self._size:
            return False
        return self._grant(self.limit - self.consumed)

    def end(self) -> None:
        """The peer's half ended: no more grants, and what it did not use returns."""
        self.ended = True
        if self._above:
            self._settle(self.received - self.consumed)

    def close(self) -> None:
        """The stream is over: everything returns. Called once."""
        pool = self._pool
        pool.open -= 1
        pool.above -= self._above
        pool.budget.release(pool.per_stream + self._above)

    def _too_much(self) -> RemoteProtocolError:
        return RemoteProtocolError(
            f"{self.received} bytes received where {self.limit} were allowed", code="flow_control"
        )

    def _grant(self, window: int) -> bool:
        """Raise the limit if that is worth a frame; ``window`` is what is left of the last grant."""
        if not self._worth(self._size - window, self._size):
            return False
        self._settle(window)
        pool = self._pool
        base = max(window, pool.floor)
        size = max(base, min(base + pool.raise_step(), pool.max_window))
        if not self._worth(size - window, size):
            return False
        self._settle(size)
        self._size = size
        self._mark = self.consumed + min(size >> 1, pool.first_window)
        self.limit = self.consumed + size
        return True

    def _worth(self, gain: int, window: int) -> bool:
        """Rule 5: is a window of ``window`` bytes that would open by ``gain`` worth a frame?"""
        if gain >= max(1, min(window >> 1, self._pool.first_window)):
            return True
        return (self.limit - self.received) * 4 <= window and gain * 8 >= max(8, window)

    def _settle(self, window: int) -> None:
        """Let the pool count what ``window`` holds above the floor."""
        above = window - self._pool.floor
        if above < 0:
            above = 0
        change = above - self._above
        self._above = above
        self._pool.above += change
        if change > 0:
            self._pool.budget.charge(change)
        else:
            self._pool.budget.release(-change)
