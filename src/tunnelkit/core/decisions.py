"""What the registry answers: where exchanges go, which leave, and who may register. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from .policies import Policy

__all__ = [
    "Admission",
    "Admitted",
    "Decision",
    "Dispatch",
    "ExchangeKey",
    "Expired",
    "Full",
    "Move",
    "Queued",
    "Recall",
    "Rejected",
    "SessionKey",
    "Unlisted",
]

# How the runtime names its sessions and exchanges: anything that can be hashed. No type variables: a generic class
# inherits from one that is not compiled, and could not be either.
SessionKey: TypeAlias = Any
ExchangeKey: TypeAlias = Any


# -- exchanges -----------------------------------------------------------------------------------


@dataclass(slots=True, init=False)
class Dispatch:
    """Open a stream for ``exchange`` on ``session``."""

    exchange: ExchangeKey
    session: SessionKey

    def __init__(self, exchange: ExchangeKey, session: SessionKey) -> None:
        """Written out, as every request needs one: what ``dataclass`` makes is not compiled."""
        self.exchange = exchange
        self.session = session


@dataclass(slots=True)
class Move:
    """Withdraw ``exchange``, of which nothing was sent, from the session it is on; open a stream on ``session``."""

    exchange: ExchangeKey
    session: SessionKey


@dataclass(slots=True)
class Recall:
    """Withdraw ``exchange``, of which nothing was sent, from the session it is on: it waits in the queue again."""

    exchange: ExchangeKey


Decision: TypeAlias = Dispatch | Move | Recall


@dataclass(frozen=True, slots=True)
class Queued:
    """The exchange waits in its token's queue."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The exchange has left: what its caller is told."""

    status: int
    code: str
    detail: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """Nothing of an exchange was sent in time: withdraw it if it is on a session, and tell its caller."""

    exchange: ExchangeKey
    rejected: Rejected


# -- sessions ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client may register. ``replaces``: when it attaches, all others of its token are superseded."""

    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Unlisted:
    """Only listed tokens may register, and this is none."""


@dataclass(frozen=True, slots=True)
class Full:
    """As many clients are attached as a token may have by ``policy``. A silent one among ``sessions`` is to be pinged
    first."""

    sessions: tuple[SessionKey, ...]
    policy: Policy


Admission: TypeAlias = Admitted | Unlisted | Full
