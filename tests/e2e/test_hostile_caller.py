"""Callers that mean harm: each costs only itself."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS, KIB

from .tunnel import ask, open_ends, open_tunnel, problem_of

pytestmark = pytest.mark.anyio


async def test_an_x_host_that_fits_into_no_open_is_refused_at_once() -> None:
    # Tried on a stream, it would not fit, and its tunnel would count as full for a while each time.
    async with open_tunnel(client_options={"allow": [".*"]}) as tunnel:
        with anyio.fail_after(5):
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
