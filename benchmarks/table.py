"""The table: a line for each figure, a column for each way. It is Markdown, and aligned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .bench import Row
from .figures import Metric, Results, spread

__all__ = ["cell", "markdown", "rows_of_table"]


def rows_of_table(results: Results, rows: Sequence[Row], beside: Callable[[str], str]) -> Iterator[list[str]]:
    """The lines' cells, head first. ``beside`` names the way that a way is compared to."""
    ways = results.ways()
    yield ["", *ways]
    for row in rows:
        if any((row.name, way) in results.failures for way in ways):
            yield [f"**{row.title}**", *(_failure(results, row, way) for way in ways)]
        for metric in row.metrics:
            cells = [cell(results, row, metric, way, beside(way)) for way in ways]
            if any(cells):
                unit = f", {metric.unit}" if metric.unit else ""
                yield [f"{row.title}: {metric.title}{unit}", *cells]


def cell(results: Results, row: Row, metric: Metric, way: str, beside: str) -> str:
    """Median, spread over the rounds, and in brackets how many times the other way's it is."""
    rounds = results.rounds(row.name, metric.name, way)
    if not rounds:
        return ""
    median = results.median(row.name, metric.name, way)
    text = f"{median:,.{metric.digits}f}"
    if len(rounds) > 1:
        text += f" ±{spread(rounds) * 100:.0f}%"
    ratio = None if way == beside else results.ratio(row.name, metric.name, way, beside)
    return text if ratio is None else f"{text} ({ratio:.3g})"


def _failure(results: Results, row: Row, way: str) -> str:
    return "failed" if (row.name, way) in results.failures else ""


def markdown(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, *rest = (_line(line, widths, " ") for line in lines)
    rule = _line(["", *[":"] * (len(widths) - 1)], widths, "-")
    return "\n".join([head, rule, *rest])


def _line(cells: Sequence[str], widths: Sequence[int], fill: str) -> str:
    """The first column stands left, the figures right."""
    first = cells[0].ljust(widths[0], fill)
    others = (text.rjust(width, fill) for text, width in zip(cells[1:], widths[1:], strict=True))
    return "| " + " | ".join([first, *others]) + " |"
