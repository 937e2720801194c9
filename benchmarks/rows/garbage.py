"""What a request allocates and leaves behind, of both ends in one process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

from ..bench import Bench
from ..figures import Metric
from ..programs import ROOT, BenchmarkError, LeftOut
from ..ways import Spec, Tunnel

__all__ = ["GARBAGE", "garbage"]

TIMEOUT = 120.0
GARBAGE = (
    Metric("temporary", "most bytes alive meanwhile, both ends", "", digits=0),
    Metric("cyclic", "objects that only the cycle collector frees, both ends", "", digits=2),
    Metric("kept", "blocks that stay, both ends", "", digits=2),
)


def garbage(bench: Bench, spec: Spec) -> dict[str, float]:
    assert isinstance(spec, Tunnel)
    variant = spec.variant
    if variant.tls:
        raise LeftOut("it is counted without TLS")
    hidden = [part for module in variant.hidden for part in ("--without", module)]
    mode = [] if variant.carrier == "websocket" else ["--longpoll", variant.carrier]
    origin = bench.origins.files.url
    command = [sys.executable, "benchmarks/launch.py", *hidden, *mode, "benchmarks/in_process.py", origin]
    run = subprocess.run(
        [*command, variant.backend, variant.carrier], capture_output=True, text=True, cwd=ROOT, timeout=TIMEOUT
    )
    if run.returncode:
        raise BenchmarkError(f"in one process: {run.stderr.strip()[-300:]}")
    found: dict[str, float] = json.loads(run.stdout)
    return found
