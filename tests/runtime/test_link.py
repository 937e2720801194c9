"""A link: streams over connections that fail at any moment, at either end (hazards 1 to 6 of the design)."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import anyio
import pytest

from tunnelkit.config import KIB, Limits
from tunnelkit.core.budget import Budget
from tunnelkit.core.company import FEW
from tunnelkit.core.events import Opened
from tunnelkit.core.frames import HEAD_FIN, ResetCode, StreamKind, pack_header
from tunnelkit.core.opening import Attached, OpeningResult
from tunnelkit.core.session import State
from tunnelkit.errors import ConnectionLost, RemoteProtocolError, SessionGone
from tunnelkit.link import SHARED, Link
from tunnelkit.net.timers import Timers
from tunnelkit.transports.base import SHORT_TURN, SHORTEST_TURN, TURN
from tunnelkit.transports.memory import QUEUE_LIMIT, Faults, memory_pair
from tunnelkit.tunnel_stream import Stream, StreamHandler

from .links import SOON, Ask, Echo, Gate, Joined, Silent, joined, pattern

pytestmark = pytest.mark.anyio

SIZE = 300_000  # more than any first window: credit has to come back


async def test_streams_go_both_ways_and_leave_nothing() -> None:
    async with joined() as pair:
        pair.attach()
        asks = [Ask(pair.server, size) for size in (0, 1, 16 * KIB, SIZE)]
        for ask, size in zip(asks, (0, 1, 16 * KIB, SIZE), strict=True):
            assert await ask.answered() == pattern(size)
        await pair.clean()


async def test_an_exchange_that_is_alone_need_not_wait_for_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with joined() as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        left: list[bytes] = []
        monkeypatch.setattr(server, "room_now", lambda: 4096)
        monkeypatch.setattr(server, "send_now", left.append)
        handler = Silent()
        stream = pair.server.open_stream(StreamKind.HTTP, handler)
        stream.send_head(b"a head")
        assert not left  # more may follow
        stream.flush()
        stream.flush()
        assert len(left) == 1
        assert handler.heard == ["sent"]
        stream.send_fin()
        pair.server.open_stream(StreamKind.HTTP, Silent())
        stream.flush()
        assert len(left) == 1  # two can share a message, which is the writer's to pack


async def test_where_more_follows_nobody_is_told_until_the_flush() -> None:
    async with joined() as pair:
        pair.attach()
        await anyio.wait_all_tasks_blocked()  # the writers have looked
        handlers = [Silent(), Silent()]
        streams = [pair.server.open_stream(StreamKind.HTTP, handler) for handler in handlers]
        for stream in streams:
            stream.send_head(b"a head", more=True)
            stream.send_data(b"and its body", fin=True, more=True)
        await anyio.wait_all_tasks_blocked()
        assert [handler.heard for handler in handlers] == [[], []]
        streams[0].flush()  # which is not alone: the loop's next turn takes it
        await anyio.wait_all_tasks_blocked()
        assert [handler.heard[0] for handler in handlers] == ["sent", "sent"]


async def test_of_many_exchanges_the_first_go_out_while_the_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends work at the same time then, and not by turns."""
    async with joined() as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        left: list[bytes] = []
        monkeypatch.setattr(server, "room_now", lambda: 4096)
        monkeypatch.setattr(server, "send_now", left.append)
        waiting = pair.server.open_stream(StreamKind.HTTP, Silent())  # none is alone
        handlers, shared, gathered = [Silent() for _ in range(4 * SHARED)], [], 0
        for handler in handlers:
            before = len(left)
            stream = pair.server.open_stream(StreamKind.HTTP, handler)
            stream.send_head(b"a head", fin=True)
            stream.flush()
            gathered += 1
            if len(left) > before:
                shared.append(gathered)
                gathered = 0
        assert shared[0] == SHARED // 2  # where few are under way
        assert shared == sorted(shared)
        assert shared[-1] == SHARED
        assert [handler.heard for handler in handlers[: sum(shared)]] == [["sent"]] * sum(shared)
        assert not any(handler.heard for handler in handlers[sum(shared) :])  # those are the writer's
        assert waiting.was_sent


async def test_a_connection_that_breaks_meanwhile_costs_nothing_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with joined() as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()

        def lose(message: bytes) -> None:
            server.abort()
            raise ConnectionLost("lost in between")

        monkeypatch.setattr(server, "room_now", lambda: 4096)
        monkeypatch.setattr(server, "send_now", lose)
        ask = Ask(pair.server, 100)
        ask.stream.flush()
        await pair.over("server")
        await pair.over("client")
        pair.attach()
        assert await ask.answered() == pattern(100)
        await pair.clean()


