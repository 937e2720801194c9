"""docs/http-conformance.md tells no tales: every test that it names is there, and no point is without one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
DOCUMENT = TESTS.parent / "docs" / "http-conformance.md"
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
ROWS = [
    line.strip("|\n").split(" | ")
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| point |")
]


@cache
def functions(name: str) -> frozenset[str]:
    tree = ast.parse((TESTS / name).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip()[:50])
def test_every_point_names_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 3
    named = NAMED.findall(row[2])
    assert named, "a point without a test is a point not done"
    for name, function in named:
        assert function in functions(name), f"{name} has no {function}"


def test_the_document_has_its_points() -> None:
    assert len(ROWS) > 60
