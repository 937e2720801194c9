"""``wait`` with a ``taker``: who takes what comes in place of the task. Those that need not call it are left out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.net.loop import loop_clock, runs_on_asyncio
from tunnelkit.net.stream import READ_AHEAD, ByteStream
from tunnelkit.net.tls import TlsStream

from .pairs import Pair, pair_of, pattern

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["native", "sockets", "unix", "tls-native", "tls-sockets"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with pair_of(request.param) as pair:
        for stream, peer in (pair, pair[::-1]):  # under TLS something follows the handshake
            await peer.send(b"settled")
            assert await stream.receive() == b"settled"
        yield pair


class Taking:
    """Takes all that comes to ``stream``; counts its calls, and how often the wait returned."""

    def __init__(self, stream: ByteStream, after: Callable[[], bool] = lambda: True) -> None:
        self.stream = stream
        self.after = after
        self.received = b""
        self.returned = 0
        self.changed = anyio.Event()

    def __call__(self) -> bool:
        while data := self.stream.receive_nowait():
            self.received += data
        self.changed.set()
        return data is None and self.after()

    async def until(self, size: int) -> None:
        while len(self.received) < size:
            self.changed = anyio.Event()
            await self.changed.wait()

    async def wait(self) -> None:
        try:
            await self.stream.wait(readable=True, taker=self)
        finally:
            self.returned += 1

    async def hears_hello(self, peer: ByteStream) -> None:
        """Until the wait returned; what comes finds the task asleep."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.wait)
            await anyio.wait_all_tasks_blocked()
            await peer.send(b"hello")


async def test_the_task_sleeps_on_while_the_taker_takes(pair: Pair) -> None:
    one, other = pair
    taking = Taking(one)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(taking.wait)
        await anyio.wait_all_tasks_blocked()
        for count in range(1, 6):
            await other.send(b"hello")
            await taking.until(5 * count)
        assert (taking.received, taking.returned) == (5 * b"hello", 0)
        one.wake()
    assert taking.returned == 1


async def test_reading_goes_on_beyond_what_is_read_ahead(pair: Pair) -> None:
    one, other = pair
    taking = Taking(one)

    async def wait() -> None:
        while len(taking.received) < 5 * READ_AHEAD:
            await taking.wait()
            taking()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await other.send(pattern(5 * READ_AHEAD))
        await taking.until(5 * READ_AHEAD)
        one.wake()
    assert taking.received == pattern(5 * READ_AHEAD)


async def test_what_it_does_not_see_to_wakes_the_task(pair: Pair) -> None:
    one, other = pair
    taking = Taking(one, after=lambda: False)
    await taking.hears_hello(other)
    assert (taking.received, taking.returned) == (b"hello", 1)


async def test_what_it_leaves_wakes_the_task(pair: Pair) -> None:
    one, other = pair
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: one.wait(readable=True, taker=lambda: False))
        await anyio.wait_all_tasks_blocked()
        await other.send(b"hello")
    assert one.receive_nowait() == b"hello"


async def test_the_end_wakes_the_task(pair: Pair) -> None:
    one, other = pair
    taking = Taking(one)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(taking.wait)
        await anyio.wait_all_tasks_blocked()
        await other.send(b"last")
        await other.send_eof()
    assert (taking.received, one.receive_nowait()) == (b"last", b"")


class ReadingOnce(Taking):
    """Reads one piece, as most takers do."""

    def __call__(self) -> bool:
        data = self.stream.receive_nowait()
        self.received += data or b""
        return bool(data)


async def test_an_end_right_behind_what_it_took_wakes_the_task(pair: Pair) -> None:
    one, other = pair
    taking = ReadingOnce(one)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(taking.wait)
            await anyio.wait_all_tasks_blocked()
            await other.send(b"last")
            await other.send_eof()
    assert (taking.received, one.receive_nowait()) == (b"last", b"")


@pytest.mark.parametrize("pair", ["tls-native"], indirect=True)
async def test_a_failure_right_behind_what_it_took_wakes_the_task(pair: Pair) -> None:
    one, other = pair
    assert isinstance(other, TlsStream)
    taking = ReadingOnce(one)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(taking.wait)
            await anyio.wait_all_tasks_blocked()
            await other.send(b"last")
            await other._stream.send(b"no re")
    assert taking.received == b"last"
    with pytest.raises(StreamBroken):
        one.receive_nowait()


async def test_a_wake_from_within_wakes_the_task(pair: Pair) -> None:
    one, other = pair

    def wake() -> bool:
        one.wake()
        return True

    taking = Taking(one, after=wake)
    await taking.hears_hello(other)
    assert (taking.received, taking.returned) == (b"hello", 1)


async def test_an_abort_from_within_wakes_the_task(pair: Pair) -> None:
    one, other = pair

    def abort() -> bool:
        one.abort()
        return True

    taking = Taking(one, after=abort)
    await taking.hears_hello(other)
    with pytest.raises(StreamBroken):
        one.receive_nowait()


async def test_what_it_raises_the_wait_raises(pair: Pair) -> None:
    one, other = pair

    def fail() -> bool:
        raise ValueError("the taker's")

    async def wait() -> None:
        with pytest.raises(ValueError, match="the taker's"):
            await one.wait(readable=True, taker=fail)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await other.send(b"hello")
    assert one.receive_nowait() == b"hello"


async def test_what_it_raises_after_a_wake_the_wait_raises_too(pair: Pair) -> None:
    """A link's taker may have sent before what came next broke the protocol: nobody else would hear of it."""
    one, other = pair
    raised: list[object] = []

    def fail() -> bool:
        one.wake()
        raise ValueError("the taker's")

    async def wait() -> None:
        try:
            await one.wait(readable=True, taker=fail)
        except ValueError as error:
            raised.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await other.send(b"hello")
    assert raised == ["the taker's"]
    assert await one.receive() == b"hello"


async def test_it_knows_the_loop_and_its_clock(pair: Pair, anyio_backend_name: str) -> None:
    """anyio finds the loop by the current task, and a callback of the loop has none."""
    one, other = pair
    seen: list[object] = []

    def look() -> bool:
        seen.extend([runs_on_asyncio(), abs(loop_clock()() - anyio.current_time()) < 10])
        return False

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: one.wait(readable=True, taker=look))
        await anyio.wait_all_tasks_blocked()
        await other.send(b"hello")
    assert seen == [
        anyio_backend_name == "asyncio",
        True,
    ]


async def test_cancelling_loses_nothing(pair: Pair) -> None:
    one, other = pair
    taking = Taking(one)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(taking.wait)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    await other.send(b"hello")
    assert await one.receive() == b"hello"
    assert taking.received == b""
