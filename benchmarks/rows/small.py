"""Small requests, answers of some sizes, and connections: wrk's figures, and what each request cost at each end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ..bench import Bench, Row
from ..figures import Metric
from ..programs import Usage
from ..ways import Spec, Way
from ..wrk import NUMBER, Load, numbering_script, run_wrk
from ..yardstick import h11_cycle

__all__ = ["ROWS"]

RATE = Metric("rate", "requests a second", "/s", more_is_better=True)
P50 = Metric("p50", "p50", "ms", digits=2)
P99 = Metric("p99", "p99", "ms", digits=2)
COSTS = (
    Metric("cpu-server", "processor time a request, server", "µs", digits=1),
    Metric("cpu-client", "processor time a request, client", "µs", digits=1),
    Metric("cpu", "processor time a request, both ends", "µs", digits=1),
    Metric("cycles", "the same in cycles of h11", "", digits=1),
    Metric("wakes-server", "times asleep a request, server", "", digits=2),
    Metric("wakes-client", "times asleep a request, client", "", digits=2),
)


def usage(way: Way) -> dict[str, Usage]:
    return {name: way.ends[name].usage() for name in ("server", "client") if name in way.ends}


def costs(before: Mapping[str, Usage], after: Mapping[str, Usage], requests: int) -> dict[str, float]:
    """Of each end, for a request."""
    used = {name: after[name] - before[name] for name in before}
    found = {f"cpu-{name}": each.seconds / requests * 1e6 for name, each in used.items()}
    if found:
        found["cpu"] = sum(found.values())
    return found | {f"wakes-{name}": each.switches / requests for name, each in used.items()}


def measure(path: str, connections: int, fields: tuple[str, ...], bench: Bench, spec: Spec) -> dict[str, float]:
    way = bench.way(spec)
    script = numbering(bench, way, path, fields) if NUMBER in "".join([path, *fields]) else None
    cycle = h11_cycle()
    before = usage(way)
    done = run_wrk(Load(way.address, path, connections, bench.settings.seconds, fields, script))
    spent = costs(before, usage(way), done.requests)
    if "cpu" in spent:
        spent["cycles"] = spent["cpu"] / cycle / 1e6
    return {"rate": done.rate, "p50": done.p50 * 1000, "p99": done.p99 * 1000, **spent}


def numbering(bench: Bench, way: Way, path: str, fields: tuple[str, ...]) -> Path:
    file = bench.folder / "numbering.lua"
    file.write_text(numbering_script(way.address, path, fields))
    return file


def measure_size(size: int, bench: Bench, spec: Spec) -> dict[str, float]:
    return measure(bench.origins.path_of(size), 16, (), bench, spec)


def small(connections: int) -> Row:
    plural = "s" if connections > 1 else ""
    return Row(
        f"get{connections}",
        f"small GET, {connections} connection{plural}",
        (RATE, P50, P99, *COSTS),
        partial(measure, "/small", connections, ()),
    )


def varied(what: str, path: str, fields: tuple[str, ...]) -> Row:
    """No head comes again: what is remembered of one is of no use for the next."""
    return Row(
        f"{what}64",
        f"small GET, each with a {what} of its own, 64 connections",
        (RATE, P50, P99, *COSTS),
        partial(measure, path, 64, fields),
    )


def sized(name: str, size: int) -> Row:
    return Row(f"size{name}", f"answers of {name.upper()}B, 16 connections", (RATE, P99), partial(measure_size, size))


ROWS = [
    *map(small, (1, 16, 64)),
    varied("target", f"/small?n={NUMBER}", ()),
    varied("field", "/small", (f"X-Request-Id: {NUMBER}",)),
    *(sized(name, size) for name, size in [("1k", 1000), ("16k", 16_000), ("100k", 100_000), ("1m", 1_000_000)]),
    Row(
        "connections",
        "a new connection for each request, 16 callers",
        (RATE, P99, *COSTS),
        partial(measure, "/small", 16, ("Connection: close",)),
    ),
]
