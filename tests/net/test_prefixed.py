from __future__ import annotations

import anyio
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.net.memory import memory_pair
from tunnelkit.net.prefixed import PrefixedStream, prefixed

from .pairs import read_all

pytestmark = pytest.mark.anyio


async def test_nothing_early_is_the_stream_itself() -> None:
    stream, _ = memory_pair()
    assert prefixed(stream, b"") is stream


async def test_early_bytes_come_first() -> None:
    below, peer = memory_pair()
    stream = prefixed(below, b"early")
    await peer.send(b" late")
    await peer.aclose()
    await stream.wait(readable=True)
    assert stream.receive_nowait(2) == b"ea"
    assert await read_all(stream) == b"rly late"
    assert stream.receive_nowait() == b""


async def test_everything_else_is_the_streams_own() -> None:
    below, peer = memory_pair()
    stream = PrefixedStream(below, b"early")
    assert "5 before" in repr(stream)
    await stream.send(b"hello")
    await stream.send_eof()
    assert await read_all(peer) == b"hello"
    stream.wake()
    await below.wait()
    assert stream.last_received == below.last_received
    assert stream.write_buffered == 0
    assert not stream.needs_wait
    assert stream.peer_address == stream.local_address == ("", 0)
    assert not stream.tls
    assert stream.peer_certificate is None
    await stream.aclose()
    with pytest.raises(StreamBroken):
        stream.receive_nowait()


async def test_wait_passes_on_but_for_early_bytes() -> None:
    below, peer = memory_pair()
    stream = PrefixedStream(below, b"x")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.wait)
        await anyio.wait_all_tasks_blocked()
        stream.wake()
    await stream.receive()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: stream.wait(readable=True))
        await anyio.wait_all_tasks_blocked()
        await peer.send(b"y")


async def test_abort_drops_early_bytes() -> None:
    below, peer = memory_pair()
    stream = PrefixedStream(below, b"early")
    stream.abort()
    with pytest.raises(StreamBroken):
        stream.receive_nowait()
    with pytest.raises(StreamBroken):
        peer.receive_nowait()
