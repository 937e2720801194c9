"""The command itself, with one tiny row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.programs import ROOT

from ..e2e.peers import program


@pytest.mark.full
def test_a_run_measures_and_tells(tmp_path: Path) -> None:
    program("wrk")
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rows", "get1,up", "--variants", "asyncio-bare"]
    run = subprocess.run(
        [*command, "--size", "1000000", "--json", str(file)], capture_output=True, text=True, cwd=ROOT, timeout=50
    )
    assert run.returncode == 0, run.stderr
    figures = {(row, metric, way): rounds for row, metric, way, rounds in json.loads(file.read_text())["figures"]}
    for key in [("get1", "rate", "direct"), ("get1", "cpu", "asyncio-bare"), ("up", "rate", "asyncio-bare")]:
        (value,) = figures[key]
        assert value > 0
    assert "small GET, 1 connection: requests a second" in run.stdout
    assert "without `speed`, 64 connections" in run.stdout


@pytest.mark.full
def test_another_tunnel_is_measured_beside(tmp_path: Path) -> None:
    """A relay passes for one: its server forwards to the origin, and its client has nothing to do."""
    program("wrk")
    relay = f"exec {sys.executable} -m tunnelkit.testing {{port}} {{origin_port}}"
    environment = {
        "PATH": "/usr/bin:/bin:/usr/sbin",
        "TUNNELKIT_BENCH_RELAY_SERVER": relay,
        "TUNNELKIT_BENCH_RELAY_CLIENT": "exec sleep 1000",
    }
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rows", "get1", "--variants", "asyncio"]
    subprocess.run([*command, "--json", str(file)], check=True, capture_output=True, cwd=ROOT, env=environment)
    ways = {way for _, metric, way, _ in json.loads(file.read_text())["figures"] if metric == "rate"}
    assert ways == {"direct", "relay", "asyncio"}
