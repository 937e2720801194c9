"""How many connections each address has, and whether it may have one more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Crowd"]


class Crowd:
    """``limit`` connections an address; 0: any number. Who is ``exempt`` stands for many, as a proxy does."""

    def __init__(self, limit: int, *, exempt: Callable[[str], bool]) -> None:
        self._limit = limit
        self._exempt = exempt
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        """Addresses that are counted now: never more than there are connections."""
        return len(self._counts)

    @contextmanager
    def place(self, address: str) -> Iterator[bool]:
        """Whether there is a place for one more connection of ``address``, which has it as long as the block runs."""
        if not self._limit or not address or self._exempt(address):
            yield True
        elif self._counts[address] >= self._limit:
            yield False
        else:
            self._counts[address] += 1
            try:
                yield True
            finally:
                self._counts[address] -= 1
                if not self._counts[address]:
                    del self._counts[address]
