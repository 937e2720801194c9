"""What is special about the stream on a watcher's edges; the rest is in ``test_conformance`` and ``test_takers``."""

from __future__ import annotations

import contextvars
import select
import socket
from collections.abc import AsyncIterator

import anyio
import pytest
import trio

from tunnelkit.errors import StreamBroken
from tunnelkit.net.kernel import RESET_ON_CLOSE
from tunnelkit.net.sockets import TURN

from .pairs import fill, pattern, read_all, tcp_sockets

if not hasattr(select, "epoll"):
    pytest.skip("needs epoll", allow_module_level=True)

from tunnelkit.net.trio_stream import TrioStream

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def ends() -> AsyncIterator[tuple[TrioStream, socket.socket]]:
    """A stream, and the bare socket that is its peer."""
    one, other = tcp_sockets()
    stream = TrioStream(one)
    yield stream, other
    stream.abort()
    other.close()


async def wait_with(stream: TrioStream, taker: object) -> None:
    await stream.wait(readable=True, taker=taker)  # type: ignore[arg-type]


async def emptied(stream: TrioStream) -> None:
    """Until it knows that nothing is there."""
    while stream.receive_nowait() is not None:
        pass
    await anyio.wait_all_tasks_blocked()


# -- edges -----------------------------------------------------------------------------------------


async def test_what_came_with_the_end_is_followed_by_it(ends: tuple[TrioStream, socket.socket]) -> None:
    stream, peer = ends
    await emptied(stream)
    peer.send(b"last")
    peer.close()
    with anyio.fail_after(5):
        await stream.wait(readable=True)
        assert stream.receive_nowait() == b"last"
        assert stream.receive_nowait() == b""
        await stream.wait(readable=True)


async def test_what_comes_before_its_edge_is_read_is_read_once(ends: tuple[TrioStream, socket.socket]) -> None:
    stream, peer = ends
    await emptied(stream)
    for number in range(100):
        peer.send(b"%02d" % number)
        with anyio.fail_after(5):
            assert await stream.receive(1) == b"%d" % (number // 10)
            assert await stream.receive(1) == b"%d" % (number % 10)


async def test_urgent_bytes_hide_nothing(ends: tuple[TrioStream, socket.socket]) -> None:
    """The kernel ends a read at them, though there is more."""
    stream, peer = ends
    await emptied(stream)
    for _ in range(3):
        peer.send(b"before")
        peer.send(b"!", socket.MSG_OOB)
        peer.send(b"behind")
        received = b""
        with anyio.fail_after(5):
            while len(received) < 12:
                received += await stream.receive()
        assert received == b"beforebehind"


async def test_last_words_are_read_after_a_write_failed(ends: tuple[TrioStream, socket.socket]) -> None:
    stream, peer = ends
    await emptied(stream)
    peer.send(b"early answer")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    peer.close()
    with pytest.raises(StreamBroken):
        stream.try_send(b"x")
    assert stream.receive_nowait(5) == b"early"
    assert stream.receive_nowait() == b" answer"
    with pytest.raises(StreamBroken):
        stream.receive_nowait()


async def test_room_is_told_of_again_and_again(ends: tuple[TrioStream, socket.socket]) -> None:
    stream, peer = ends
    other = TrioStream(peer)
    with anyio.fail_after(10):
        for _ in range(5):
            taken = await fill(stream)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: stream.wait(writable=True))
                await anyio.wait_all_tasks_blocked()
                while taken:
                    taken -= len(await other.receive())
    other.abort()


async def test_a_peer_that_is_always_ready_does_not_keep_the_loop(ends: tuple[TrioStream, socket.socket]) -> None:
    stream, peer = ends
    other = TrioStream(peer)
    pretended = 0

    async def send() -> None:
        await other.send(pattern(5 * TURN))
        await other.send_eof()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        assert await read_all(stream) == pattern(5 * TURN)
    stream._turn = 0
    stream._readable = True
    if stream.receive_nowait() is None:
        pretended += 1
        with anyio.fail_after(5):
            await stream.wait(readable=True)  # no edge will come, and it returns
    assert pretended
    assert stream.receive_nowait() == b""
    other.abort()


# -- takers ----------------------------------------------------------------------------------------


