"""Checks of the conformance kit: what is carried arrives, whole, in order, at least once."""

from __future__ import annotations

from typing import Final

import anyio

from ...errors import LocalProtocolError
from ...transports.base import SHORT_TURN, SHORTEST_TURN, TURN, Connection
from ..wires import Wires
from .base import Checks, NotApplicable, deliver, expect, pump, within

__all__ = ["CHECKS"]

CHECKS: Final = Checks()

_COUNT: Final = 200
_SIZES: Final = (1, 2, 24, 125, 126, 127, 4095, 4096)


def _pattern(size: int) -> bytes:
    """Bytes that show where any of them is missing, moved or repeated."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


async def _directions(wires: Wires) -> list[tuple[Connection, Connection]]:
    """Sender and receiver, the client sending first."""
    client, server = await wires.connect()
    return [(client, server), (server, client)]


async def _carry(sender: Connection, receiver: Connection, messages: list[bytes]) -> list[bytes]:
    """Send all; what arrives until the last one, or, on an unordered connection, all of them are there."""
    got: list[bytes] = []
    missing = set(messages)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pump, sender, messages)
        await anyio.wait_all_tasks_blocked()  # so that there is something to overtake
        while messages[-1] in missing or (missing and not receiver.ordered):
            with within(f"{len(missing)} of {len(messages)} messages are missing: another one should have arrived"):
                got.append(await receiver.receive())
            missing.discard(got[-1])
        if receiver.ordered:
            tasks.cancel_scope.cancel()  # the last one may have overtaken others
    return got


def _numbered() -> list[bytes]:
    return [number.to_bytes(4) + b"m" * (number * 37 % 5000) for number in range(_COUNT)]


@CHECKS.add
async def every_size_arrives_whole(wires: Wires) -> None:
    """A message arrives as it was sent, with its borders, from one byte to max_message bytes."""
    for sender, receiver in await _directions(wires):
        for size in (*_SIZES, sender.max_message - 1, sender.max_message):
            await deliver(sender, receiver, _pattern(size))


@CHECKS.add
async def what_it_is_told_changes_nothing_that_arrives(wires: Wires) -> None:
    """active and turn may be set at any time, and messages arrive as before."""
    for sender, receiver in await _directions(wires):
        for active, turn in ((True, SHORTEST_TURN), (True, SHORT_TURN), (False, TURN)):
            for connection in (sender, receiver):
                connection.active, connection.turn = active, turn
            for size in _SIZES:
                await deliver(sender, receiver, _pattern(size))


@CHECKS.add
async def an_empty_message_is_carried_or_refused(wires: Wires) -> None:
    """A message of 0 bytes, which no session sends, is carried as any other, or refused with LocalProtocolError:
    never taken and lost."""
    for sender, receiver in await _directions(wires):
        refusals: list[LocalProtocolError] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_send_odd, sender, b"", refusals)
            wanted = {b"next", b""}
            while wanted - ({b""} if refusals else set()):
                with within("an empty message was taken, and it or the next one should have arrived"):
                    message = await receiver.receive()
                expect(message in (b"next", b""), "a message arrived that nobody sent")
                expect(bool(message) or not refusals, "an empty message was refused, and arrived")
                wanted.discard(message)


@CHECKS.add
async def a_message_above_the_maximum_is_refused(wires: Wires) -> None:
    """send refuses a message above max_message with LocalProtocolError, and the connection goes on."""
    for sender, receiver in await _directions(wires):
        refusals: list[LocalProtocolError] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_send_odd, sender, bytes(sender.max_message + 1), refusals)
            with within("a message behind one that is too large should have arrived"):
                message = await receiver.receive()
        expect(refusals, "a message of max_message + 1 bytes was taken")
        expect(message == b"next", "part of a message that was refused arrived")


async def _send_odd(sender: Connection, message: bytes, refusals: list[LocalProtocolError]) -> None:
    """A message that may be refused, and another one."""
    with within(f"a message of {len(message)} bytes should have been taken or refused"):
        await sender.ready()
        try:
            await sender.send(message)
        except LocalProtocolError as exc:
            refusals.append(exc)
    await pump(sender, [b"next"])


@CHECKS.add
async def every_message_arrives(wires: Wires) -> None:
    """Every message that send took is delivered at least once, and nothing else."""
    for sender, receiver in await _directions(wires):
        messages = _numbered()
        got = set(await _carry(sender, receiver, messages))
        missing = len(set(messages) - got)
        expect(not missing, f"{missing} of {len(messages)} messages never arrived")
        expect(got <= set(messages), "a message arrived that nobody sent")


@CHECKS.add
async def order_is_kept(wires: Wires) -> None:
    """A connection with ordered=True delivers messages in the order in which it took them."""
    for sender, receiver in await _directions(wires):
        if not sender.ordered:
            raise NotApplicable("its connections say that they keep no order")
        messages = _numbered()
        got = list(dict.fromkeys(await _carry(sender, receiver, messages)))
        places = [messages.index(message) for message in got if message in messages]
        expect(places == sorted(places), "messages overtook each other though ordered is True")


@CHECKS.add
async def nothing_is_repeated(wires: Wires) -> None:
    """A connection with ordered=True delivers no message twice."""
    for sender, receiver in await _directions(wires):
        if not sender.ordered:
            raise NotApplicable("its connections say that they may repeat")
        got = await _carry(sender, receiver, _numbered())
        expect(len(got) == len(set(got)), "messages arrived twice though ordered is True")


@CHECKS.add
async def both_ways_go_at_once(wires: Wires) -> None:
    """Both ends send and receive at the same time: two full pipes do not wait for each other."""
    client, server = await wires.connect()
    size = min(client.max_message, 20_000)
    messages = [number.to_bytes(4) * (size // 4) for number in range(_COUNT)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_carry, client, server, messages)
        tasks.start_soon(_carry, server, client, messages)


@CHECKS.add
async def a_pending_receive_leaves_send_alone(wires: Wires) -> None:
    """send works while receive waits at the same end, for a peer that has nothing to say."""
    for sender, receiver in await _directions(wires):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sender.receive)
            await anyio.wait_all_tasks_blocked()
            await deliver(sender, receiver, b"one")
            await deliver(sender, receiver, b"two")
            tasks.cancel_scope.cancel()


@CHECKS.add
async def ready_tells_what_send_takes(wires: Wires) -> None:
    """ready returns a size from 4,096 to max_message, and a message of that size is taken and arrives."""
    for sender, receiver in await _directions(wires):
        sizes: list[int] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_send_largest, sender, sizes)
            with within("a message of the size that ready told should have arrived"):
                message = await receiver.receive()
        (size,) = sizes
        expect(message == _pattern(size), f"ready told {size} bytes, and {len(message)} arrived")


async def _send_largest(sender: Connection, sizes: list[int]) -> None:
    with within("a message of the size that ready told should have been taken"):
        size = await sender.ready()
        expect(4096 <= size <= sender.max_message, f"ready returned {size}, max_message is {sender.max_message}")
        sizes.append(size)
        await sender.send(_pattern(size))


@CHECKS.add
async def any_received_byte_is_life(wires: Wires) -> None:
    """last_received is anyio.current_time() when the last byte came from the peer."""
    for sender, receiver in await _directions(wires):
        before = receiver.last_received
        expect(before <= anyio.current_time(), "last_received lies in the future")
        await anyio.sleep(0.02)  # the clock must move
        sent_at = anyio.current_time()
        await deliver(sender, receiver, b"alive")
        expect(sent_at <= receiver.last_received, "last_received is older than a message that came")
        expect(receiver.last_received <= anyio.current_time(), "last_received lies in the future")
