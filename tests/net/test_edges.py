"""The watcher of a trio run, and what ends with it. What its streams do is in ``test_conformance``."""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import chain, pairwise

import pytest
import trio
import trio.testing
from anyio.lowlevel import checkpoint

from tunnelkit.errors import StreamBroken
from tunnelkit.net.adopt import adopt
from tunnelkit.net.doorbell import Soon
from tunnelkit.net.sockets import SocketStream
from tunnelkit.net.stream import ByteStream

from .pairs import tcp_sockets, unix_sockets

if not hasattr(select, "epoll"):
    pytest.skip("needs epoll", allow_module_level=True)

from tunnelkit.net import edges
from tunnelkit.net.edges import Watcher
from tunnelkit.net.trio_stream import TrioStream


async def open_pair() -> tuple[ByteStream, ByteStream]:
    """Streams that know that nothing is there."""
    one, other = [await adopt(sock) for sock in unix_sockets()]
    assert one.receive_nowait() is other.receive_nowait() is None
    return one, other


async def exchange_a_word() -> Watcher:
    """Use what a run has; its watcher."""
    one, other = await open_pair()
    assert isinstance(one, TrioStream)
    async with trio.open_nursery() as tasks:
        tasks.start_soon(one.send, b"word")
        with trio.fail_after(10):
            assert await other.receive() == b"word"
    one.abort()
    await other.aclose()
    return Watcher.current()


# -- one batch of events ---------------------------------------------------------------------------


@pytest.mark.interpreted
def test_an_event_of_a_socket_that_was_closed_in_its_batch_reaches_nobody() -> None:
    """Neither the stream it was for nor the one that has its number by then."""
    called: list[str] = []
    opened: list[ByteStream] = []

    async def main() -> None:
        first, to_first = await open_pair()
        second, to_second = await open_pair()
        left, right = unix_sockets()

        def replace() -> bool:
            called.append("first")
            number = second._socket.fileno()  # type: ignore[attr-defined]
            second.abort()
            assert fcntl.fcntl(left.fileno(), fcntl.F_DUPFD, number) == number
            opened.append(TrioStream(socket.socket(fileno=number)))
            opened[0].ready = lambda events: called.append("opened")  # type: ignore[attr-defined]
            return False

        def never() -> bool:
            called.append("second")
            return True

        async with trio.open_nursery() as tasks:
            tasks.start_soon(lambda: first.wait(readable=True, taker=replace))
            tasks.start_soon(lambda: second.wait(readable=True, taker=never))
            await trio.testing.wait_all_tasks_blocked()
            to_first.try_send(b"x")
            to_second.try_send(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert called == ["first"]
        right.send(b"x")  # but its own do
        await trio.testing.wait_all_tasks_blocked()
        assert called == ["first", "opened"]
        for stream in (first, to_first, to_second, *opened):
            stream.abort()
        left.close()
        right.close()

    trio.run(main)


def test_what_is_busy_leaves_the_others_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "_BATCH", 4)

    async def main() -> None:
        called = 0
        called_before: list[int] = []
        pairs = [await open_pair() for _ in range(40)]

        async def count() -> None:
            while called < len(pairs):
                called_before.append(called)
                await trio.lowlevel.checkpoint()

        def take() -> bool:
            nonlocal called
            called += 1
            return False

        async def wait(stream: ByteStream) -> None:
            await stream.wait(readable=True, taker=take)

        with trio.fail_after(10):
            async with trio.open_nursery() as tasks:
                for one, _ in pairs:
                    tasks.start_soon(wait, one)
                await trio.testing.wait_all_tasks_blocked()
                for _, other in pairs:
                    other.try_send(b"x")
                tasks.start_soon(count)
        assert called == len(pairs)
        # A turn of the loop has one batch; the two tasks come in either order.
        assert max(after - before for before, after in pairwise(called_before)) <= 2 * 4
        assert len(set(called_before)) >= 5
        for stream in chain(*pairs):
            stream.abort()

    trio.run(main)


