"""Memory: the most that many long bodies at once need above the bare program, and what an idle tunnel keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from ..bench import Bench, Row
from ..callers import Fetcher, download_many, upload_many
from ..figures import Metric
from ..programs import Program
from ..ways import Spec, Tunnel, Way

__all__ = ["ROWS"]

DOWNLOADS, UPLOADS = 64, 8
FEW = 100  # idle tunnels, whose memory is taken off: what grows once is no tunnel's own
MB, KB = 1e6, 1e3
OPENING = 300.0  # seconds that opening all idle tunnels may take

METRICS = (
    Metric("down-server", f"{DOWNLOADS} downloads, server", "MB", digits=1),
    Metric("down-client", f"{DOWNLOADS} downloads, client", "MB", digits=1),
    Metric("up-server", f"{UPLOADS} uploads, server", "MB", digits=1),
    Metric("up-client", f"{UPLOADS} uploads, client", "MB", digits=1),
    Metric("bare-server", "the bare program, server", "MB", digits=1),
    Metric("bare-client", "the bare program, client", "MB", digits=1),
)


def grown(way: Way, load: Callable[[], object]) -> Mapping[str, tuple[int, int]]:
    """Of each end, bytes: before, and the most that was needed above that meanwhile."""
    fetcher = Fetcher(way.address)
    fetcher.fetch()  # what is imported or made at the first request is there
    fetcher.close()
    bare = {}
    for name, end in way.ends.items():
        end.forget_peak()
        bare[name] = end.resident
    load()
    return {name: (bare[name], end.peak - bare[name]) for name, end in way.ends.items()}


def peaks(bench: Bench, spec: Spec) -> dict[str, float]:
    size = bench.settings.body
    path = bench.origins.path_of(size)
    found: dict[str, float] = {}
    with bench.fresh(spec) as way:
        for name, (bare, more) in grown(way, lambda: download_many(way.address, path, DOWNLOADS)).items():
            found |= {f"bare-{name}": bare / MB, f"down-{name}": more / MB}
    with bench.fresh(spec, "sink") as way:
        for name, (_, more) in grown(way, lambda: upload_many(way.address, "/sink", UPLOADS, size)).items():
            found[f"up-{name}"] = more / MB
    return found


def idle(bench: Bench, spec: Spec) -> dict[str, float]:
    """All the tunnels' clients are in one other process; the server's memory is measured."""
    assert isinstance(spec, Tunnel)
    many = bench.settings.sessions
    with bench.fresh(spec) as way:
        before = way.ends["server"].usage()
        where = way.address.base_url, spec.variant.carrier
        command = [sys.executable, "-m", "benchmarks.sessions", *where, str(FEW), str(many)]
        driver = Program(command, errors=bench.folder / "sessions.err")
        try:
            few, all_of_them = (settled(way, driver, count) for count in (FEW, many))
        finally:
            driver.close()
        spent = way.ends["server"].usage() - before
    return {"each": (all_of_them - few) / (many - FEW) / KB, "count": many, "cpu": spent.seconds / many * 1000}


def settled(way: Way, driver: Program, count: int) -> int:
    """The server's memory when that many tunnels are open."""
    driver.tell("go")
    driver.said(f"ready {count}", OPENING)
    return way.ends["server"].resident


IDLE = (
    Metric("each", "memory a tunnel, server", "KB", digits=1),
    Metric("count", "tunnels", ""),
    Metric("cpu", "processor time to open one, server", "ms", digits=2),
)
ROWS = [
    Row("memory", "peak memory above the bare program", METRICS, peaks, once=True, direct=False),
    Row("idle", "idle tunnels", IDLE, idle, once=True, direct=False, foreign=False),
]
