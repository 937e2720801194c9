"""Open websockets: what RFC 6455 asks beyond the conformance kit, which tests/testing runs on them."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.errors import ConnectionLost
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.transports import base
from tunnelkit.transports.base import SHORT_TURN, SHORTEST_TURN
from tunnelkit.transports.websocket import connection as websocket_connection
from tunnelkit.transports.websocket.connection import WebSocketConnection
from tunnelkit.transports.websocket.frames import MAX_MESSAGE, TURN, FrameWriter

from .conformance import clogged, lost, pump, receive_all
from .test_websocket_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

pytestmark = pytest.mark.anyio


@pytest.fixture
def _short_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_connection, "CLOSE_TIMEOUT", 0.1)


# -- one websocket against raw bytes -------------------------------------------------------------


class Raw:
    """A server's or client's websocket (``connection``) and the bare stream of its peer."""

    def __init__(self, *, client: bool = False, capacity: int = 64 * 1024, early: bytes = b"") -> None:
        stream, self.stream = memory_pair(capacity)
        self.inner: MemoryStream = stream
        self.connection = WebSocketConnection(stream, client=client, early=early)

    async def expect(self, data: bytes) -> None:
        got = b""
        while len(got) < len(data):
            piece = await self.stream.receive(len(data) - len(got))
            assert piece, f"the end behind {got!r}"
            got += piece
        assert got == data

    async def expect_end(self) -> None:
        assert await self.stream.receive() == b""


async def test_a_ping_is_answered_without_showing() -> None:
    with anyio.fail_after(10):
        raw = Raw()
        await raw.stream.send(frame(PING, b"there?") + frame(BINARY, b"m"))
        assert await raw.connection.receive() == b"m"
        await raw.expect(b"\x8a\x06there?")


async def test_a_message_that_does_not_wait_leaves_though_the_way_takes_only_part_of_it() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=100)
        assert raw.connection.room_now() == MAX_MESSAGE
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.receive)
            await anyio.wait_all_tasks_blocked()
            raw.connection.send_now(b"m" * 1000)
            assert not raw.connection.room_now()  # the rest of it goes first
            await raw.expect(FrameWriter(client=False).message(b"m" * 1000))
            await anyio.wait_all_tasks_blocked()
            assert raw.connection.room_now() == MAX_MESSAGE
            tasks.cancel_scope.cancel()
        raw.connection.abort()
        assert not raw.connection.room_now()
        with pytest.raises(ConnectionLost):
            raw.connection.send_now(b"too late")


@pytest.mark.interpreted
@pytest.mark.parametrize(("fact", "value"), [("tls", True), ("write_buffered", 1)])
async def test_there_is_no_room_where_a_task_must_carry_on_what_is_taken(
    fact: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Raw()
    assert raw.connection.room_now()
    monkeypatch.setattr(MemoryStream, fact, property(lambda _: value))
    assert not raw.connection.room_now()


@pytest.mark.interpreted
async def test_a_message_is_sent_when_the_stream_needs_nobody_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under TLS, what was taken may be there as ciphertext that only a task pushes on."""
    raw, waits = Raw(), [True, True, False]
    monkeypatch.setattr(MemoryStream, "needs_wait", property(lambda _: waits.pop(0)))
    await raw.connection.send(b"m")
    assert not waits


@pytest.mark.parametrize("capacity", [1, 3, 5, 20_000, 70_000])
async def test_a_large_frame_leaves_in_whatever_parts_the_way_takes(capacity: int) -> None:
    message = bytes(range(256)) * 65  # just a large one: by the byte, it takes some turns
    with anyio.fail_after(30):
        raw = Raw(capacity=capacity)

        async def send() -> None:
            await raw.connection.ready()
            await raw.connection.send(message)
            await raw.connection.send(b"next")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await raw.expect(FrameWriter(client=False).message(message) + b"\x82\x04next")


