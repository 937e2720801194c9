"""Which client is given the next request."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tunnelkit.core.balance import BALANCES, at_random, balance_named, least_load
from tunnelkit.errors import ConfigError


@dataclass
class Place:
    name: str
    load: int = 0


def test_the_least_loaded_is_chosen_and_chance_is_asked_for_ties_only() -> None:
    places = [Place("a", 1), Place("b"), Place("c")]
    asked: list[int] = []

    def last(n: int) -> int:
        asked.append(n)
        return n - 1

    assert least_load(places, last).name == "c"
    places[1].load = 1
    assert least_load(places, last).name == "c"
    assert asked == [2]


def test_at_random_the_load_does_not_matter() -> None:
    places = [Place("a", 7), Place("b"), Place("c")]
    assert at_random(places, lambda n: 0).name == "a"
    assert at_random(places, lambda n: n - 1).name == "c"


def test_of_one_none_is_chosen_by_chance() -> None:
    def never(n: int) -> int:
        raise AssertionError(n)

    for balance in BALANCES.values():
        assert balance([Place("a", 3)], never).name == "a"


def test_names() -> None:
    assert balance_named("random") is at_random
    assert balance_named("least-load") is least_load
    with pytest.raises(ConfigError, match="'fair' is unknown; give one of least-load, random") as caught:
        balance_named("fair")
    assert caught.value.field == "balance"
