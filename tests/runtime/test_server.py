"""The server's public face, and its last hop."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from anyio.abc import TaskStatus

from tunnelkit import TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import ConfigError, StreamBroken
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.transports.memory import MemoryTransport

from .tunnels import TOKEN, Answering, eventually, tunnel

pytestmark = pytest.mark.anyio

ANY = "127.0.0.1:0"


async def test_started_gives_the_addresses() -> None:
    server = TunnelServer(ANY, transports=[MemoryTransport()])
    async with anyio.create_task_group() as group:
        urls = await group.start(server.run)
        assert urls == server.urls
        assert urls[0].startswith("http://127.0.0.1:")
        group.cancel_scope.cancel()


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    with pytest.raises(ValueError, match="as it is"):
        async with TunnelServer(ANY):
            raise ValueError("as it is")


async def test_an_address_that_is_taken() -> None:
    async with TunnelServer(ANY) as server:
        with pytest.raises(ConfigError, match="listen"):
            async with TunnelServer(server.url.removeprefix("http://")):
                raise AssertionError("never reached")


async def test_a_server_runs_once_at_a_time_and_again_after() -> None:
    server = TunnelServer(ANY)
    for _ in range(2):
        async with server:
            with pytest.raises(RuntimeError, match="runs already"):
                await server.run()
            assert server.sessions() == []
    with pytest.raises(RuntimeError, match="does not run"):
        server.snapshot()


async def test_cancelled_before_it_began() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await TunnelServer(ANY).run()


async def test_a_part_that_fails_cancels_the_body_and_comes_out() -> None:
    class Broken(MemoryTransport):
        async def listen(self, offer: object, *, task_status: TaskStatus[None]) -> None:
            task_status.started()
            await go.wait()
            raise ZeroDivisionError

    go = anyio.Event()

    async def serve() -> None:
        async with TunnelServer(ANY, transports=[Broken()]):
            go.set()
            await anyio.sleep_forever()

    with pytest.raises(ZeroDivisionError), anyio.fail_after(10):
        await serve()


async def test_a_transport_that_cannot_listen() -> None:
    async with tunnel() as there:
        with pytest.raises(ConfigError, match="has a server already"):
            async with TunnelServer(ANY, transports=[there.transport]):
                raise AssertionError("never reached")


async def test_clients_hear_of_the_end() -> None:
    async with tunnel() as there:
        transport = there.transport
        client = there.client(limits=DEFAULT_LIMITS)
        events = client.events()
        async with anyio.create_task_group() as group:
            await group.start(client.run)
            await client.wait_ready(10)
            assert there.server._running is not None
            there.server._running.stop()
            await eventually(lambda: client.transport is None)
            group.cancel_scope.cancel()
    reasons = [getattr(event, "reason", "") async for event in events]
    assert any("server_closing" in reason for reason in reasons)
    assert transport._take is None


async def test_a_client_comes_back_to_a_server_that_was_restarted() -> None:
    transport = MemoryTransport()
    async with tunnel() as there:
        client = there.client(transport=transport)
        server = TunnelServer(ANY, transports=[transport], limits=there.limits)
        async with client:
            for _ in range(2):
                async with server:
                    await eventually(lambda: client.transport)
                    assert len(server.sessions()) == 1


async def test_nothing_is_left_of_a_server_and_its_clients() -> None:
    before = len(anyio.get_running_tasks())
    async with tunnel() as there, there.client() as client:
        await client.wait_ready(10)
        assert await there.get() == (200, b"fine")
        running = there.server._running
        assert running is not None
    assert running.table._budget.used == 0
    assert len(running.table) == 0
    assert client._supervisor._budget.used == 0
    await eventually(lambda: len(anyio.get_running_tasks()) == before)


# -- the last hop ------------------------------------------------------------------------------


@pytest.mark.parametrize("connected", [True, False])
async def test_options_that_may_go_no_further(connected: bool) -> None:
    """RFC 9110 7.6.2: with Max-Forwards 0 we are its final recipient."""
    origin = Answering()
    async with tunnel() as there, there.client(origin, token=TOKEN if connected else TOKEN + "x") as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("OPTIONS", f"/_token/{TOKEN}/x", "Max-Forwards: 0")
        head = await caller.head()
        assert head.startswith(b"HTTP/1.1 204 ")
        assert b"\r\nAllow: GET, HEAD, " in head
        assert b"content-length" not in head.lower()
        if connected:
            await caller.send("OPTIONS", f"/_token/{TOKEN}/x", "Max-Forwards: 1")
            assert (await caller.answer())[0] == 200
        assert len(origin.heads) == connected


class From(MemoryStream):
    """One end of a connection that seems to come from somewhere."""

    address = "192.0.2.1"

    @property
    def peer_address(self) -> tuple[str, int]:
        return self.address, 1000


@pytest.mark.parametrize(
    ("address", "second_is_served"), [("192.0.2.1", False), ("127.0.0.1", True), ("::1", True), ("192.0.2.99", True)]
)
async def test_connections_of_one_address(address: str, second_is_served: bool) -> None:
    """Loopback and trusted proxies stand for many."""
    limits = replace(DEFAULT_LIMITS, connections_per_address=1)
    async with TunnelServer(ANY, limits=limits, trusted_proxies=["192.0.2.99"]) as server:
        running = server._running
        assert running is not None
        async with anyio.create_task_group() as group:
            ends = []
            for _ in range(2):
                near, far = memory_pair()
                far.__class__ = From
                far.address = address  # type: ignore[attr-defined]
                group.start_soon(running._serve_caller, far)
                ends.append(near)
                await anyio.wait_all_tasks_blocked()
            for near, served in zip(ends, (True, second_is_served), strict=True):
                if served:
                    await near.send(b"GET /_health_check HTTP/1.1\r\nHost: a\r\n\r\n")
                    with anyio.fail_after(10):
                        assert (await near.receive()).startswith(b"HTTP/1.1 200 ")
                else:
                    with pytest.raises(StreamBroken):
                        near.receive_nowait()
            group.cancel_scope.cancel()
