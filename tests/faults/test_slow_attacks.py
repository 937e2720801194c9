"""Callers that send heads or bodies, or read, as slowly as they can: they are shut within their limits, and everybody
else is served meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from tunnelkit import Limits
from tunnelkit.config import DEFAULT_LIMITS

from ..e2e.tunnel import SHORT
from ..e2e.ways import Way
from .attackers import Attacker, Slow, attack
from .callers import Call, Kind, ask, crowd, seen
from .ends import Figures, Tunnel, open_tunnel

pytestmark = [pytest.mark.anyio, pytest.mark.programs]

OTHERS = 100
AT_ONCE = 4
# What a loaded machine needs beyond a limit to shut a connection, and these tests to see it.
LATE = 5.0
MORE_MEMORY = 5.0  # MB


@dataclass(frozen=True)
class Form:
    attackers: int  # of each kind
    period: float  # seconds between two of their bytes
    others: int  # requests meanwhile
    pause: float  # between two of these
    limits: Limits

    @property
    def allowed(self) -> dict[Slow, float]:
        """Seconds after which each kind is to be shut."""
        limits = self.limits
        return {Slow.HEAD: limits.head_timeout, Slow.BODY: limits.min_rate_period, Slow.READ: limits.write_timeout}


SHORT_FORM = Form(20, 0.25, 20, 0.05, replace(SHORT, head_timeout=1.0, min_rate_period=1.5, write_timeout=1.5))
# All as by default. 200 bytes a second of each kind keep nobody's clock from running.
FULL = Form(200, 1.0, OTHERS, 1.5, DEFAULT_LIMITS)


@contextmanager
def opened(backend: tuple[str, dict[str, Any]], folder: Path, form: Form) -> Iterator[Tunnel]:
    with open_tunnel(backend[0], Way.WEBSOCKET, folder, limits=form.limits) as tunnel:
        yield tunnel


async def others(tunnel: Tunnel, form: Form) -> list[Call]:
    """Small requests, a few at once, spread over the time of the attack."""
    calls = [Call(f"/echo?{number}") for number in range(form.others)]

    async def some(mine: list[Call]) -> None:
        for call in mine:
            call.began = anyio.current_time()
            await call.run(tunnel.server.place, tunnel.port, partial(ask, call))
            await anyio.sleep(form.pause)  # the spread

    async with anyio.create_task_group() as group:
        for index in range(AT_ONCE):
            group.start_soon(some, calls[index::AT_ONCE])
    return calls


async def stands(tunnel: Tunnel, form: Form) -> float:
    """Wait until all the slow requests whose heads are whole run at the origin: no clock can have begun later. How
    long that took, in seconds."""
    began = anyio.current_time()
    while True:
        if len((await seen(tunnel))["running"]) >= 2 * form.attackers:
            return anyio.current_time() - began
        await anyio.sleep(0.05)  # between two looks


async def rehearsed(tunnel: Tunnel, form: Form) -> dict[str, Figures]:
    """What the tunnel needs at rest after attackers who left by themselves: so that memory can be compared."""
    await crowd(tunnel)
    with anyio.CancelScope() as scope, anyio.fail_after(60):
        async with attack(tunnel, form.attackers, form.period):
            await stands(tunnel, form)
            await full(tunnel)
            scope.cancel()
    await tunnel.at_rest()
    return await run_sync(tunnel.kept)


async def full(tunnel: Tunnel) -> None:
    """Wait until both ends keep all that they may for those who do not read."""
    before = math.inf
    while abs(before - (now := sum(each.memory for each in (await run_sync(tunnel.kept)).values()))) > 0.5:
        before = now
        await anyio.sleep(2)  # in which nothing may come


async def attacked(tunnel: Tunnel, form: Form, start: dict[str, Figures]) -> tuple[list[Call], int]:
    """The attack and what it comes to. The requests of others meanwhile, and how many attackers were left when the
    last of them was answered."""
    with anyio.fail_after(max(form.allowed.values()) + 30):
        async with attack(tunnel, form.attackers, form.period) as attackers:
            stood = await stands(tunnel, form)
            calls = await others(tunnel, form)
            left = sum(attacker.shut is None for attacker in attackers)
    check_shut(attackers, form, stood)
    assert {call.kind for call in calls} == {Kind.WHOLE}, calls
    await tunnel.back_at(start)
    return calls, left


def check_shut(attackers: list[Attacker], form: Form, stood: float) -> None:
    print(f"the attack stood after {stood:.1f} s")
    for kind, allowed in form.allowed.items():
        shut = [attacker.shut or 0.0 for attacker in attackers if attacker.kind is kind]
        print(f"{len(shut)} slow {kind}: shut between {min(shut):.1f} and {max(shut):.1f} s, allowed {allowed:g} s")
        assert allowed - 1 <= min(shut), (kind, min(shut))
        assert max(shut) <= stood + allowed + LATE, (kind, max(shut), stood)
    for attacker in attackers:
        assert attacker.kind is Slow.READ or attacker.told.startswith(b"HTTP/1.1 408 "), attacker


async def test_others_are_served_and_the_slow_are_shut(
    anyio_backend: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    with opened(anyio_backend, tmp_path, SHORT_FORM) as tunnel:
        await crowd(tunnel)
        await attacked(tunnel, SHORT_FORM, await tunnel.at_rest())


@pytest.mark.faults
@pytest.mark.timeout(240)
async def test_200_of_each_kind(anyio_backend: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    with opened(anyio_backend, tmp_path, FULL) as tunnel:
        start = await rehearsed(tunnel, FULL)
        calls, left = await attacked(tunnel, FULL, start)
        assert left >= FULL.attackers, "the attack was over before the others were"
        await tunnel.at_rest()
        for name, figures in (await run_sync(tunnel.kept)).items():
            more = figures.memory - start[name].memory
            print(f"{name}: {start[name].memory:.0f} MB before, {more:+.1f} MB afterwards")
            assert more < MORE_MEMORY, (name, more)
    slowest = max(call.ended - call.began for call in calls)
    print(f"{len(calls)} other requests: the slowest took {slowest:.3f} s")
    assert slowest < 1
