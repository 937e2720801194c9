"""Every module of the core must reach 100 % of its branches from its own test file alone.

Coverage that one module's tests lend to another says nothing about either.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import coverage
import pytest

# Loaded before the processes that measure are forked off, once for all. Nothing of the package may be.
for name in ("anyio", "hypothesis", "trio", "trustme"):
    import_module(name)

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tunnelkit"

# Leaves that are as much a part of the core as what lies in core/. A package's name stands for all that is in it.
LEAVES = (
    "config.py",
    "errors.py",
    "field_names.py",
    "forwarding.py",
    "handshake",
    "heads.py",
    "logs",
    "problem.py",
    "proof.py",
    "stats.py",
)

# Only plugins lack the asserts that pytest writes anew, and what is theirs is not what is tested here.
ALREADY_LOADED = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"


def modules() -> list[tuple[Path, Path]]:
    """(module or package, its own test file), for all that are held to this rule."""
    core = [path for path in sorted((PACKAGE / "core").glob("*.py")) if path.name != "__init__.py"]
    pairs = [(path, ROOT / "tests" / "core" / f"test_{path.name}") for path in core]
    leaves = [PACKAGE / name for name in LEAVES]
    return pairs + [(path, ROOT / "tests" / f"test_{path.stem}.py") for path in leaves]


def measure(pair: tuple[Path, Path]) -> tuple[bool, str]:
    """Whether the module is covered, and what pytest and coverage say."""
    module, test = pair
    if not test.exists():
        return False, f"{test.relative_to(ROOT)} does not exist"
    os.chdir(ROOT)
    with tempfile.TemporaryFile("w+") as said:
        for descriptor in (1, 2):
            os.dup2(said.fileno(), descriptor)
        good = _is_covered(module, test)
        sys.stdout.flush()
        said.seek(0)
        return good, said.read()[-4000:]


def _is_covered(module: Path, test: Path) -> bool:
    only = [f"{module}{'/*' * module.is_dir()}"]
    measured = coverage.Coverage(data_file=None, branch=True, include=only)
    with measured.collect():
        status = pytest.main(["-q", "-p", "no:cacheprovider", "-W", ALREADY_LOADED, str(test)])
    return status == 0 and measured.report(show_missing=True, precision=1) == 100


def main(names: list[str]) -> int:
    chosen = [pair for pair in modules() if not names or pair[0].stem in names]
    failed = 0
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for (module, _), (good, text) in zip(chosen, pool.imap(measure, chosen, chunksize=1), strict=True):
            print(f"{'ok' if good else 'BAD':4} {module.relative_to(PACKAGE)}")
            if not good:
                failed += 1
                print(text)
    print(f"{len(chosen) - failed} of {len(chosen)} modules are covered by their own tests")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
