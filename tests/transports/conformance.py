"""The suite that every transport's connections pass: what ``transports.base.Connection`` promises.

A test module of a transport subclasses ``ConnectionSuite`` and gives the fixture ``pair``: two fresh ends of one
connection, joined by nothing that loses bytes by itself. It runs on both backends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import anyio
import pytest

from tunnelkit.errors import ConnectionLost, LocalProtocolError
from tunnelkit.transports.base import Connection

__all__ = ["ConnectionSuite", "Pair", "PairMaker", "fill", "lost", "pump"]

Pair: TypeAlias = tuple[Connection, Connection]
PairMaker: TypeAlias = Callable[[], AbstractAsyncContextManager[Pair]]

# What one direction may hold in this process and its kernel before ``ready`` blocks.
MOST_BUFFERED = 64 * 1024 * 1024


async def pump(connection: Connection, messages: list[bytes]) -> None:
    """Send as the session's link does: wait until it is ready, then send."""
    for message in messages:
        await connection.ready()
        await connection.send(message)


async def fill(connection: Connection) -> int:
    """Send until ``ready`` blocks; how many messages that took."""
    sent = 0
    message = b"x" * connection.max_message
    while sent * len(message) < MOST_BUFFERED:
        with anyio.move_on_after(0.2) as scope:
            await connection.ready()
        if scope.cancelled_caught:
            return sent
        await connection.send(message)
        sent += 1
    raise AssertionError("the connection takes messages without end")


async def lost(call: Awaitable[object]) -> ConnectionLost:
    with pytest.raises(ConnectionLost) as caught:
        await call
    return caught.value


async def receive_until(connection: Connection, wanted: bytes) -> None:
    """The next message is ``wanted``; only an unordered connection may repeat others before it."""
    while (message := await connection.receive()) != wanted:
        assert not connection.ordered, f"got {message[:20]!r} instead of {wanted[:20]!r}"


async def receive_all(connection: Connection) -> tuple[list[bytes], ConnectionLost]:
    """Every message up to the end, and how it ended."""
    got = []
    try:
        while True:
            got.append(await connection.receive())
    except ConnectionLost as end:
        return got, end


