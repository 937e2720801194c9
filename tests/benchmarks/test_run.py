"""The command itself, with sizes that mean nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from benchmarks.programs import ROOT
from benchmarks.slow_link import DELAY

from ..e2e.peers import program

pytestmark = pytest.mark.full

SMALL = ["--quick", "--size", "1000000", "--body", "100000", "--cuts", "3", "--sessions", "120"]
Figures = dict[tuple[str, str, str], list[float]]


def figures_of(file: Path) -> Figures:
    return {(row, metric, way): rounds for row, metric, way, rounds in json.loads(file.read_text())["figures"]}


def run_benchmarks(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> tuple[Figures, str]:
    """The figures, and what was printed."""
    program("wrk")
    file = folder / "figures.json"
    command = [sys.executable, "-m", "benchmarks", *SMALL, "--json", str(file), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=55)
    assert run.returncode == 0, run.stderr
    return figures_of(file), run.stdout


def test_a_run_measures_and_tells(tmp_path: Path) -> None:
    rows = "get1,target64,field64,up,memory,resume"
    figures, printed = run_benchmarks(tmp_path, "--rows", rows, "--variants", "asyncio-bare")
    for key in [
        ("get1", "rate", "direct"),
        ("get1", "cpu", "asyncio-bare"),
        ("target64", "rate", "direct"),
        ("target64", "rate", "asyncio-bare"),
        ("field64", "rate", "asyncio-bare"),
        ("up", "rate", "asyncio-bare"),
        ("memory", "bare-server", "asyncio-bare"),
        ("resume", "median", "asyncio-bare"),
    ]:
        (value,) = figures[key]
        assert value > 0
    assert "small GET, 1 connection: requests a second" in printed
    assert "without `speed`, 64 connections" in printed


def test_counters_and_idle_tunnels(tmp_path: Path) -> None:
    program("strace")
    figures, _ = run_benchmarks(tmp_path, "--rows", "idle,calls,garbage", "--variants", "trio")
    assert figures["idle", "count", "trio"] == [120]
    (calls,) = figures["calls", "one-server", "trio"]
    assert calls >= 4  # both connections are read and written
    assert ("garbage", "kept", "trio") in figures


def test_small_requests_beside_transfers(tmp_path: Path) -> None:
    figures, printed = run_benchmarks(tmp_path, "--rows", "beside16", "--variants", "asyncio", "--seconds", "1")
    for way in ("direct", "asyncio"):
        for metric in ("alone", "beside-bulk", "bulk", "bulk-share", "beside-stalled", "stalled"):
            (value,) = figures["beside16", metric, way]
            assert value > 0
    assert "16 callers with small GETs: times alone, beside the download at half its maximum" in printed


def test_a_slow_link(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    figures, _ = run_benchmarks(tmp_path, "--rows", "link", "--variants", "asyncio", "--seconds", "1")
    for way in ("direct", "asyncio"):
        (median,) = figures["link", "p50", way]
        assert median >= 2 * DELAY * 1000


def test_a_signal_ends_all_that_was_begun_and_what_was_measured_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    program("wrk")
    command = [sys.executable, "-m", "benchmarks", *SMALL, "--rows", "get1,link", "--variants", "asyncio"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as run:
        try:
            while len(list(tmp_path.glob("*/client*.log"))) < 2:  # the second is the slow link's
                assert run.poll() is None
                time.sleep(0.05)  # another program tells by a file
        finally:
            run.terminate()
        printed, _ = run.communicate()
    assert "small GET, 1 connection: requests a second" in printed  # what was measured is told
    assert run.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("tunnelkit-bench-*"))
    assert not [name for name in command_lines() if str(tmp_path) in name]


def command_lines() -> list[str]:
    """Of all programs that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            found.append((folder / "cmdline").read_text(errors="replace"))
    return found


def test_another_tunnel_is_measured_beside(tmp_path: Path) -> None:
    """A relay passes for one: its server forwards to the origin, and its client has nothing to do."""
    environment = {
        **os.environ,
        "TUNNELKIT_BENCH_RELAY_SERVER": f"exec {sys.executable} -m tunnelkit.testing {{port}} {{origin_port}}",
        "TUNNELKIT_BENCH_RELAY_CLIENT": "exec sleep 1000",
    }
    figures, _ = run_benchmarks(tmp_path, "--rows", "get1", "--variants", "asyncio", environment=environment)
    assert {way for _, metric, way in figures if metric == "rate"} == {"direct", "relay", "asyncio"}
