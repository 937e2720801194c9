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


def environment(version: str) -> Path:
    """The interpreter of ``.venv-<version>``, made or brought up to date."""
    folder = ROOT / f".venv-{version}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([f"python{version}", "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-e", ".[dev]"], cwd=ROOT, check=True)
    return python


def run(python: Path, backend: str, parser: str) -> bool:
    """The short sizes side by side, as ``make test`` has them; then the full ones, which measure memory, alone."""
    settings = {**os.environ, **BACKENDS[backend], "TUNNELKIT_TEST_PARSER": parser}
    pytest = [str(python), "-m", "pytest", "-q"]
    workers = ["-n", str(2 * (os.cpu_count() or 1)), "--dist", "loadfile", "--max-worker-restart", "0"]
    if parser == PARSERS[0]:
        settings["TUNNELKIT_TEST_WAYS"] = WAYS
        commands = [[*pytest, *workers], [*pytest, "-m", "full"]]
    else:
        commands = [[*pytest, *workers, *MEET_A_PARSER]]
    codes = [subprocess.run(command, cwd=ROOT, env=settings).returncode for command in commands]
    return not any(codes)


def main() -> int:
    versions = [version for version in PYTHONS if shutil.which(f"python{version}")]
    results: dict[str, bool] = {}
    for version in versions:
        python = environment(version)
        for backend, parser in product(BACKENDS, PARSERS):
            name = f"python{version} {backend} {parser}"
            print(f"== {name}", flush=True)
            results[name] = run(python, backend, parser)
    for name, good in results.items():
        print(f"{'ok' if good else 'BAD':4} {name}")
    return 0 if results and all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