class ConnectionSuite:
    """``empty_messages``: whether empty ones are carried; no session sends any."""

    empty_messages = True

    @pytest.fixture
    def make_pair(self) -> PairMaker:
        raise NotImplementedError

    # -- what is carried -----------------------------------------------------------------------

    async def test_it_carries_every_size_both_ways(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                sizes = [1, 24, 125, 126, 127, 4096, one.max_message - 1, one.max_message]
                for size in [0, *sizes] if self.empty_messages else sizes:
                    message = bytes(i % 251 for i in range(size))
                    for sender, receiver in ((one, other), (other, one)):
                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(pump, sender, [message])
                            await receive_until(receiver, message)

    async def test_it_carries_each_message_at_least_once_and_whole(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                messages = [i.to_bytes(4) + b"m" * (i * 37 % 5000) for i in range(500)]
                got: list[bytes] = []
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(pump, one, messages)
                    while not set(messages) <= set(got):
                        got.append(await other.receive())
                assert set(got) == set(messages)
                if one.ordered:
                    assert got == messages

    async def test_it_carries_both_ways_at_once(self, make_pair: PairMaker) -> None:
        """Two full pipes must not wait for each other."""
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                messages = [i.to_bytes(4) * 5000 for i in range(300)]

                async def drain(connection: Connection) -> None:
                    missing = set(messages)
                    while missing:
                        missing.discard(await connection.receive())

                async with anyio.create_task_group() as tasks:
                    for connection in (one, other):
                        tasks.start_soon(pump, connection, messages)
                        tasks.start_soon(drain, connection)

    async def test_ready_tells_a_size_that_send_takes(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                size = await one.ready()
                assert 4096 <= size <= one.max_message
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(one.send, b"r" * size)
                    await receive_until(other, b"r" * size)

    async def test_a_message_above_the_maximum_is_refused_and_costs_nothing(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                await one.ready()
                with pytest.raises(LocalProtocolError):
                    await one.send(b"x" * (one.max_message + 1))
                await one.send(b"next")
                await receive_until(other, b"next")

    async def test_it_names_its_transport(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                assert one.transport == other.transport != ""
                assert one.max_message == other.max_message >= 4096

    # -- backpressure --------------------------------------------------------------------------

    async def test_ready_blocks_while_the_peer_does_not_read(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                sent = await fill(one)
                assert sent > 0
                expected = {b"x" * one.max_message}
                for _ in range(sent):
                    assert {await other.receive()} == expected
                await one.ready()

    async def test_a_blocked_direction_does_not_block_the_other(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                await fill(one)
                await pump(other, [b"here"])
                await receive_until(one, b"here")

    # -- cancellation --------------------------------------------------------------------------

    async def test_a_cancelled_receive_loses_nothing(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                got: set[bytes] = set()
                messages = [i.to_bytes(4) * 2000 for i in range(50)]
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(pump, one, messages)
                    while len(got) < len(messages):
                        with anyio.move_on_after(0.001):
                            got.add(await other.receive())
                assert got == set(messages)

    async def test_a_cancelled_ready_changes_nothing(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                sent = await fill(one)  # ends with a cancelled ready
                for _ in range(sent):
                    await other.receive()
                await pump(one, [b"after"])
                await receive_until(other, b"after")

    async def test_a_send_cancelled_half_way_ends_the_connection(self, make_pair: PairMaker) -> None:
        """Never a torn message: the peer gets whole ones, then the loss."""
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                if not await self.cancel_a_send(one):
                    return  # this transport's send never waits
                await lost(one.send(b"late"))
                await lost(one.ready())
                got, end = await receive_all(other)
                assert set(got) <= {b"x" * one.max_message}
                assert not end.clean

    async def cancel_a_send(self, connection: Connection) -> bool:
        """Whether a send could be brought to wait, and be cancelled."""
        message = b"x" * connection.max_message
        for _ in range(MOST_BUFFERED // len(message)):
            with anyio.move_on_after(0.2) as scope:
                await connection.ready()
            blocked = scope.cancelled_caught
            with anyio.move_on_after(0.2) as scope:
                await connection.send(message)
            if scope.cancelled_caught:
                return True
            if blocked:
                return False
        raise AssertionError("the connection takes messages without end")

    # -- liveness ------------------------------------------------------------------------------

    async def test_any_received_byte_is_life(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                before = other.last_received
                assert before <= anyio.current_time()
                await anyio.sleep(0.02)  # the clock must move
                sent_at = anyio.current_time()
                await pump(one, [b"alive"])
                await other.receive()
                assert sent_at <= other.last_received <= anyio.current_time()

    # -- the end -------------------------------------------------------------------------------

    async def test_an_orderly_close_arrives_behind_the_messages(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                await pump(one, [b"first", b"last"])
                results = []

                async def follow() -> None:
                    results.append(await receive_all(other))
                    await other.aclose()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(follow)
                    await one.aclose(1001, "restart")
                ((got, end),) = results
                assert set(got) == {b"first", b"last"}
                assert end.clean
                assert end.code == 1001
                assert "restart" in end.reason

    async def test_both_ends_close_at_once(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other), anyio.create_task_group() as tasks:
                tasks.start_soon(one.aclose)
                tasks.start_soon(other.aclose)

    async def test_close_is_bounded_when_the_peer_is_silent(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, _):
                await fill(one)
                before = anyio.current_time()
                await one.aclose()
                assert anyio.current_time() - before < 4
                await one.aclose()  # idempotent

    async def test_a_cancelled_close_is_an_abort(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                await fill(one)
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await one.aclose()
                await lost(one.receive())
                await receive_all(other)

    @pytest.mark.parametrize("ending", ["abort", "aclose"])
    async def test_pending_calls_end_with_the_connection(self, make_pair: PairMaker, ending: str) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, _):
                await fill(one)
                ended: list[ConnectionLost] = []

                async def wait_for(call: Callable[[], Awaitable[object]]) -> None:
                    ended.append(await lost(call()))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait_for, one.ready)
                    tasks.start_soon(wait_for, one.receive)
                    await anyio.wait_all_tasks_blocked()
                    if ending == "abort":
                        one.abort()
                        one.abort()  # idempotent
                    else:
                        await one.aclose()
                assert len(ended) == 2

    async def test_an_abort_is_no_orderly_close(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                one.abort()
                assert not (await lost(other.receive())).clean
                await lost(one.receive())
                await lost(one.ready())
                await lost(one.send(b"x"))
                await one.aclose()
