"""Memory stays bounded whatever callers do: both ends as processes of their own, and the kernel's word for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from .processes import Tunnel, download, fetch, in_threads, open_processes, stalled, upload
from .ways import Way

pytestmark = [
    pytest.mark.programs,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak (VmHWM)"),
]

MB = 1_000_000
GB = 1000 * MB

SHORT_OR_FULL = [
    pytest.param(0.05, id="short"),
    pytest.param(1.0, id="full", marks=[pytest.mark.full, pytest.mark.timeout(300)]),
]


@pytest.fixture
def tunnel(anyio_backend_name: str, way: Way) -> Iterator[Tunnel]:
    with open_processes(anyio_backend_name) as processes:
        yield processes


def report(tunnel: Tunnel, what: str) -> None:
    print(f"\n{what}: server {tunnel.server.peak:.0f} MB, client {tunnel.client.peak:.0f} MB at most")


def test_a_caller_that_reads_nothing(tunnel: Tunnel) -> None:
    with stalled(tunnel.port, GB):
        tunnel.settle()
        assert len(fetch(tunnel.port, 20)) == 20
        report(tunnel, "one stalled caller")
        assert tunnel.peak < 80


def test_300_callers_that_read_nothing_beside_50_that_do(tunnel: Tunnel) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(stalled(tunnel.port, GB))
        in_threads(50, lambda: fetch(tunnel.port, 4))  # while the others' buffers fill
        tunnel.settle()
        in_threads(50, lambda: fetch(tunnel.port, 4))
        report(tunnel, "300 stalled callers and 50 others")
        assert tunnel.peak < 128


@pytest.mark.parametrize("scale", SHORT_OR_FULL)
def test_eight_uploads(tunnel: Tunnel, scale: float) -> None:
    in_threads(8, lambda: upload(tunnel.port, round(100 * MB * scale)))
    report(tunnel, "eight uploads")
    assert tunnel.peak < 80


@pytest.mark.parametrize("scale", SHORT_OR_FULL)
def test_64_downloads(tunnel: Tunnel, scale: float) -> None:
    in_threads(64, lambda: download(tunnel.port, round(100 * MB * scale)))
    report(tunnel, "64 downloads")
    assert tunnel.peak < 80
