"""The suite that every transport's connections pass: what ``transports.base.Connection`` promises.

A test module of a transport subclasses ``ConnectionSuite`` and gives the fixture ``pair``: two fresh ends of one
connection, joined by nothing that loses bytes by itself. It runs on both backends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import anyio
import pytest

from tunnelkit.errors import ConnectionLost, LocalProtocolError
from tunnelkit.transports.base import Connection

__all__ = ["ConnectionSuite", "Pair", "PairMaker", "clogged", "lost", "pump", "receive_all"]

Pair: TypeAlias = tuple[Connection, Connection]
PairMaker: TypeAlias = Callable[[], AbstractAsyncContextManager[Pair]]

# More than one direction may hold, in this process and in its kernel, before its sender is held up.
MOST_BUFFERED = 64 * 1024 * 1024


async def pump(connection: Connection, messages: list[bytes]) -> None:
    """Send as the session's link does: wait until it is ready, then send."""
    for message in messages:
        await connection.ready()
        await connection.send(message)


class Clog:
    """A sender that went on until the connection took no more. It is stuck in ``ready`` or ``send``, and stops once
    it comes out."""

    def __init__(self, connection: Connection) -> None:
        self.message = b"x" * connection.max_message
        self.count = 0  # messages given to ``send``
        self.sending = False
        self.end: ConnectionLost | None = None
        self.scope = anyio.CancelScope()
        self._connection = connection
        self._stopped = False

    async def run(self) -> None:
        with self.scope:
            try:
                await self._send()
            except ConnectionLost as end:
                self.end = end

    async def _send(self) -> None:
        while self.count * len(self.message) < MOST_BUFFERED:
            await self._connection.ready()
            if self._stopped:
                return
            self.count += 1
            self.sending = True
            await self._connection.send(self.message)
            self.sending = False
        raise AssertionError("the connection takes messages without end")

    async def settle(self) -> None:
        await anyio.wait_all_tasks_blocked()
        self._stopped = True


@asynccontextmanager
async def clogged(connection: Connection) -> AsyncIterator[Clog]:
    clog = Clog(connection)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clog.run)
        await clog.settle()
        yield clog
        clog.scope.cancel()


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
            async with make_pair() as (one, other), clogged(one) as clog:
                assert clog.count > 0
                received = 0
                while received < clog.count:
                    assert await other.receive() == clog.message
                    received += 1
                await anyio.wait_all_tasks_blocked()
                await one.ready()

    async def test_what_was_taken_arrives_though_nobody_waits_at_this_end(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other), clogged(one) as clog:
                if not clog.sending:  # it waits in ``ready`` for room for the next message
                    clog.scope.cancel()
                for _ in range(clog.count):
                    await receive_until(other, clog.message)

    async def test_a_blocked_direction_does_not_block_the_other(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other), clogged(one):
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
                for i in range(20):
                    with anyio.CancelScope() as scope:
                        scope.cancel()
                        await one.ready()
                    await pump(one, [bytes([i])])
                    await receive_until(other, bytes([i]))

    async def test_a_cancelled_sender_never_leaves_a_torn_message(self, make_pair: PairMaker) -> None:
        """Cancelled in ``ready``, nothing happened; cancelled in ``send``, the connection is dead."""
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                async with clogged(one) as clog:
                    clog.scope.cancel()
                if clog.sending:
                    await lost(one.send(b"late"))
                    await lost(one.ready())
                else:
                    one.abort()
                got, end = await receive_all(other)
                assert set(got) <= {clog.message}
                assert not end.clean

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
                results = []

                async def follow() -> None:
                    results.append(await receive_all(other))
                    await other.aclose()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(follow)  # to take two messages for nobody is more than the contract asks
                    await pump(one, [b"first", b"last"])
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
            async with make_pair() as (one, _), clogged(one):
                before = anyio.current_time()
                await one.aclose()
                assert anyio.current_time() - before < 4
                await one.aclose()  # idempotent

    async def test_a_cancelled_close_is_an_abort(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                async with clogged(one):
                    with anyio.CancelScope() as scope:
                        scope.cancel()
                        await one.aclose()
                await lost(one.receive())
                await receive_all(other)

    @pytest.mark.parametrize("ending", ["abort", "aclose"])
    async def test_pending_calls_end_with_the_connection(self, make_pair: PairMaker, ending: str) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, _), clogged(one) as clog:
                received: list[ConnectionLost] = []

                async def receive() -> None:
                    received.append(await lost(one.receive()))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(receive)
                    await anyio.wait_all_tasks_blocked()
                    if ending == "abort":
                        one.abort()
                        one.abort()  # idempotent
                    else:
                        await one.aclose()
                await anyio.wait_all_tasks_blocked()
                assert received
                assert clog.end is not None

    async def test_an_abort_is_no_orderly_close(self, make_pair: PairMaker) -> None:
        with anyio.fail_after(10):
            async with make_pair() as (one, other):
                one.abort()
                assert not (await lost(other.receive())).clean
                await lost(one.receive())
                await lost(one.ready())
                await lost(one.send(b"x"))
                await one.aclose()
