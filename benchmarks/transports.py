"""Long-poll beside websocket: requests a second, bulk, and one small request at a time. Prints ratios: the rounds of
all ways are interleaved in one run, so that they mean something on any machine.

    python -m benchmarks.transports --backend asyncio --rounds 3

The load comes from wrk where it is installed, else from threads of this program, which makes every figure worse and
the ratios milder.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.e2e.processes import TOKEN, Process, download, fetch, in_threads, upload

from .client import WAYS

WRK = shutil.which("wrk")
SECONDS = 4


class Ends:
    """A server with one client over one way, and the origin that all of them share."""

    def __init__(self, stack: ExitStack, way: str, backend: str, origin_port: int) -> None:
        server = Process(
            *("examples/tunnel_server.py", "--listen", "127.0.0.1:0", "--backend", backend, "--log-level", "warning")
        )
        stack.callback(server.close)
        url = server.said("listening on ")
        self.port = int(url.rpartition(":")[2])
        origin = f"http://127.0.0.1:{origin_port}"
        client = Process("-m", "benchmarks.client", url, TOKEN, origin, way, "--backend", backend)
        stack.callback(client.close)
        client.said("ready ")


def requests_per_second(port: int, connections: int) -> float:
    if WRK is None:
        started = time.perf_counter()
        done = sum(len(took) for took in in_threads(connections, lambda: fetch(port, 50)))
        return done / (time.perf_counter() - started)
    command = [WRK, "-t1", f"-c{connections}", f"-d{SECONDS}s", "-H", f"X-Token: {TOKEN}"]
    run = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/status/200"], capture_output=True, text=True, check=True
    )
    assert "Non-2xx" not in run.stdout, run.stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", run.stdout)
    assert found is not None, run.stdout
    return float(found[1])


def megabytes_per_second(move: Callable[[int, int], None], port: int, size: int) -> float:
    started = time.perf_counter()
    move(port, size)
    return size / (time.perf_counter() - started) / 1e6


def measures(size: int) -> dict[str, Callable[[int], float]]:
    return {
        "small GET, 1 connection, requests/s": lambda port: requests_per_second(port, 1),
        "small GET, 16 connections, requests/s": lambda port: requests_per_second(port, 16),
        "small GET, 64 connections, requests/s": lambda port: requests_per_second(port, 64),
        f"download of {size / 1e6:g} MB, MB/s": lambda port: megabytes_per_second(download, port, size),
        f"upload of {size / 1e6:g} MB, MB/s": lambda port: megabytes_per_second(upload, port, size),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=200_000_000, help="bytes of the bulk bodies")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        origin = Process("-m", "tests.e2e.origin", "0")
        stack.callback(origin.close)
        origin_port = int(origin.said("serving on "))
        ends = {way: Ends(stack, way, arguments.backend, origin_port) for way in WAYS}
        print(f"backend {arguments.backend}, {arguments.rounds} rounds, {'wrk' if WRK else 'threads'}")
        print(f"{'':40}" + "".join(f"{way:>28}" for way in WAYS))
        for name, measure in measures(arguments.size).items():
            rounds = [{way: measure(end.port) for way, end in ends.items()} for _ in range(arguments.rounds)]
            medians = {way: statistics.median(each[way] for each in rounds) for way in WAYS}
            ratios = (f"{medians[way]:,.0f} (x {medians[way] / medians['websocket']:.2f})" for way in WAYS)
            print(f"{name:40}" + "".join(f"{ratio:>28}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
