"""Both halves of long-poll against each other, beyond the contract, which tests/testing checks: cuts, restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import anyio
import pytest
from anyio.abc import TaskStatus

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.handshake import Grant, Handshake
from tunnelkit.http.caller import FrontRequest
from tunnelkit.http.mounted import Mounted
from tunnelkit.net.memory import MemoryStream
from tunnelkit.net.peer import Peer
from tunnelkit.net.stream import ByteStream
from tunnelkit.transports.base import Accepted, Connection, Offer, Transport
from tunnelkit.transports.longpoll import LongPollTransport
from tunnelkit.transports.longpoll import client_connection as longpoll_client_connection
from tunnelkit.transports.longpoll import server_connection as longpoll_server_connection

from ..http.helpers import Served, serving
from .conformance import pump, receive_all
from .stubs import PROVER, By, dial_request

pytestmark = pytest.mark.anyio

MOUNT: Final = "/_tunnel"
GRANT = Grant(
    session_id="n-1", resume_key=bytes(32), replay_window=8192, stream_floor=1024, max_streams=9, grace=30.0
)
# A client that vanishes is noticed within the time of a test.
LIMITS = replace(DEFAULT_LIMITS, poll_absence=1.0)


@pytest.fixture(autouse=True)
def _closes_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of these tests close towards a peer that does nothing, and wait for all of that time."""
    for module in (longpoll_client_connection, longpoll_server_connection):
        monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.5)


class Acceptance:
    """An ``Accepted`` that hands the connection to the test, and keeps it until it is over."""

    def __init__(self) -> None:
        self.grant = GRANT
        self.prover = PROVER
        self.connection: Connection | None = None
        self.here = anyio.Event()

    async def serve(self, connection: Connection) -> None:
        self.connection = connection
        self.here.set()
        await anyio.sleep_forever()

    def abandon(self) -> None:
        raise AssertionError("abandoned")


class Way:
    """The TCP connections between the halves."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.streams: list[MemoryStream] = []

    async def dial(self, host: str, port: int, *, tls: bool) -> ByteStream:
        stream = self._served.connect()
        self.streams.append(stream)
        return stream

    def cut(self) -> None:
        for stream in self.streams:
            stream.cut()
        self.streams.clear()


@asynccontextmanager
async def serve(transport: Transport, offer: Offer) -> AsyncIterator[Way]:
    async def handler(request: FrontRequest) -> None:
        path = request.head.target.decode().removeprefix(MOUNT + (transport.mount_path() or ""))
        await transport.mounted(Mounted(request, path), offer)

    async def listen(*, task_status: TaskStatus[None]) -> None:
        await transport.listen(offer, task_status=task_status)

    async with serving(handler) as served, anyio.create_task_group() as tasks:
        await tasks.start(listen)
        yield Way(served)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def joined(mode: str) -> AsyncIterator[tuple[Connection, Connection, Way]]:
    """The client's end, the server's, and the way between them."""
    accepted = Acceptance()

    async def offer(handshake: Handshake, peer: Peer) -> Accepted:
        return accepted

    transport = LongPollTransport(mode=mode, limits=LIMITS)
    async with serve(transport, offer) as way, anyio.create_task_group() as tasks:
        request = dial_request(Handshake(token="0123456789abcdef"), By(way.dial), tasks=tasks)
        client, grant = await transport.dial(request)
        assert grant == GRANT
        await accepted.here.wait()
        assert accepted.connection is not None
        yield client, accepted.connection, way
        client.abort()
        tasks.cancel_scope.cancel()


async def test_strict_connections_outlive_the_cuts_below_them() -> None:
    """Both ways at once, every TCP connection cut again and again: each message arrives, and only the polls' and
    posts' repeats can make one arrive twice."""
    messages = [i.to_bytes(4) * (1 + i * 37 % 5000) for i in range(120)]
    async with joined("strict") as (client, server, way), anyio.create_task_group() as tasks:
        got: dict[str, set[bytes]] = {"client": set(), "server": set()}

        async def receive(name: str, connection: Connection) -> None:
            while len(got[name]) < len(messages):
                got[name].add(await connection.receive())

        async def cut() -> None:
            seen = 0
            while True:
                await anyio.sleep(0.01)
                arrived = sum(map(len, got.values()))
                if arrived > seen:  # a cut costs what was under way: let something arrive between two
                    seen = arrived + 5
                    way.cut()

        tasks.start_soon(cut)
        async with anyio.create_task_group() as both:
            for name, connection, other in (("client", client, server), ("server", server, client)):
                both.start_soon(receive, name, connection)
                both.start_soon(pump, other, messages)
        assert got["client"] == got["server"] == set(messages)
        tasks.cancel_scope.cancel()


async def test_a_server_that_restarts_says_so() -> None:
    async with joined("strict") as (client, server, _):
        server.abort()
        with anyio.fail_after(10):
            _, end = await receive_all(client)
        assert not end.clean
        assert "unknown_connection" in end.reason
