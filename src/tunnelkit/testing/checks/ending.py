"""Checks of the conformance kit: orderly closes, aborts, and what calls do then."""

from __future__ import annotations

from typing import Final

import anyio

from ...errors import ConnectionLost
from ...transports.base import Connection
from ..wires import Wires
from .base import Checks, clogged, expect, expect_lost, pump, receive_all, within

__all__ = ["CHECKS"]

CHECKS: Final = Checks()

# "About 1 s", says the contract of aclose; a slow machine may take longer.
_CLOSE: Final = 5.0


async def _ends(wires: Wires, *, swapped: bool) -> tuple[Connection, Connection]:
    client, server = await wires.connect()
    return (server, client) if swapped else (client, server)


@CHECKS.add
async def a_close_arrives_behind_the_messages(wires: Wires) -> None:
    """After aclose the peer gets every message that was taken, then ConnectionLost, which is clean and has the
    code."""
    for swapped, code in ((False, 1000), (True, 1000), (False, 1001), (True, 1001)):
        closer, other = await _ends(wires, swapped=swapped)
        results: list[tuple[list[bytes], ConnectionLost]] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_follow, other, results)
            await pump(closer, [b"first", b"last"])
            with within("aclose should have ended", _CLOSE):
                await closer.aclose(code, "the kit closes")
        ((got, end),) = results
        expect(set(got) == {b"first", b"last"}, f"{sorted(set(got))} arrived before the close")
        expect(end.clean, f"the peer closed in order, and the end was not called clean: {end}")
        expect(end.code == code, f"the code {code} arrived as {end.code}")


async def _follow(connection: Connection, results: list[tuple[list[bytes], ConnectionLost]]) -> None:
    results.append(await receive_all(connection))
    await connection.aclose()


@CHECKS.add
async def both_ends_may_close_at_once(wires: Wires) -> None:
    """Both ends may close at the same time, and again."""
    client, server = await wires.connect()
    with within("both closes should have ended", _CLOSE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.aclose)
            tasks.start_soon(server.aclose)
        await client.aclose()
        await server.aclose()


@CHECKS.add
async def a_close_is_bounded(wires: Wires) -> None:
    """aclose ends within about 1 s though the peer reads nothing, and is idempotent."""
    for swapped in (False, True):
        closer, _ = await _ends(wires, swapped=swapped)
        async with clogged(closer):
            with within("aclose should have ended", _CLOSE):
                await closer.aclose()
                await closer.aclose()


@CHECKS.add
async def an_abort_is_no_orderly_close(wires: Wires) -> None:
    """After abort the peer's end is not clean; abort is idempotent, and aclose may follow."""
    for swapped in (False, True):
        dropped, other = await _ends(wires, swapped=swapped)
        dropped.abort()
        dropped.abort()
        seconds = 10.0 if other.wants_pings else wires.detection
        with within("the peer of an aborted connection should have lost it", seconds):
            end = await _loss(other)
        expect(not end.clean, "the end was called clean, though nobody closed")
        with within("aclose after abort should have ended", _CLOSE):
            await dropped.aclose()


async def _loss(connection: Connection) -> ConnectionLost:
    while True:
        try:
            await connection.receive()
        except ConnectionLost as end:
            return end


@CHECKS.add
async def calls_after_the_end_raise(wires: Wires) -> None:
    """Once a connection is over, every call raises ConnectionLost, however often it is made."""
    for swapped in (False, True):
        for ending in ("abort", "aclose"):
            one, other = await _ends(wires, swapped=swapped)
            if ending == "abort":
                one.abort()
            else:
                await one.aclose()
            for _ in range(2):
                await expect_lost(one.receive(), f"receive, after {ending},")
                await expect_lost(one.ready(), f"ready, after {ending},")
                await expect_lost(one.send(b"x"), f"send, after {ending},")
            other.abort()


@CHECKS.add
async def pending_calls_end_with_the_connection(wires: Wires) -> None:
    """A receive, ready or send that waits raises ConnectionLost when the connection is aborted or closed at its
    own end."""
    for swapped in (False, True):
        for ending in ("abort", "aclose"):
            one, _ = await _ends(wires, swapped=swapped)
            received: list[ConnectionLost] = []

            async def receive(one: Connection = one, received: list[ConnectionLost] = received) -> None:
                received.append(await expect_lost(one.receive(), "a receive that waited"))

            async with clogged(one) as clog, anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await anyio.wait_all_tasks_blocked()
                if ending == "abort":
                    one.abort()
                else:
                    await one.aclose()
                with within(f"a ready or send that waited should have ended after {ending}"):
                    await clog.ended.wait()
                expect(clog.end is not None, f"a ready or send that waited did not raise after {ending}")
