"""What is special about the stream on plain sockets; the rest is in ``test_conformance``."""

from __future__ import annotations

import socket

import anyio
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.net.adopt import adopt
from tunnelkit.net.kernel import RESET_ON_CLOSE
from tunnelkit.net.sockets import SocketStream

from .pairs import fill, pattern, tcp_sockets

pytestmark = pytest.mark.anyio


async def test_a_peer_that_is_always_ready_does_not_keep_the_loop() -> None:
    one, other = tcp_sockets()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
    stream, peer = SocketStream(one), SocketStream(other)
    sent = received = 0
    pretended = 0
    while sent < 5_000_000:
        taken = stream.try_send(pattern(65_536))
        sent += taken
        while received < sent:
            data = peer.receive_nowait()
            if data is None:
                break
            received += len(data)
        if not taken:
            pretended += 1
            await stream.wait(writable=True)
    assert pretended
    stream.abort()
    peer.abort()


async def test_a_reset_fails_reading_and_writing() -> None:
    one, other = tcp_sockets()
    stream = SocketStream(one)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    other.close()
    with pytest.raises(StreamBroken, match="reset"):
        await stream.receive()
    with pytest.raises(StreamBroken, match="reset"):
        stream.try_send(b"x")
    with pytest.raises(StreamBroken, match="reset"):
        await stream.send_eof()
    await stream.wait()
    assert "failed" in repr(stream)
    stream.abort()


async def test_a_reset_fails_writing_first() -> None:
    for half_close in (False, True):
        one, other = tcp_sockets()
        stream = SocketStream(one)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        other.close()
        with pytest.raises(StreamBroken):
            await (stream.send_eof() if half_close else stream.send(b"x"))
        stream.abort()


async def test_what_came_before_a_write_failed_can_be_read() -> None:
    one, other = tcp_sockets()
    stream = SocketStream(one)
    other.send(b"early answer")
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    other.close()
    with pytest.raises(StreamBroken):
        stream.try_send(b"x")
    await stream.wait(readable=True)
    assert stream.receive_nowait() == b"early answer"
    with pytest.raises(StreamBroken):
        stream.receive_nowait()
    stream.abort()


async def test_a_failure_that_one_task_meets_ends_the_others_wait() -> None:
    one, other = tcp_sockets()
    stream = SocketStream(one)
    await fill(stream)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.wait)
        await anyio.wait_all_tasks_blocked()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        other.close()
        with pytest.raises(StreamBroken):
            await stream.receive()
    stream.abort()


async def test_adopt_closes_a_socket_that_it_cannot_use() -> None:
    sock = socket.socket()
    sock.close()
    with pytest.raises(StreamBroken, match="Bad file descriptor"):
        await adopt(sock)


async def test_adopt_of_a_socket_whose_peer_is_gone() -> None:
    one, other = tcp_sockets()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    other.close()
    stream = await adopt(one)
    assert stream.peer_address == ("", 0)
    with pytest.raises(StreamBroken):
        await stream.receive()
    stream.abort()
    await anyio.lowlevel.checkpoint()


async def test_a_stream_that_is_aborted_before_both_waits_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tcp_sockets()
    stream = SocketStream(one)
    wait_writable = anyio.wait_writable
    closed: list[bool] = []

    async def abort_first(sock: socket.socket) -> None:
        stream.abort()  # as a clock of the server's does, from another task
        raise anyio.ClosedResourceError

    async def look(sock: socket.socket) -> None:
        closed.append(sock.fileno() < 0)
        await wait_writable(sock)

    monkeypatch.setattr(anyio, "wait_readable", abort_first)
    monkeypatch.setattr(anyio, "wait_writable", look)
    with anyio.fail_after(10):
        await stream.wait(readable=True, writable=True)
    assert not any(closed)
    other.close()
