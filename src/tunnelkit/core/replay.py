"""The replay buffer: what was sent and is not acknowledged, ready to be sent again.

It keeps views into the messages as they were built, so no bulk is copied for its sake. Chunks stand in one of two
queues: ``_sent`` went out on the current connection, ``_again`` must go out on it yet. A new connection moves
everything back to ``_again``.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeAlias

__all__ = ["SHARE_SLACK", "SMALL_CHUNK", "Budget", "ReplayBuffer", "ReplayShare"]

# A chunk costs nearly 500 bytes beside its own, so one below this size is joined to the one before it: a peer that
# never acknowledges a flood of tiny messages gets little more memory than ``limit`` says.
SMALL_CHUNK: Final = 1024
SHARE_SLACK: Final = 64 * 1024

Chunk: TypeAlias = tuple[int, memoryview]  # (offset of its end, bytes)


class ReplayBuffer:
    """Bytes ``acked`` to ``end`` of one direction; ``pointer`` is where sending stands. Nothing is ever dropped."""

    __slots__ = ("_again", "_sent", "acked", "end", "limit", "pointer")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.acked = 0
        self.pointer = 0
        self.end = 0
        # Lists, though they are queues: an empty deque takes 760 bytes in every idle tunnel. With the default limit
        # full of small messages an ack takes no longer (1 us); with one of 64 MiB it would take 7.
        self._sent: list[Chunk] = []
        self._again: list[Chunk] = []

    @property
    def pending(self) -> bool:
        """Whether bytes wait to go out again."""
        return self.pointer < self.end

    @property
    def room(self) -> int:
        """How many new bytes fit."""
        return self.limit - self.end + self.acked

    def append(self, chunk: memoryview) -> None:
        """Bytes that have just been put into a message for the first time (nothing may be ``pending``)."""
        self.end += len(chunk)
        self.pointer = self.end
        sent = self._sent
        if len(chunk) < SMALL_CHUNK and sent and len(sent[-1][1]) < SMALL_CHUNK:
            chunk = memoryview(b"".join((sent.pop()[1], chunk)))
        sent.append((self.end, chunk))

    def acknowledge(self, offset: int) -> None:
        """The peer has everything below ``offset``, which lies in ``acked``..``end``.

        It may lie beyond ``pointer``: a peer that still read its old connection after it had told us where to
        begin again has more than it said.
        """
        self.acked = offset
        _drop(self._sent, offset)
        if offset > self.pointer:
            self.pointer = offset
            _drop(self._again, offset)

    def rewind(self) -> None:
        """A new connection: everything that is not acknowledged goes out again."""
        self._sent.extend(self._again)
        self._again, self._sent = self._sent, []
        self.pointer = self.acked

    def take(self, limit: int) -> list[memoryview]:
        """The next bytes that go out again, at most ``limit``, cut where needed."""
        pieces = []
        again = self._again
        whole = 0
        while limit and whole < len(again):
            end, chunk = again[whole]
            rest = end - self.pointer
            start = len(chunk) - rest
            if rest > limit:
                pieces.append(chunk[start : start + limit])
                self.pointer += limit
                break
            pieces.append(chunk[start:] if start else chunk)
            self.pointer = end
            limit -= rest
            whole += 1
        self._sent += again[:whole]
        del again[:whole]
        return pieces

    def clear(self) -> None:
        """The session is gone: let go of the memory."""
        self._sent.clear()
        self._again.clear()
        self.acked = self.pointer = self.end


def _drop(chunks: list[Chunk], offset: int) -> None:
    """Let go of those that end at ``offset`` or before."""
    count = 0
    for end, _ in chunks:
        if end > offset:
            break
        count += 1
    del chunks[:count]


class Budget(Protocol):
    """The part of ``core.budget.Budget`` that is needed here."""

    def reserve_spare(self, size: int) -> bool: ...

    def release(self, size: int) -> None: ...


class ReplayShare:
    """What one replay buffer holds of the whole process's budget, above its own floor.

    Taken before bytes are pulled, given back when acknowledgements made it too much by ``SHARE_SLACK``, or all of
    it once the buffer is down to its floor: an idle session holds nothing.
    """

    __slots__ = ("_budget", "_floor", "held")

    def __init__(self, budget: Budget | None, floor: int) -> None:
        self._budget = budget
        self._floor = floor
        self.held = 0

    def bound(self, limit: int) -> int:
        """What of ``limit`` the buffer may hold without asking for more."""
        return limit if self._budget is None else min(limit, self._floor + self.held)

    def allow(self, unacked: int, wanted: int) -> int:
        """How many of ``wanted`` bytes may join the ``unacked`` ones."""
        if self._budget is None:
            return wanted
        missing = unacked + wanted - self._floor - self.held
        if missing <= 0:
            return wanted
        if self._budget.reserve_spare(missing):
            self.held += missing
            return wanted
        return max(0, wanted - missing)

    def settle(self, unacked: int) -> None:
        """Give back what ``unacked`` bytes do not need."""
        if not self.held:
            return
        excess = self.held - max(0, unacked - self._floor)
        if self._budget is not None and (excess >= SHARE_SLACK or (excess and unacked <= self._floor)):
            self._budget.release(excess)
            self.held -= excess
