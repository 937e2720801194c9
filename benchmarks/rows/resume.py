"""How long a request waits that comes at the moment of a cut: the client dials again, the session goes on."""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from dataclasses import replace

from ..bench import Bench, Row
from ..callers import Fetcher
from ..figures import Metric, percentile
from ..ways import Spec, Tunnel

__all__ = ["ROWS"]

# Seconds. A client leaves 100 ms between its dials: cuts that come sooner measure that.
APART = 0.2

METRICS = (
    Metric("median", "a request at the moment of a cut, median", "ms", digits=1),
    Metric("p90", "90th percentile", "ms", digits=1),
    Metric("longest", "longest", "ms", digits=1),
    Metric("uncut", "a request without a cut", "ms", digits=1),
)


def measure(bench: Bench, spec: Spec) -> dict[str, float]:
    assert isinstance(spec, Tunnel)
    with bench.fresh(replace(spec, relayed=True)) as way, closing(Fetcher(way.address)) as fetcher:
        uncut = [fetcher.fetch() for _ in range(bench.settings.cuts)]
        cut = []
        for _ in range(bench.settings.cuts):
            time.sleep(APART)
            way.ends["relay"].tell("cut rst")
            way.ends["relay"].said("cut ")
            cut.append(fetcher.fetch())
    return {
        "median": statistics.median(cut) * 1000,
        "p90": percentile(cut, 90) * 1000,
        "longest": max(cut) * 1000,
        "uncut": statistics.median(uncut) * 1000,
    }


ROWS = [Row("resume", "resume", METRICS, measure, once=True, direct=False, foreign=False)]
