"""The fixtures in a project of somebody else's: the tests that docs/testing.md shows, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "testing.md"


def test_pytest_finds_the_fixtures_and_they_run_on_both_backends(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (block,) = (each for each in blocks if "tunnelkit_url" in each)
    (tmp_path / "test_theirs.py").write_text(block, "utf-8")
    others = ("cacheprovider", "hypothesispytest", "xdist", "pytest_timeout")  # of this project alone
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *(f"-pno:{name}" for name in others)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert "4 passed" in result.stdout, result.stdout + result.stderr
