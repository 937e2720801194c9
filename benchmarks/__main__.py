"""Measure, and print one table and what of the targets is reached."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping

from tunnelkit.accelerators import find_accelerators

from .bench import Settings, run
from .figures import Results
from .options import FULL, Options, flags_in, parse_options
from .origin import find_program
from .programs import OtherPrograms, end_in_order, raise_open_files
from .table import markdown, rows_of_table
from .targets import judged
from .ways import DIRECT, DIRECT_TLS, Spec, Tunnel
from .wrk import MISSING


def specs_of(options: Options) -> list[Spec]:
    tunnels = [Tunnel(variant) for variant in options.variants]
    secure = [DIRECT_TLS] if any(variant.tls for variant in options.variants) else []
    return [DIRECT, *secure, *options.peers, *tunnels]


def machine() -> str:
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    origin = "nginx" if find_program("nginx") else "the benchmarks' own"
    compiled = "modules compiled, " if find_accelerators().compiled else ""
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"{compiled}origin {origin}; load of the machine before: {load}"
    )


def sizes_judged(settings: Settings) -> str:
    """The targets are of certain sizes, and say little of much smaller ones."""
    used = (
        f"{settings.size:,} bytes and parallel ones of {settings.body:,}, {settings.sessions:,} idle tunnels and "
        f"{settings.cuts:,} cuts"
    )
    meant = f"{FULL.size:,}, {FULL.body:,} and {FULL.sessions:,}"
    return f"Judged with long bodies of {used}; the targets are of {meant}."


def alike(reasons: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], list[str]]:
    """The ways that have no figures of the same row for the same reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for (row, way), why in reasons.items():
        found.setdefault((row, why), []).append(way)
    return found


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main() -> int:
    options = parse_options(sys.argv[1:], os.environ)
    if find_program("wrk") is None:
        print(MISSING, file=sys.stderr)
        return 1
    if options.check:
        return 0
    raise_open_files()
    end_in_order()
    for name in flags_in(os.environ):
        del os.environ[name]
    print(f"{machine()}\n{options.settings}\n", flush=True)
    specs = specs_of(options)
    others, results = OtherPrograms(), Results()
    try:
        run(options.rows, specs, options.settings, say, results)
    finally:  # a signal, perhaps, after hours
        report(options, specs, results, others)
    return 0 if results.figures else 1


def report(options: Options, specs: list[Spec], results: Results, others: OtherPrograms) -> None:
    print(f"Other programs took {others.share():.0%} of the machine's processor time meanwhile.\n")
    beside = {spec.name: spec.beside for spec in specs}
    print(markdown(list(rows_of_table(results, options.rows, beside.__getitem__))))
    verdicts = judged(results, beside_nginx=find_program("nginx") is not None)
    print(f"\n{markdown(list(verdicts))}\n\n{sizes_judged(options.settings)}")
    for what, reasons in (("failed", results.failures), ("left out", results.left_out)):
        for (row, why), ways in alike(reasons).items():
            print(f"\n{what}: {row} of {', '.join(ways)}: {why}")
    if options.json is not None:
        options.json.write_text(json.dumps(results.to_json(), indent=1))


if __name__ == "__main__":
    sys.exit(main())
