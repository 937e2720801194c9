"""An end runs out of file descriptors: what runs goes on, what comes is told or waits, one line says so, nothing
spins, and all is well as soon as there are some again."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from anyio.to_thread import run_sync

from ..e2e.tunnel import SHORT, until
from ..e2e.ways import Way
from .callers import Call, Kind, Pace, ask, listen, served_again, traffic
from .ends import TOKEN, End, Figures, Tunnel, open_tunnel

resource = pytest.importorskip("resource", reason="a POSIX limit")

pytestmark = [pytest.mark.anyio, pytest.mark.programs]

WATCHED = 1.0  # seconds in which nothing may spin
SHARE = 0.4  # of a core, which a loop without pauses would take whole


@pytest.fixture(scope="module")
def tunnel(anyio_backend: tuple[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tunnel]:
    """One whose client does not wait for its origin: with the default, a shortage of a moment is nobody's failure."""
    flags = ["--log-level", "warning", "--origin-wait", "0"]
    folder = tmp_path_factory.mktemp("ends")
    with open_tunnel(anyio_backend[0], Way.WEBSOCKET, folder, limits=SHORT, client_flags=flags) as made:
        yield made


@contextmanager
def few_descriptors(end: End, more: int) -> Iterator[None]:
    """So many more than it has now, and no others: the limit is one of their numbers, and the lowest are taken."""
    taken = {int(name) for name in os.listdir(f"/proc/{end.pid}/fd")}
    free = (number for number in count() if number not in taken)
    limits = resource.prlimit(end.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(end.pid, resource.RLIMIT_NOFILE, (next(islice(free, more, None)), limits[1]))
    try:
        yield
    finally:
        resource.prlimit(end.pid, resource.RLIMIT_NOFILE, limits)


def processor_time(end: End) -> float:
    """Seconds."""
    times = Path(f"/proc/{end.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def lines(end: End, text: str) -> int:
    return end.errors().count(text)


async def idling(stack: ExitStack, tunnel: Tunnel, number: int) -> list[socket.socket]:
    """Connections on which nobody asks for anything. The kernel takes those that the server does not."""
    sockets = [await run_sync(tunnel.server.place.connect, tunnel.port) for _ in range(number)]
    for each in sockets:
        stack.enter_context(each)
    return sockets


async def test_the_server_has_none_left(tunnel: Tunnel, start: dict[str, Figures]) -> None:
    complaint = "cannot accept connections"
    with anyio.fail_after(45):
        async with traffic(tunnel, Pace(time=2.0)) as callers:
            amid = await callers.amid_bodies()
            callers.stop()
            before = lines(tunnel.server, complaint)
            with ExitStack() as stack, few_descriptors(tunnel.server, 5):
                await idling(stack, tunnel, 40)
                await until(lambda: lines(tunnel.server, complaint) > before, 20)
                used = await run_sync(processor_time, tunnel.server)
                await anyio.sleep(WATCHED)  # in which it may only wait
                assert await run_sync(processor_time, tunnel.server) - used < SHARE * WATCHED
                await callers.over(amid)
            assert {call.kind for call in amid} == {Kind.WHOLE}, amid
            await served_again(tunnel)
        assert lines(tunnel.server, complaint) == before + 1
        assert set(callers.told()) == {"whole"}
        await tunnel.back_at(start)


async def test_a_kept_connection_is_served_though_none_is_left(tunnel: Tunnel, start: dict[str, Figures]) -> None:
    with anyio.fail_after(45), ExitStack() as stack:
        async with await SocketStream.from_socket(await run_sync(tunnel.server.place.connect, tunnel.port)) as kept:
            await repeated(kept)
            with few_descriptors(tunnel.server, 0):
                await idling(stack, tunnel, 3)
                for _ in range(5):
                    await repeated(kept)
            stack.close()
        await tunnel.back_at(start)


async def repeated(stream: SocketStream) -> None:
    """A request that leaves the connection open."""
    await stream.send(f"GET /echo HTTP/1.1\r\nHost: a\r\nX-Token: {TOKEN}\r\n\r\n".encode())
    answer = b""
    while b'"target"' not in answer:
        answer += await stream.receive()
    assert answer.startswith(b"HTTP/1.1 200 "), answer


async def test_the_client_has_none_left(tunnel: Tunnel, start: dict[str, Figures]) -> None:
    """Those for whom there is a connection to the origin are served, the others are told that there is none."""
    pace = Pace(events=1)
    calls = [Call(f"/events/1/1.0?{number}") for number in range(20)]
    complaint = "the origin is not reached"
    before = lines(tunnel.client, complaint)
    with anyio.fail_after(45):
        with few_descriptors(tunnel.client, 5):
            async with anyio.create_task_group() as group:
                for call in calls:
                    group.start_soon(call.run, tunnel.server.place, tunnel.port, partial(listen, call, pace=pace))
        told = Counter(call.told for call in calls)
        assert set(told) == {"whole", "502 origin_unreachable "}, told
        assert told["whole"] >= 3, told
        assert lines(tunnel.client, complaint) == before + 1
        again = Call("/echo?after")
        await again.run(tunnel.server.place, tunnel.port, partial(ask, again))
        assert again.kind is Kind.WHOLE
        await tunnel.back_at(start)
