"""Callers that mean harm: each costs only itself."""

from __future__ import annotations

import anyio
import pytest

from .tunnel import ask, open_tunnel, problem_of

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
