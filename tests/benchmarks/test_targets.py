"""Floors and targets, and the table that figures are shown in."""

from __future__ import annotations

import pytest
from benchmarks.figures import Results
from benchmarks.rows import ALL_ROWS
from benchmarks.table import cell, markdown, rows_of_table
from benchmarks.targets import TARGETS, WSP_IN_CYCLES, Target, against_wsp, by_processor_time, judged, wsp_estimate
from benchmarks.variants import all_variants


def results(**ways: float) -> Results:
    made = Results()
    for way, rate in ways.items():
        made.add("get64", way, {"rate": rate})
    return made


FASTER = Target("", "", 1.0, 2.0, against_wsp("get64", "asyncio"))
SMALLER = Target("", "", 40, 20, against_wsp("get64", "asyncio"), more_is_better=False)


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (FASTER, 2.0, "met"),
        (FASTER, 1.9, "floor met, target missed"),
        (FASTER, 0.9, "floor missed"),
        (FASTER, None, "not measured"),
        (SMALLER, 20.0, "met"),
        (SMALLER, 21.0, "floor met, target missed"),
        (SMALLER, 41.0, "floor missed"),
    ],
)
def test_verdicts(target: Target, value: float | None, verdict: str) -> None:
    assert target.verdict(value) == verdict


def test_wsp_is_estimated_from_the_direct_way() -> None:
    direct = results(direct=10_000.0, asyncio=1740.0)
    assert wsp_estimate(direct, "get64", "rate") == [pytest.approx(870)]
    value, how = against_wsp("get64", "asyncio")(direct)
    assert value == pytest.approx(2.0)
    assert how == "estimated from nginx direct"


def test_wsp_itself_is_better_than_an_estimate() -> None:
    assert against_wsp("get64", "asyncio")(results(direct=10.0, asyncio=3.0, wsp=2.0)) == (1.5, "measured")


def test_wsp_is_estimated_from_processor_time() -> None:
    """Half as much of it is twice as many requests a second."""
    made = Results()
    made.add("get64", "asyncio", {"cycles": WSP_IN_CYCLES / 2})
    assert by_processor_time("asyncio")(made) == (2.0, "estimated from processor time")
    assert by_processor_time("trio")(made)[0] is None


def test_without_the_direct_way_there_is_no_estimate() -> None:
    assert against_wsp("get64", "asyncio")(results(asyncio=3.0))[0] is None


def test_every_target_looks_at_a_row_and_a_variant_that_exist() -> None:
    """With a figure in every place there is, every target has a value."""
    everything = Results()
    for row in ALL_ROWS:
        for way in ("direct", *(variant.name for variant in all_variants())):
            everything.add(row.name, way, {metric.name: 1.0 for metric in row.metrics})
    lines = list(judged(everything, beside_nginx=True))
    assert len(lines) == len(TARGETS) + 1
    assert [line for line in lines if "not measured" in line] == []


def test_nothing_is_estimated_from_another_origin_than_nginx() -> None:
    told = {nginx: list(judged(results(direct=60000, asyncio=6000), beside_nginx=nginx)) for nginx in (True, False)}
    (with_nginx, without) = (next(line for line in lines if "64 connections" in line[0]) for lines in told.values())
    assert with_nginx[-2:] == ["floor missed", "estimated from nginx direct"]
    assert without[-3:] == ["", "not measured", ""]


def test_a_cell_has_median_spread_and_ratio() -> None:
    made = Results()
    for rate in (900.0, 1000.0, 1100.0):
        made.add("get1", "direct", {"rate": rate * 4})
        made.add("get1", "trio", {"rate": rate})
    row = ALL_ROWS[0]
    assert cell(made, row, row.metrics[0], "direct", "direct") == "4,000 ±10%"
    assert cell(made, row, row.metrics[0], "trio", "direct") == "1,000 ±10% (0.25)"
    assert cell(made, row, row.metrics[0], "asyncio", "direct") == ""


def test_the_table_shows_what_was_measured_and_what_failed() -> None:
    made = Results()
    made.add("get1", "direct", {"rate": 5.0})
    made.add("get1", "trio", {"rate": 4.0})
    made.fail("up", "trio", "why")
    assert list(rows_of_table(made, ALL_ROWS, lambda way: "direct")) == [
        ["", "direct", "trio"],
        ["small GET, 1 connection: requests a second, /s", "5", "4 (0.8)"],
        ["**one long upload**", "", "failed"],
    ]


def test_markdown_is_aligned() -> None:
    assert markdown([["", "direct"], ["a row", "5"]]) == "|       | direct |\n| ----- | -----: |\n| a row |      5 |"
