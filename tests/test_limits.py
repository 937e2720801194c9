"""docs/limits.md tells no tales: every limit has its row, with its real default and tests that exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tunnelkit.config import DEFAULT_LIMITS, KIB, MIB

from .test_http_conformance import NAMED, functions

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "limits.md"
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]
UNITS = {"KiB": KIB, "MiB": MIB, "s": 1, "B/s": 1, "": 1}


def value_of(text: str) -> float:
    """``64 KiB``, ``3,600 s``, ``unlimited``."""
    if text == "unlimited":
        return 0
    match = re.fullmatch(r"([\d,.]+) ?(\S*)", text)
    assert match is not None, text
    return float(match[1].replace(",", "")) * UNITS[match[2]]


def test_every_limit_has_one_row() -> None:
    assert sorted(row[0].strip("`") for row in ROWS) == sorted(field.name for field in fields(DEFAULT_LIMITS))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_a_row_has_the_default_and_tests_that_exist(row: list[str]) -> None:
    name, default, _, tests = row
    assert value_of(default) == getattr(DEFAULT_LIMITS, name.strip("`"))
    named = NAMED.findall(tests)
    assert named, "a limit without a test of its edge may not work"
    for module, function in named:
        assert function in functions(module), f"{module} has no {function}"


def test_what_the_text_names_exists() -> None:
    for module, function in NAMED.findall(DOCUMENT.read_text(encoding="utf-8")):
        assert function in functions(module), f"{module} has no {function}"
