"""Which connection of a wsp client takes the next request: a decision without I/O.

A connection carries one request at a time. Requests without one stand in line; their client opens more when a request
reaches it, up to a number that it does not tell.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["IDLE_TIME", "POOL_LIMIT", "Place", "Pool"]

# Connections of one pool: theirs keep at most 100 by default, and more than a session has streams would be idle.
POOL_LIMIT: Final = 1000
IDLE_TIME: Final = 60.0  # seconds: a connection beyond what the client keeps is closed when it was idle this long

C = TypeVar("C")


class Place(Generic[C]):
    """Of one request in the line. ``wake`` is called when ``connection`` was found for it, or none will be."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.connection: C | None = None
        self.wake = wake


class Pool(Generic[C]):
    """The connections of one client, of which it means to keep ``size`` idle."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.closed = False  # the last connection has left: there will be no other
        self._idle: OrderedDict[C, float] = OrderedDict()  # since when; the one unused longest is the first
        self._busy: set[C] = set()
        self._line: OrderedDict[Place[C], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def __repr__(self) -> str:
        return f"<Pool idle={len(self._idle)} busy={len(self._busy)} line={len(self._line)}>"

    @property
    def full(self) -> bool:
        return len(self) >= POOL_LIMIT

    def free(self, connection: C, now: float) -> None:
        """A new connection, or one that has done its request: for the first in the line."""
        self._busy.discard(connection)
        if self._line:
            place, _ = self._line.popitem(last=False)
            self._give(place, connection)
            place.wake()
        else:
            self._idle[connection] = now

    def leave(self, connection: C) -> None:
        """It is closed. With the last one goes the line."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)
        if not len(self):
            self.closed = True
            while self._line:
                place, _ = self._line.popitem(last=False)
                place.wake()

    def stand(self, place: Place[C]) -> None:
        """Give ``place`` the connection unused longest, or let it wait in the line."""
        if self._idle:
            connection, _ = self._idle.popitem(last=False)
            self._give(place, connection)
        else:
            self._line[place] = None

    def step_out(self, place: Place[C], now: float) -> None:
        """It waits no more, and what it was given is free again."""
        self._line.pop(place, None)
        connection, place.connection = place.connection, None
        if connection in self._busy:
            self.free(connection, now)

    def surplus(self, now: float) -> list[C]:
        """Idle connections beyond what the client keeps, the ones unused longest, as theirs cleans up."""
        beyond = max(0, len(self._idle) - self.size)
        return [connection for connection, since in list(self._idle.items())[:beyond] if now - since > IDLE_TIME]

    def _give(self, place: Place[C], connection: C) -> None:
        place.connection = connection
        self._busy.add(connection)
