"""Checks of the conformance kit: backpressure, and cancellation in each await."""

from __future__ import annotations

from typing import Final

import anyio

from ...transports.base import Connection
from ..wires import Wires
from .base import (
    PATIENCE,
    Checks,
    ContractBroken,
    clogged,
    deliver,
    expect,
    expect_lost,
    pump,
    receive_all,
    receive_until,
    within,
)

__all__ = ["CHECKS"]

CHECKS: Final = Checks()

_LAST: Final = b"the last one"
_LONG: Final = 3 * PATIENCE
_CANCELLATION: Final = 5.0  # seconds that one may take to get through, which is a turn of the loop


async def _ends(wires: Wires, *, swapped: bool) -> tuple[Connection, Connection]:
    client, server = await wires.connect()
    return (server, client) if swapped else (client, server)


# -- backpressure --------------------------------------------------------------------------------


@CHECKS.add
async def ready_waits_for_a_peer_that_does_not_read(wires: Wires) -> None:
    """ready waits while messages would pile up, so that memory is bounded; what was taken arrives once the peer
    reads, and ready returns."""
    for swapped in (False, True):
        sender, receiver = await _ends(wires, swapped=swapped)
        async with clogged(sender) as clog:
            expect(clog.count > 0, "no message was taken at all")
            clog.stop()
            for number in range(clog.count):
                with within(f"message {number + 1} of {clog.count} that were taken should have arrived"):
                    message = await receiver.receive()
                expect(message == clog.message, "a message arrived that nobody sent")
        with within("ready should have returned once the peer had read everything"):
            await sender.ready()


@CHECKS.add
async def a_full_direction_leaves_the_other_alone(wires: Wires) -> None:
    """While one direction is held up, messages pass in the other."""
    for swapped in (False, True):
        sender, receiver = await _ends(wires, swapped=swapped)
        async with clogged(sender):
            await deliver(receiver, sender, b"here")


# -- cancellation --------------------------------------------------------------------------------


@CHECKS.add
async def a_waiting_receive_can_be_cancelled(wires: Wires) -> None:
    """receive lets a cancellation through, and is as good as new afterwards."""
    for swapped in (False, True):
        sender, receiver = await _ends(wires, swapped=swapped)
        await _cancel_waiting(receiver, "receive")
        await deliver(sender, receiver, b"after")


@CHECKS.add
async def a_waiting_ready_can_be_cancelled(wires: Wires) -> None:
    """ready lets a cancellation through, and cancelling it changes nothing."""
    sender, receiver = await _ends(wires, swapped=False)
    for number in range(20):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await sender.ready()
        await deliver(sender, receiver, bytes([number]))
    async with clogged(sender) as clog:
        if not clog.sending:
            clog.scope.cancel()
            with within("ready swallowed a cancellation: it should have ended"):
                await clog.ended.wait()
            expect(clog.end is None, f"a cancelled ready raised {clog.end!r}")
            for _ in range(clog.count):
                await receive_until(receiver, clog.message)
            await deliver(sender, receiver, b"after")


@CHECKS.add
async def a_cancelled_receive_loses_nothing(wires: Wires) -> None:
    """Cancelling receive, at whatever moment, loses no message."""
    for swapped in (False, True):
        sender, receiver = await _ends(wires, swapped=swapped)
        messages = {number.to_bytes(4) * 500 for number in range(50)}
        missing = set(messages)
        missing.add(_LAST)
        with within("all messages should have arrived, receive being cancelled again and again", _LONG):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pump, sender, [*sorted(messages), _LAST])
                pause = 0.0
                while _LAST in missing or (missing and not receiver.ordered):
                    pause = (pause + 0.0005) % 0.003
                    with anyio.move_on_after(pause):
                        missing.discard(await receiver.receive())
        expect(not missing, f"{len(missing)} of {len(messages)} messages were lost by cancelling receive")


@CHECKS.add
async def a_cancelled_send_tears_no_message(wires: Wires) -> None:
    """A send that is cancelled lets the cancellation through; its connection is aborted, and the peer gets whole
    messages, then an end that is not clean."""
    for swapped in (False, True):
        sender, receiver = await _ends(wires, swapped=swapped)
        async with clogged(sender) as clog:
            clog.scope.cancel()
            with within("a cancelled sender should have ended"):
                await clog.ended.wait()
            expect(clog.end is None, f"a cancelled sender raised {clog.end!r}")
            sender.abort()
        got, end = await receive_all(receiver)
        expect(set(got) <= {clog.message}, "part of a message arrived as a whole one")
        expect(not end.clean, "the end was called clean, though nobody closed")


@CHECKS.add
async def a_cancelled_close_is_an_abort(wires: Wires) -> None:
    """aclose lets a cancellation through, and the connection is dropped."""
    for swapped in (False, True):
        closer, other = await _ends(wires, swapped=swapped)
        async with clogged(closer):
            with within("a cancelled aclose should have ended"), anyio.CancelScope() as scope:
                scope.cancel()
                await closer.aclose()
        await expect_lost(closer.receive(), "receive, after a cancelled aclose,")
        await receive_all(other)


async def _cancel_waiting(connection: Connection, name: str) -> None:
    """Cancel a receive that waits for a silent peer."""
    ended = anyio.Event()
    scope = anyio.CancelScope()
    outcome: list[str] = []

    async def call() -> None:
        try:
            with scope:
                outcome.append(f"returned {await connection.receive()!r}")
        except Exception as exc:
            outcome.append(f"raised {exc!r}")
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        with anyio.move_on_after(_CANCELLATION):
            await ended.wait()
        if not ended.is_set():
            connection.abort()  # so that a call which shields itself comes to an end
            raise ContractBroken(f"{name} swallowed a cancellation: it still waits")
    if outcome:
        raise ContractBroken(f"{name} swallowed a cancellation: it {outcome[0]}")
