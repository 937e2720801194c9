from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from tunnelkit.errors import CallerGone
from tunnelkit.http.websocket import Close, Event, MessageCodec
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.origins import websocket_pump
from tunnelkit.origins.websocket_pump import ABNORMAL, WAITING_MESSAGES, Closed, WebSocketPump

pytestmark = pytest.mark.anyio


class Peer:
    """The caller's end."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.codec = MessageCodec(client=True, max_message=1 << 20)
        self._events: list[Event] = []

    async def event(self) -> Event | None:
        """None at the end of the stream."""
        while not self._events:
            data = await self.stream.receive()
            if not data:
                return None
            self._events += self.codec.receive(data)
        return self._events.pop(0)


@asynccontextmanager
async def open_pump(
    *, capacity: int = 65_536, max_message: int = 1 << 20, write_timeout: float = 10
) -> AsyncIterator[tuple[WebSocketPump, Peer]]:
    """The pump must have come to its end when the body has."""
    near, far = memory_pair(capacity)
    pump = WebSocketPump(near, max_message=max_message, write_timeout=write_timeout)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(pump.run)
            yield pump, Peer(far)


async def test_messages_both_ways_and_the_callers_close() -> None:
    async with open_pump() as (pump, peer):
        for message in ("text", b"bytes", "", b"", "\u00fc" * 100_000):
            async with anyio.create_task_group() as group:
                group.start_soon(peer.stream.send, peer.codec.message(message))
                assert await pump.receive() == message
            async with anyio.create_task_group() as group:
                group.start_soon(pump.send, message)
                assert await peer.event() == message
        await peer.stream.send(peer.codec.message("last") + peer.codec.close(4000, "bye"))
        assert await peer.event() == Close(4000, "", by_peer=True)
        assert await peer.event() is None
        assert await pump.receive() == "last"
        assert await pump.receive() == Closed(4000, "bye")
        assert repr(pump) == "<WebSocketPump Closed(code=4000, reason='bye')>"
        with pytest.raises(CallerGone):
            await pump.send("x")


async def test_the_apps_close_goes_behind_what_it_sent() -> None:
    async with open_pump(capacity=1000) as (pump, peer):
        assert repr(pump) == "<WebSocketPump open>"
        async with anyio.create_task_group() as group:
            group.start_soon(pump.send, b"x" * 5000)
            await anyio.wait_all_tasks_blocked()
            pump.close(3000, "enough")
            pump.close(3001, "too late")
            assert await pump.receive() == Closed(3000, "enough")
            assert await peer.event() == b"x" * 5000
            assert await peer.event() == Close(3000, "enough", by_peer=True)
        await peer.stream.send(peer.codec.message("dropped") + peer.codec.close(3000))
        assert await peer.event() is None
        assert await pump.receive() == Closed(3000, "enough")


@pytest.mark.parametrize("how", ["ends", "breaks"])
async def test_a_caller_that_goes_without_a_word(how: str) -> None:
    async with open_pump() as (pump, peer):
        if how == "ends":
            await peer.stream.send_eof()
        else:
            peer.stream.abort()
        assert await pump.receive() == Closed(ABNORMAL)
        with pytest.raises(CallerGone):
            await pump.send("x")


async def test_senders_that_wait_learn_that_the_caller_went() -> None:
    failed = 0

    async def send(pump: WebSocketPump) -> None:
        nonlocal failed
        try:
            await pump.send(bytes(10_000))
            await pump.send(bytes(10_000))
        except CallerGone:
            failed += 1

    async with open_pump(capacity=100) as (pump, peer), anyio.create_task_group() as group:
        group.start_soon(send, pump)
        group.start_soon(send, pump)
        await anyio.wait_all_tasks_blocked()
        peer.stream.abort()
    assert failed == 2


async def test_frames_of_several_senders_do_not_mix() -> None:
    async with open_pump(capacity=100) as (pump, peer):
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(pump.send, bytes([number]) * 1000)
            got = [await peer.event() for _ in range(5)]
        assert sorted(map(bytes, got)) == [bytes([number]) * 1000 for number in range(5)]  # type: ignore[arg-type]
        peer.stream.abort()


async def test_pings_are_answered_by_the_newest_and_behind_the_frame_under_way() -> None:
    async with open_pump(capacity=1000) as (pump, peer):
        async with anyio.create_task_group() as group:
            group.start_soon(pump.send, b"x" * 5000)
            await anyio.wait_all_tasks_blocked()
            for number in range(100):
                await peer.stream.send(_ping(b"%d" % number))
            await anyio.wait_all_tasks_blocked()
            sent = b""
            while b"99" not in sent:
                sent += await peer.stream.receive()
        await peer.stream.send(_ping(b"last"))
        while b"last" not in sent:
            sent += await peer.stream.receive()
        assert sent == b"\x82\x7e\x13\x88" + b"x" * 5000 + b"\x8a\x0299" + b"\x8a\x04last"
        peer.stream.abort()


def _ping(payload: bytes) -> bytes:
    return bytes([0x89, 0x80 | len(payload)]) + bytes(4) + payload


async def test_what_the_app_does_not_take_stops_the_caller() -> None:
    async with open_pump(capacity=500) as (pump, peer):
        while peer.stream.try_send(peer.codec.message("x")):
            await anyio.wait_all_tasks_blocked()
        assert len(pump._inbox) == WAITING_MESSAGES
        assert await pump.receive() == "x"
        peer.stream.abort()


async def test_a_flood_leaves_others_their_turns() -> None:
    """One read holds thousands of pings."""
    async with open_pump() as (_, peer):
        await peer.stream.send(_ping(b"") * 8000)
        turns = 0
        while peer.stream.try_send(b"") == 0 and turns < 50 and not peer.stream.receive_nowait():
            turns += 1
            await anyio.lowlevel.checkpoint()
        assert turns
        peer.stream.abort()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [(b"\x81\x05hello", 1002), (b"\x81\x81\0\0\0\0\xff", 1007), (b"\x82\x8b\0\0\0\0" + bytes(11), 1009)],
)
async def test_a_fault_is_told_to_both(wrong: bytes, code: int) -> None:
    async with open_pump(max_message=10) as (pump, peer):
        await peer.stream.send(wrong)
        told = await peer.event()
        assert isinstance(told, Close)
        assert told.code == code
        closed = await pump.receive()
        assert isinstance(closed, Closed)
        assert closed.code == code
        assert await peer.event() is None


async def test_a_caller_that_does_not_answer_a_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_pump, "CLOSE_TIMEOUT", 0.02)
    async with open_pump() as (pump, peer):
        pump.close(1000, "")
        assert await peer.event() == Close(1000, "", by_peer=True)


async def test_a_caller_that_does_not_take_what_was_sent_before_a_close() -> None:
    async with open_pump(capacity=100, write_timeout=0.02) as (pump, _):
        with anyio.move_on_after(0.02):
            await pump.send(bytes(1000))
        pump.close(1000, "")


async def test_cancelling_a_receive_loses_nothing() -> None:
    async with open_pump() as (pump, peer):
        with anyio.move_on_after(0.01):
            await pump.receive()
        await peer.stream.send(peer.codec.message("x"))
        assert await pump.receive() == "x"
        peer.stream.abort()
