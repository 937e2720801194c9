"""All rows of the table, in its order."""

from __future__ import annotations

from ..bench import Row
from . import beside, bulk, counters, link, memory, resume, small

__all__ = ["ALL_ROWS", "choose_rows"]

ALL_ROWS: list[Row] = [*small.ROWS, *bulk.ROWS, *beside.ROWS, *memory.ROWS, *resume.ROWS, *link.ROWS, *counters.ROWS]


def choose_rows(text: str) -> list[Row]:
    """``all``, or names with commas between, in the table's order. Raises ValueError."""
    if text == "all":
        return ALL_ROWS
    names = {name.strip() for name in text.split(",") if name.strip()}
    if not names:
        raise ValueError("name at least one row")
    known = {row.name for row in ALL_ROWS}
    if unknown := sorted(names - known):
        raise ValueError(f"{', '.join(unknown)}: no such row; there are {', '.join(row.name for row in ALL_ROWS)}")
    return [row for row in ALL_ROWS if row.name in names]
