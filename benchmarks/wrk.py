"""wrk, which makes the small requests: its command line, and what it says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .origin import find_program
from .programs import BenchmarkError
from .ways import Address

__all__ = ["MISSING", "NUMBER", "Load", "Wrk", "numbering_script", "parse_wrk", "run_wrk"]

MISSING = "wrk is not installed: it makes the requests (Debian and Ubuntu: apt-get install wrk)"
NUMBER = "@@"  # in a path: the number of the request
SLACK = 30.0  # seconds beyond its own time, after which it hangs
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
# A request that takes longer counts as failed. wrk's own 2 s are less than what a stalled way may take.
TIMEOUT = 20


@dataclass(frozen=True)
class Wrk:
    """What a run said. Times in seconds."""

    requests: int
    rate: float  # requests a second
    p50: float
    p99: float


def numbering_script(address: Address, path: str, fields: Iterable[str] = ()) -> str:
    """Lua: no request is like another, where ``path`` or one of ``fields`` has ``NUMBER``."""
    parted = ((name, value.strip()) for name, _, value in (field.partition(":") for field in fields))
    headers = [*address.headers(path), *parted]
    lines = "".join(f"  wrk.headers[{name!r}] = ({value!r}):gsub('{NUMBER}', n)\n" for name, value in headers)
    return f"""
local n = 0
request = function()
  n = n + 1
{lines}  return wrk.format(nil, (({address.target(path)!r}):gsub('{NUMBER}', n)))
end
"""


@dataclass(frozen=True)
class Load:
    """Requests for ``path``, from ``connections`` callers at a time, for so many ``seconds``."""

    address: Address
    path: str
    connections: int
    seconds: float
    fields: tuple[str, ...] = ()  # "name: value", beside the address' own
    script: Path | None = None  # which makes the requests

    def command(self, wrk: str) -> list[str]:
        headers = [f"{name}: {value}" for name, value in self.address.headers(self.path)]
        carried = [part for header in (*headers, *self.fields) for part in ("-H", header)]
        whole = max(round(self.seconds), 1)  # wrk knows whole seconds only
        return [
            *(wrk, "-t1", f"-c{self.connections}", f"-d{whole}s", "--latency", "--timeout", f"{TIMEOUT}s"),
            *carried,
            *(["-s", str(self.script)] if self.script is not None else []),
            self.address.url(self.path),
        ]


def run_wrk(load: Load) -> Wrk:
    """Raises BenchmarkError, also when one request failed."""
    wrk = find_program("wrk")
    if wrk is None:
        raise BenchmarkError(MISSING)
    run = subprocess.run(load.command(wrk), capture_output=True, text=True, timeout=load.seconds + SLACK)
    if run.returncode:
        raise BenchmarkError(f"wrk: {run.stderr.strip() or run.stdout.strip()}")
    return parse_wrk(run.stdout)


def parse_wrk(text: str) -> Wrk:
    """Raises BenchmarkError for a run in which requests failed: its figures mean nothing."""
    for failure in (r"Non-2xx or 3xx responses: \d+", r"Socket errors: .*"):
        if (found := re.search(failure, text)) is not None:
            raise BenchmarkError(f"wrk: {found[0]}")
    requests = int(_find(r"(\d+) requests in", text))
    if not requests:
        raise BenchmarkError("wrk: no request was answered")
    rate = float(_find(r"Requests/sec:\s+([\d.]+)", text))
    return Wrk(requests, rate, _percentile(50, text), _percentile(99, text))


def _percentile(percent: int, text: str) -> float:
    value = _find(rf"^\s*{percent}%\s+([\d.]+[a-z]+)", text)
    number = value.rstrip("umsh")
    return float(number) * SECONDS[value.removeprefix(number)]


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise BenchmarkError(f"wrk said nothing like {pattern!r}: {text[-300:]!r}")
    return found[1]
