"""What stalled callers cost the others, and what a tunnel costs a long body. Prints ratios: both sides of each are
measured in the same run, so that they mean something on any machine.

    python -m benchmarks.stalled --backend asyncio

300 callers ask for 1 GB each and read nothing. 50 others make small requests one after the other, before, while the
stalled ones' buffers fill, and after. 300 callers that come at the same moment cost something whatever they ask for:
that is measured too, with answers of 100 bytes, and only the difference is the price of the stall.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain

from tests.e2e.processes import Tunnel, download, fetch, in_threads, open_processes, stalled, upload

FAST = 50
REQUESTS = 20  # of each fast caller
STALLED = 300
GB = 1_000_000_000


def percentiles(tunnel: Tunnel) -> tuple[float, float]:
    """The median and the 99th percentile of the fast callers' requests, in milliseconds."""
    took = sorted(chain.from_iterable(in_threads(FAST, lambda: fetch(tunnel.port, REQUESTS))))
    return took[len(took) // 2] * 1000, took[len(took) * 99 // 100] * 1000


def show(what: str, now: tuple[float, float], alone: tuple[float, float]) -> None:
    middle, slowest = (f"{value:7.1f} ms (x {value / base:5.2f})" for value, base in zip(now, alone, strict=True))
    print(f"{what:34} p50 {middle}   p99 {slowest}", flush=True)


@contextmanager
def crowd(tunnel: Tunnel, size: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(STALLED):
            stack.enter_context(stalled(tunnel.port, size))
        yield


def measure_stalled(tunnel: Tunnel) -> None:
    percentiles(tunnel)  # warms up
    alone = percentiles(tunnel)
    show(f"{FAST} callers alone", alone, alone)
    with crowd(tunnel, 100):
        show(f"as {STALLED} small requests begin", percentiles(tunnel), alone)
    with crowd(tunnel, GB):
        show(f"as {STALLED} stalled ones begin", percentiles(tunnel), alone)
        started = time.perf_counter()
        tunnel.settle()
        print(f"{'buffers were full':34} {time.perf_counter() - started:.1f} s later")
        show(f"beside {STALLED} stalled ones", percentiles(tunnel), alone)
    print(f"{'peak memory':34} server {tunnel.server.peak:.0f} MB, client {tunnel.client.peak:.0f} MB")


def measure_bulk(tunnel: Tunnel, size: int) -> None:
    for name, move in (("download", download), ("upload", upload)):
        direct = _seconds(move, tunnel.origin_port, size)
        through = _seconds(move, tunnel.port, size)
        rate = size / through / 1e6
        print(f"{name + f' of {size / 1e9:g} GB':34} {rate:.0f} MB/s, {through / direct:.2f} times as long as direct")


def _seconds(move: Callable[[int, int], None], port: int, size: int) -> float:
    started = time.perf_counter()
    move(port, size)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--size", type=int, default=GB, help="bytes of the long bodies")
    parser.add_argument(
        "--origin-port", type=int, default=0, help="of a faster origin that knows /bytes/N, /status/N"
    )
    arguments = parser.parse_args()
    print(f"backend {arguments.backend}")
    with open_processes(arguments.backend, origin_port=arguments.origin_port) as tunnel:
        measure_stalled(tunnel)
    with open_processes(arguments.backend) as tunnel:
        measure_bulk(tunnel, arguments.size)


if __name__ == "__main__":
    main()
