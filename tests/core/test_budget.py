from __future__ import annotations

import pytest

from tunnelkit.core.budget import Budget
from tunnelkit.errors import LocalProtocolError


def test_floors_may_use_all_of_it() -> None:
    budget = Budget(800)
    assert budget.reserve(800)
    assert (budget.used, budget.free, budget.spare) == (800, 0, 0)
    assert not budget.reserve(1)
    assert budget.used == 800


def test_what_is_above_a_floor_leaves_the_last_quarter() -> None:
    budget = Budget(800)
    assert budget.spare == 600
    assert not budget.reserve_spare(601)
    assert budget.reserve_spare(600)
    assert (budget.free, budget.spare) == (200, 0)
    assert not budget.reserve_spare(1)
    assert budget.reserve(200)


def test_charge_never_says_no_and_leaves_nothing_negative() -> None:
    budget = Budget(800)
    budget.charge(1000)
    assert (budget.used, budget.free, budget.spare) == (1000, 0, 0)
    assert not budget.reserve(1)
    budget.release(1000)
    assert (budget.used, budget.free) == (0, 800)


def test_more_cannot_be_released_than_is_reserved() -> None:
    budget = Budget(800)
    assert budget.reserve(10)
    with pytest.raises(LocalProtocolError, match="11 bytes released"):
        budget.release(11)
    assert budget.used == 10


def test_repr() -> None:
    assert repr(Budget(8)) == "Budget(used=0, capacity=8)"
