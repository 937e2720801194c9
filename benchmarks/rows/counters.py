"""What a request costs in counts that do not drift with the machine: system calls, instructions, garbage.

strace and perf are attached to both ends while requests go through. What they count is exact; what is coalesced under
load depends on how fast the ends are, so the figures for one caller are the steady ones.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from ..bench import Bench, Row
from ..callers import Fetcher
from ..figures import Metric
from ..origin import find_program
from ..programs import BenchmarkError, LeftOut, Program
from ..ways import Spec, Way
from ..wrk import Load, run_wrk
from .garbage import GARBAGE, garbage

__all__ = ["ROWS", "parse_perf", "parse_strace"]

ONE_BY_ONE = 300  # requests
ATTACH_TIMEOUT = 10.0
STOP_TIMEOUT = 20.0


def parse_strace(text: str) -> int:
    """All system calls of a summary. Raises BenchmarkError."""
    found = re.search(r"^100\.00\s+[\d.]+\s+\d+\s+(\d+)\b.*total$", text, re.MULTILINE)
    if found is None:
        raise BenchmarkError(f"strace: {text.strip()[-300:] or 'said nothing'}")
    return int(found[1])


def parse_perf(text: str) -> int:
    """Instructions, of perf's lines for machines. Raises LeftOut where the processor does not count them."""
    for line in text.splitlines():
        count = line.partition(",")[0]
        if "instructions" in line and count.isdigit():
            return int(count)
    raise LeftOut("perf: this machine does not count instructions")


@contextmanager
def tracer(name: str, command: list[str], end: Program, attached: Callable[[], bool]) -> Iterator[None]:
    process = subprocess.Popen([*command, "-p", str(end.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + ATTACH_TIMEOUT
        while not attached():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{name} cannot be attached")
            time.sleep(0.05)  # between two looks
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(STOP_TIMEOUT)


def is_traced(end: Program) -> bool:
    return end.status("TracerPid") != 0


def one_by_one(way: Way) -> int:
    with closing(Fetcher(way.address)) as fetcher:
        for _ in range(ONE_BY_ONE):
            fetcher.fetch()
    return ONE_BY_ONE


def under_load(bench: Bench, way: Way) -> int:
    return run_wrk(Load(way.address, "/small", 64, bench.settings.seconds)).requests


def calls(bench: Bench, way: Way, name: str, load: Callable[[], int]) -> dict[str, float]:
    """System calls for a request, of each end."""
    strace = find_program("strace")
    if strace is None:
        raise LeftOut("strace is not installed")
    files = {end: bench.folder / f"strace-{name}-{end}" for end in ("server", "client")}
    with ExitStack() as stack:
        for end, file in files.items():
            program = way.ends[end]
            command = [strace, "-c", "-f", "-q", "-o", str(file)]
            stack.enter_context(tracer("strace", command, program, partial(is_traced, program)))
        requests = load()
    return {f"{name}-{end}": parse_strace(file.read_text()) / requests for end, file in files.items()}


def system_calls(bench: Bench, spec: Spec) -> dict[str, float]:
    way = bench.way(spec)
    one_by_one(way)
    return calls(bench, way, "one", lambda: one_by_one(way)) | calls(
        bench, way, "many", lambda: under_load(bench, way)
    )


def instructions(bench: Bench, spec: Spec) -> dict[str, float]:
    perf = find_program("perf")
    if perf is None:
        raise LeftOut("perf is not installed")
    way = bench.way(spec)
    files = {end: bench.folder / f"perf-{end}" for end in ("server", "client")}
    with ExitStack() as stack:
        for end, file in files.items():
            command = [perf, "stat", "-x,", "-e", "instructions:u", "-o", str(file)]
            stack.enter_context(tracer("perf", command, way.ends[end], file.exists))
        requests = one_by_one(way)
    return {end: parse_perf(file.read_text()) / requests for end, file in files.items()}


CALLS = tuple(
    Metric(f"{load}-{end}", f"a request, {callers}, {end}", "", digits=1)
    for load, callers in (("one", "1 caller"), ("many", "64 callers"))
    for end in ("server", "client")
)
INSTRUCTIONS = tuple(Metric(end, f"a request, {end}", "") for end in ("server", "client"))

ROWS = [
    Row("calls", "system calls", CALLS, system_calls, once=True, direct=False),
    Row("instructions", "instructions", INSTRUCTIONS, instructions, once=True, direct=False),
    Row("garbage", "memory of a request", GARBAGE, garbage, once=True, direct=False, foreign=False),
]