@pytest.mark.parametrize("called_off", [False, True])
def test_what_is_asked_for_in_a_batch_is_called_once_after_it(
    called_off: bool, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []

    def call() -> None:
        said.append(f"called {soon.ask()}")
        raise ValueError("not good")

    def take() -> bool:
        said.append(f"asked {soon.ask()}")
        soon.call_off()
        if not called_off:
            soon.ask()
        return False

    async def wait(stream: ByteStream) -> None:
        await stream.wait(readable=True, taker=take)

    async def main() -> None:
        pairs = [await open_pair() for _ in range(3)]
        async with trio.open_nursery() as tasks:
            for one, _ in pairs:
                tasks.start_soon(wait, one)
            await trio.testing.wait_all_tasks_blocked()
            for _, other in pairs:
                other.try_send(b"x")
        for stream in chain(*pairs):
            stream.abort()
        assert not soon.asked

    soon = Soon(call)
    trio.run(main)
    assert said == ["asked True"] * 3 + ["called False"] * (not called_off)
    assert [record.message for record in caplog.records] == ["a call of the loop failed"] * (not called_off)


# -- runs ------------------------------------------------------------------------------------------


def test_each_run_has_its_own() -> None:
    watchers = [trio.run(exchange_a_word) for _ in range(3)]
    assert len(set(watchers)) == 3
    assert all(watcher._epoll.closed for watcher in watchers)


def test_runs_in_several_threads_do_not_know_each_other() -> None:
    watchers: list[Watcher] = []

    async def main() -> None:
        for _ in range(50):
            watcher = await exchange_a_word()
        watchers.append(watcher)

    threads = [threading.Thread(target=trio.run, args=[main]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(watchers)) == 4


def test_a_guest_of_asyncio() -> None:
    async def host() -> Watcher:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            exchange_a_word,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )
        async with asyncio.timeout(10):
            return (await done).unwrap()  # type: ignore[no-any-return]

    assert asyncio.run(host())._epoll.closed


def test_streams_that_outlive_their_run_can_be_aborted() -> None:
    async def main() -> tuple[ByteStream, ByteStream]:
        one, other = await open_pair()
        other.try_send(b"last words")
        return one, other

    one, other = trio.run(main)
    with pytest.raises(StreamBroken, match="cancel"):
        one.try_send(b"x")
    assert one.receive_nowait() == b"last words"
    with pytest.raises(StreamBroken, match="cancel"):
        one.receive_nowait()
    one.abort()
    other.abort()
    assert "closed" in repr(one)


def test_at_the_end_of_a_run_nobody_waits_for_ever() -> None:
    """System tasks may have something to say after all others are over."""
    seen: list[object] = []

    async def linger(stream: ByteStream) -> None:
        with trio.CancelScope(shield=True):
            with pytest.raises(StreamBroken, match="cancel"):
                await stream.receive()
            seen.append("lost")
            for late in await open_pair():
                seen.append(type(late))
                late.abort()
        stream.abort()

    async def main() -> ByteStream:
        one, other = await open_pair()
        trio.lowlevel.spawn_system_task(linger, one)
        await trio.testing.wait_all_tasks_blocked()
        seen.append("end")
        return other

    trio.run(main).abort()
    assert seen == ["end", "lost", SocketStream, SocketStream]


def test_a_run_that_is_over_but_for_its_generators_watches_nothing() -> None:
    seen: list[object] = []

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            one, other = unix_sockets()
            with suppress(trio.Cancelled):
                for sock in (one, other):
                    stream = await adopt(sock)
                    seen.append(type(stream))
                    stream.abort()

    async def main() -> None:
        kept.append(generate())
        await anext(kept[0])

    kept: list[AsyncIterator[int]] = []
    trio.run(main)
    assert seen == [SocketStream, SocketStream]


def test_where_the_kernel_watches_no_more_streams_fail_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(fd: int) -> None:
        await checkpoint()
        raise OSError("no memory")

    async def main() -> None:
        monkeypatch.setattr(trio.lowlevel, "wait_readable", refuse)
        one, other = await open_pair()
        with pytest.raises(StreamBroken, match="cancel"), trio.fail_after(10):
            await one.receive()
        one.abort()
        other.abort()
        monkeypatch.undo()
        later = await open_pair()
        assert [type(stream) for stream in later] == [SocketStream] * 2
        for stream in later:
            stream.abort()

    trio.run(main)


# -- where it cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["epoll", pytest.param("watch", marks=pytest.mark.interpreted)])
def test_without_it_streams_wait_each_for_itself(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Watcher, fd: int, watched: object) -> None:
        raise PermissionError("not this one")

    async def main() -> None:
        if missing == "epoll":
            monkeypatch.delattr(select, "epoll")
        else:
            monkeypatch.setattr(Watcher, "watch", refuse)
        pair = await open_pair()
        assert [type(stream) for stream in pair] == [SocketStream] * 2
        for stream in pair:
            stream.abort()

    trio.run(main)  # which itself needs epoll to begin with


def test_sockets_of_both_families_are_watched() -> None:
    async def main() -> None:
        for one, other in (tcp_sockets(), unix_sockets()):
            for sock in (one, other):
                stream = await adopt(sock)
                assert isinstance(stream, TrioStream)
                stream.abort()
        assert not Watcher.current()._watched

    trio.run(main)