async def test_timers_that_run_for_many_links_are_not_run_again() -> None:
    """Not even where none of them is set yet."""
    timers = Timers()
    link = Link(
        client=False,
        limits=SOON,
        budget=Budget(1_000_000),
        peer_window=SOON.replay_limit,
        peer_floor=SOON.stream_floor,
        peer_max_streams=10,
        logger=logging.getLogger("tunnelkit.test"),
        timers=timers,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(partial(link.run, memory_pair()[0], OpeningResult(attached=Attached(1, 0))))
        await anyio.wait_all_tasks_blocked()
        assert len(timers) == 1  # and nobody lets it ring
        assert not any((task.name or "").endswith("Timers.run") for task in anyio.get_running_tasks())
        group.cancel_scope.cancel()


# -- connections take over ---------------------------------------------------------------------


@pytest.mark.parametrize("stubborn", [False, True], ids=["cancelled", "late"])
async def test_a_writer_inside_send_is_fenced(stubborn: bool) -> None:
    """Hazard 2: what the old connection took goes out again, and its late result changes nothing."""
    async with joined() as pair:
        old, _ = pair.attach()
        ask = Ask(pair.server, SIZE)
        with anyio.fail_after(10):
            await ask.progressed.wait()
        old.stubborn = stubborn
        old.hold("sent")
        await old.arrived("sent")
        new, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        old.release()
        assert await ask.answered() == pattern(SIZE)
        assert pair.server.session.epoch == pair.epoch
        assert pair.server.connection is new
        await pair.clean()


async def test_of_a_link_that_is_held_nothing_is_sent_even_where_the_way_is_free() -> None:
    async with joined() as pair:
        pair.attach()
        await anyio.wait_all_tasks_blocked()
        pair.server.hold()
        stream = pair.server.open_stream(StreamKind.HTTP, Silent())
        stream.send_head(b"a head")
        stream.flush()
        await anyio.wait_all_tasks_blocked()
        assert not pair.client.streams.by_id
        pair.attach()
        await anyio.wait_all_tasks_blocked()
        assert pair.client.streams.by_id


async def test_what_an_old_connection_still_gives_is_not_the_sessions() -> None:
    """A transport that has several messages at hand gives them one after the other, and the first may bring about
    another connection."""
    async with joined() as pair:
        pair.attach()
        await anyio.wait_all_tasks_blocked()
        old = pair.server._run
        assert old is not None
        new, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ConnectionLost, match="not this session's connection any more"):
            pair.server._take(old, b"\xff" * 20)  # which would end the session for a breach of the protocol
        assert pair.server.connection is new
        ask = Ask(pair.server, SIZE)
        assert await ask.answered() == pattern(SIZE)
        await pair.clean()


@pytest.mark.parametrize("first", ["server", "client"])
async def test_one_end_notices_the_loss_earlier(first: str) -> None:
    """Hazard 3: the other still believes in its connection when the new one takes over."""
    async with joined() as pair:
        server, client = pair.attach()
        ask = Ask(pair.server, SIZE)
        with anyio.fail_after(10):
            await ask.progressed.wait()
        other = client if first == "server" else server
        other.inner.stall()
        (server if first == "server" else client).inner.abort()
        assert isinstance(await pair.over(first), ConnectionLost)
        assert (pair.client if first == "server" else pair.server).connection is other
        pair.attach()
        assert await ask.answered() == pattern(SIZE)
        await pair.clean()


async def test_resumes_that_are_lost_or_overtaken() -> None:
    """Hazard 4: one that only the server saw, one that only the client saw, then one that both see."""
    async with joined() as pair:
        pair.attach()
        ask = Ask(pair.server, SIZE)
        with anyio.fail_after(10):
            await ask.progressed.wait()
        pair.attach(only="server")
        await anyio.wait_all_tasks_blocked()
        pair.attach(only="client")
        await anyio.wait_all_tasks_blocked()
        pair.attach()
        await anyio.wait_all_tasks_blocked()
        pair.attach()
        assert await ask.answered() == pattern(SIZE)
        await pair.clean()


