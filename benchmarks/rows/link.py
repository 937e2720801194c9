"""Small requests over a link of 1 Mbit/s and 100 ms, alone and beside a download that wants all of it.

The whole row runs in a child, which has a network namespace of its own:

    unshare --net -- python -m benchmarks.rows.link WAY SECONDS
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack

from ..bench import Bench, Row, Settings
from ..callers import download, paced_download
from ..figures import Metric
from ..origin import find_program
from ..peers import peers_of
from ..programs import ROOT, BenchmarkError, LeftOut, end_in_order
from ..slow_link import open_link
from ..variants import parse_variant
from ..ways import DIRECT, DIRECT_TLS, Spec, Tunnel
from ..wrk import Load, run_wrk

__all__ = ["ROWS"]

CONNECTIONS = 4
LONG, BULK = 50_000_000, 600_000  # bytes: more than passes while small requests run; what takes five seconds
UNHINDERED = 1e12  # bytes a second
TIMEOUT = 300.0
END_TIMEOUT = 60.0  # for the programs that the child ends first

METRICS = (
    Metric("p50", "p50", "ms"),
    Metric("p99", "p99", "ms"),
    Metric("p50-beside", "p50 beside a download", "ms"),
    Metric("p99-beside", "p99 beside a download", "ms"),
    Metric("rate", "a download alone", "KB/s", more_is_better=True),
)


def link(bench: Bench, spec: Spec) -> dict[str, float]:
    if os.geteuid() != 0:
        raise LeftOut("a network namespace needs root: run it as root")
    for needed in ("unshare", "nsenter", "ip", "tc"):
        if find_program(needed) is None:
            raise LeftOut(f"{needed} is not installed: it comes with iproute2 or util-linux")
    command = ["unshare", "--net", "--", sys.executable, "-m", "benchmarks.rows.link"]
    seconds = str(2 * bench.settings.seconds)  # few requests pass
    found: dict[str, float] = json.loads(said_by([*command, spec.name, seconds]))
    return found


def said_by(command: list[str]) -> str:
    """What the child prints. Whatever ends the wait for it ends it in order: killed, it would leave its programs."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        said, complained = child.communicate(timeout=TIMEOUT)
    except BaseException:
        child.terminate()
        try:
            child.communicate(timeout=END_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
        raise
    if child.returncode:
        raise BenchmarkError((complained.strip().splitlines() or ["ended"])[-1])
    return said


def measure(bench: Bench, spec: Spec) -> dict[str, float]:
    """In the child."""
    way = bench.way(spec)
    load = Load(way.address, "/small", CONNECTIONS, bench.settings.seconds)
    alone = run_wrk(load)
    size, took = download(way.address, bench.origins.path_of(BULK))
    with paced_download(way.address, bench.origins.path_of(LONG), UNHINDERED):
        beside = run_wrk(load)
    times = {"p50": alone.p50, "p99": alone.p99, "p50-beside": beside.p50, "p99-beside": beside.p99}
    return {name: value * 1000 for name, value in times.items()} | {"rate": size / took / 1000}


def spec_named(name: str) -> Spec:
    others: list[Spec] = [DIRECT, DIRECT_TLS, *peers_of(os.environ)]
    return next((spec for spec in others if spec.name == name), None) or Tunnel(parse_variant(name))


def main(name: str, seconds: str) -> int:
    end_in_order()
    try:
        with open_link() as site, ExitStack() as stack:
            bench = Bench(Settings(seconds=float(seconds)), stack, site)
            print(json.dumps(measure(bench, spec_named(name))))
    except (BenchmarkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


ROWS = [Row("link", "1 Mbit/s and 100 ms, 4 callers", METRICS, link, once=True)]

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
