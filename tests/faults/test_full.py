"""All faults in their full length, with the clocks as they are by default: ``make faults``.

One tunnel after the other suffers them all, after two minutes of traffic that show what it needs. Afterwards it has
as many open files and tasks as before, and its memory is within 5 MB of what it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from ..conftest import BACKENDS
from ..e2e.ways import Way
from .callers import crowd, traffic
from .ends import Figures, Tunnel, open_linked, open_tunnel
from .places import Surroundings, no_namespaces, surroundings
from .scenarios import (
    FULL,
    Fault,
    client_killed,
    client_paused,
    disk_full,
    leaves_nothing,
    link_lost,
    server_killed,
    server_paused,
    server_restarted,
)

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.timeout(300)]

WARM_UP = 120.0  # seconds
ALLOWED = 5.0  # MB that a fault may leave behind


@dataclass(frozen=True)
class Warm:
    """A tunnel that has had its two minutes."""

    tunnel: Tunnel
    around: Surroundings | None  # where there are namespaces
    start: dict[str, Figures]


def of_link(seconds: float) -> Callable[[Surroundings], Fault]:
    return lambda around: link_lost(around.link, seconds)


# Those that need namespaces, and those that do not.
AROUND: dict[str, Callable[[Surroundings], Fault]] = {
    "link down within the grace": of_link(FULL.brief),
    "link down for longer": of_link(FULL.long),
    "disk full": lambda around: disk_full(around.disk),
}
# A killed process takes its memory with it: those come last.
FAULTS: dict[str, Fault] = {
    "server stopped within the grace": partial(server_paused, seconds=FULL.brief),
    "server stopped for longer": partial(server_paused, seconds=FULL.long),
    "client stopped within the grace": partial(client_paused, seconds=FULL.brief),
    "client stopped for longer": partial(client_paused, seconds=FULL.long),
    "server restarted": server_restarted,
    "client killed": client_killed,
    "server killed": server_killed,
}


class Faults:
    """All of them, by one tunnel. Each class below has a worker of its own."""

    backend: str
    way: Way

    @pytest.mark.parametrize("name", AROUND)
    async def test_surroundings(self, warm: Warm, name: str, record_property: Callable[[str, object], None]) -> None:
        if warm.around is None:
            pytest.skip(no_namespaces())
        record_property("fault", await suffer(warm, AROUND[name](warm.around)))

    @pytest.mark.parametrize("name", FAULTS)
    async def test_processes(self, warm: Warm, name: str, record_property: Callable[[str, object], None]) -> None:
        record_property("fault", await suffer(warm, FAULTS[name]))


@pytest.fixture(scope="class")
def faults(request: pytest.FixtureRequest) -> type[Faults]:
    found: type[Faults] = request.cls
    return found


@pytest.fixture(scope="class")
def anyio_backend(faults: type[Faults]) -> tuple[str, dict[str, Any]]:
    """The callers run on the backend of the ends."""
    if faults.backend not in BACKENDS:
        pytest.skip(f"TUNNELKIT_TEST_BACKENDS leaves {faults.backend} out")
    return faults.backend, {}


@pytest.fixture(scope="class")
async def warm(
    anyio_backend: object, faults: type[Faults], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Warm]:
    folder = tmp_path_factory.mktemp("full")
    with ExitStack() as stack:
        around = None if no_namespaces() else stack.enter_context(surroundings(folder))
        if around is not None:
            opened = open_linked(faults.backend, faults.way, folder, around)
        else:
            opened = open_tunnel(faults.backend, faults.way, folder)
        tunnel = stack.enter_context(opened)
        async with traffic(tunnel, FULL.pace) as callers:
            await anyio.sleep(WARM_UP)
        assert set(callers.told()) == {"whole"}
        await crowd(tunnel)
        await tunnel.at_rest(quiet=3.0)
        yield Warm(tunnel, around, await run_sync(tunnel.kept))


class TestAsyncioWebsocket(Faults):
    backend, way = "asyncio", Way.WEBSOCKET


class TestAsyncioStreamed(Faults):
    backend, way = "asyncio", Way.STREAMED


class TestTrioWebsocket(Faults):
    backend, way = "trio", Way.WEBSOCKET


class TestTrioLongpoll(Faults):
    backend, way = "trio", Way.LONGPOLL


async def suffer(warm: Warm, fault: Fault) -> str:
    """A line about it, for people."""
    report = await leaves_nothing(warm.tunnel, warm.start, fault, FULL)
    figures = await run_sync(warm.tunnel.kept)
    more = {end: figures[end].memory - warm.start[end].memory for end in figures}
    line = f"{report}; memory {', '.join(f'{end} {change:+.1f} MB' for end, change in more.items())}"
    assert max(more.values()) <= ALLOWED, line
    return line
