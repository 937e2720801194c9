"""What every ``ByteStream`` must do. ``test_conformance`` runs it for each implementation."""

from __future__ import annotations

import hashlib
import socket
from contextlib import suppress
from functools import partial
from typing import TypedDict, Unpack

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tunnelkit.errors import StreamBroken
from tunnelkit.net.stream import READ_AHEAD, WRITE_BUFFER, ByteStream

from .pairs import Pair, fill, pattern, read_all, read_exactly, returns_soon


class Directions(TypedDict, total=False):
    readable: bool
    writable: bool


DIRECTIONS = [
    pytest.param({"readable": True}, id="readable"),
    pytest.param({"writable": True}, id="writable"),
    pytest.param({"readable": True, "writable": True}, id="both"),
    pytest.param({}, id="wake-only"),
]


async def is_blocked(stream: ByteStream, **directions: Unpack[Directions]) -> bool:
    """Whether ``wait`` does not return, but for spurious returns, as a driver sees them."""
    for _ in range(5):
        if directions.get("readable"):
            assert stream.receive_nowait() is None
        if directions.get("writable"):
            await fill(stream)  # a kernel finds room later, when it has tidied up
        if not await returns_soon(partial(stream.wait, **directions)):
            return True
    return False


def is_unix(stream: ByteStream) -> bool:
    sock = getattr(stream, "_socket", None)
    return sock is not None and sock.family == socket.AF_UNIX


