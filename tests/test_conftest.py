"""The tests' own ground rules hold: warnings are errors, both backends run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from . import conftest

ROOT = Path(__file__).resolve().parent.parent

LEAKS = """
import gc, socket

def test_leak():
    socket.socket()
    gc.collect()
"""


def run_pytest(path: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(path.parent),
    ]
    return subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=50, check=False)


def test_a_leaked_socket_fails_its_test(tmp_path: Path) -> None:
    path = tmp_path / "test_leaks.py"
    path.write_text(LEAKS)
    result = run_pytest(path)
    assert result.returncode == 1, result.stdout
    assert "ResourceWarning" in result.stdout


@pytest.mark.anyio
async def test_backends(anyio_backend_name: str) -> None:
    assert trio.lowlevel.in_trio_run() == (anyio_backend_name == "trio")


def test_both_backends_unless_told_otherwise() -> None:
    assert set(conftest.BACKENDS) <= {"asyncio", "trio"}
