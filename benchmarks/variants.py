"""The variants of a tunnel that can be measured, and their names: ``asyncio-strict-tls-bare``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

__all__ = ["BACKENDS", "CARRIERS", "SPEED", "Variant", "all_variants", "parse_variant", "parse_variants"]

BACKENDS = ("asyncio", "uvloop", "trio")
CARRIERS = ("websocket", "strict", "streamed")  # the last two are long-poll's
# What the extra `speed` installs; without it, programs are run as if these were not there.
SPEED = ("httptools", "uvloop", "websockets")


@dataclass(frozen=True)
class Variant:
    """How both ends of a tunnel run, and what carries it."""

    backend: str = "asyncio"
    carrier: str = "websocket"
    tls: bool = False
    speed: bool = True

    @property
    def name(self) -> str:
        carrier = () if self.carrier == "websocket" else (self.carrier,)
        return "-".join([self.backend, *carrier, *["tls"] * self.tls, *["bare"] * (not self.speed)])

    @property
    def hidden(self) -> tuple[str, ...]:
        """Modules that the ends must not find. The examples take uvloop wherever it is installed."""
        if not self.speed:
            return SPEED
        return () if self.backend == "uvloop" else ("uvloop",)


def all_variants() -> list[Variant]:
    """Every combination that makes sense: uvloop is itself part of ``speed``."""
    made = [Variant(*parts) for parts in product(BACKENDS, CARRIERS, (False, True), (True, False))]
    return [variant for variant in made if variant.speed or variant.backend != "uvloop"]


def parse_variant(name: str) -> Variant:
    """Raises ValueError: what is wrong with the name."""
    known = {variant.name: variant for variant in all_variants()}
    if name not in known:
        raise ValueError(
            f"{name!r} is no variant: say asyncio, uvloop or trio, then -strict or -streamed (long-poll), then -tls, "
            "then -bare (without `speed`, which uvloop is part of)"
        )
    return known[name]


def parse_variants(text: str) -> list[Variant]:
    """``all``, or names with commas between; each once, in the order given. Raises ValueError."""
    if text == "all":
        return all_variants()
    variants = list(dict.fromkeys(_each(text.split(","))))
    if not variants:
        raise ValueError("name at least one variant, or say all")
    return variants


def _each(names: Iterable[str]) -> Iterable[Variant]:
    for name in names:
        if name.strip():
            yield parse_variant(name.strip())
