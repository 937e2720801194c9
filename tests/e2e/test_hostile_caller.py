"""Callers that mean harm: each costs only itself."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS, KIB

from .tunnel import TOKEN, Tunnel, ask, open_ends, open_tunnel, problem_of, until

pytestmark = pytest.mark.anyio


async def test_an_x_host_that_fits_into_no_open_is_refused_at_once() -> None:
    # Tried on a stream, it would not fit, and its tunnel would count as full for a while each time.
    async with open_tunnel(client_options={"allow": [".*"]}) as tunnel:
        with anyio.fail_after(15):
            answer = await ask(tunnel.port, tunnel.path("/echo"), X_Host="http://" + "a" * 3000)
        problem = problem_of(answer)
        assert (problem["status"], problem["code"]) == (400, "bad_x_host")
        assert not tunnel.origin.requests


@pytest.mark.parametrize(
    "preference", ["wait=" + "9" * 5000, "wait=-1", "wait=1_0", "wait=\xb2", "wait=", "wait=nan"]
)
async def test_a_preference_that_is_no_number_is_passed_over(preference: str) -> None:
    async with open_tunnel() as tunnel:
        assert (await tunnel.get("/echo", Prefer=preference))[0] == 200


async def test_a_head_that_fits_into_no_block_costs_itself_alone() -> None:
    """It is found out only when a session is there for it, together with the others that wait."""
    limits = replace(DEFAULT_LIMITS, head_limit=8 * KIB, head_block_limit=8 * KIB)
    async with open_ends(limits=limits) as ends, anyio.create_task_group() as group:
        rest = f"GET {ends.path('/echo')} HTTP/1.1\r\nHost: tunnel.test\r\nConnection: close\r\nX: \r\n\r\n"
        large = ends.call(group, "/echo", fields={"X": "x" * (8 * KIB - len(rest))})
        await ends.pending(1)
        small = ends.call(group, "/status/200")
        await ends.pending(2)
        async with ends.join():
            assert await small.status() == 200
            assert await large.status() == 431
            assert ends.origin.targets() == ["/status/200"]


# -- leaving -----------------------------------------------------------------------------------

HEAD = f"HTTP/1.1\r\nHost: a\r\nX-Token: {TOKEN}\r\n"

# What a caller sends before it leaves, and the bytes of the answer that it waits for first.
PHASES = {
    "nothing": (b"", 0),
    "half a head": (f"GET /echo {HEAD}X: ".encode(), 0),
    "no body": (f"POST /sink {HEAD}Content-Length: 100000\r\n\r\n".encode(), 0),
    "half a body": (f"POST /sink {HEAD}Content-Length: 100000\r\n\r\n".encode() + bytes(50_000), 0),
    "half a chunk": (f"POST /sink {HEAD}Transfer-Encoding: chunked\r\n\r\n100\r\nabc".encode(), 0),
    "a bad chunk": (f"POST /sink {HEAD}Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef".encode(), 0),
    "waiting to be told to go on": (
        f"POST /stall {HEAD}Content-Length: 9\r\nExpect: 100-continue\r\n\r\n".encode(),
        0,
    ),
    "a body that nobody takes": (f"POST /stall {HEAD}Content-Length: 1000000\r\n\r\n".encode() + bytes(300_000), 0),
    "waiting for the answer": (f"GET /hold/x {HEAD}\r\n".encode(), 0),
    "an answer under way": (f"GET /sse {HEAD}\r\n".encode(), 50),
    "an answer that nobody reads": (f"GET /bytes/5000000 {HEAD}\r\n".encode(), 50),
    "one that nobody reads, in chunks": (f"GET /bytes/5000000/chunked {HEAD}\r\n".encode(), 50),
    "many requests at once": (f"GET /echo {HEAD}\r\n".encode() * 50, 50),
    "behind an early answer": (f"POST /early/200 {HEAD}Content-Length: 500000\r\n\r\n".encode() + bytes(9000), 50),
    "an upgrade": (f"GET /upgrade {HEAD}Connection: upgrade\r\nUpgrade: x\r\n\r\nearly".encode(), 50),
    "a refused upgrade": (f"GET /hold/x {HEAD}Connection: upgrade\r\nUpgrade: x\r\n\r\nearly".encode(), 0),
}


@pytest.mark.ways("auto")  # it counts connections, and a websocket is one
@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("phase", PHASES)
async def test_callers_that_leave_leave_nothing(phase: str, how: str) -> None:
    said, answer = PHASES[phase]
    async with open_tunnel() as tunnel, AsyncExitStack() as stack:
        running = tunnel.server._running
        assert running is not None
        assert (await tunnel.get("/echo"))[0] == 200
        await until(lambda: running.front.connections == 1)  # the client's
        for _ in range(5):
            caller = await stack.enter_async_context(tunnel.caller())
            await caller.send(said)
            while answer and len(await caller.receive()) < answer:
                pass
            if how == "end":
                await caller.send_eof()
        if how == "reset":
            await stack.aclose()
        await until(lambda: running.front.connections == 1)
        await settled(tunnel)


async def settled(tunnel: Tunnel) -> None:
    """Neither end holds anything of any exchange."""
    running, session = tunnel.server._running, tunnel.client._supervisor._session
    assert running is not None
    assert session is not None
    links = [session.link, *(each.link for each in tunnel.server.sessions())]
    await until(lambda: not running.gateway.active and not tunnel.client._agent.active)
    await until(lambda: not any(link.streams.by_id or link.mux.active_streams for link in links))
    await until(lambda: running.table._budget.used == len(running.table) * tunnel.limits.replay_floor)
    await until(lambda: tunnel.client._supervisor._budget.used == 0)
