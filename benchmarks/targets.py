"""What is to be reached, and whether it is. wsp is the measure: the peer of that name where it was measured, else an
estimate from the direct way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from .figures import Results, ratio_of_rounds

__all__ = ["TARGETS", "Target", "Value", "against_wsp", "by_processor_time", "judged", "wsp_estimate"]

WSP: Final = "wsp"
FROM_NGINX: Final = "estimated from nginx direct"

# Of nginx alone (`wrk -t1`), wsp reaches 0.08 to 0.094 at 64 connections, and its other figures stood in this
# proportion to that one when it was measured on two cores like these. An estimate holds within a third or so.
WSP_OF_DIRECT: Final = 0.087
WSP_BESIDE_ITS_OWN_64: Final = {
    ("get1", "rate"): 2149 / 5348,
    ("get16", "rate"): 5539 / 5348,
    ("get64", "rate"): 1.0,
    ("down", "rate"): 259 / 5348,
    ("up", "rate"): 179 / 5348,
}

# On a machine that nothing else used, tunnels of one thread an end answered as many requests a second at 64
# connections as the processor time of one, both ends together, fits into 0.98 s (nine of them, from 61 to 347 µs,
# within 6 %): 5,348, what wsp reached there, is 183 µs. A cycle of h11 took 53 µs. Beside programs that take the
# processors away, this holds better than what is answered in a second.
WSP_IN_CYCLES: Final = 183 / 53

Value: TypeAlias = Callable[[Results], tuple[float | None, str]]  # and how it was found


@dataclass(frozen=True)
class Target:
    title: str
    unit: str
    floor: float
    target: float
    value: Value
    more_is_better: bool = True

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        if self._reaches(value, self.target):
            return "met"
        return "floor met, target missed" if self._reaches(value, self.floor) else "floor missed"

    def _reaches(self, value: float, wanted: float) -> bool:
        return value >= wanted if self.more_is_better else value <= wanted


def wsp_estimate(results: Results, row: str, metric: str) -> list[float]:
    """What wsp would reach on this machine, round by round, from what the origin alone reaches."""
    share = WSP_OF_DIRECT * WSP_BESIDE_ITS_OWN_64[row, metric]
    return [direct * share for direct in results.rounds("get64", "rate", "direct")]


def against_wsp(row: str, way: str, metric: str = "rate") -> Value:
    def value(results: Results) -> tuple[float | None, str]:
        measured = results.ratio(row, metric, way, WSP)
        if measured is not None:
            return measured, "measured"
        ours = results.rounds(row, metric, way)
        return ratio_of_rounds(ours, wsp_estimate(results, row, metric)), FROM_NGINX

    return value


def by_processor_time(way: str) -> Value:
    def value(results: Results) -> tuple[float | None, str]:
        cycles = results.median("get64", "cycles", way)
        return (WSP_IN_CYCLES / cycles if cycles else None), "estimated from processor time"

    return value


def between(row: str, metric: str, way: str, beside: str) -> Value:
    return lambda results: (results.ratio(row, metric, way, beside), "measured")


def worst(*figures: tuple[str, str, str]) -> Value:
    """The largest of some medians, all of which must be there."""

    def value(results: Results) -> tuple[float | None, str]:
        found = [results.median(*figure) for figure in figures]
        known = [each for each in found if each is not None]
        return (max(known) if len(known) == len(found) else None), "measured"

    return value


TIMES_WSP = "times wsp"
TARGETS: Final = [
    Target("small GET, 64 connections, asyncio", TIMES_WSP, 1.5, 2.5, against_wsp("get64", "asyncio")),
    Target("the same, by processor time", TIMES_WSP, 1.5, 2.5, by_processor_time("asyncio")),
    Target("small GET, 64 connections, trio", TIMES_WSP, 1.2, 1.8, against_wsp("get64", "trio")),
    Target("the same, by processor time", TIMES_WSP, 1.2, 1.8, by_processor_time("trio")),
    Target("small GET, 16 connections, asyncio", TIMES_WSP, 1.2, 1.8, against_wsp("get16", "asyncio")),
    Target("small GET, 1 connection, uvloop", TIMES_WSP, 1.0, 1.3, against_wsp("get1", "uvloop")),
    Target("long download, asyncio", TIMES_WSP, 1.2, 2.0, against_wsp("down", "asyncio")),
    Target("long upload, asyncio", TIMES_WSP, 1.5, 3.0, against_wsp("up", "asyncio")),
    Target("without `speed`, 64 connections", TIMES_WSP, 0.6, 0.8, against_wsp("get64", "asyncio-bare")),
    Target("the same, by processor time", TIMES_WSP, 0.6, 0.8, by_processor_time("asyncio-bare")),
    Target(
        "strict long-poll, 64 connections",
        "of websocket",
        0.5,
        0.7,
        between("get64", "rate", "asyncio-strict", "asyncio"),
    ),
    *(
        Target(
            f"p99 beside a bulk transfer or a stalled reader, {connections} connection{'s' * (connections > 1)}",
            "times without",
            3.0,
            1.5,
            worst(*((f"beside{connections}", what, "asyncio") for what in ("bulk", "stalled"))),
            more_is_better=False,
        )
        for connections in (64, 50, 16, 1)
    ),
    Target(
        "peak memory, 64 downloads or 8 uploads, worse end",
        "MB",
        32,
        20,
        worst(*(("memory", f"{what}-{end}", "asyncio") for what in ("down", "up") for end in ("server", "client"))),
        more_is_better=False,
    ),
    Target(
        "idle tunnel at the server",
        "KB",
        40,
        20,
        worst(("idle", "each", "asyncio")),
        more_is_better=False,
    ),
    Target(
        "resume after a cut, median",
        "ms",
        200,
        50,
        worst(("resume", "median", "asyncio")),
        more_is_better=False,
    ),
]


def judged(results: Results, *, beside_nginx: bool) -> Iterator[list[str]]:
    """The cells of a table of targets, head first. ``beside_nginx``: it was the origin, else nothing can be estimated
    from what the direct way reached."""
    yield ["", "floor", "target", "reached", "", "how"]
    for target in TARGETS:
        value, how = target.value(results)
        if how == FROM_NGINX and not beside_nginx:
            value = None
        reached = "" if value is None else f"{value:.3g} {target.unit}"
        yield [
            target.title,
            f"{target.floor:g}",
            f"{target.target:g}",
            reached,
            target.verdict(value),
            how if value is not None else "",
        ]
