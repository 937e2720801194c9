"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .bench import Row, Settings
from .peers import PREFIX, Peer, peers_of
from .rows import ALL_ROWS, choose_rows
from .rows.memory import FEW
from .variants import Variant, parse_variants

__all__ = ["Options", "parse_options"]

T = TypeVar("T")

DEFAULT_VARIANTS = "asyncio,uvloop,trio,asyncio-bare,asyncio-strict,asyncio-streamed,asyncio-tls"
QUICK = Settings(rounds=1, seconds=1, size=20_000_000, body=2_000_000, sessions=200, cuts=10)
NORMAL = Settings()
FULL = Settings(rounds=5, seconds=4, size=1_000_000_000, body=100_000_000, sessions=5000)


@dataclass(frozen=True)
class Options:
    rows: list[Row]
    variants: list[Variant]
    peers: list[Peer]
    settings: Settings
    json: Path | None
    check: bool


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """What to measure. Ends the program when an argument, or one of the environment's commands, is wrong."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    try:
        peers = peers_of(environment)
    except ValueError as error:
        parser.error(str(error))
    base = QUICK if given.quick else FULL if given.full else NORMAL
    sizes = {name: getattr(given, name) or getattr(base, name) for name in vars(base)}
    return Options(given.rows, given.variants, peers, Settings(**sizes), given.json, given.check)


def flags_in(environment: Mapping[str, str]) -> list[str]:
    """Variables that the measured programs would take for flags: what those are is the variants' to say."""
    return [name for name in environment if name.startswith("TUNNELKIT_") and not name.startswith(PREFIX)]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure tunnels beside the direct way to their origin, and beside other tunnels that "
        "TUNNELKIT_BENCH_* names. docs/performance.md explains everything.",
    )
    add = parser.add_argument
    names = ", ".join(row.name for row in ALL_ROWS)
    add("--rows", type=kind(choose_rows), default="all", help=f"all, or names with commas between: {names}")
    add(
        "--variants",
        type=kind(parse_variants),
        default=DEFAULT_VARIANTS,
        help="all, or as in asyncio,trio-strict-tls-bare",
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="one short round of everything: ten minutes")
    sizes.add_argument("--full", action="store_true", help="five rounds, bodies of 1 GB, 5000 sessions: some hours")
    add("--rounds", type=kind(count), help="of each row; the table shows their median")
    add("--seconds", type=kind(seconds), help="that each run of small requests takes")
    add("--size", type=kind(count), help="bytes of a long body")
    add("--body", type=kind(count), help="bytes of each of the parallel bodies whose memory is measured")
    add("--sessions", type=kind(sessions), help="idle tunnels whose memory is measured")
    add("--cuts", type=kind(count), help="after which the time to resume is measured")
    add("--check", action="store_true", help="only look whether it could begin: the arguments, and wrk")
    add("--json", type=kind(writable), metavar="FILE", help="write all figures there too")
    return parser


def writable(text: str) -> Path:
    path = Path(text)
    try:
        path.open("a").close()  # hours later would be too late
    except OSError as error:
        raise ValueError(f"{text}: {error.strerror}") from None
    return path


def count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError(f"{text!r}: say a whole number, at least 1")
    return int(text)


def sessions(text: str) -> int:
    if (number := count(text)) <= FEW:
        raise ValueError(f"{text!r}: say more than {FEW}, whose memory is taken off")
    return number


def seconds(text: str) -> float:
    if not text.isdecimal() or not int(text):
        raise ValueError(f"{text!r}: say a whole number, at least 1: wrk knows no others")
    return float(text)


def kind(parse: Callable[[str], T]) -> Callable[[str], T]:
    """argparse shows the message of this error alone."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed
