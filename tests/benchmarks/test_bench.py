"""The loop over rows, rounds and ways, with ways that are only noted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.bench import Bench, Row, Settings, run
from benchmarks.figures import Metric, Results
from benchmarks.origin import Origin, Origins
from benchmarks.programs import BenchmarkError, LeftOut
from benchmarks.ways import Address, Spec, Way

METRIC = Metric("rate", "requests a second", "/s")


@dataclass
class Noted:
    """A way that writes down when it is opened and ended."""

    name: str
    notes: list[str]
    opens: bool = True
    beside: str = "direct"

    def open(self, stack: ExitStack, origins: Origins, origin: Origin, folder: Path) -> Way:
        self.notes.append(f"{self.name} opened")
        stack.callback(self.notes.append, f"{self.name} ended")
        if not self.opens:
            raise BenchmarkError("is not ready")
        return Way(Address(1))


def row(name: str, notes: list[str], failing: str = "", *, both: bool = False) -> Row:
    def measure(bench: Bench, spec: Spec) -> Mapping[str, float]:
        bench.way(spec)
        if both:
            bench.way(spec, "sink")
        notes.append(f"{name} of {spec.name}")
        if spec.name == failing:
            raise BenchmarkError("is still busy")
        return {"rate": 1.0}

    return Row(name, name, (METRIC,), measure)


def measured(rows: list[Row], *specs: Noted) -> Results:
    results = Results()
    run(rows, specs, Settings(rounds=2), lambda _: None, results)
    return results


@pytest.fixture(autouse=True)
def _without_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "_origin", lambda bench, wants: None)


def test_what_failed_is_ended_before_others_are_measured() -> None:
    """It may have left a thousand connections behind that take the kernel's memory."""
    notes: list[str] = []
    results = measured(
        [row("first", notes, failing="one"), row("second", notes)], Noted("one", notes), Noted("other", notes)
    )
    assert notes == [
        *("one opened", "first of one", "one ended"),
        *("other opened", "first of other", "first of other"),
        *("one opened", "second of one", "second of other", "second of other", "second of one"),
        *("one ended", "other ended"),
    ]
    assert results.failures == {("first", "one"): "is still busy"}


def test_it_is_ended_with_all_that_it_was_opened_for() -> None:
    notes: list[str] = []
    measured([row("first", notes, failing="one", both=True)], Noted("one", notes))
    assert notes == ["one opened", "one opened", "first of one", "one ended", "one ended"]


def test_what_does_not_open_is_ended_too() -> None:
    notes: list[str] = []
    other = Noted("other", notes)
    results = measured([row("first", notes), row("second", notes)], Noted("one", notes, opens=False), other)
    assert notes[:3] == ["one opened", "one ended", "other opened"]
    assert results.failures == {("first", "one"): "is not ready", ("second", "one"): "is not ready"}


def test_what_means_nothing_for_a_way_fails_nothing() -> None:
    notes: list[str] = []

    def measure(bench: Bench, spec: Spec) -> Mapping[str, float]:
        bench.way(spec)
        notes.append("looked")
        raise LeftOut("it means nothing")

    results = measured([Row("first", "first", (METRIC,), measure), row("second", notes)], Noted("one", notes))
    assert notes == ["one opened", "looked", "second of one", "second of one", "one ended"]
    assert (results.failures, results.left_out) == ({}, {("first", "one"): "it means nothing"})
