"""What is special about the stream on asyncio's transports; the rest is in ``test_conformance``."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import anyio
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.net import aio
from tunnelkit.net.aio import AioStream
from tunnelkit.net.kernel import RESET_ON_CLOSE
from tunnelkit.net.sockets import SocketStream
from tunnelkit.net.stream import READ_AHEAD, WRITE_BUFFER

from .pairs import fill, pattern, read_all, read_exactly, tcp_sockets

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {}


async def open_one() -> tuple[AioStream, socket.socket]:
    """A stream and the plain socket of its peer."""
    one, other = tcp_sockets()
    return await AioStream.open(one), other


async def push(peer: socket.socket, total: int) -> int:
    """Send until the peer's kernel takes no more for a while; how much it took."""
    sent = 0
    while sent < total:
        try:
            sent += peer.send(pattern(256 * 256)[sent % 256 :])
        except BlockingIOError:
            with anyio.move_on_after(0.02) as scope:
                await anyio.wait_writable(peer)
            if scope.cancelled_caught:
                break
    return sent


async def test_a_peer_that_pushes_to_a_stream_that_nobody_reads() -> None:
    stream, peer = await open_one()
    sent = await push(peer, 50_000_000)
    assert len(stream._held) == READ_AHEAD
    assert sent < 5_000_000
    received = await read_exactly(stream, sent)
    assert received == pattern(sent)
    stream.abort()
    peer.close()


async def test_a_stream_that_is_read_slowly_holds_no_more() -> None:
    stream, peer = await open_one()
    sent = await push(peer, 50_000_000)
    position = 0
    for size in (1, 1000, 100, READ_AHEAD - 1, 5000, 3) * 3:
        data = await stream.receive(size)
        assert len(data) <= size
        assert data == pattern(position % 256 + len(data))[position % 256 :]
        position += len(data)
        await asyncio.sleep(0)
        assert len(stream._held) <= READ_AHEAD
    assert position < sent
    stream.abort()
    peer.close()


async def test_bytes_that_come_upon_others_are_read_as_far_as_there_is_room() -> None:
    stream, peer = await open_one()
    assert peer.send(bytes(40_000)) == 40_000
    await stream.wait(readable=True)
    assert len(stream._held) == 40_000
    assert peer.send(bytes(60_000)) == 60_000  # a read of 64 KiB would have them all
    await asyncio.sleep(0)  # one turn of the loop, which reads
    await asyncio.sleep(0)
    assert len(stream._held) == READ_AHEAD
    assert await read_exactly(stream, 100_000) == bytes(100_000)
    stream.abort()
    peer.close()


async def test_what_has_a_header_does_not_overtake_what_waits_though_the_kernel_has_room_again() -> None:
    stream, peer = await open_one()
    sent = b""
    while not stream.write_buffered:
        piece = pattern(READ_AHEAD)
        sent += piece[: stream.try_send(piece)]
    received = b""
    with suppress(BlockingIOError):
        while True:
            received += peer.recv(READ_AHEAD)  # and no turn of the loop, in which what waits would go
    taken = stream.try_send_headed(b"header", b"data" * 1000)
    sent += (b"header" + b"data" * 1000)[:taken]
    while len(received) < len(sent):
        try:
            received += peer.recv(READ_AHEAD)
        except BlockingIOError:
            await asyncio.sleep(0)
    assert received == sent
    stream.abort()
    peer.close()


async def test_dribbled_bytes_cost_their_size() -> None:
    stream, peer = await open_one()
    for number in range(200):
        peer.send(bytes([number]))
        await asyncio.sleep(0)
    assert await read_exactly(stream, 200) == bytes(range(200))
    stream.abort()
    peer.close()


async def test_idle_streams_share_one_receive_buffer() -> None:
    one, peer = await open_one()
    other, second_peer = await open_one()
    assert one._buffer is other._buffer
    assert one.get_buffer(-1) is one._buffer
    for closing in (one, other, peer, second_peer):
        closing.abort() if isinstance(closing, AioStream) else closing.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("direct", [True, False])
async def test_all_is_read_with_and_without_reading_directly(direct: bool) -> None:
    stream, peer = await open_one()
    stream._by_readiness = direct
    total = 5_000_000
    received: list[bytes] = []

    async def send() -> None:
        sent = 0
        while sent < total:
            sent += await push(peer, total - sent)
        peer.shutdown(socket.SHUT_WR)

    async def receive() -> None:
        received.append(await read_all(stream))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        tasks.start_soon(send)
    assert len(received[0]) >= total
    assert stream.receive_nowait() == b""
    await stream.send(b"half closed")
    peer.setblocking(True)
    assert peer.recv(100) == b"half closed"
    await stream.aclose()
    peer.close()


