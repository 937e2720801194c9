"""The short forms: a tunnel with short clocks for the faults of a module, as processes, on each backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..e2e.tunnel import SHORT
from ..e2e.ways import Way
from .callers import crowd
from .ends import Figures, Tunnel, only_linux, open_linked, open_tunnel
from .places import Surroundings, no_namespaces, surroundings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = only_linux()
    for item in items:
        if reason and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the faults did, by `make faults`."""
    reports = [report for each in ("passed", "failed") for report in terminalreporter.getreports(each)]
    told = [(report.nodeid, value) for report in reports for name, value in report.user_properties if name == "fault"]
    if told:
        terminalreporter.section("faults")
    for nodeid, line in sorted(told):
        terminalreporter.write_line(f"{nodeid.partition('::')[2]}: {line}")


@pytest.fixture(scope="module")
def tunnel(anyio_backend: tuple[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tunnel]:
    """Over a websocket, on loopback."""
    backend, _ = anyio_backend
    with open_tunnel(backend, Way.WEBSOCKET, tmp_path_factory.mktemp("ends"), limits=SHORT) as made:
        yield made


@pytest.fixture(scope="module")
def linked(
    anyio_backend: tuple[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Tunnel, Surroundings]]:
    """The ends in network namespaces of their own, with a link between them, and a small disk for the server."""
    if reason := no_namespaces():
        pytest.skip(reason)
    backend, _ = anyio_backend
    folder = tmp_path_factory.mktemp("linked")
    with surroundings(folder) as around, open_linked(backend, Way.WEBSOCKET, folder, around, limits=SHORT) as made:
        yield made, around


@pytest.fixture(scope="module")
async def start(tunnel: Tunnel) -> dict[str, Figures]:
    """What the tunnel needs when it does nothing."""
    await crowd(tunnel)
    return await tunnel.at_rest()