async def test_a_pong_waits_for_the_frame_whose_header_is_out() -> None:
    message = bytes(20_000)
    with anyio.fail_after(10):
        raw = Raw(capacity=2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.send, message)
            tasks.start_soon(raw.connection.receive)
            await anyio.wait_all_tasks_blocked()
            await raw.stream.send(frame(PING, b""))
            await anyio.wait_all_tasks_blocked()
            await raw.expect(FrameWriter(client=False).message(message) + b"\x8a\x00")
            tasks.cancel_scope.cancel()


async def test_bytes_that_came_early_count() -> None:
    with anyio.fail_after(10):
        raw = Raw(early=frame(PING, b"p") + frame(BINARY, b"early") + frame(BINARY, b"torn")[:3])
        assert await raw.connection.receive() == b"early"
        await raw.stream.send(frame(BINARY, b"torn")[3:])
        assert await raw.connection.receive() == b"torn"
        await raw.expect(b"\x8a\x01p")


async def test_a_flood_of_pings_leaves_one_pong_pending() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=100)
        await raw.inner.send(b"f" * 100)  # the way to the peer is full
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.receive)
            await raw.stream.send(b"".join(frame(PING, b"%04d" % i) for i in range(2000)))
            await anyio.wait_all_tasks_blocked()
            await raw.expect(b"f" * 100)
            await raw.expect(b"\x8a\x040000")  # was under way already
            await raw.expect(b"\x8a\x041999")
            await anyio.wait_all_tasks_blocked()
            assert raw.stream.receive_nowait() is None
            tasks.cancel_scope.cancel()


async def test_a_ping_is_answered_while_a_message_waits_to_be_sent() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=100)
        message = FrameWriter(client=False).message(b"x" * 1000)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.receive)
            tasks.start_soon(pump, raw.connection, [b"x" * 1000, b"y"])
            await anyio.wait_all_tasks_blocked()
            await raw.stream.send(frame(PING, b"p"))
            await anyio.wait_all_tasks_blocked()
            await raw.expect(message)
            await raw.expect(b"\x8a\x01p")  # behind the frame under way, before the next
            await raw.expect(b"\x82\x01y")
            tasks.cancel_scope.cancel()


async def test_a_sender_takes_over_from_a_receiver_that_waits_to_answer() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=100)
        await raw.inner.send(b"f" * 100)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.receive)
            await raw.stream.send(frame(PING, b"p"))
            await anyio.wait_all_tasks_blocked()  # the receiver waits for room for its pong
            tasks.start_soon(pump, raw.connection, [b"m"])
            await anyio.wait_all_tasks_blocked()
            await raw.expect(b"f" * 100)
            await raw.expect(b"\x8a\x01p\x82\x01m")
            tasks.cancel_scope.cancel()


async def test_a_receiver_answers_though_the_sender_that_waited_was_cancelled() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=100)
        await raw.inner.send(b"f" * 100)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.receive)
            sender = anyio.CancelScope()

            async def ready() -> None:
                with sender:
                    await raw.connection.ready()

            await raw.stream.send(frame(PING, b"p"))
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(ready)
            await anyio.wait_all_tasks_blocked()
            sender.cancel()
            await anyio.wait_all_tasks_blocked()
            await raw.expect(b"f" * 100)
            await raw.expect(b"\x8a\x01p")
            tasks.cancel_scope.cancel()


async def test_a_message_waits_for_the_frame_under_way() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=10)
        await raw.inner.send(b"12345678")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.receive)
            await raw.stream.send(frame(PING, b"p"))
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(raw.connection.send, b"m")  # without asking whether it is ready
            await anyio.wait_all_tasks_blocked()
            await raw.expect(b"12345678\x8a\x01p\x82\x01m")
            tasks.cancel_scope.cancel()


async def test_what_still_comes_behind_the_close_is_read_to_its_end() -> None:
    """Or the kernel would answer it with RST, which can overtake the close frame."""
    with anyio.fail_after(10):
        raw = Raw(capacity=100)
        await raw.stream.send(frame(0xF))
        end = await lost(raw.connection.receive())
        assert end.code == 1002
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.aclose)
            await raw.stream.send(b"x" * 1000)
            assert (await raw.stream.receive())[:1] == b"\x88"
            await raw.expect_end()
            await raw.stream.aclose()


