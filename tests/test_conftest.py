"""The tests' own ground rules hold: warnings are errors, both backends run."""

from __future__ import annotations

import re
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

HANGS_AT_ITS_END = """
import anyio, pytest

@pytest.fixture
async def endless():
    yield
    await anyio.sleep_forever()

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.timeout(2)
async def test_hang(anyio_backend, endless):
    raise AssertionError
"""


def run_pytest(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(path.parent),
        *options,
    ]
    return subprocess.run([*command, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)


def test_a_leaked_socket_fails_its_test(tmp_path: Path) -> None:
    path = tmp_path / "test_leaks.py"
    path.write_text(LEAKS)
    result = run_pytest(path)
    assert result.returncode == 1, result.stdout
    assert "ResourceWarning" in result.stdout


def test_a_fixture_that_hangs_after_its_test_failed_is_told_of_and_ended(tmp_path: Path) -> None:
    """On standard error: nobody sees a worker of pytest-xdist's standard output."""
    path = tmp_path / "test_hangs.py"
    path.write_text(HANGS_AT_ITS_END)
    result = run_pytest(path, "-p", "tests.conftest", "-p", "no:xdist")
    assert result.returncode == 1, result.stdout
    assert "test_hangs.py::test_hang[trio] is not over after 2 s" in result.stderr
    assert " endless\n" in result.stderr  # where its task waits


def test_no_fixture_holds_a_cancel_scope_around_its_test() -> None:
    """On trio they run in one task: where such a scope ends a test, it ends the task too, and the next one waits for
    it for ever."""
    held = re.compile(r"@pytest\.fixture.*\nasync def (?:.+\n)*?.* with anyio\..+:\n +yield\b")
    found = [path.name for path in ROOT.glob("tests/**/*.py") if held.search(path.read_text())]
    assert found == []


@pytest.mark.anyio
async def test_backends(anyio_backend_name: str) -> None:
    assert trio.lowlevel.in_trio_run() == (anyio_backend_name == "trio")


def test_both_backends_unless_told_otherwise() -> None:
    assert set(conftest.BACKENDS) <= {"asyncio", "trio"}
