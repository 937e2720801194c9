"""Checks of the conformance kit: cuts at each point, half-open connections, a way that stalls."""

from __future__ import annotations

from typing import Final

import anyio

from ...errors import ConnectionLost
from ...transports.base import Connection
from ..relay import End, Relay
from ..wires import Faults, Wires
from .base import (
    PATIENCE,
    Checks,
    ContractBroken,
    NotApplicable,
    deliver,
    expect,
    expect_lost,
    pump,
    within,
)

__all__ = ["CHECKS"]

CHECKS: Final = Checks()

_CLOSE: Final = 5.0
_GREETING: Final = b"alive"
_SIZE: Final = 4000
# Bytes that a connection still carries before it is cut: none, parts of a message, about whole ones.
_POINTS: Final = (0, 1, 3, 100, _SIZE, _SIZE + 5, _SIZE + 20, 2 * _SIZE, 3 * _SIZE)


async def _ends(wires: Wires, *, swapped: bool) -> tuple[Connection, Connection]:
    client, server = await wires.connect()
    for sender, receiver in ((client, server), (server, client)):
        await deliver(sender, receiver, _GREETING)
    return (server, client) if swapped else (client, server)


def _faults(wires: Wires) -> Faults:
    if wires.faults is None:
        raise NotApplicable("it does not dial by the request's dialler, and its maker gives no faults")
    return wires.faults


def _relay(wires: Wires) -> Relay:
    if wires.relay is None:
        raise NotApplicable("it does not dial by the request's dialler, so that no relay stands on its way")
    return wires.relay


def _patience(wires: Wires, end: Connection) -> float:
    return PATIENCE if end.wants_pings else wires.detection


async def _whole_or_lost(wires: Wires, receiver: Connection, messages: list[bytes]) -> bool:
    """Take what comes: all of ``messages``, or an end that is not clean. Whether all came."""
    missing = set(messages)
    while missing:
        what = f"{len(missing)} of {len(messages)} messages are missing: they should come, or the connection be lost"
        with within(what, _patience(wires, receiver)):
            try:
                message = await receiver.receive()
            except ConnectionLost as end:
                expect(not end.clean, f"the end was called clean, though nobody closed: {end}")
                return False
        if message == _GREETING and not receiver.ordered:
            continue
        expect(message in messages, "part of a message arrived as a whole one")
        if receiver.ordered:
            expect(message == messages[len(messages) - len(missing)], "a message was left out, and the next one came")
        missing.discard(message)
    return True


async def _pump_or_lose(sender: Connection, messages: list[bytes]) -> None:
    try:
        await pump(sender, messages)
    except ConnectionLost as end:
        expect(not end.clean, f"the end was called clean, though nobody closed: {end}")


@CHECKS.add
async def a_cut_at_each_point_loses_all_or_nothing(wires: Wires) -> None:
    """Cut before, in the middle of, and behind a message, by RST or FIN, a connection fails at both ends, or delivers
    everything all the same."""
    await wires.connect()
    relay = _relay(wires)
    for number, point in enumerate(_POINTS):
        sender, receiver = await _ends(wires, swapped=number % 2 == 1)
        messages = [bytes([index]) * _SIZE for index in range(4)]
        how = (End.RST, End.FIN)[number // 2 % 2]
        relay.cut_after(point, how, how)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_pump_or_lose, sender, messages)
            whole = await _whole_or_lost(wires, receiver, messages)
        if not whole:
            with within("the sender should have lost the connection too", _patience(wires, sender)):
                await expect_lost(sender.receive(), "the sender's receive, after the cut,")
        for end in (sender, receiver):
            end.abort()


@CHECKS.add
async def a_cut_ends_pending_calls(wires: Wires) -> None:
    """When the way is cut, a receive that waits raises ConnectionLost, which is not clean, or the connection
    lives on."""
    for swapped in (False, True):
        one, other = await _ends(wires, swapped=swapped)
        faults = _faults(wires)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_whole_or_lost, wires, one, [b"from other"])
            tasks.start_soon(_whole_or_lost, wires, other, [b"from one"])
            await anyio.wait_all_tasks_blocked()
            faults.cut()
            tasks.start_soon(_pump_or_lose, one, [b"from one"])
            tasks.start_soon(_pump_or_lose, other, [b"from other"])


@CHECKS.add
async def a_stall_loses_nothing(wires: Wires) -> None:
    """What is held up on the way arrives when the way is free again."""
    for swapped in (False, True):
        sender, receiver = await _ends(wires, swapped=swapped)
        faults = _faults(wires)
        messages = [number.to_bytes(4) * 500 for number in range(20)]
        async with anyio.create_task_group() as tasks:
            faults.stall()
            tasks.start_soon(pump, sender, messages)
            await anyio.wait_all_tasks_blocked()
            faults.resume()
            whole = await _whole_or_lost(wires, receiver, messages)
        expect(whole, "a short stall lost the connection")


@CHECKS.add
async def a_silent_peer_holds_nothing_up(wires: Wires) -> None:
    """With a peer that has fallen silent, aclose is bounded and ends what waits; a connection with a liveness of its
    own notices."""
    for swapped in (False, True):
        one, other = await _ends(wires, swapped=swapped)
        faults = _faults(wires)
        one.active = other.active = True  # as while an exchange runs, when a loss is to be noticed soon
        faults.stall()
        if not one.wants_pings:
            with within("a connection that wants no pings should have noticed the silence", wires.detection):
                await _silence(one)
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_silence, one)
                await anyio.wait_all_tasks_blocked()
                with within("aclose should have ended, though the peer is silent", _CLOSE):
                    await one.aclose()
        other.abort()
        faults.resume()


async def _silence(connection: Connection) -> None:
    try:
        message = await connection.receive()
    except ConnectionLost:
        return
    raise ContractBroken(f"{message[:20]!r} arrived from a peer that has fallen silent")


@CHECKS.add
async def a_half_open_connection_fails_where_it_is_told(wires: Wires) -> None:
    """When only one end learns of a loss, that end raises ConnectionLost (or both carry on); the other one can be
    closed and aborted."""
    for swapped in (False, True):
        told, untold = await _ends(wires, swapped=swapped)
        relay = _relay(wires)
        ends = (End.UNTOLD, End.RST) if swapped else (End.RST, End.UNTOLD)
        relay.cut(*ends)
        async with anyio.create_task_group() as tasks:
            if not untold.wants_pings:
                tasks.start_soon(_pump_or_lose, untold, [b"alive?"])
            await _whole_or_lost(wires, told, [b"alive?"])
        with within("aclose should have ended, though the peer is gone", _CLOSE):
            await untold.aclose()
        untold.abort()
        told.abort()
