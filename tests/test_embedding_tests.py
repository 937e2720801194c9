"""docs/embedding-tests.md tells no tales: every test that it names is there, and no point is without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from .test_http_conformance import NAMED, functions

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "embedding-tests.md"
ROWS = [
    line.strip("|\n").split(" | ")
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| point |")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip()[:50])
def test_every_point_names_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 3
    named = NAMED.findall(row[2])
    assert named, "a point without a test is a point not done"
    for name, function in named:
        assert function in functions(name), f"{name} has no {function}"
