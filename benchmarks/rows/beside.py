"""Small requests beside what should not concern them: a bulk transfer, and callers that read nothing."""

from __future__ import annotations

import time

from ..bench import Bench, Row
from ..callers import download, paced_download, stalled
from ..figures import Metric
from ..programs import BenchmarkError
from ..ways import Spec, Way
from ..wrk import Load, run_wrk

__all__ = ["ROWS"]

SHARE = 0.5  # of the most that a bulk transfer reaches by itself
SETTLING = 60.0  # seconds
LINE = 125_000_000  # bytes a second: a full line of 1 Gbit/s, the same work for every way
BODY = 1_000_000_000  # more than any buffer holds
CROWD = 300

METRICS = (
    Metric("alone", "p99 alone", "ms", digits=2),
    Metric("beside-bulk", "p99 beside a download held to half its maximum", "ms", digits=2),
    Metric("bulk-share", "what that download got of its half", "%"),
    Metric("beside-line", "p99 beside a download at 1 Gbit/s", "ms", digits=2),
    Metric("beside-stalled", "p99 beside a caller that reads nothing", "ms", digits=2),
    Metric("bulk", "times alone, beside the download at half its maximum", "", digits=2),
    Metric("line", "times alone, beside the one at 1 Gbit/s", "", digits=2),
    Metric("stalled", "times alone, beside the one that reads nothing", "", digits=2),
)
CROWD_METRICS = (
    Metric("alone", "p99 alone", "ms", digits=2),
    Metric("beside", f"p99 beside {CROWD} callers that read nothing", "ms", digits=2),
    Metric("times", "times alone", "", digits=2),
)


def settle(way: Way) -> None:
    """Wait until the ends have nothing to do: whatever can be buffered is."""
    deadline = time.monotonic() + SETTLING
    before: dict[str, float] | None = None
    while before != (before := {name: end.usage().seconds for name, end in way.ends.items()}):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"is still busy after {SETTLING:g} s")
        time.sleep(0.3)  # the time in which nothing may happen


def p99(bench: Bench, way: Way, connections: int) -> float:
    """Milliseconds."""
    return run_wrk(Load(way.address, "/small", connections, bench.settings.seconds)).p99 * 1000


def bulk_rate(bench: Bench, way: Way) -> float:
    """Bytes a second that a download reaches by itself."""
    size, seconds = download(way.address, bench.origins.path_of(bench.settings.size))
    return size / seconds


def p99_beside_bulk(bench: Bench, way: Way, connections: int, rate: float) -> tuple[float, float]:
    """And what part of ``rate`` the download had: a way that starves it has it easy."""
    with paced_download(way.address, bench.origins.path_of(BODY), rate) as paced:
        return p99(bench, way, connections), paced.share


def p99_beside_stalled(bench: Bench, way: Way, connections: int, callers: int) -> float:
    with stalled(way.address, bench.origins.path_of(BODY), callers):
        settle(way)
        return p99(bench, way, connections)


def beside_one(connections: int, bench: Bench, spec: Spec) -> dict[str, float]:
    way = bench.way(spec)
    alone = p99(bench, way, connections)
    most = bulk_rate(bench, way)
    bulk, share = p99_beside_bulk(bench, way, connections, SHARE * most)
    still = p99_beside_stalled(bench, way, connections, 1)
    figures = {
        "alone": alone,
        "beside-bulk": bulk,
        "bulk-share": share * 100,
        "beside-stalled": still,
        "bulk": bulk / alone,
        "stalled": still / alone,
    }
    if most > LINE:
        line, _ = p99_beside_bulk(bench, way, connections, LINE)
        figures |= {"beside-line": line, "line": line / alone}
    return figures


def beside_crowd(bench: Bench, spec: Spec) -> dict[str, float]:
    way = bench.way(spec)
    alone = p99(bench, way, 16)
    beside = p99_beside_stalled(bench, way, 16, CROWD)
    return {"alone": alone, "beside": beside, "times": beside / alone}


ROWS = [
    Row("beside1", "one caller with small GETs", METRICS, lambda bench, spec: beside_one(1, bench, spec)),
    Row("beside16", "16 callers with small GETs", METRICS, lambda bench, spec: beside_one(16, bench, spec)),
    Row("beside50", "50 callers with small GETs", METRICS, lambda bench, spec: beside_one(50, bench, spec)),
    Row("beside64", "64 callers with small GETs", METRICS, lambda bench, spec: beside_one(64, bench, spec)),
    Row("crowd", "16 callers and a crowd", CROWD_METRICS, beside_crowd),
]
