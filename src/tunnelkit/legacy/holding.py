"""What must be held for peers whose wires carry only whole messages, and know no flow control: bodies until they are
complete, and what callers have not taken yet. All of it is bounded, for all peers of a transport together.
"""

from __future__ import annotations

from os import SEEK_END
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Final

from ..config import KIB, MIB, Limits
from ..core.budget import Budget
from ..errors import HeadError

__all__ = ["BODIES_LIMIT", "IN_MEMORY", "HeldBody", "Store"]

# Of one body. What is beyond, or finds no room in memory, goes to a file.
IN_MEMORY: Final = 256 * KIB
# All bodies that are held at a time, in memory and in files.
BODIES_LIMIT: Final = 1024 * MIB


class Store:
    """``memory`` is what all of it may take there: as much again as the limits' ``max_buffered_bytes``."""

    def __init__(self, limits: Limits) -> None:
        self.memory = Budget(limits.max_buffered_bytes)
        self._bodies = 0

    def body(self) -> HeldBody:
        return HeldBody(self)

    def take(self, size: int) -> bool:
        """Room for that much more of bodies."""
        if self._bodies + size > BODIES_LIMIT:
            return False
        self._bodies += size
        return True

    def give_back(self, size: int) -> None:
        self._bodies -= size


class HeldBody:
    """Written at one end, and read at the other. Whoever is done with it closes it."""

    def __init__(self, store: Store) -> None:
        self.size = 0
        self._place = 0  # of the reading
        self._store = store
        self._memory = 0
        self._in_file = False
        self._file = SpooledTemporaryFile()  # noqa: SIM115 - ``close`` does

    def __enter__(self) -> HeldBody:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Raises ``HeadError`` where there is no room, on the disk for instance."""
        if not self._store.take(len(data)):
            raise HeadError(503, "overloaded", "there is no room to hold the body until it is whole")
        self.size += len(data)
        try:
            if not (self._in_file or self._fits(len(data))):
                self._move_to_file()
            self._file.seek(0, SEEK_END)
            self._file.write(data)
        except OSError as error:
            raise HeadError(503, "overloaded", "there is no room on the disk to hold the body") from error

    def _fits(self, size: int) -> bool:
        if self.size > IN_MEMORY or not self._store.memory.reserve_spare(size):
            return False
        self._memory += size
        return True

    def _move_to_file(self) -> None:
        self._file.rollover()
        self._in_file = True
        self._leave_memory()

    def _leave_memory(self) -> None:
        self._store.memory.release(self._memory)
        self._memory = 0

    @property
    def left(self) -> int:
        """Bytes that were not read."""
        return self.size - self._place

    def read(self, size: int) -> bytes:
        """The next bytes, up to ``size``; b"" for none."""
        self._file.seek(self._place)
        data = self._file.read(size)
        self._place += len(data)
        return data

    def forget_read(self) -> None:
        """Give back the room of what was read, if all of it was."""
        if self.size and not self.left:
            self._empty()
            self._file = SpooledTemporaryFile()  # noqa: SIM115 - ``close`` does

    def close(self) -> None:
        """Idempotent."""
        if not self._file.closed:
            self._empty()

    def _empty(self) -> None:
        self._file.close()
        self._leave_memory()
        self._store.give_back(self.size)
        self.size = self._place = 0
        self._in_file = False