async def test_both_ends_read_while_their_writes_wait() -> None:
    """Hazard 1: with both ways full neither end could go on if it did not read."""
    async with joined(accept=lambda stream, opened: Echo(stream)) as pair:
        server, client = pair.attach()
        server.inner.stall()
        client.inner.stall()
        asks = [Ask(pair.server, 64 * KIB) for _ in range(2 * QUEUE_LIMIT // (64 * KIB))]
        await anyio.wait_all_tasks_blocked()
        client.inner.stall(False)
        await anyio.wait_all_tasks_blocked()
        server.inner.stall(False)
        for ask in asks:
            assert await ask.answered() == pattern(64 * KIB)
        await pair.clean()


@pytest.mark.parametrize(("reorder", "duplicate"), [(True, False), (False, True), (True, True)])
async def test_a_connection_without_order(reorder: bool, duplicate: bool) -> None:
    async with joined() as pair:
        pair.attach(Faults(reorder=reorder, duplicate=duplicate))
        asks = [Ask(pair.server, SIZE) for _ in range(3)]
        for ask in asks:
            assert await ask.answered() == pattern(SIZE)
        await pair.clean()


# -- cancellation ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["server", "client"])
@pytest.mark.parametrize("place", ["ready", "send", "sent", "receive"])
async def test_cancelling_run_anywhere_leaves_a_session_that_resumes(place: str, end: str) -> None:
    """Hazard 6: core and credit are consistent, whichever await was cancelled."""
    async with joined() as pair:
        server, client = pair.attach()
        ask = Ask(pair.server, SIZE)
        with anyio.fail_after(10):
            await ask.progressed.wait()
        gate = server if end == "server" else client
        gate.hold(place)
        await gate.arrived(place)
        pair.scopes[end].cancel()
        with anyio.fail_after(10):
            await pair._over[end].wait()
        link = pair.server if end == "server" else pair.client
        assert link.session.state is State.DETACHED
        assert link.connection is None
        with pytest.raises(ConnectionLost):
            await gate.inner.receive()  # the connection was dropped, not left behind
        pair.attach()
        assert await ask.answered() == pattern(SIZE)
        await pair.clean()


async def test_cancelling_a_farewell_drops_the_connection() -> None:
    async with joined() as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        server.hold("aclose")
        pair.server.end("over")
        await server.arrived("aclose")
        pair.scopes["server"].cancel()
        with anyio.fail_after(10):
            await pair._over["server"].wait()
        with pytest.raises(ConnectionLost):
            await server.inner.receive()


# -- resets ------------------------------------------------------------------------------------


async def test_resets_from_both_ends_at_once() -> None:
    """Hazard 5."""
    handlers: list[Silent] = []
    streams: list[Stream] = []

    def accept(stream: Stream, opened: Opened) -> StreamHandler:
        streams.append(stream)
        handlers.append(Silent())
        return handlers[-1]

    async with joined(accept=accept) as pair:
        server, client = pair.attach()
        ask = Ask(pair.server, 10_000)
        await pair.until(lambda: streams)
        server.inner.stall()
        client.inner.stall()
        streams[0].reset(ResetCode.CANCEL)
        ask.stream.reset(ResetCode.CANCEL)
        await anyio.wait_all_tasks_blocked()
        server.inner.stall(False)
        client.inner.stall(False)
        after = Ask(pair.server, 0)
        await pair.until(lambda: len(streams) == 2)
        assert ("reset", ResetCode.CANCEL) not in handlers[0].heard  # whoever resets is told nothing more
        assert ask.code is None
        after.stream.reset(ResetCode.CANCEL)
        await pair.clean()


async def test_data_for_a_stream_that_was_reset_meanwhile() -> None:
    streams: list[Stream] = []

    def accept(stream: Stream, opened: Opened) -> StreamHandler:
        streams.append(stream)
        return Silent()

    async with joined(accept=accept) as pair:
        pair.attach()
        ask = Ask(pair.server, 1)
        await pair.until(lambda: streams)
        second = Ask(pair.server, SIZE)
        await pair.until(lambda: len(streams) == 2)
        streams[1].reset(ResetCode.LIMIT)  # with data under way to it
        with anyio.fail_after(10):
            await second.done.wait()
        assert second.code == ResetCode.LIMIT
        ask.stream.reset(ResetCode.CANCEL)
        await pair.clean()


async def test_a_stream_opened_and_reset_in_one_message_is_nobodys() -> None:
    """Hazard 10."""
    opened: list[Opened] = []

    def accept(stream: Stream, event: Opened) -> StreamHandler:
        opened.append(event)
        return Silent()

    async with joined(accept=accept) as pair:
        server, client = pair.attach()
        client.hold("receive")
        server.hold("ready")
        ask = Ask(pair.server, 10)
        ask.stream.reset(ResetCode.CANCEL)
        server.release()
        client.release()
        kept = Ask(pair.server, 0)
        await pair.until(lambda: len(opened) == 1)
        kept.stream.reset(ResetCode.CANCEL)
        await pair.clean()


async def test_a_refused_stream() -> None:
    async with joined(accept=lambda stream, opened: None) as pair:
        pair.attach()
        ask = Ask(pair.server, 100)
        await ask.answered()
        assert ask.code == ResetCode.REFUSED
        await pair.clean()


async def test_all_that_a_message_brought_is_written_out_before_anybody_does_the_rest() -> None:
    """Who waits for an answer waits for no other's book-keeping."""
    steps: list[tuple[str, int]] = []

    class Noting(Silent):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def on_settled(self) -> None:
            steps.append(("settled", self.number))

        def on_written(self) -> None:
            steps.append(("written", self.number))

    async with joined(accept=lambda stream, opened: Noting(opened.stream_id)) as pair:
        pair.attach()
        streams = [pair.server.open_stream(StreamKind.HTTP, Silent()) for _ in range(3)]
        for stream in streams:
            stream.send_head(b"a head")
        await pair.until(lambda: len(steps) == 6)
        numbers = [stream.id for stream in streams]
        assert steps == [(step, number) for step in ("settled", "written") for number in numbers]


async def test_what_came_before_a_fault_is_settled() -> None:
    """A caller whose answer is whole has it, though the peer's next word is wrong."""
    heard: list[str] = []

    class Noting(Silent):
        def on_settled(self) -> None:
            heard.append("settled")

        def on_written(self) -> None:
            heard.append("written")

    async with joined(accept=lambda stream, opened: Silent()) as pair:
        pair.attach()
        stream = pair.server.open_stream(StreamKind.HTTP, Noting())
        stream.send_head(b"a head", fin=True)
        await pair.until(lambda: stream.was_sent)
        answer = pack_header(HEAD_FIN, 6, stream.id) + b"a head"
        with pytest.raises(RemoteProtocolError):
            pair.server.streams.receive([answer, pack_header(HEAD_FIN, 0, stream.id + 100)], 0.0)
        assert heard == ["settled", "written"]


# -- handlers that fail ------------------------------------------------------------------------


class Clumsy(Silent):
    """Fails in one of its methods."""

    def __init__(self, method: str) -> None:
        super().__init__()
        setattr(self, method, self._fail)

    def _fail(self, *args: object) -> None:
        raise ValueError("a handler's mistake")


async def test_to_settle_is_to_have_said_the_last_word() -> None:
    """A reset right before the end: its stream is over, but it has not gone out yet."""
    streams: list[Stream] = []

    def accept(stream: Stream, opened: Opened) -> StreamHandler:
        streams.append(stream)
        return Silent()

    async with joined(accept=accept) as pair:
        pair.attach()
        ask = Ask(pair.server, 100)
        await pair.until(lambda: streams)
        streams[0].reset(ResetCode.REFUSED)
        with anyio.fail_after(10):
            await pair.client.settle()
        pair.client.end("closed")
        await ask.answered()
        assert ask.code == ResetCode.REFUSED


@pytest.mark.parametrize("method", ["on_head", "on_data", "on_settled", "on_written"])
async def test_a_handler_that_fails_costs_its_stream_alone(method: str) -> None:
    handlers: list[StreamHandler] = [Clumsy(method)]

    def accept(stream: Stream, opened: Opened) -> StreamHandler:
        return handlers.pop() if handlers else Echo(stream)

    async with joined(accept=accept) as pair:
        pair.attach()
        clumsy = handlers[0]
        failing, fine = Ask(pair.server, SIZE), Ask(pair.server, SIZE)
        await failing.answered()
        assert failing.code == ResetCode.INTERNAL
        assert isinstance(clumsy, Clumsy)
        assert clumsy.heard[-1] == ("reset", ResetCode.INTERNAL)  # it is told, so that nobody waits on it
        assert await fine.answered() == pattern(SIZE)
        await pair.clean()


@pytest.mark.parametrize("method", ["on_sent", "on_room", "on_progress"])
async def test_an_opener_that_fails_costs_its_stream_alone(method: str) -> None:
    async with joined() as pair:
        pair.attach()
        clumsy = Clumsy(method)
        stream = pair.server.open_stream(StreamKind.HTTP, clumsy)
        stream.send_head(b"a head")
        while room := stream.room:
            stream.send_data(bytes(room))
        fine = Ask(pair.server, SIZE)
        await clumsy.until(lambda: ("reset", ResetCode.INTERNAL) in clumsy.heard)
        assert await fine.answered() == pattern(SIZE)
        await pair.clean()


async def test_an_acceptor_that_fails_refuses_the_stream() -> None:
    def accept(stream: Stream, opened: Opened) -> StreamHandler:
        raise ValueError("an acceptor's mistake")

    async with joined(accept=accept) as pair:
        pair.attach()
        ask = Ask(pair.server, 100)
        await ask.answered()
        assert ask.code == ResetCode.INTERNAL
        await pair.clean()


async def test_a_handler_that_fails_as_the_session_ends() -> None:
    async with joined() as pair:
        pair.attach()
        await anyio.wait_all_tasks_blocked()
        pair.server.open_stream(StreamKind.HTTP, Clumsy("on_reset")).send_head(b"")
        ask = Ask(pair.server, 100)
        pair.server.end("over")
        assert ask.code == ResetCode.SESSION_GONE
        assert isinstance(await pair.over("server"), SessionGone)


# -- the end -----------------------------------------------------------------------------------


async def test_a_connection_that_fails_to_close_is_over_for_the_reason_that_it_had(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(code: int = 1000, reason: str = "") -> None:
        raise ValueError("a bug of the transport's")

    async with joined() as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        monkeypatch.setattr(server, "aclose", fail)
        pair.server.end("over")
        failure = await pair.over("server")
        assert isinstance(failure, SessionGone)
        assert pair.server.connection is None
    assert "closing a connection failed" in caplog.text
    assert "a bug of the transport's" in caplog.text


async def test_the_end_is_told_with_its_code() -> None:
    async with joined(accept=lambda stream, opened: Silent()) as pair:
        pair.attach()
        ask = Ask(pair.server, SIZE)
        await pair.until(lambda: pair.client.streams.by_id)
        pair.server.end("draining")
        assert ask.code == ResetCode.SESSION_GONE  # at once, whatever the connection does
        failure = await pair.over("client")
        assert isinstance(failure, SessionGone)
        assert failure.code == "draining"
        assert isinstance(await pair.over("server"), SessionGone)
        assert pair.client.gone
        await pair.clean()


async def test_the_end_comes_though_the_connection_takes_nothing() -> None:
    async with joined() as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        server.hold("ready", "aclose")
        pair.server.session.ask()
        pair.server.ring()
        await server.arrived("ready")
        pair.server.end("over")
        await pair.over("server")  # bounded by a deadline of its own
        assert pair.server.session.state is State.GONE


async def test_a_connection_is_not_asked_for_room_while_there_is_nothing_to_send() -> None:
    async with joined() as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        server.hold("ready")
        pair.server.ring()
        await anyio.wait_all_tasks_blocked()
        assert not server.has_arrived("ready")
        pair.server.session.ask()
        pair.server.ring()
        await server.arrived("ready")
        server.release()
        await pair.clean()


async def test_nothing_opens_on_a_link_that_ended() -> None:
    async with joined() as pair:
        pair.server.end("over")
        with pytest.raises(SessionGone):
            Ask(pair.server, 0)
        await pair.clean()


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x63\0\0\0" + bytes(8), "unknown_frame"),
        (b"\x03\0\0\x01" + (40).to_bytes(8) + b"x", "stream_id"),
    ],
)
async def test_a_broken_protocol_ends_the_session_and_the_peer_is_told(
    payload: bytes, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with joined(accept=lambda stream, opened: Silent()) as pair:
        pair.attach()
        ask = Ask(pair.server, 10)
        await pair.until(lambda: pair.client.streams.by_id)
        monkeypatch.setattr(pair.client.mux, "frames_to_send", lambda limit, turn: [payload])
        Ask(pair.client, 0)
        failure = await pair.over("server")
        assert isinstance(failure, RemoteProtocolError)
        assert failure.code == code
        assert ask.code == ResetCode.SESSION_GONE
        told = await pair.over("client")
        assert isinstance(told, SessionGone)
        assert told.code == code


@pytest.mark.interpreted
async def test_a_bug_costs_the_session_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with joined() as pair:
        pair.attach()
        monkeypatch.setattr(pair.server.mux, "receive_data", _broken)
        ask = Ask(pair.server, 10)
        failure = await pair.over("server")
        assert isinstance(failure, SessionGone)
        assert failure.code == "internal_error"
        assert ask.code == ResetCode.SESSION_GONE


def _broken(*args: object) -> None:
    raise RuntimeError("a bug")


# -- signs of life -----------------------------------------------------------------------------


async def test_a_peer_that_answers() -> None:
    async with joined() as pair:
        assert not await pair.server.answers(0)  # no connection, no sign
        pair.attach()
        await anyio.wait_all_tasks_blocked()
        answers: list[bool] = []

        async def ask() -> None:
            answers.append(await pair.server.answers(10))

        with anyio.fail_after(15):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(ask)
        assert answers == [True] * 3


async def test_a_peer_that_is_silent() -> None:
    async with joined() as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        server.inner.stall()
        assert not await pair.server.answers(0.02)


async def test_an_ack_goes_alone() -> None:
    def accept(stream: Stream, opened: Opened) -> StreamHandler:
        return Silent()

    async with joined(accept=accept) as pair:
        pair.attach()
        Ask(pair.server, 1000)
        await pair.until(lambda: pair.server.session.sent)
        await pair.until(lambda: pair.server.session.acked == pair.server.session.sent)


@pytest.mark.parametrize("busy", [False, True])
async def test_silence_fails_the_connection_and_the_session_goes_on(busy: bool) -> None:
    async with joined(SOON) as pair:
        server, client = pair.attach()
        ask = Ask(pair.server, SIZE) if busy else None
        server.inner.stall()
        client.inner.stall()
        for end in ("server", "client"):
            assert isinstance(await pair.over(end), ConnectionLost)
        pair.attach()
        ask = ask or Ask(pair.server, SIZE)
        assert await ask.answered() == pattern(SIZE)
        await pair.clean()


async def test_silence_is_noticed_though_the_writer_is_stuck() -> None:
    async with joined(SOON) as pair:
        server, _ = pair.attach()
        server.hold("send")
        server.inner.stall()
        assert isinstance(await pair.over("server"), ConnectionLost)


async def test_a_writer_that_waited_for_room_says_nothing_of_a_link_that_is_held_by_then() -> None:
    """ATTACH went out elsewhere meanwhile: a later acknowledgement here would make that a lie."""
    async with joined() as pair:
        _, client = pair.attach()
        await anyio.wait_all_tasks_blocked()
        client.hold("ready")
        ask = Ask(pair.server, 1)  # which is answered with an echo
        await client.arrived("ready")
        pair.client.hold()
        client.release()
        await anyio.wait_all_tasks_blocked()
        assert not ask.progressed.is_set()
        assert pair.server.session.acked == 0
        pair.client.end("over")  # a farewell still passes
        assert isinstance(await pair.over("server"), SessionGone)


async def test_nothing_leaves_on_a_connection_before_its_greeting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the writer of the connection before still waits for something to send."""
    async with joined() as pair:
        before, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        link, (near, far), left = pair.server, memory_pair(), list[bytes]()
        for connection in (before, near):
            monkeypatch.setattr(connection, "room_now", lambda: 4096)
            monkeypatch.setattr(connection, "send_now", left.append)
        opened = OpeningResult(attached=Attached(2, pair.client.session.received))
        pair.group.start_soon(partial(link.run, near, opened, greeting=b"greeting"))
        Ask(link, 1)  # leaves in the very turn in which the other takes over
        with anyio.fail_after(10):
            assert await far.receive() == b"greeting"
        assert not left


class Told(Gate):
    """A connection that acts when it is told whether exchanges run, which is before anything else is asked of it."""

    act: Callable[[], None] | None = None

    @property
    def active(self) -> bool:
        return False

    @active.setter
    def active(self, value: bool) -> None:
        act, self.act = self.act, None
        if act is not None:
            act()


def told(act: Callable[[], None]) -> Told:
    near, _ = memory_pair()
    connection = Told(near)
    connection.act = act
    return connection


async def test_a_connection_may_end_its_session_as_soon_as_it_is_told_of_it() -> None:
    async with joined() as pair:
        connection = told(partial(pair.server.end, "early"))
        with anyio.fail_after(10):
            failure = await pair.server.run(connection, OpeningResult(attached=Attached(1, 0)))
        assert isinstance(failure, SessionGone)
        assert pair.server.gone


async def test_a_connection_may_be_fenced_as_soon_as_it_is_told_of_its_session() -> None:
    async with joined() as pair:
        connection = told(partial(pair.server.fence, ConnectionLost("early")))
        with anyio.fail_after(10):
            failure = await pair.server.run(connection, OpeningResult(attached=Attached(1, 0)))
        assert (type(failure), str(failure)) == (ConnectionLost, "early")
        assert pair.server.session.state is State.DETACHED


async def test_a_connection_that_fails_as_soon_as_it_is_told_costs_its_session_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise ValueError("a bug of the transport's")

    async with joined() as pair:
        with anyio.fail_after(10):
            failure = await pair.server.run(told(fail), OpeningResult(attached=Attached(1, 0)))
        assert (type(failure), str(failure)) == (SessionGone, str(SessionGone("internal_error")))
        assert pair.server.gone
        assert pair.server.connection is None
    assert "a bug of the transport's" in caplog.text


async def test_a_session_whose_streams_are_over_is_watchful_until_its_clock_is_looked_at() -> None:
    """Who asks one thing after the other would have it change twice for each."""
    limits = replace(SOON, ping_idle_silence=3600.0, ping_idle_timeout=3600.0)
    async with joined(limits) as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        session = pair.server.session
        stream = pair.server.open_stream(StreamKind.HTTP, Silent())
        stream.forget()
        assert session.active is server.active is True
        await pair.until(lambda: not (session.active or server.active))
        assert pair.server.connection is server


async def test_a_connection_with_a_liveness_of_its_own_hears_at_once_that_no_stream_is_left() -> None:
    """A long-poll holds its polls by that."""
    async with joined() as pair:
        server, _ = pair.attach(pings=False)
        await anyio.wait_all_tasks_blocked()
        ask = Ask(pair.server, 1)
        assert server.active
        assert await ask.answered() == pattern(1)
        await pair.clean()
        assert pair.server.session.active is server.active is False


async def test_a_session_is_watchful_on_its_next_connection_only_for_its_streams() -> None:
    async with joined(replace(SOON, ping_active_silence=10.0, grace=60.0)) as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        stream = pair.server.open_stream(StreamKind.HTTP, Silent())
        for streams, pings in ((1, False), (1, True), (0, False)):
            if not streams:
                stream.forget()
            assert server.active
            server, _ = pair.attach(pings=pings)
            await anyio.wait_all_tasks_blocked()
            assert pair.server.connection is server
            assert pair.server.session.active is server.active is bool(streams)


async def test_a_stream_that_the_peer_opens_makes_a_session_watchful_too() -> None:
    async with joined(replace(SOON, ping_active_silence=10.0, grace=60.0)) as pair:
        _, client = pair.attach()
        await anyio.wait_all_tasks_blocked()
        assert pair.client.session.active is client.active is False
        pair.server.open_stream(StreamKind.HTTP, Silent()).send_head(b"a head")
        await anyio.wait_all_tasks_blocked()
        assert pair.client.session.active is client.active is True


async def test_a_stream_on_an_idle_session_makes_it_watchful_at_once() -> None:
    limits = replace(SOON, ping_idle_silence=3600.0, ping_idle_timeout=3600.0)
    async with joined(limits) as pair:
        server, _ = pair.attach()
        await anyio.wait_all_tasks_blocked()
        server.hold("ready")
        server.inner.stall()
        Ask(pair.server, 0)
        assert isinstance(await pair.over("server"), ConnectionLost)


async def beside_a_transfer(pair: Joined) -> Stream:
    """A small exchange, and what it makes of those that come shows with their messages. What is returned stays, so
    that no later one is alone."""
    await anyio.wait_all_tasks_blocked()
    bystander = pair.server.open_stream(StreamKind.HTTP, Silent())
    handler = Silent()
    small = pair.server.open_stream(StreamKind.HTTP, handler)
    small.send_head(b"a head")
    assert await Ask(pair.server, SIZE).answered() == pattern(SIZE)
    small.send_fin()
    await handler.until(lambda: ("data", b"", True) in handler.heard)
    assert await Ask(pair.server, 1).answered() == pattern(1)
    return bystander


def considered(link: Link) -> tuple[bool, bool, bool]:
    return link.mux.considerate, link.session.acks_soon, link.session.sends_little


async def test_a_link_is_considerate_of_small_exchanges_beside_a_transfer() -> None:
    async with joined() as pair:
        server, client = pair.attach()
        await anyio.wait_all_tasks_blocked()
        pair.server.open_stream(StreamKind.HTTP, Silent())
        for size in (1, SIZE, 1):
            assert await Ask(pair.server, size).answered() == pattern(size)
        assert considered(pair.server) == considered(pair.client) == (False, False, False)
        assert server.turn == client.turn == TURN
        await beside_a_transfer(pair)
        for link, connection in ((pair.server, server), (pair.client, client)):
            assert considered(link) == (True, True, True)
            assert connection.turn == SHORTEST_TURN


async def test_a_link_is_less_considerate_of_more_than_a_few() -> None:
    """Then they wait for one another, and the transfer would have that much less."""
    async with joined() as pair:
        server, client = pair.attach()
        await anyio.wait_all_tasks_blocked()
        pair.server.open_stream(StreamKind.HTTP, Silent())
        transfer = Ask(pair.server, 40 * SIZE)
        for _ in range(8):
            for asked in [Ask(pair.server, 1) for _ in range(4 * FEW)]:
                assert await asked.answered() == pattern(1)
        assert await transfer.answered() == pattern(40 * SIZE)
        assert await Ask(pair.server, 1).answered() == pattern(1)
        for link, connection in ((pair.server, server), (pair.client, client)):
            assert considered(link) == (True, True, False)
            assert connection.turn == SHORT_TURN


async def test_where_messages_are_dear_there_are_no_more_acks_and_none_are_counted_on() -> None:
    async with joined() as pair:
        ends = pair.attach(pings=False)
        await beside_a_transfer(pair)
        for link, connection in zip((pair.server, pair.client), ends, strict=True):
            assert considered(link) == (True, False, False)
            assert connection.turn == SHORTEST_TURN


async def test_an_ack_that_is_due_by_a_change_leaves_at_once() -> None:
    """The peer, which left little on its way, may be waiting for it; its delay is an hour here."""
    async with joined(Limits(ack_delay=3600.0)) as pair:
        pair.attach()
        streams = [await beside_a_transfer(pair)]
        owed = []
        for alone in (False, True):
            while alone and streams:
                streams.pop().reset(ResetCode.CANCEL)
            streams.append(pair.server.open_stream(StreamKind.HTTP, Silent()))
            streams[-1].send_head(b"a head")
            await anyio.wait_all_tasks_blocked()
            owed.append((considered(pair.server), pair.client.session.sent > pair.client.session.acked))
        assert owed == [((True, True, True), True), ((False, False, False), False)]


async def test_a_connection_whose_messages_go_in_turns_is_not_made_considerate() -> None:
    """Of few messages in a round trip smaller ones would bring that much less."""
    async with joined() as pair:
        server, client = pair.attach()
        server.at_once = 1
        await beside_a_transfer(pair)
        assert pair.server.mux.in_company
        assert considered(pair.server) == (False, True, False)  # what it receives does not go in turns
        assert server.turn == TURN
        assert client.turn == SHORTEST_TURN  # the other direction does not go in turns


async def test_the_next_connection_is_as_considerate_before_it_brings_anything() -> None:
    async with joined(replace(SOON, grace=60.0)) as pair:
        pair.attach()
        await beside_a_transfer(pair)
        server, client = pair.attach()
        server.at_once = 1
        await anyio.wait_all_tasks_blocked()
        assert (server.turn, pair.server.mux.considerate) == (TURN, False)
        assert (client.turn, pair.client.mux.considerate) == (SHORTEST_TURN, True)


async def test_a_connection_is_told_of_changes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """To one of somebody else's a change may mean work."""
    told: dict[Gate, list[float]] = {}

    def tell(gate: Gate, turn: float) -> None:
        told.setdefault(gate, []).append(turn)

    monkeypatch.setattr(Gate, "turn", property(lambda gate: told.get(gate, [TURN])[-1], tell))
    async with joined() as pair:
        ends = pair.attach()
        await beside_a_transfer(pair)
        for _ in range(3):
            assert await Ask(pair.server, 1).answered() == pattern(1)
    assert told == {end: [SHORTEST_TURN] for end in ends}


# -- withdrawing -------------------------------------------------------------------------------


async def test_a_stream_that_was_never_sent_vanishes() -> None:
    async with joined() as pair:
        ask = Ask(pair.server, 1000)
        assert not ask.stream.was_sent
        assert ask.stream.withdraw()
        assert not ask.stream.was_sent
        assert not ask.stream.withdraw()
        await pair.clean()


async def test_a_stream_that_was_never_sent_is_not_kept() -> None:
    # On a detached session nothing is sent for long, and callers that come and leave must cost nothing.
    async with joined() as pair:
        ask = Ask(pair.server, 1000)
        assert ask.stream.withdraw()
        handler = weakref.ref(ask)
        del ask
        gc.collect()
        assert handler() is None


async def test_whether_a_stream_was_sent_is_known_after_the_end() -> None:
    async with joined(accept=lambda stream, opened: Silent()) as pair:
        pair.attach()
        sent = Ask(pair.server, 10)
        await pair.until(lambda: pair.client.streams.by_id)
        pair.server.fence(ConnectionLost("for the test"))
        unsent = Ask(pair.server, 10)
        pair.server.end("over")
        assert sent.stream.was_sent
        assert not unsent.stream.was_sent


async def test_sent_is_told_before_the_answer() -> None:
    order: list[str] = []

    class Watch(Silent):
        def on_sent(self) -> None:
            order.append("sent")

        def on_head(self, block: bytes, fin: bool) -> None:
            order.append("head")
            self.news.set()

    async with joined() as pair:
        server, _ = pair.attach()
        server.hold("sent")
        watch = Watch()
        stream = pair.server.open_stream(StreamKind.HTTP, watch)
        stream.send_head(b"a head", fin=True)
        await watch.until(lambda: "head" in order)
        server.release()
        await anyio.wait_all_tasks_blocked()
        assert order == ["sent", "head"]


async def test_the_owner_hears_of_the_end_before_the_streams() -> None:
    """So that what was never sent goes elsewhere before anything fails."""
    order: list[str] = []

    async with joined(accept=lambda stream, opened: Silent()) as pair:
        ask = Ask(pair.server, 10)

        def ended(code: str) -> None:
            order.append(code)
            assert ask.code is None
            pair.server.end(code)

        pair.server._ended = ended
        pair.attach()
        await pair.until(lambda: pair.client.streams.by_id)
        pair.client.end("leaving")
        await ask.answered()
        assert order == ["leaving"]