async def test_ready_waits_for_the_frame_under_way() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=10)
        await raw.inner.send(b"12345678")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.receive)
            await raw.stream.send(frame(PING, b"p"))  # the pong is cut after two bytes
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        is_ready = anyio.Event()

        async def ready() -> None:
            assert await raw.connection.ready() == MAX_MESSAGE
            is_ready.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ready)
            await anyio.wait_all_tasks_blocked()
            assert not is_ready.is_set()
            await raw.expect(b"12345678\x8a\x01p")


async def test_others_get_their_turn_while_the_socket_takes_everything() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=1 << 30)
        with anyio.move_on_after(0.05) as scope:
            while True:
                await pump(raw.connection, [b"x"])
        assert scope.cancelled_caught


class Machine:
    """In place of the processor."""

    yielded = 0

    def yield_now(self) -> None:
        self.yielded += 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(websocket_connection, "PROCESSOR", machine)
    return machine


@pytest.mark.interpreted
@pytest.mark.parametrize(("turn", "turns"), [(base.TURN, 20), (SHORT_TURN, 50), (SHORTEST_TURN, 100)])
async def test_a_sender_of_short_turns_gives_way_more_often_and_to_other_programs_too(
    turn: float, turns: int, machine: Machine
) -> None:
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            await anyio.lowlevel.checkpoint()
            others += 1

    with anyio.fail_after(10):
        raw = Raw(capacity=1 << 30)
        raw.connection.turn = turn
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            await pump(raw.connection, [b"x"] * 100)
            tasks.cancel_scope.cancel()
    assert turns - 2 <= others <= 2 * turns  # at the ends one more or less; and trio may let the others go twice
    assert machine.yielded == (turns if turn < base.TURN else 0)


@pytest.mark.interpreted
@pytest.mark.parametrize(("turn", "yielded"), [(base.TURN, 0), (SHORT_TURN, 10), (SHORTEST_TURN, 10)])
async def test_a_receiver_of_short_turns_gives_way_to_other_programs_too(
    turn: float, yielded: int, machine: Machine
) -> None:
    taken: list[bytes] = []
    raw = Raw(capacity=1 << 30)
    raw.connection.turn = turn
    raw.connection._now = lambda: len(taken) * min(turn, SHORT_TURN)  # which each message takes
    await raw.stream.send(frame(BINARY, b"m") * 10 + frame(CLOSE))
    with anyio.fail_after(10), pytest.raises(ConnectionLost):
        await raw.connection.receive_into(taken.append)
    assert (len(taken), machine.yielded) == (10, yielded)


async def test_others_get_their_turn_while_pings_come() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=1 << 30)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with anyio.create_task_group() as tasks:
            await raw.stream.send(frame(PING) * 1000 + frame(BINARY, b"at last"))
            tasks.start_soon(count)
            assert await raw.connection.receive() == b"at last"
            tasks.cancel_scope.cancel()
        assert turns > 1000 // TURN // 2


@pytest.mark.usefixtures("_short_close")
async def test_others_get_their_turn_while_pings_come_instead_of_the_close() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=1 << 30)
        await raw.stream.send(frame(PING) * 1000 + frame(CLOSE))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.aclose)
            await raw.expect(b"\x88\x02\x03\xe8")
            await raw.expect_end()
            await raw.stream.aclose()


# -- the closing handshake -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "echoed", "code", "text"),
    [
        (frame(CLOSE, b"\x03\xe9bye"), b"\x88\x02\x03\xe9", 1001, "code 1001: bye"),
        (frame(CLOSE, b"\x10\x00"), b"\x88\x02\x10\x00", 4096, "code 4096"),
        (frame(CLOSE), b"\x88\x00", None, "no code"),  # 1005 is never sent
    ],
)
async def test_the_peers_close_is_echoed_and_the_server_ends_the_stream_first(
    sent: bytes, echoed: bytes, code: int | None, text: str
) -> None:
    with anyio.fail_after(10):
        raw = Raw()
        await raw.stream.send(frame(BINARY, b"last") + sent + frame(BINARY, b"never seen"))
        assert await raw.connection.receive() == b"last"
        end = await lost(raw.connection.receive())
        assert (end.clean, end.code) == (True, code)
        assert text in end.reason
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.aclose)
            await raw.expect(echoed)
            await raw.expect_end()
            await raw.stream.aclose()
        await lost(raw.connection.ready())


