"""What the names of a head's fields say by themselves. A leaf.

Callers and origins send the same names again and again, in the same order. What can be told from the names alone
(are they tokens, where does each stand, which are kept on the way on) is worked out once, and then looked up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, TypeVar

__all__ = ["KEPT_LISTS", "KEPT_SIZE", "FieldNames", "field_names", "names_of"]

# Lists of names that are remembered, and the size of the longest: at most a few MB, whatever callers send.
KEPT_LISTS: Final = 256
KEPT_SIZE: Final = 1024

_TOKEN_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NAME_BYTES: Final = _TOKEN_BYTES + b"\n"  # names joined by LF

T = TypeVar("T")


class FieldNames:
    """The names of one list of fields. Shared by all heads with the same names: not to be changed."""

    __slots__ = ("_plans", "at", "lowered", "repeated", "well_formed")

    def __init__(self, joined: bytes | None) -> None:
        """``joined``: None for no names, since b"" is one that is empty."""
        self.lowered = () if joined is None else tuple(joined.lower().split(b"\n"))
        self.at = {name: index for index, name in reversed([*enumerate(self.lowered)])}  # where each stands first
        self.repeated = frozenset(name for name, count in Counter(self.lowered).items() if count > 1)
        self.well_formed = b"" not in self.at and not (joined or b"").translate(None, _NAME_BYTES)  # all are tokens
        self._plans: dict[object, Any] = {}

    def plan(self, make: Callable[[FieldNames], T]) -> T:
        """What ``make`` makes of the names, made once. There are few such functions, and they are asked for ever."""
        plan: T | None = self._plans.get(make)
        if plan is None:
            plan = self._plans[make] = make(self)
        return plan

    def values(self, fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
        """The values of all lines named ``name`` (in lower case) in ``fields``, whose names these are, in order."""
        if name in self.repeated:
            return [value for lowered, (_, value) in zip(self.lowered, fields, strict=True) if lowered == name]
        return [fields[self.at[name]][1]] if name in self.at else []


_NO_NAMES: Final = FieldNames(None)
_kept: Final = lru_cache(maxsize=KEPT_LISTS)(FieldNames)


def field_names(fields: list[tuple[bytes, bytes]]) -> FieldNames:
    """The names of valid fields."""
    return names_of(b"\n".join([name for name, _ in fields])) if fields else _NO_NAMES


def names_of(joined: bytes) -> FieldNames:
    """Names that were joined by LF, one at least. One that holds LF itself counts as two."""
    return _kept(joined) if len(joined) <= KEPT_SIZE else FieldNames(joined)
