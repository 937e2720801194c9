"""What the whole process may hold in memory for its peers, shared by all sessions (design, section 5).

Counted are bytes that peers were allowed to send (granted credit, floors), bytes that wait to be sent, and
bytes kept for replay. Who holds them reserves first and releases after; the sum never passes the capacity but
for what ``charge`` was called for.

1. ``reserve`` is for floors: what a session or a stream needs to work at all. It may use the whole capacity.
2. ``reserve_spare`` is for what is above a floor: speed. It leaves the last quarter to the floors, so
   that greedy sessions never keep others from working: with the defaults that is room for 2,000 streams more.
3. ``charge`` never says no. It is for bytes that are in memory already and are bounded by a limit elsewhere.
"""

from __future__ import annotations

from ..errors import LocalProtocolError

__all__ = ["Budget"]


class Budget:
    """``capacity`` bytes, of which ``used`` are taken. Not thread-safe: one per event loop."""

    __slots__ = ("capacity", "soft", "used")

    def __init__(self, max_buffered_bytes: int) -> None:
        self.capacity = max_buffered_bytes
        self.used = 0
        self.soft = max_buffered_bytes - max_buffered_bytes // 4  # up to here for what is above floors

    def __repr__(self) -> str:
        return f"Budget(used={self.used}, capacity={self.capacity})"

    @property
    def free(self) -> int:
        """What ``reserve`` would still give."""
        free = self.capacity - self.used
        return free if free > 0 else 0

    @property
    def spare(self) -> int:
        """What ``reserve_spare`` would still give; 0 near exhaustion."""
        spare = self.soft - self.used
        return spare if spare > 0 else 0

    def reserve(self, size: int) -> bool:
        """Take ``size`` bytes for a floor: all of them or, saying False, none."""
        if self.used + size > self.capacity:
            return False
        self.used += size
        return True

    def reserve_spare(self, size: int) -> bool:
        """Take ``size`` bytes above a floor: all of them or, saying False, none."""
        if self.used + size > self.soft:
            return False
        self.used += size
        return True

    def charge(self, size: int) -> None:
        """Count ``size`` bytes that are there whatever the budget says."""
        self.used += size

    def release(self, size: int) -> None:
        """Give back ``size`` bytes that were reserved or charged."""
        if size > self.used:
            raise LocalProtocolError(f"{size} bytes released, but only {self.used} are reserved")
        self.used -= size