async def test_a_client_waits_for_the_server_to_end_the_stream() -> None:
    with anyio.fail_after(10):
        raw = Raw(client=True)
        await raw.stream.send(frame(CLOSE, b"\x03\xe8", masked=False))
        await lost(raw.connection.receive())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.aclose)
            await anyio.wait_all_tasks_blocked()
            assert len(await raw.stream.receive()) == 8  # masked: 2 + 4 + 2
            assert raw.stream.receive_nowait() is None
            await raw.stream.send_eof()
            await raw.expect_end()


async def test_close_drops_messages_until_the_peers_close_comes() -> None:
    with anyio.fail_after(10):
        raw = Raw()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.aclose, 1011, "sorry")
            await raw.expect(b"\x88\x07\x03\xf3sorry")
            await raw.stream.send(frame(BINARY, b"m" * 1000) + frame(PING, b"no pong behind a close"))
            await anyio.wait_all_tasks_blocked()
            assert raw.stream.receive_nowait() is None
            await raw.stream.send(frame(CLOSE, b"\x03\xf3"))
            await raw.expect_end()
            await raw.stream.aclose()


async def test_close_ends_early_when_the_peer_breaks_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_connection, "CLOSE_TIMEOUT", 60.0)
    with anyio.fail_after(30):
        raw = Raw()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.aclose)
            await raw.expect(b"\x88\x02\x03\xe8")
            await raw.stream.send(frame(0xF))
            await raw.expect_end()
            await raw.stream.aclose()


async def test_close_ends_early_when_the_stream_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_connection, "CLOSE_TIMEOUT", 60.0)
    with anyio.fail_after(30):
        raw = Raw()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.aclose)
            await raw.expect(b"\x88\x02\x03\xe8")
            raw.stream.abort()


async def test_close_lets_the_frame_under_way_out_first() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=100)
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                await lost(raw.connection.send(b"x" * 1000))

            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(raw.connection.aclose)
            await raw.expect(FrameWriter(client=False).message(b"x" * 1000))
            await raw.expect(b"\x88\x02\x03\xe8")
            await raw.stream.send(frame(CLOSE, b"\x03\xe8"))
            await raw.expect_end()
            await raw.stream.aclose()


@pytest.mark.parametrize("code", [1005, 1006, 1015])
async def test_codes_for_local_use_are_never_sent(code: int) -> None:
    with anyio.fail_after(10):
        raw = Raw()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw.connection.aclose, code)
            await raw.expect(b"\x88\x02\x03\xe8")
            raw.stream.abort()


# -- a peer that breaks the rules ----------------------------------------------------------------