async def test_who_reads_directly_lets_the_others_have_their_turn_and_reads_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without two changes of the loop's selector, which would cost more than the turn."""
    monkeypatch.setattr(aio, "_DIRECT_READS", 2)
    stream, peer = await open_one()
    resumed = 0
    resume = stream._transport.resume_reading

    def note() -> None:
        nonlocal resumed
        resumed += 1
        resume()

    stream._transport.resume_reading = note  # type: ignore[method-assign]
    sent = await push(peer, 10_000_000)
    await stream.wait(readable=True)
    received = turns = 0
    while received < sent:
        while (data := stream.receive_nowait()) is not None:
            received += len(data)
        turns += 1
        if received < sent:
            assert not resumed
            await stream.wait(readable=True)
    assert sent > 5 * READ_AHEAD
    assert turns >= sent / READ_AHEAD / 2 - 1
    last = asyncio.ensure_future(stream.receive())
    with anyio.fail_after(10):
        while not resumed:  # noqa: ASYNC110 - nothing is there: the loop watches the socket again
            await asyncio.sleep(0)
    peer.setblocking(True)
    peer.send(b"on")
    assert await last == b"on"
    stream.abort()
    peer.close()


async def test_the_end_and_a_reset_are_found_by_reading_directly() -> None:
    for reset in (False, True):
        stream, peer = await open_one()
        sent = await push(peer, 10_000_000)
        if reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            peer.close()
            with pytest.raises(StreamBroken, match="reset"):
                await read_all(stream)
            with pytest.raises(StreamBroken, match="reset"):
                stream.receive_nowait()
            with pytest.raises(StreamBroken):
                stream.try_send(b"x")
        else:
            peer.shutdown(socket.SHUT_WR)
            assert len(await read_all(stream)) == sent
            assert stream.receive_nowait() == b""
        stream.abort()
        peer.close()
        await asyncio.sleep(0)


async def test_a_paused_stream_that_is_waited_for_resumes() -> None:
    stream, peer = await open_one()
    sent = await push(peer, 10_000_000)
    assert stream._paused
    assert stream.receive_nowait(READ_AHEAD) == pattern(READ_AHEAD)
    await stream.wait(readable=True)
    assert len(await read_exactly(stream, sent - READ_AHEAD)) == sent - READ_AHEAD
    stream.abort()
    peer.close()


async def test_try_send_takes_no_more_than_the_write_buffer_beyond_the_kernel() -> None:
    stream, peer = await open_one()
    taken = await fill(stream)
    while not stream.write_buffered:  # the kernel may find more room at any moment
        taken += stream.try_send(bytes(100_000))
    assert stream.write_buffered <= WRITE_BUFFER
    taken += stream.try_send(bytes(1_000_000))
    assert stream.write_buffered <= WRITE_BUFFER
    in_kernel = taken - stream.write_buffered
    peer.setblocking(True)
    while in_kernel > 0:
        in_kernel -= len(peer.recv(in_kernel))
    await stream.wait(writable=True)
    assert stream.try_send(b"x") == 1
    stream.abort()
    peer.close()


async def test_a_reset_fails_every_waiter_at_once() -> None:
    stream, peer = await open_one()
    await fill(stream)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    async with anyio.create_task_group() as tasks:
        for directions in ({"readable": True}, {"writable": True}, {}):
            tasks.start_soon(lambda directions=directions: stream.wait(**directions))  # type: ignore[misc]
        await anyio.wait_all_tasks_blocked()
        peer.close()
    with pytest.raises(StreamBroken, match="reset"):
        stream.receive_nowait()
    assert "failed" in repr(stream)
    await stream.aclose()


async def test_what_came_before_a_write_failed_can_be_read() -> None:
    stream, peer = await open_one()
    peer.send(b"early answer")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    peer.close()
    with suppress(StreamBroken):
        while True:  # no turn of the loop, so that it has not read yet
            stream.try_send(b"x")
    assert await stream.receive() == b"early answer"
    with pytest.raises(StreamBroken):
        await stream.receive()
    stream.abort()


async def test_aclose_gives_up_after_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "CLOSE_TIMEOUT", 0.0)
    stream, peer = await open_one()
    await fill(stream)
    while not stream.write_buffered:  # the kernel may find more room at any moment
        stream.try_send(bytes(100_000))
    await stream.aclose()
    assert stream.write_buffered == 0
    peer_stream = SocketStream(peer)
    with pytest.raises(StreamBroken, match="reset"):
        await read_all(peer_stream)
    peer_stream.abort()


async def test_open_that_is_cancelled_closes_the_socket() -> None:
    one, other = tcp_sockets()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(AioStream.open, one)
        tasks.cancel_scope.cancel()
    await asyncio.sleep(0)
    other.setblocking(True)
    assert other.recv(1) == b""
    other.close()


async def test_open_on_a_socket_that_is_closed_fails() -> None:
    one, other = tcp_sockets()
    one.close()
    with pytest.raises((StreamBroken, ValueError)):
        await AioStream.open(one)
    other.close()


async def test_send_eof_on_a_connection_that_was_just_reset() -> None:
    stream, peer = await open_one()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    peer.close()
    with pytest.raises(StreamBroken):
        await stream.send_eof()
    stream.abort()
    await asyncio.sleep(0)


async def test_a_native_cancellation_does_not_swallow_a_wake() -> None:
    stream, peer = await open_one()
    task = asyncio.create_task(stream.wait())
    await asyncio.sleep(0)
    stream.wake()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stream.wait()
    stream.abort()
    peer.close()
