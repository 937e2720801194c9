"""One long body, down and up."""

from __future__ import annotations

from ..bench import Bench, Row
from ..callers import download, upload
from ..figures import Metric
from ..programs import Usage
from ..ways import Spec, Way
from .small import usage

__all__ = ["ROWS"]

RATE = Metric("rate", "MB a second", "MB/s", more_is_better=True)
COSTS = (
    Metric("cpu-server", "processor time for a MB, server", "µs"),
    Metric("cpu-client", "processor time for a MB, client", "µs"),
)


def figures(way: Way, before: dict[str, Usage], size: int, seconds: float) -> dict[str, float]:
    after = usage(way)
    spent = {f"cpu-{name}": (after[name] - used).seconds / size * 1e12 for name, used in before.items()}
    return {"rate": size / seconds / 1e6, **spent}


def down(bench: Bench, spec: Spec) -> dict[str, float]:
    way = bench.way(spec)
    before = usage(way)
    size, seconds = download(way.address, bench.origins.path_of(bench.settings.size))
    return figures(way, before, size, seconds)


def up(bench: Bench, spec: Spec) -> dict[str, float]:
    way = bench.way(spec, "sink")
    before = usage(way)
    size = bench.settings.size
    return figures(way, before, size, upload(way.address, "/sink", size))


ROWS = [
    Row("down", "one long download", (RATE, *COSTS), down),
    Row("up", "one long upload", (RATE, *COSTS), up),
]
