"""The demonstration goes well on both backends, and each of its steps can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import demo

pytestmark = pytest.mark.programs

SCRIPT = Path(demo.__file__)


def run(broken: str, backend: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TUNNELKIT_DEMO_BREAK": broken}
    command = [sys.executable, str(SCRIPT), "--quick", "--backend", backend]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=55, check=False)


def test_it_goes_well(anyio_backend_name: str) -> None:
    result = run("", anyio_backend_name)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"All {len(demo.STEPS)} steps went well" in result.stdout


@pytest.mark.full  # each takes a demonstration
@pytest.mark.parametrize("step", demo.STEPS)
def test_each_step_can_fail(step: str) -> None:
    result = run(step, "asyncio")
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith(f"FAILED at {step}") or f"FAILED at {step}: " in result.stdout
    assert result.stderr == ""
