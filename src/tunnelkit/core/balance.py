"""Which of a token's clients is given the next request (wsp spreads at random)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol, TypeVar

from ..errors import ConfigError

__all__ = ["BALANCES", "Balance", "Loaded", "at_random", "balance_named", "least_load"]


class Loaded(Protocol):
    """A session, as far as its share of requests goes."""

    load: int  # streams in use


P = TypeVar("P", bound=Loaded)


class Balance(Protocol):
    """Takes one of ``places``: there is at least one, and all have room. ``pick(n)`` is random in range(n)."""

    def __call__(self, places: Sequence[P], pick: Callable[[int], int], /) -> P: ...


def least_load(places: Sequence[P], pick: Callable[[int], int], /) -> P:
    """The least loaded one, ties at random."""
    least = min(place.load for place in places)
    idlest = [place for place in places if place.load == least]
    return at_random(idlest, pick)


def at_random(places: Sequence[P], pick: Callable[[int], int], /) -> P:
    return places[pick(len(places))] if len(places) > 1 else places[0]


BALANCES: Final[Mapping[str, Balance]] = MappingProxyType({"least-load": least_load, "random": at_random})


def balance_named(name: str, *, field: str = "balance") -> Balance:
    """Raises ``ConfigError`` naming ``field``."""
    balance = BALANCES.get(name)
    if balance is None:
        raise ConfigError(field, f"{name[:40]!r} is unknown", f"give one of {', '.join(BALANCES)}")
    return balance
