"""Run all sizes of the tests, over every way, for every Python found and backend, each Python in an environment of
its own. With httptools they run whole; with h11, what meets a parser, in short sizes."""

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
PARSERS = ("httptools", "h11")
MEET_A_PARSER = ("tests/http", "tests/oracle", "tests/e2e", "tests/transports", "tests/examples")
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


def pytest(python: Path, backend: str, parser: str, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **BACKENDS[backend], "TUNNELKIT_TEST_PARSER": parser, **settings}
    return subprocess.Popen([python, "-m", "pytest", "-q", *arguments], cwd=ROOT, env=environment)


def short(python: Path, backend: str, parser: str) -> bool:
    """The short sizes side by side, as ``make test`` has them; with the second parser, what meets one."""
    workers = ["-n", str(2 * (os.cpu_count() or 1)), "--dist", "loadfile", "--max-worker-restart", "0"]
    if parser == PARSERS[0]:
        return pytest(python, backend, parser, *workers, TUNNELKIT_TEST_WAYS=WAYS).wait() == 0
    return pytest(python, backend, parser, *workers, *MEET_A_PARSER).wait() == 0


def full(python: Path) -> dict[str, bool]:
    """The full sizes of all backends at once: most of their time is waiting for links that are slow on purpose."""
    which = ("-m", "full")
    runs = {backend: pytest(python, backend, PARSERS[0], *which, TUNNELKIT_TEST_WAYS=WAYS) for backend in BACKENDS}
    return {backend: run.wait() == 0 for backend, run in runs.items()}


def main() -> int:
    results: dict[str, bool] = {}
    for version in (version for version in PYTHONS if is_there(version)):
        python = environment(version)
        for backend, parser in product(BACKENDS, PARSERS):
            name = f"python{version} {backend} {parser}"
            print(f"== {name}", flush=True)
            results[name] = short(python, backend, parser)
        print(f"== python{version} full sizes", flush=True)
        for backend, good in full(python).items():
            results[f"python{version} {backend} full sizes"] = good
    for name, good in results.items():
        print(f"{'ok' if good else 'BAD':4} {name}")
    return 0 if results and all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
