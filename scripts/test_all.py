"""Run all sizes of the tests, over every way, for every Python found and backend, each Python in an environment of
its own: with the extra `speed`, and in short sizes as if it were not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

# name -> the environment that the tests are given
BACKENDS = {
    "asyncio": {"TUNNELKIT_TEST_BACKENDS": "asyncio"},
    "uvloop": {"TUNNELKIT_TEST_BACKENDS": "asyncio", "TUNNELKIT_TEST_UVLOOP": "1"},
    "trio": {"TUNNELKIT_TEST_BACKENDS": "trio"},
}
# The same; what the first one asks for must be there.
SPEED = {
    "speed": {"TUNNELKIT_TEST_PARSER": "httptools"},
    "bare": {"PYTHONPATH": str(ROOT / "tests" / "without_speed")},
}
# tests/e2e/conftest.py
WAYS = "websocket,longpoll,streamed"


def is_there(version: str) -> bool:
    """A command of that name may be a version manager's, which knows no such Python."""
    found = shutil.which(f"python{version}")
    return found is not None and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0


def environment(version: str) -> Path:
    """The interpreter of ``.venv-<version>``, made or brought up to date."""
    folder = ROOT / f".venv-{version}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([f"python{version}", "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-e", ".[dev]"], cwd=ROOT, check=True)
    return python


def pytest(python: Path, backend: str, speed: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **BACKENDS[backend], **SPEED[speed], "TUNNELKIT_TEST_WAYS": WAYS}
    return subprocess.Popen([python, "-m", "pytest", "-q", *arguments], cwd=ROOT, env=environment)


def short(python: Path, backend: str, speed: str) -> bool:
    """The short sizes side by side, as ``make test`` has them."""
    workers = ["-n", str(2 * (os.cpu_count() or 1)), "--dist", "loadfile", "--max-worker-restart", "0"]
    return pytest(python, backend, speed, *workers).wait() == 0


def full(python: Path) -> dict[str, bool]:
    """The full sizes of all backends at once: most of their time is waiting for links that are slow on purpose."""
    runs = {backend: pytest(python, backend, "speed", "-m", "full") for backend in BACKENDS}
    return {backend: run.wait() == 0 for backend, run in runs.items()}


def main() -> int:
    results: dict[str, bool] = {}
    for version in (version for version in PYTHONS if is_there(version)):
        python = environment(version)
        for backend, speed in product(BACKENDS, SPEED):
            if (backend, speed) == ("uvloop", "bare"):  # which is itself part of it
                continue
            name = f"python{version} {backend} {speed}"
            print(f"== {name}", flush=True)
            results[name] = short(python, backend, speed)
        print(f"== python{version} full sizes", flush=True)
        for backend, good in full(python).items():
            results[f"python{version} {backend} full sizes"] = good
    for name, good in results.items():
        print(f"{'ok' if good else 'BAD':4} {name}")
    return 0 if results and all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
