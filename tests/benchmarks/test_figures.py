"""Medians, spread and ratios of rounds."""

from __future__ import annotations

import json

import pytest
from benchmarks.figures import Results, percentile, ratio_of_rounds, spread


def filled() -> Results:
    results = Results()
    for ours, direct in [(10.0, 100.0), (30.0, 150.0), (20.0, 400.0)]:
        results.add("get1", "direct", {"rate": direct})
        results.add("get1", "asyncio", {"rate": ours})
    return results


def test_the_median_of_the_rounds() -> None:
    assert filled().median("get1", "rate", "asyncio") == 20.0


def test_what_was_not_measured_is_none() -> None:
    results = filled()
    assert results.median("get1", "p99", "asyncio") is None
    assert results.ratio("get1", "rate", "asyncio", "wsp") is None


def test_a_ratio_compares_the_rounds_that_were_side_by_side() -> None:
    """The ratio of the medians would be 20 / 150."""
    assert filled().ratio("get1", "rate", "asyncio", "direct") == 0.1


def test_a_ratio_to_nothing_is_none() -> None:
    assert ratio_of_rounds([1.0], [0.0]) is None


@pytest.mark.parametrize(("rounds", "expected"), [([5.0], 0.0), ([8.0, 10.0, 14.0], 0.3), ([0.0, 0.0], 0.0)])
def test_spread(rounds: list[float], expected: float) -> None:
    assert spread(rounds) == pytest.approx(expected)


def test_percentile() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 50) == 50.0
    assert percentile(values, 99) == 99.0
    assert percentile(values, 99.5) == 100.0
    assert percentile([3.0, 1.0, 2.0], 0) == 1.0
    assert percentile([7.0], 99) == 7.0


def test_ways_in_the_order_in_which_they_were_measured() -> None:
    results = filled()
    results.fail("get1", "wsp", "why")
    results.leave_out("link", "trio", "why")
    assert results.ways() == ["direct", "asyncio", "wsp"]


def test_json_holds_every_round() -> None:
    results = filled()
    results.fail("up", "wsp", "why")
    results.leave_out("link", "trio", "why")
    assert json.loads(json.dumps(results.to_json())) == {
        "figures": [
            ["get1", "rate", "direct", [100.0, 150.0, 400.0]],
            ["get1", "rate", "asyncio", [10.0, 30.0, 20.0]],
        ],
        "failures": [["up", "wsp", "why"]],
        "left out": [["link", "trio", "why"]],
    }