HOSTILE = [
    (frame(BINARY, b"x", masked=False), 1002),
    (frame(BINARY, b"x", reserved=4), 1002),
    (frame(0xB), 1002),
    (frame(CONTINUATION, b"x"), 1002),
    (frame(PING, b"x", fin=False), 1002),
    (frame(CLOSE, b"\x03"), 1002),
    (frame(CLOSE, b"\x03\xee"), 1002),
    (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    (frame(TEXT, b"hello"), 1003),
    (frame(BINARY, length=1 << 40), 1009),
    (frame(BINARY, b"x" * 60_000, fin=False) + frame(CONTINUATION, length=60_000), 1009),
]


@pytest.mark.parametrize(("data", "code"), HOSTILE)
@pytest.mark.parametrize("step", [1, 1 << 20])
async def test_a_broken_rule_costs_the_connection_with_its_code(data: bytes, code: int, step: int) -> None:
    with anyio.fail_after(10):
        raw = Raw()
        ends: list[ConnectionLost] = []

        async def follow() -> None:
            ends.append((await receive_all(raw.connection))[1])
            await raw.connection.aclose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await raw.stream.send(frame(BINARY, b"fine"))
            for start in range(0, len(data), step if len(data) < 1000 else len(data)):
                await raw.stream.send(data[start : start + (step if len(data) < 1000 else len(data))])
            close = await raw.stream.receive()
            assert close[0] == 0x88
            assert int.from_bytes(close[2:4]) == code
            await raw.expect_end()
            await raw.stream.aclose()
        assert not ends[0].clean
        assert ends[0].code == code


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 6, 7, 20])
async def test_an_end_without_close_is_a_loss(cut: int) -> None:
    with anyio.fail_after(10):
        raw = Raw()
        await raw.stream.send(frame(BINARY, b"whole") + frame(BINARY, b"x" * 100)[:cut])
        await raw.stream.send_eof()
        assert await raw.connection.receive() == b"whole"
        end = await lost(raw.connection.receive())
        assert not end.clean
        assert ("middle of a frame" in end.reason) is (cut > 0)


async def test_a_cut_is_a_loss_for_every_call() -> None:
    with anyio.fail_after(10):
        raw = Raw()
        raw.stream.cut()
        for call in (raw.connection.receive, raw.connection.ready):
            assert not (await lost(call())).clean
        await lost(raw.connection.send(b"x"))
        await raw.connection.aclose()


async def test_a_cut_is_a_loss_for_the_sender_alone_too() -> None:
    with anyio.fail_after(10):
        raw = Raw(capacity=10)
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                await lost(raw.connection.send(b"x" * 100))

            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            raw.stream.cut()


async def test_a_pong_that_meets_a_broken_stream_is_a_loss() -> None:
    with anyio.fail_after(10):
        raw = Raw()
        await raw.stream.send(frame(PING) + frame(BINARY, b"m"))
        await raw.stream.aclose()
        await lost(raw.connection.receive())


@given(st.binary(max_size=300))
def test_random_bytes_cost_only_their_own_connection(data: bytes) -> None:
    async def run() -> None:
        with anyio.fail_after(10):
            raw = Raw()
            await raw.stream.send(data)
            await raw.stream.send_eof()
            await receive_all(raw.connection)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(raw.connection.aclose)
                while await raw.stream.receive():
                    pass
                await raw.stream.aclose()

    anyio.run(run)


async def test_unasked_pongs_and_empty_messages_are_harmless() -> None:
    with anyio.fail_after(10):
        raw = Raw()
        await raw.stream.send(frame(PONG, b"p") + frame(BINARY) + frame(BINARY, b"m"))
        assert [await raw.connection.receive(), await raw.connection.receive()] == [b"", b"m"]


async def test_a_connection_shows_its_state() -> None:
    raw = Raw(client=True)
    assert repr(raw.connection) == "<WebSocketConnection client open>"
    raw.connection.abort()
    assert repr(raw.connection) == "<WebSocketConnection client lost>"
    assert Raw().connection.last_received <= anyio.current_time()


async def test_memory_stays_bounded_under_a_message_that_never_ends() -> None:
    """Fragments without end, each small: the sum is judged, not the frame."""
    with anyio.fail_after(10):
        raw = Raw()
        taken = 0
        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                _, end = await receive_all(raw.connection)
                assert end.code == 1009
                tasks.cancel_scope.cancel()

            tasks.start_soon(follow)
            await raw.stream.send(frame(BINARY, fin=False))
            while True:
                await raw.stream.send(frame(CONTINUATION, b"x" * 1000, fin=False))
                taken += 1000
                assert taken < 4 * MAX_MESSAGE


async def test_a_full_sender_does_not_stop_the_receiver() -> None:
    with anyio.fail_after(10):
        raw = Raw()
        async with clogged(raw.connection):
            await raw.stream.send(frame(BINARY, b"in"))
            assert await raw.connection.receive() == b"in"
