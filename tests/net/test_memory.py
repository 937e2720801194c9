from __future__ import annotations

import anyio
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.net.memory import memory_pair

from .pairs import pattern, read_exactly

pytestmark = pytest.mark.anyio


async def test_each_direction_holds_its_capacity() -> None:
    one, other = memory_pair(10)
    assert one.try_send(pattern(100)) == 10
    assert one.try_send(b"x") == 0
    assert other.try_send(pattern(100)) == 10
    assert await other.receive(4) == pattern(4)
    assert one.try_send(b"abcdef") == 4
    assert await other.receive() == pattern(10)[4:] + b"abcd"


async def test_a_stall_holds_data_and_the_end_back() -> None:
    one, other = memory_pair(10)
    other.stall()
    assert one.try_send(b"x" * 20) == 10
    await one.send_eof()
    assert other.receive_nowait() is None
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await other.receive())
        received.append(await other.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        assert received == []
        await other.send(b"other way")
        assert await read_exactly(one, 9) == b"other way"
        other.resume()
    assert received == [b"x" * 10, b""]


async def test_a_cut_breaks_both_ends_and_what_was_on_its_way() -> None:
    one, other = memory_pair()
    await one.send(b"lost")

    async with anyio.create_task_group() as tasks:
        for end in (one, other):
            tasks.start_soon(end.wait)
        await anyio.wait_all_tasks_blocked()
        one.cut()
    for end in (one, other):
        with pytest.raises(StreamBroken, match="reset"):
            end.receive_nowait()
        with pytest.raises(StreamBroken, match="reset"):
            end.try_send(b"x")
        assert "failed" in repr(end)
        await end.aclose()


async def test_what_a_closed_peer_never_read_is_gone() -> None:
    one, other = memory_pair()
    await one.send(b"never read")
    await other.aclose()
    assert await one.receive() == b""
    with pytest.raises(StreamBroken, match="the peer closed"):
        one.try_send(b"x")
