"""The loop over rows, rounds and ways, with ways that are only noted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.bench import Bench, Row, Settings, run
from benchmarks.figures import Metric
from benchmarks.origin import Origin, Origins
from benchmarks.programs import BenchmarkError
from benchmarks.ways import Address, Spec, Way

from benchmarks import bench as bench_module

METRIC = Metric("rate", "requests a second", "/s")


@dataclass
class Noted:
    """A way that writes down when it is opened and ended."""

    name: str
    notes: list[str]
    beside: str = "direct"

    def open(self, stack: ExitStack, origins: Origins, origin: Origin, folder: Path) -> Way:
        self.notes.append(f"{self.name} opened")
        stack.callback(self.notes.append, f"{self.name} ended")
        return Way(Address(1))


def row(name: str, notes: list[str], failing: str = "") -> Row:
    def measure(bench: Bench, spec: Spec) -> Mapping[str, float]:
        bench.way(spec)
        notes.append(f"{name} of {spec.name}")
        if spec.name == failing:
            raise BenchmarkError("is still busy")
        return {"rate": 1.0}

    return Row(name, name, (METRIC,), measure)


def test_what_failed_is_ended_before_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have left a thousand connections behind that take the kernel's memory."""
    monkeypatch.setattr(Bench, "_origin", lambda bench, wants: None)
    monkeypatch.setattr(bench_module, "print", lambda *_, **__: None, raising=False)
    notes: list[str] = []
    specs = [Noted("one", notes), Noted("other", notes)]
    results = run(
        [row("first", notes, failing="one"), row("second", notes)], specs, Settings(rounds=2), lambda _: None
    )
    assert notes == [
        *("one opened", "first of one", "one ended"),
        *("other opened", "first of other", "first of other"),
        *("one opened", "second of one", "second of other", "second of one", "second of other"),
        *("one ended", "other ended"),
    ]
    assert results.failures == {("first", "one"): "is still busy"}
