"""One run: its settings, its origins, the ways that stay open, and the loop over rows, rounds and ways."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from .figures import Metric, Results
from .origin import LOOPBACK, Origin, Origins, Site
from .programs import BenchmarkError, LeftOut
from .ways import Direct, Spec, Tunnel, Way

__all__ = ["MIB", "Bench", "Row", "Settings", "Wants", "run"]

MIB = 1024 * 1024
Wants: TypeAlias = Literal["files", "sink"]
Measured: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much of everything."""

    rounds: int = 3
    seconds: float = 2.0  # of each run of small requests
    size: int = 200_000_000  # bytes of the long bodies
    body: int = 20_000_000  # bytes of each of the parallel bodies whose memory is measured
    sessions: int = 1000  # idle tunnels
    cuts: int = 100


@dataclass(frozen=True)
class Row:
    """Some figures that are measured together. ``measure`` gives a value for each of ``metrics``, or for fewer."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Bench, Spec], Measured]
    once: bool = False  # nothing that drifts, or too long to be repeated
    direct: bool = True  # means something without a tunnel
    foreign: bool = True  # means something for other tunnels

    def takes(self, spec: Spec) -> bool:
        return self.direct if isinstance(spec, Direct) else self.foreign or isinstance(spec, Tunnel)


class Bench:
    """What the rows measure with."""

    def __init__(self, settings: Settings, stack: ExitStack, site: Site = LOOPBACK) -> None:
        self.settings = settings
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tunnelkit-bench-")))
        self.origins = Origins(stack, self.folder, site)
        self._stack = stack
        self._open: dict[tuple[str, Wants], tuple[Way, ExitStack]] = {}

    def way(self, spec: Spec, wants: Wants = "files") -> Way:
        """The way that stays open until the run ends or it fails; ``wants`` names the origin behind it."""
        if (spec.name, wants) not in self._open:
            with ExitStack() as opening:
                way = spec.open(opening, self.origins, self._origin(wants), self.folder)
                programs = self._stack.enter_context(opening.pop_all())
            self._open[spec.name, wants] = way, programs
        return self._open[spec.name, wants][0]

    def end(self, spec: Spec) -> None:
        """End its programs, for their sake who come after: what failed may still be busy, or hold much."""
        for key in [key for key in self._open if key[0] == spec.name]:
            _, programs = self._open.pop(key)
            programs.close()

    @contextmanager
    def fresh(self, spec: Spec, wants: Wants = "files") -> Iterator[Way]:
        """A way that nothing has gone through yet, and that ends with the context."""
        with ExitStack() as stack:
            yield spec.open(stack, self.origins, self._origin(wants), self.folder)

    def _origin(self, wants: Wants) -> Origin:
        return self.origins.files if wants == "files" else self.origins.sink


def run(
    rows: Sequence[Row], specs: Sequence[Spec], settings: Settings, say: Callable[[str], None], results: Results
) -> None:
    """Measure into ``results``, which have what was measured however this ends. In each round every way has its turn,
    so that what else the machine does meets all of them; and each round begins with another: none always comes
    after the same one."""
    with ExitStack() as stack:
        bench = Bench(settings, stack)
        for row in rows:
            for number in range(1 if row.once else settings.rounds):
                say(f"{row.title}, round {number + 1}")
                first = number % max(len(specs), 1)
                for spec in [*specs[first:], *specs[:first]]:
                    if row.takes(spec) and not results.is_over(row.name, spec.name):
                        _measure(bench, row, spec, results)


def _measure(bench: Bench, row: Row, spec: Spec, results: Results) -> None:
    try:
        results.add(row.name, spec.name, row.measure(bench, spec))
    except LeftOut as why:
        results.leave_out(row.name, spec.name, str(why))
    except (BenchmarkError, OSError, subprocess.TimeoutExpired) as error:
        results.fail(row.name, spec.name, str(error))
        print(f"{row.name}, {spec.name}: {error}", file=sys.stderr, flush=True)
        bench.end(spec)
