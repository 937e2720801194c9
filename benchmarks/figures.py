"""Figures of several rounds: medians, spread and ratios. Plain functions and values, no I/O."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Metric", "Results", "percentile", "ratio_of_rounds", "spread"]


@dataclass(frozen=True)
class Metric:
    """One column of a row: what is counted, in which unit, and whether a bigger figure is the better one."""

    name: str
    title: str
    unit: str
    more_is_better: bool = False
    digits: int = 0


@dataclass
class Results:
    """All figures of a run, by row, metric and way, in the order of the rounds; and why others are missing."""

    figures: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    left_out: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, row: str, way: str, measured: Mapping[str, float]) -> None:
        for metric, value in measured.items():
            self.figures.setdefault((row, metric, way), []).append(value)

    def fail(self, row: str, way: str, why: str) -> None:
        self.failures[row, way] = why

    def leave_out(self, row: str, way: str, why: str) -> None:
        self.left_out[row, way] = why

    def is_over(self, row: str, way: str) -> bool:
        """No round can bring anything."""
        return (row, way) in self.failures or (row, way) in self.left_out

    def rounds(self, row: str, metric: str, way: str) -> list[float]:
        return self.figures.get((row, metric, way), [])

    def median(self, row: str, metric: str, way: str) -> float | None:
        rounds = self.rounds(row, metric, way)
        return statistics.median(rounds) if rounds else None

    def ratio(self, row: str, metric: str, way: str, beside: str) -> float | None:
        """How many times ``beside`` it is: the median of the ratios of each round."""
        return ratio_of_rounds(self.rounds(row, metric, way), self.rounds(row, metric, beside))

    def ways(self) -> list[str]:
        """Those that were measured, then those that only failed."""
        return list(dict.fromkeys([*(way for _, _, way in self.figures), *(way for _, way in self.failures)]))

    def to_json(self) -> dict[str, object]:
        return {
            "figures": [[*key, rounds] for key, rounds in self.figures.items()],
            "failures": [[*key, why] for key, why in self.failures.items()],
            "left out": [[*key, why] for key, why in self.left_out.items()],
        }

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        return iter(self.figures)


def ratio_of_rounds(rounds: Sequence[float], beside: Sequence[float]) -> float | None:
    """The median of each round's ratio: what the machine did meanwhile met both. None without rounds to compare."""
    ratios = [one / other for one, other in zip(rounds, beside, strict=False) if other]
    return statistics.median(ratios) if ratios else None


def spread(rounds: Sequence[float]) -> float:
    """Half the distance between the extremes, as a part of the median; 0 for one round."""
    middle = statistics.median(rounds)
    return (max(rounds) - min(rounds)) / 2 / middle if middle else 0.0


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that ``percent`` of all do not exceed."""
    ranked = sorted(values)
    return ranked[max(math.ceil(len(ranked) * percent / 100), 1) - 1]
