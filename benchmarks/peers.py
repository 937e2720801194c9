"""Other tunnels, measured in the same run. The environment names their commands; docs/performance.md has examples.

``TUNNELKIT_BENCH_<NAME>_SERVER`` and ``..._CLIENT`` are command lines for ``sh``, which end in ``exec program``, so
that what is measured is the program and not the shell. ``..._PATH`` and ``..._FIELDS`` say how callers ask. In all
of them ``{host}`` and ``{port}`` are the server's, ``{origin}`` the origin's URL, ``{origin_port}`` its port,
``{folder}`` an empty folder; ``{path}``, in the last two, the path at the origin.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from .callers import Fetcher
from .origin import Origin, Origins, free_port
from .programs import BenchmarkError, Program
from .variants import all_variants
from .ways import DIRECT, DIRECT_TLS, Address, Way

__all__ = ["PREFIX", "Peer", "peers_of"]

PREFIX = "TUNNELKIT_BENCH_"
PARTS = ("SERVER", "CLIENT", "PATH", "FIELDS")
READY_TIMEOUT = 15.0
RESERVED = {DIRECT.name, DIRECT_TLS.name, *(variant.name for variant in all_variants())}


@dataclass(frozen=True)
class Peer:
    """A tunnel that somebody else wrote. ``fields`` are header fields, one a line."""

    name: str
    server: str
    client: str
    path: str = "{path}"
    fields: str = ""
    beside: str = DIRECT.name

    def open(self, stack: ExitStack, origins: Origins, origin: Origin, folder: Path) -> Way:
        own = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=folder))
        site = origins.site
        known = {
            "host": site.near_host,
            "port": str(free_port()),
            "origin": origin.url,
            "origin_port": str(origin.port),
            "folder": shlex.quote(str(own)),
        }
        commands = {"server": (), "client": site.far}  # the client is where its origin is
        ends = {
            name: _start(stack, own, name, [*inside, "sh", "-c", filled(getattr(self, name), known)])
            for name, inside in commands.items()
        }
        lines = [line for line in filled(self.fields, known).splitlines() if line.strip()]
        fields = tuple((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
        address = Address(int(known["port"]), path=filled(self.path, known), fields=fields, host=site.near_host)
        way = Way(address, ends)
        _wait_until_ready(way)
        return way


def filled(template: str, known: Mapping[str, str]) -> str:
    """``template`` with what is known in place of its names; other braces stay as they are."""
    for name, value in known.items():
        template = template.replace(f"{{{name}}}", value)
    return template


def _start(stack: ExitStack, folder: Path, name: str, command: list[str]) -> Program:
    program = Program(command, errors=folder / f"{name}.err", quiet=True)
    stack.callback(program.close)
    return program


def _wait_until_ready(way: Way) -> None:
    deadline, failure = time.monotonic() + READY_TIMEOUT, "nothing was tried"
    while time.monotonic() < deadline:
        try:
            with closing(Fetcher(way.address)) as fetcher:
                fetcher.fetch()
            return
        except (OSError, BenchmarkError) as error:
            failure = str(error)
        for name, end in way.ends.items():
            if not end.alive:
                raise BenchmarkError(f"its {name} ended: {end.last_words().strip()}")
        time.sleep(0.1)  # between two tries
    words = "; ".join(f"{name}: {end.last_words().strip()[-200:]}" for name, end in way.ends.items())
    address = f"{way.address.host}:{way.address.port}"
    raise BenchmarkError(f"did not answer at {address} within {READY_TIMEOUT:.0f} s: {failure}; {words}")


def peers_of(environment: Mapping[str, str]) -> list[Peer]:
    """Raises ValueError: what is wrong with the variables."""
    found: dict[str, dict[str, str]] = {}
    for variable, value in environment.items():
        if variable.startswith(PREFIX):
            name, _, part = variable.removeprefix(PREFIX).rpartition("_")
            if not name or part not in PARTS:
                raise ValueError(f"{variable}: name it {PREFIX}<NAME>_ and then one of {', '.join(PARTS)}")
            found.setdefault(name.lower(), {})[part.lower()] = value
    for name, parts in found.items():
        if missing := {"server", "client"} - parts.keys():
            raise ValueError(f"{PREFIX}{name.upper()}_{min(missing).upper()}: is missing")
        if name in RESERVED:
            raise ValueError(f"{PREFIX}{name.upper()}_SERVER: {name!r} is the name of a way of our own")
    return [Peer(name, **parts) for name, parts in found.items()]
