"""Every module of the core must reach 100 % of its branches from its own test file alone.

Coverage that one module's tests lend to another says nothing about either.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    "logs.py",
    "problem.py",
    "proof.py",
    "stats.py",
)


def modules() -> list[tuple[Path, Path]]:
    """(module or package, its own test file), for all that are held to this rule."""
    core = [path for path in sorted((PACKAGE / "core").glob("*.py")) if path.name != "__init__.py"]
    pairs = [(path, ROOT / "tests" / "core" / f"test_{path.name}") for path in core]
    leaves = [PACKAGE / name for name in LEAVES]
    return pairs + [(path, ROOT / "tests" / f"test_{path.stem}.py") for path in leaves]


def measure(module: Path, test: Path, data_file: Path) -> tuple[bool, str]:
    if not test.exists():
        return False, f"{test.relative_to(ROOT)} does not exist"
    coverage = [sys.executable, "-m", "coverage"]
    data = f"--data-file={data_file}"
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    run = subprocess.run([*coverage, "run", "--branch", data, *pytest], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        return False, run.stdout[-3000:] + run.stderr[-1000:]
    report = [
        *coverage,
        "report",
        data,
        "-m",
        f"--include={module}{'/*' * module.is_dir()}",
        "--fail-under=100",
        "--precision=1",
    ]
    result = subprocess.run(report, cwd=ROOT, capture_output=True, text=True)
    return result.returncode == 0, result.stdout + result.stderr


def main(names: list[str]) -> int:
    chosen = [pair for pair in modules() if not names or pair[0].stem in names]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            (module, pool.submit(measure, module, test, Path(folder) / f"{module.parent.name}.{module.stem}"))
            for module, test in chosen
        ]
        failed = 0
        for module, job in jobs:
            good, text = job.result()
            print(f"{'ok' if good else 'BAD':4} {module.relative_to(PACKAGE)}")
            if not good:
                failed += 1
                print(text)
    print(f"{len(jobs) - failed} of {len(jobs)} modules are covered by their own tests")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
