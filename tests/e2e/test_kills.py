"""Every connection is killed again and again, over each way and while the session moves: bodies arrive byte-exact."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import pytest

from tunnelkit import Limits
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.events import Connected, Moved, Resumed
from tunnelkit.testing.middlebox import Middlebox, serve_middlebox
from tunnelkit.testing.relay import End, Relay

from .lossy import Lossy, lossy
from .transfers import Download, Transfer, Upload, is_inside_a_body
from .tunnel import SHORT, Ends, gather, open_ends

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

EVERY_WAY = pytest.mark.ways("websocket", "longpoll", "streamed")

MB = 1_000_000
LINK_RATE = 20 * MB  # bytes a second each way


@dataclass(frozen=True)
class Kills:
    """``size`` bytes a body, over a link of ``rate`` bytes a second, all of whose connections end every ``apart``
    seconds; at least ``least`` times in the middle of a body."""

    size: int
    apart: float
    rate: int
    least: int
    limits: Limits


SHORT_OR_FULL = [
    pytest.param(Kills(5 * MB, 0.3, 8 * MB, 3, SHORT), id="short"),
    pytest.param(
        Kills(50 * MB, 1.0, 10 * MB, 8, DEFAULT_LIMITS),
        id="full",
        marks=[pytest.mark.full, pytest.mark.timeout(180)],
    ),
]


class Killer:
    """Ends all connections of a relay at once, at whatever byte that meets. Up to a quarter of what could pass since
    the kill before must have: on a slow machine too the bodies come to their ends."""

    def __init__(self, relay: Relay, transfers: list[Transfer], kills: Kills) -> None:
        self.inside = 0  # the kills that met bodies on their way
        self._relay = relay
        self._transfers = transfers
        self._apart = kills.apart
        self._most = int(kills.rate * kills.apart / 4)

    async def run(self) -> None:
        """Until cancelled."""
        chance = random.Random(5)
        while True:
            await anyio.sleep(self._apart)  # the rhythm of the kills is what is tested
            await self._kill(chance.choice([End.FIN, End.RST]), chance.randint(10_000, self._most))

    async def _kill(self, how: End, size: int) -> None:
        """Once ``size`` bytes passed: after the kill before, too."""
        target = self._relay.carried + size
        await self._relay.until(lambda: self._relay.carried >= target)
        killed = self._relay.cut(how, how)
        self.inside += bool(killed) and is_inside_a_body(self._transfers)


async def move(transfers: list[Transfer], killer: Killer) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(killer.run)
        await gather(*[transfer.run for transfer in transfers])
        group.cancel_scope.cancel()


@EVERY_WAY
@pytest.mark.parametrize("kills", SHORT_OR_FULL)
async def test_bodies_survive_kills_of_every_connection(kills: Kills) -> None:
    async with lossy(kills.limits) as link:
        link.relay.rate = kills.rate
        transfers: list[Transfer] = [kind(link.tunnel, kills.size) for kind in (Download, Upload) * 2]
        killer = Killer(link.relay, transfers, kills)
        with anyio.fail_after(90):
            await move(transfers, killer)
        assert killer.inside >= kills.least
        assert link.current_session() == link.session_id
        assert sorted(link.tunnel.origin.targets()) == [f"/bytes/{kills.size}"] * 2 + ["/sink"] * 2
        print(f"\n{killer.inside} kills, {link.count(Resumed)} resumes")


# -- while the session moves -------------------------------------------------------------------


@asynccontextmanager
async def behind_a_box(limits: Limits) -> AsyncIterator[tuple[Ends, Middlebox]]:
    async with open_ends(limits=limits) as ends, serve_middlebox(ends.port) as box:
        yield ends, box


@pytest.mark.ways("auto")
@pytest.mark.parametrize("kills", SHORT_OR_FULL)
async def test_bodies_survive_kills_while_the_session_moves(kills: Kills) -> None:
    """Every other time the way lets websockets through. The kills come in the middle of what the session does then:
    a move up, or the way down again."""
    limits = replace(kills.limits, probe_first=kills.apart / 6, probe_cap=kills.apart / 3, retry_first=0.01)
    used: list[str] = []
    async with behind_a_box(limits) as (ends, box), ends.join(via=box.relay) as client:
        (before,) = ends.server.sessions()
        box.relay.rate = kills.rate
        transfers: list[Transfer] = [kind(ends, kills.size) for kind in (Download, Upload) * 2]
        killer = Killer(box.relay, transfers, kills)

        async def watch() -> None:
            async for event in client.events():
                if isinstance(event, (Connected, Moved, Resumed)) and event.transport not in used[-1:]:
                    used.append(event.transport)

        async def open_and_close() -> None:
            while True:
                for status in (403, 0):
                    box.refuse_upgrades = status
                    await anyio.sleep(kills.apart)  # beside the rhythm of the kills

        with anyio.fail_after(90):
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                group.start_soon(open_and_close)
                await move(transfers, killer)
                group.cancel_scope.cancel()
        (after,) = ends.server.sessions()
        assert after.id == before.id
        assert killer.inside >= kills.least
        assert "longpoll" in used
        assert "websocket" in used  # again: it began with one
        assert sorted(ends.origin.targets()) == [f"/bytes/{kills.size}"] * 2 + ["/sink"] * 2
        print(f"\n{killer.inside} kills, {' '.join(used)}")


# -- cuts and silences, in both directions at once -----------------------------------------------


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_bodies_survive_a_cut_every_second_and_silences() -> None:
    async def carry(link: Lossy) -> float:
        transfers: list[Transfer] = [kind(link.tunnel, 50 * MB) for kind in (Download, Upload) * 10]
        started = anyio.current_time()
        await gather(*[transfer.run for transfer in transfers])
        return anyio.current_time() - started

    async with lossy(DEFAULT_LIMITS) as link:
        link.relay.rate = LINK_RATE
        uncut = await carry(link)
        link.check_one_session(losses=0)

    async with lossy(DEFAULT_LIMITS) as link:
        link.relay.rate = LINK_RATE
        faults = Faults(link, [3, 12, 21])
        async with anyio.create_task_group() as group:
            group.start_soon(faults.run)
            with_cuts = await carry(link)
            group.cancel_scope.cancel()
        assert faults.inside >= 20
        assert faults.silences == 3
        assert with_cuts < 2 * uncut + 11 * faults.silences
        assert link.current_session() == link.session_id
        print(f"\nuncut {uncut:.1f} s, with {faults.inside} cuts and 3 silences {with_cuts:.1f} s")


class Faults:
    """A cut every second, at whatever byte that meets; instead of those numbered ``silent`` the link falls silent."""

    def __init__(self, link: Lossy, silent: list[int]) -> None:
        self.inside = 0  # cuts that met bytes on their way
        self.silences = 0
        self._link = link
        self._silent = silent

    async def run(self) -> None:
        chance = random.Random(2)
        relay = self._link.relay
        number = 0
        while True:
            await anyio.sleep(1)  # the rhythm of the cuts is what is tested
            number += 1
            await self._link.carried(10_000)
            if number in self._silent:
                self.silences += 1
                resumed = self._link.count(Resumed)
                relay.mute()
                await self._link.recovered(resumed + 1, timeout=20)
            else:
                how = chance.choice([End.FIN, End.RST])
                self.inside += bool(relay.cut(how, how))