async def test_a_taker_that_read_for_its_turn_leaves_the_rest_to_the_task(
    ends: tuple[TrioStream, socket.socket],
) -> None:
    stream, peer = ends
    received = 0

    def take() -> bool:
        nonlocal received
        stream._turn = 1  # as after a million bytes
        while data := stream.receive_nowait():
            received += len(data)
        return True

    await emptied(stream)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_with, stream, take)
        await anyio.wait_all_tasks_blocked()
        peer.send(bytes(100_000))
    assert received == 65_536
    assert len(stream.receive_nowait() or b"") == 100_000 - 65_536


async def test_a_taker_that_says_it_took_all_and_did_not(ends: tuple[TrioStream, socket.socket]) -> None:
    stream, peer = ends
    await emptied(stream)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_with, stream, lambda: True)
        await anyio.wait_all_tasks_blocked()
        peer.send(b"hello")
    assert stream.receive_nowait() == b"hello"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, StreamBroken("x")])
@pytest.mark.parametrize("awake", [False, True])
async def test_whatever_a_taker_raises_is_its_waits(
    error: type[BaseException], awake: bool, ends: tuple[TrioStream, socket.socket]
) -> None:
    stream, peer = ends
    await emptied(stream)

    def fail() -> bool:
        if awake:
            stream.wake()
        raise error

    async def wait() -> None:
        with pytest.raises(error if isinstance(error, type) else type(error)):
            await stream.wait(readable=True, taker=fail)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        peer.send(b"hello")
    assert await stream.receive() == b"hello"  # and others are told as before
    peer.send(b"again")
    assert await stream.receive() == b"again"


async def test_a_taker_that_cancels_its_task(ends: tuple[TrioStream, socket.socket]) -> None:
    stream, peer = ends
    await emptied(stream)

    def cancel() -> bool:
        tasks.cancel_scope.cancel()
        return False

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_with, stream, cancel)
        await anyio.wait_all_tasks_blocked()
        peer.send(b"hello")
    assert await stream.receive() == b"hello"


async def test_a_taker_is_in_its_tasks_context_and_may_start_tasks(ends: tuple[TrioStream, socket.socket]) -> None:
    stream, peer = ends
    await emptied(stream)
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")
    seen: list[object] = []

    async def look() -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(variable.get())

    def take() -> bool:
        seen.append(variable.get())
        seen.append(abs(anyio.current_time() - trio.current_time()) < 10)
        tasks.start_soon(look)
        return False

    async def wait() -> None:
        variable.set("the task's")
        await stream.wait(readable=True, taker=take)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        peer.send(b"hello")
    assert seen == ["the task's", True, "the task's"]


async def test_a_taker_may_do_to_other_streams_what_it_likes(ends: tuple[TrioStream, socket.socket]) -> None:
    stream, peer = ends
    await emptied(stream)
    others = [TrioStream(sock) for sock in tcp_sockets()]
    for other in others:
        await emptied(other)
    calls = 0

    def take() -> bool:
        nonlocal calls
        calls += 1
        data = stream.receive_nowait()
        others[0].wake()
        others[1].abort()
        return data is not None

    def never() -> bool:
        raise AssertionError("nothing came for it")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_with, stream, take)
        for other in others:
            tasks.start_soon(wait_with, other, never)
        await anyio.wait_all_tasks_blocked()
        peer.send(b"hello")
        await anyio.wait_all_tasks_blocked()
        assert calls == 1
        stream.wake()
    others[0].abort()


async def test_only_who_waits_for_it_is_woken(ends: tuple[TrioStream, socket.socket]) -> None:
    stream, peer = ends
    await fill(stream)
    await emptied(stream)
    woken: list[str] = []

    async def wait(name: str, readable: bool = False, writable: bool = False) -> None:
        await stream.wait(readable=readable, writable=writable)
        woken.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "reader", True)
        tasks.start_soon(wait, "writer", False, True)
        tasks.start_soon(wait, "neither")
        await anyio.wait_all_tasks_blocked()
        assert "reader" not in woken
        peer.send(b"x")
        await anyio.wait_all_tasks_blocked()
        assert "reader" in woken  # the kernel may have found more room
        while "writer" not in woken:
            peer.recv(100_000)
            await anyio.sleep(0.001)
        assert "neither" not in woken
        stream.wake()
    assert woken[2:] == ["neither"]
