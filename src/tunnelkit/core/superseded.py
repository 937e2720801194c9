"""Sessions whose place was taken. A client that comes back to one is told so, or two would fight for the token."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

__all__ = ["KEPT", "Superseded", "Taken"]

KEPT: Final = 10_000  # sessions remembered; the oldest goes first


@dataclass(frozen=True, slots=True)
class Taken:
    """What is needed to recognise its client: the token's digest, and the key of its proofs."""

    digest: bytes
    resume_key: bytes = field(repr=False)


class Superseded:
    """By session id. A client names the session that it lost, with proof, when it resumes or opens the next."""

    def __init__(self, *, kept: int = KEPT) -> None:
        self._taken: OrderedDict[str, Taken] = OrderedDict()
        self._kept = kept

    def __repr__(self) -> str:
        return f"<Superseded sessions={len(self._taken)}>"

    def add(self, session_id: str, taken: Taken) -> None:
        self._taken[session_id] = taken
        if len(self._taken) > self._kept:
            self._taken.popitem(last=False)

    def find(self, session_id: str) -> Taken | None:
        return self._taken.get(session_id)