class StreamContract:
    """Subclasses give the fixture ``pair``."""

    # -- reading and writing -------------------------------------------------------------------

    async def test_bytes_arrive_in_order_both_ways_at_once(self, pair: Pair) -> None:
        data = pattern(3_000_000)
        digests: list[str] = []

        async def send(stream: ByteStream) -> None:
            await stream.send(data)
            await stream.send_eof()

        async def receive(stream: ByteStream) -> None:
            digests.append(hashlib.sha256(await read_all(stream)).hexdigest())

        async with anyio.create_task_group() as tasks:
            for end in pair:
                tasks.start_soon(send, end)
                tasks.start_soon(receive, end)
        assert digests == [hashlib.sha256(data).hexdigest()] * 2

    async def test_one_task_drives_both_directions(self, pair: Pair) -> None:
        """A driver as the contract's text has it: take and give until nothing moves, then wait for either."""
        one, other = pair
        total = 1_000_000

        async def echo() -> None:
            held = b""
            ended = False
            while held or not ended:
                if not held and (data := other.receive_nowait()) is not None:
                    held, ended = data, not data
                taken = other.try_send(held) if held else 0
                held = held[taken:]
                if not taken and not ended:
                    await other.wait(readable=not held, writable=bool(held))
                elif held:
                    await other.wait(readable=True, writable=True)
            await other.send_eof()

        async def send() -> None:
            await one.send(pattern(total))
            await one.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(echo)
            tasks.start_soon(send)
            assert await read_all(one) == pattern(total)

    async def test_nothing_there_is_none(self, pair: Pair) -> None:
        one, other = pair
        assert one.receive_nowait() is None
        await other.send(b"hello")
        assert await one.receive() == b"hello"
        assert one.receive_nowait() is None

    async def test_silence(self, pair: Pair) -> None:
        one, other = pair
        await other.send(b"hello")
        assert await one.receive() == b"hello"
        assert one.is_silent()
        assert one.is_silent()
        await other.send(b"more")
        await one.wait(readable=True)
        assert not one.is_silent()

    async def test_an_end_is_no_silence(self, pair: Pair) -> None:
        one, other = pair
        await other.send_eof()
        await one.wait(readable=True)
        assert not one.is_silent()
        assert not one.is_silent()
        one.abort()
        assert not one.is_silent()
        await other.wait(readable=True)
        assert not other.is_silent()

    async def test_what_is_over_is_not_silent(self, pair: Pair) -> None:
        one, other = pair
        await one.aclose()
        assert not one.is_silent()
        await anyio.wait_all_tasks_blocked()
        assert not one.is_silent()
        other.abort()
        assert not other.is_silent()

    async def test_what_the_event_loop_has_not_told_yet_is_no_silence(self, pair: Pair) -> None:
        one, other = pair
        assert one.is_silent()
        assert other.try_send(b"more") == 4  # and no turn of the loop
        assert not one.is_silent()

    async def test_max_bytes_holds(self, pair: Pair) -> None:
        one, other = pair
        await other.send(pattern(1000))
        received = b""
        while len(received) < 1000:
            piece = await one.receive(7)
            assert 0 < len(piece) <= 7
            received += piece
        assert received == pattern(1000)

    async def test_an_empty_send_sends_nothing(self, pair: Pair) -> None:
        one, other = pair
        await other.send(b"")
        assert other.try_send(b"") == 0
        assert one.receive_nowait() is None

    async def test_a_header_goes_before_its_data_and_nothing_between(self, pair: Pair) -> None:
        one, other = pair
        frames = [(b"%07d" % number, pattern(size)) for number, size in enumerate([1, 20_000, 65_000, 300_000] * 10)]

        async def send() -> None:
            for header, data in frames:
                taken = other.try_send_headed(header, data)
                assert 0 <= taken <= len(header) + len(data)
                await other.send((header + data)[taken:])
            await other.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            assert await read_all(one) == b"".join(header + data for header, data in frames)
        with pytest.raises(StreamBroken):
            other.try_send_headed(b"late", b"data")
        other.abort()
        with pytest.raises(StreamBroken):
            other.try_send_headed(b"late", b"data")

    async def test_a_full_stream_takes_no_header(self, pair: Pair) -> None:
        one, _ = pair
        header = b"header"
        with anyio.fail_after(10):
            await fill(one)
            while taken := one.try_send_headed(header, pattern(100_000)):
                assert taken > len(header)  # a kernel finds room later, when it has tidied up, and not for that alone
                await fill(one)

    async def test_what_was_taken_may_be_changed_by_the_caller(self, pair: Pair) -> None:
        one, other = pair
        data = bytearray(pattern(40_000))
        sent = 0
        expected = b""
        while sent < 4_000_000:
            taken = other.try_send(data)
            expected += data[:taken]
            data[:taken] = b"\xff" * taken
            if not taken:
                break
            sent += taken
            data[:] = pattern(40_000)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: other.wait(writable=True))
            assert await read_exactly(one, len(expected)) == expected

    async def test_try_send_takes_a_part_and_wait_tells_when_there_is_room(self, pair: Pair) -> None:
        one, other = pair
        taken = await fill(other)
        assert taken
        assert other.write_buffered <= 2 * WRITE_BUFFER + 4096
        received = 0

        async def drain() -> None:
            nonlocal received
            while received < taken:
                data = await one.receive(min(READ_AHEAD, taken - received))
                assert data == pattern(received % 256 + len(data))[received % 256 :]
                received += len(data)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            while not other.try_send(pattern(256 + taken % 256)[taken % 256 :][:1]):
                await other.wait(writable=True)
        assert await read_exactly(one, 1) == pattern(taken % 256 + 1)[-1:]

    async def test_what_was_taken_goes_out_while_a_task_only_reads(self, pair: Pair) -> None:
        one, other = pair
        taken = await fill(other)

        async def drain_and_answer() -> None:
            assert await read_exactly(one, taken) == pattern(taken)
            await one.send(b"got it")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain_and_answer)
            assert await read_exactly(other, 6) == b"got it"

    async def test_what_was_sent_goes_out_though_nobody_waits(self, pair: Pair) -> None:
        one, other = pair
        taken = await fill(other)
        rest = pattern(taken + 100_000)[taken:]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: other.send(rest))
            assert await read_exactly(one, taken + 100_000) == pattern(taken + 100_000)

    async def test_who_leaves_is_told_whether_a_task_must_wait(self, pair: Pair) -> None:
        one, other = pair
        assert not one.needs_wait
        taken = one.try_send(bytes(4 * WRITE_BUFFER))

        async def leave() -> None:
            while one.needs_wait:
                await one.wait(writable=True)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(leave)
                await read_exactly(other, taken)

    async def test_a_reader_that_waits_already_pushes_what_a_writer_leaves(self, pair: Pair) -> None:
        one, other = pair
        answer: list[bytes] = []

        async def read_answer() -> None:
            answer.append(await read_exactly(other, 6))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_answer)
            await anyio.wait_all_tasks_blocked()
            taken = await fill(other)
            assert await read_exactly(one, taken) == pattern(taken)
            await one.send(b"got it")
        assert answer == [b"got it"]

    async def test_a_peer_that_never_reads_is_sent_a_bounded_amount(self, pair: Pair) -> None:
        one, other = pair
        taken = await fill(other)
        assert taken < 16 * 1024 * 1024  # two kernels' buffers, and ours
        assert one.write_buffered == 0

    # -- ends ----------------------------------------------------------------------------------

    async def test_the_end_comes_after_the_data_and_stays(self, pair: Pair) -> None:
        one, other = pair
        await other.send(b"last words")
        await other.send_eof()
        assert await read_all(one) == b"last words"
        assert one.receive_nowait() == b""
        assert await one.receive() == b""

    async def test_half_close_leaves_the_other_way_open(self, pair: Pair) -> None:
        one, other = pair
        await other.send_eof()
        assert await one.receive() == b""

        async def answer() -> None:
            await one.send(pattern(300_000))
            await one.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            assert await read_all(other) == pattern(300_000)

    async def test_data_on_its_way_survives_a_half_close(self, pair: Pair) -> None:
        one, other = pair
        await one.send(pattern(30_000))
        assert await read_exactly(other, 10) == pattern(10)
        await other.send_eof()
        assert await read_exactly(other, 29_990) == pattern(30_000)[10:]
        assert await one.receive() == b""

    async def test_nothing_is_sent_after_the_end(self, pair: Pair) -> None:
        one, _ = pair
        await one.send_eof()
        await one.send_eof()
        with pytest.raises(StreamBroken):
            one.try_send(b"more")

    async def test_aclose_sends_what_is_buffered_and_then_the_end(self, pair: Pair) -> None:
        one, other = pair
        taken = await fill(other)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.aclose)
            assert await read_all(one) == pattern(taken)
        await other.aclose()

    async def test_a_closed_stream_does_nothing_more(self, pair: Pair) -> None:
        one, other = pair
        await other.send(b"never read")
        await one.wait(readable=True)
        await one.aclose()
        with pytest.raises(StreamBroken):
            one.receive_nowait()
        with pytest.raises(StreamBroken):
            one.try_send(b"x")
        with pytest.raises(StreamBroken):
            await one.send_eof()
        await one.wait(readable=True)
        one.abort()
        assert one.write_buffered == 0

    async def test_a_cancelled_aclose_closes_nevertheless(self, pair: Pair) -> None:
        one, other = pair
        await fill(other)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await other.aclose()
        with pytest.raises(StreamBroken):
            other.try_send(b"x")
        with suppress(StreamBroken):  # or an end: what was buffered may just have fitted into the kernel
            await read_all(one)

    # -- failures ------------------------------------------------------------------------------

    async def test_abort_breaks_both_ends(self, pair: Pair) -> None:
        one, other = pair
        await other.send(b"x")
        assert await one.receive() == b"x"
        other.abort()
        other.abort()
        with pytest.raises(StreamBroken):
            other.receive_nowait()
        with pytest.raises(StreamBroken):
            other.try_send(b"x")
        await other.aclose()
        if is_unix(one):  # these sockets cannot tell a reset from an end
            assert await one.receive() == b""
        else:
            with pytest.raises(StreamBroken):
                await one.receive()

    async def test_sending_to_a_peer_that_is_gone_fails(self, pair: Pair) -> None:
        one, other = pair
        await other.aclose()

        async def send_for_ever() -> None:
            while True:
                await one.send(b"x" * 10_000)
                await checkpoint()

        with pytest.raises(StreamBroken):
            await send_for_ever()

    @pytest.mark.parametrize("directions", DIRECTIONS)
    async def test_abort_ends_a_pending_wait(self, pair: Pair, directions: Directions) -> None:
        one, _ = pair
        await fill(one)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: one.wait(**directions))
            await anyio.wait_all_tasks_blocked()
            one.abort()

    # -- waiting -------------------------------------------------------------------------------

    async def test_data_and_the_end_are_readable(self, pair: Pair) -> None:
        one, other = pair
        assert await is_blocked(one, readable=True)
        await other.send(b"x")
        await one.wait(readable=True)
        assert await one.receive() == b"x"
        await other.send_eof()
        await one.wait(readable=True)
        assert await one.receive() == b""

    async def test_room_is_writable(self, pair: Pair) -> None:
        one, _ = pair
        await one.wait(writable=True)
        await one.wait(readable=True, writable=True)

    @pytest.mark.parametrize("directions", DIRECTIONS)
    async def test_wake_ends_a_pending_wait(self, pair: Pair, directions: Directions) -> None:
        one, _ = pair
        await fill(one)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: one.wait(**directions))
            await anyio.wait_all_tasks_blocked()
            one.wake()

    @pytest.mark.parametrize("directions", DIRECTIONS)
    async def test_wake_is_kept_for_the_next_wait_and_for_it_alone(self, pair: Pair, directions: Directions) -> None:
        one, _ = pair
        await fill(one)
        one.wake()
        one.wake()
        await one.wait(**directions)
        assert await is_blocked(one, **directions)

    async def test_wake_ends_the_waits_of_reader_and_writer(self, pair: Pair) -> None:
        one, _ = pair
        await fill(one)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: one.wait(readable=True))
            tasks.start_soon(lambda: one.wait(writable=True))
            await anyio.wait_all_tasks_blocked()
            one.wake()

    @pytest.mark.parametrize("directions", DIRECTIONS)
    async def test_a_cancelled_wait_changes_nothing(self, pair: Pair, directions: Directions) -> None:
        one, other = pair
        taken = await fill(one)
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: one.wait(**directions))
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
        one.wake()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await one.wait(**directions)
        assert scope.cancelled_caught
        await one.wait(**directions)  # the wake is still there
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: one.wait(writable=True))
            assert await read_exactly(other, taken) == pattern(taken)

    async def test_a_cancelled_receive_loses_nothing(self, pair: Pair) -> None:
        one, other = pair
        received = b""

        async def receive() -> None:
            nonlocal received
            received += await one.receive()

        for number in range(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await anyio.wait_all_tasks_blocked()
                await other.send(bytes([number]))
                tasks.cancel_scope.cancel()
        await other.send_eof()
        received += await read_all(one)
        assert received == bytes(range(20))

    async def test_waits_can_be_cancelled_though_they_need_not_wait(self, pair: Pair) -> None:
        one, _ = pair
        with anyio.CancelScope() as scope:
            scope.cancel()
            while True:
                await one.wait(writable=True)
        assert scope.cancelled_caught

    async def test_a_busy_stream_lets_other_tasks_run(self, pair: Pair) -> None:
        one, other = pair
        turns = 0
        done = False

        async def count() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await checkpoint()

        async def pump() -> None:
            await other.send(pattern(8_000_000))
            await other.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            tasks.start_soon(pump)
            assert len(await read_all(one)) == 8_000_000
            done = True
        assert turns > 3

    # -- facts ---------------------------------------------------------------------------------

    async def test_last_received_is_the_time_of_the_last_bytes(self, pair: Pair) -> None:
        one, other = pair
        opened = one.last_received
        assert opened <= anyio.current_time()
        await anyio.sleep(0.01)
        before = anyio.current_time()
        await other.send(b"x")
        await one.receive()
        assert before <= one.last_received <= anyio.current_time()

    async def test_facts(self, pair: Pair) -> None:
        one, other = pair
        assert one.peer_address == other.local_address
        assert one.local_address == other.peer_address
        assert one.write_buffered == 0
        assert one.peer_certificate is None or one.tls
        assert "object at" not in repr(one)
