"""Which transport carries a session, and why: falling back, probing, moving a live session, and what goes wrong."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from anyio.abc import TaskStatus

from tunnelkit import TunnelClient
from tunnelkit.attaching import attach, prove
from tunnelkit.config import KIB, Limits
from tunnelkit.core.message import Kind
from tunnelkit.core.opening import ClientOpening, OpeningResult
from tunnelkit.errors import AnsweredByOther, ConnectionLost, RegistrationRefused
from tunnelkit.events import Closed, Connected, EventStream, Lost, Moved, Resumed
from tunnelkit.link import Link
from tunnelkit.net.listen import Listener
from tunnelkit.net.stream import ByteStream
from tunnelkit.origins.base import OriginExchange
from tunnelkit.proof import Purpose
from tunnelkit.transports.base import Connection

from .tunnels import Answering, News, eventually, plain
from .ways import ALL, SWIFT, Ways, expect, two_ways

pytestmark = pytest.mark.anyio

CLIENT_LOG = "tunnelkit.client"


@asynccontextmanager
async def fallen(ways: Ways, **options: object) -> AsyncIterator[tuple[TunnelClient, EventStream]]:
    """A client by the lesser way, because the better one is blocked."""
    ways.better.blocked = True
    client = ways.join(**options)
    events = client.events()
    async with client:
        await client.wait_ready(10)
        assert client.transport == "longpoll"
        await expect(events, Connected)
        yield client, events


def session_of(ways: Ways) -> str:
    (session,) = ways.server.sessions()
    return session.id


# -- falling back ------------------------------------------------------------------------------


async def test_something_in_between_answers_the_handshake(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, CLIENT_LOG):
        async with two_ways() as ways:
            ways.better.blocked = True
            client = ways.join()
            events = client.events()
            async with client:
                event = await expect(events, Connected)
                assert event == Connected(transport="longpoll", reason="a middlebox answered, with status 403")
                assert client.transport == "longpoll"
                assert await ways.get() == (200, b"fine")
    assert "falling back to longpoll: a middlebox answered, with status 403 token=" in caplog.text


@pytest.mark.parametrize("lost", ["question", "answer"])
async def test_a_first_round_trip_that_is_swallowed(lost: str, caplog: pytest.LogCaptureFixture) -> None:
    """The one place of the token is free for the same client at once, whether the server saw ATTACH or not."""
    with caplog.at_level(logging.INFO, CLIENT_LOG):
        async with two_ways(limits=replace(SWIFT, first_answer_timeout=0.1, max_clients_per_token=1)) as ways:
            if lost == "question":
                ways.better.swallows = ALL
            else:
                ways.better.mutes = ALL
            client = ways.join()
            events = client.events()
            async with client:
                event = await expect(events, Connected)
                assert event == Connected(transport="longpoll", reason="the websocket carried no answer within 0.1 s")
                await eventually(lambda: len(ways.server.sessions()) == 1)
                assert await ways.get() == (200, b"fine")
            await eventually(lambda: not ways.server.sessions())
            assert not ways.budget.used
    assert "falling back to longpoll: the websocket carried no answer within 0.1 s token=" in caplog.text


async def test_a_handshake_that_is_swallowed() -> None:
    """From the moment on that something took the connection, the clock is short."""

    async def swallow(stream: ByteStream) -> None:
        await stream.receive()
        await anyio.sleep_forever()

    async with two_ways() as ways, serve(swallow) as port:
        options = {"token": "a-token-for-the-tests", "origin": Answering(), "limits": ways.limits}
        transports = ["websocket", ways.other]
        async with TunnelClient(f"ws://127.0.0.1:{port}", transport=transports, **options) as client:  # type: ignore[arg-type]
            await client.wait_ready(10)
            assert client.transport == "longpoll"
            assert await ways.get() == (200, b"fine")


@asynccontextmanager
async def serve(handler: object) -> AsyncIterator[int]:
    listener = Listener.bind("127.0.0.1:0")
    async with anyio.create_task_group() as group:
        await group.start(lambda *, task_status: listener.serve(handler, task_status=task_status))  # type: ignore[arg-type]
        yield listener.addresses[0][1]
        group.cancel_scope.cancel()


async def test_a_lost_connection_whose_way_was_closed_meanwhile_resumes_on_the_other() -> None:
    async with two_ways() as ways, ways.join() as client:
        events = client.events()
        await client.wait_ready(10)
        assert client.transport == "websocket"
        assert await ways.get() == (200, b"fine")
        session = session_of(ways)
        ways.block()
        event = await expect(events, Resumed)
        assert isinstance(event, Resumed)
        assert (event.transport, event.reason) == ("longpoll", "a middlebox answered, with status 403")
        assert session_of(ways) == session


# -- moving ------------------------------------------------------------------------------------


async def test_a_session_moves_with_what_runs_on_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, CLIENT_LOG):
        async with two_ways() as ways:
            released, arrived = anyio.Event(), anyio.Event()

            async def wait(exchange: OriginExchange) -> None:
                arrived.set()
                await released.wait()
                await plain(exchange)

            async with fallen(ways, origin=Answering(wait)) as (client, events):
                session = session_of(ways)
                caller = ways.call()
                await caller.send("GET", "/_token/a-token-for-the-tests/")
                await arrived.wait()
                ways.better.clear()
                event = await expect(events, Moved, Lost)
                assert event == Moved(transport="websocket", reason="it carries messages again")
                assert client.transport == "websocket"
                released.set()
                assert await caller.answer() == (200, b"fine")
                assert session_of(ways) == session
                assert [entry.transport for entry in ways.server._running.table] == ["websocket"]  # type: ignore[union-attr]
    assert "moved to websocket: it carries messages again token=" in caplog.text


async def test_the_round_trip_before_it_has_16_kib_each_way() -> None:
    async with two_ways() as ways:
        async with fallen(ways) as (_, events):
            ways.better.clear()
            await expect(events, Moved)
        assert ways.better.taken[-1][:2] == [(Kind.PING, 24 + 16 * KIB), (Kind.ATTACH, 24 + 32)]


@pytest.mark.parametrize("hole", ["up", "down", "handshake"])
async def test_a_probe_into_a_black_hole_does_not_touch_the_session(hole: str) -> None:
    async with two_ways(limits=replace(SWIFT, probe_timeout=0.1)) as ways, fallen(ways) as (client, events):
        (taken,) = ways.other.taken
        await anyio.wait_all_tasks_blocked()  # the session's own first words are out
        before = list(taken)
        if hole == "up":
            ways.better.swallows = ALL
        elif hole == "down":
            ways.better.mutes = ALL
        else:
            ways.better.silent = True
        ways.better.blocked = False
        dials = len(ways.better.dials)
        await eventually(lambda: len(ways.better.dials) >= dials + 3)
        assert taken == before
        assert client.transport == "longpoll"
        assert len(ways.other.dials) == 1
        assert await ways.get() == (200, b"fine")
        ways.better.clear()
        assert isinstance(await expect(events, Lost, Moved, Resumed), Moved)


@pytest.mark.parametrize(
    "answer",
    [
        RegistrationRefused(409, "stale_epoch", "a later connection took this session"),
        RegistrationRefused(410, "unknown_session", "another server"),
        RegistrationRefused(403, "forbidden", "another server"),
        AnsweredByOther(502, "something in between"),
        ConnectionLost("cut"),
        ZeroDivisionError("a bug of the transport"),
    ],
    ids=lambda answer: type(answer).__name__,
)
async def test_a_probe_that_is_refused_changes_nothing(answer: Exception) -> None:
    async with two_ways() as ways, fallen(ways) as (client, events):
        refused = 0

        def refuse() -> None:
            nonlocal refused
            if refused < 3:
                refused += 1
                raise answer

        ways.better.on_dial = refuse
        ways.better.clear()
        assert isinstance(await expect(events, Moved, Lost, Closed), Moved)
        assert refused == 3
        assert len(ways.other.dials) == 1
        assert client.transport == "websocket"


async def test_the_end_of_the_old_connection_during_the_move_is_no_loss() -> None:
    """The server drops it before its answer to ATTACH arrives."""
    async with two_ways() as ways, fallen(ways) as (_, events):
        ways.better.holds = "down"
        ways.better.clear()
        await eventually(lambda: ways.better.held and ways.other.clients[0]._lost)
        await anyio.wait_all_tasks_blocked()
        ways.better.release()
        assert isinstance(await expect(events, Moved, Lost), Moved)
        assert len(ways.other.dials) == 1
        assert await ways.get() == (200, b"fine")


async def test_the_server_hears_of_nothing_later_than_what_attach_says() -> None:
    """While ATTACH is under way the old connection still brings bytes. Were they acknowledged there, ATTACH would
    tell less than the server knows, which means that the ends disagree about the past."""
    body = bytes(range(256)) * 64
    bodies: list[bytes] = []

    async def take(exchange: OriginExchange) -> None:
        news, taken = News(exchange), bytearray()
        while (piece := exchange.body_waiting) != b"":
            if piece is None:
                await news.wait()
                continue
            taken += piece
            exchange.body_taken()
        bodies.append(bytes(taken))
        await plain(exchange)

    async with two_ways() as ways, fallen(ways, origin=Answering(take)) as (client, events):
        assert client._supervisor._session is not None
        session = client._supervisor._session.link.session
        ways.better.holds = "up"
        ways.better.clear()
        await eventually(lambda: ways.better.held)
        received = session.received
        caller = ways.call()
        await caller.send("PUT", "/_token/a-token-for-the-tests/", body=body)
        await eventually(lambda: session.received >= received + len(body))
        sent = len(ways.other.taken[0])
        await anyio.sleep(2 * ways.limits.ack_delay)  # an ack would be due by now
        assert len(ways.other.taken[0]) == sent
        ways.better.release()
        assert isinstance(await expect(events, Moved, Lost), Moved)
        assert await caller.answer() == (200, b"fine")
        assert bodies == [body]


@pytest.mark.parametrize("lost", ["question", "answer", "connection"])
async def test_a_move_that_is_never_answered_is_a_loss_like_any_other(lost: str) -> None:
    async with two_ways() as ways, fallen(ways) as (_, events):
        session = session_of(ways)
        if lost == "question":
            ways.better.swallows = frozenset({Kind.ATTACH})
        elif lost == "answer":
            ways.better.mutes = frozenset({Kind.ATTACH})
        else:
            ways.better.holds = "up"
        ways.better.blocked = False
        if lost == "connection":
            await eventually(lambda: ways.better.held)
            ways.better.holds = ""
            ways.better.cut()
        event = await expect(events, Lost, Moved)
        assert isinstance(event, Lost)
        resumed = await expect(events, Resumed)
        assert isinstance(resumed, Resumed)
        assert resumed.transport == "longpoll"
        assert session_of(ways) == session
        assert await ways.get() == (200, b"fine")
        ways.better.clear()
        await expect(events, Moved)


async def test_a_transport_that_fails_soon_after_the_move_is_left_at_once(caplog: pytest.LogCaptureFixture) -> None:
    limits = replace(SWIFT, probe_first=0.2, probe_cap=60.0)
    with caplog.at_level(logging.INFO, CLIENT_LOG):
        async with two_ways(limits=limits) as ways, fallen(ways) as (_, events):
            session = session_of(ways)
            ways.better.clear()
            await expect(events, Moved)
            dials = len(ways.better.dials)
            ways.better.cut()
            event = await expect(events, Resumed)
            assert isinstance(event, Resumed)
            assert event.transport == "longpoll"
            assert event.reason == "the websocket was lost: the connection was cut"
            assert len(ways.better.dials) == dials
            assert session_of(ways) == session
    assert "falling back to longpoll: the websocket was lost: the connection was cut token=" in caplog.text


async def test_a_loss_makes_the_probe_that_is_under_way_void() -> None:
    async with two_ways(limits=replace(SWIFT, probe_timeout=60.0)) as ways, fallen(ways) as (client, events):
        assert await ways.get() == (200, b"fine")
        ways.better.swallows = ALL
        ways.better.blocked = False
        await eventually(lambda: ways.better.taken)
        ways.better.clear()
        ways.other.cut()
        assert isinstance(await expect(events, Lost), Lost)
        assert isinstance(await expect(events, Resumed, Moved), Resumed)
        await expect(events, Moved)
        assert client.transport == "websocket"


# -- the end, in the midst of it ---------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "drain", "cancel"])
@pytest.mark.parametrize("during", ["dial", "proof", "question", "answer"])
async def test_ending_in_the_midst_leaves_nothing_behind(during: str, end: str) -> None:
    """``question``: ATTACH is under way and the server still serves the old connection; ``answer``: it does not."""
    limits = replace(SWIFT, first_answer_timeout=60.0, probe_timeout=60.0, drain_timeout=0.1)
    async with two_ways(limits=limits) as ways:
        before = len(anyio.get_running_tasks())
        ways.better.blocked = True
        client = ways.join()
        async with anyio.create_task_group() as group:
            group.start_soon(client.run)
            await client.wait_ready(10)
            await reach(ways, during)
            group.start_soon(release_once_closing, ways, client)
            with anyio.fail_after(10):
                if end == "close":
                    client.close()
                elif end == "drain":
                    await client.drain()
                else:
                    group.cancel_scope.cancel()
        await eventually(lambda: not ways.server.sessions())
        await eventually(lambda: not ways.budget.used)
        await eventually(lambda: client._supervisor._budget.used == 0)
        await eventually(lambda: len(anyio.get_running_tasks()) == before)


async def reach(ways: Ways, stage: str) -> None:
    """Let the better way go so far, and no further."""
    better = ways.better
    if stage == "dial":
        better.silent = True
    elif stage == "proof":
        better.swallows = ALL
    elif stage == "question":
        better.swallows = frozenset({Kind.ATTACH})
    else:
        better.holds = "down"
    dials, connections = len(better.dials), len(better.taken)
    better.blocked = False
    await eventually(lambda: len(better.dials) > dials)
    if stage == "dial":
        return
    wanted = Kind.PING if stage == "proof" else Kind.ATTACH
    await eventually(lambda: len(better.taken) > connections and better.took(wanted))
    if stage == "answer":
        await eventually(lambda: better.held)


async def release_once_closing(ways: Ways, client: TunnelClient) -> None:
    with anyio.CancelScope(shield=True):
        await eventually(lambda: client._supervisor._closing)
        ways.better.release()


async def test_a_program_that_is_cancelled_without_a_word_leaves_no_connection() -> None:
    async with two_ways(limits=replace(SWIFT, first_answer_timeout=60.0)) as ways:
        ways.better.blocked = True
        client = ways.join()
        async with anyio.create_task_group() as group:
            group.start_soon(client._supervisor.run)
            await client._supervisor.ready.wait()
            await reach(ways, "question")
            group.cancel_scope.cancel()
        assert ways.better.clients[-1]._lost
        assert ways.other.clients[-1]._lost


async def test_a_session_that_ends_while_its_way_is_proved_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    async def prove_too_late(connection: Connection, opening: ClientOpening, limits: Limits) -> None:
        await prove(connection, opening, limits)
        session = client._supervisor._session
        assert session is not None
        session.link.end("for_the_test")

    async with two_ways() as ways, fallen(ways) as (client, events):
        monkeypatch.setattr("tunnelkit.moves.prove", prove_too_late)
        ways.better.clear()
        assert isinstance(await expect(events, Lost, Moved), Lost)
        assert isinstance(await expect(events, Connected, Moved, Resumed), Connected)
        assert not ways.better.took(Kind.ATTACH, 0)  # later ones are the next session's
        monkeypatch.undo()


async def test_a_farewell_that_is_lost_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose(connection: Connection, epoch: int, received: int, code: str) -> None:
        raise ConnectionLost("cut")

    monkeypatch.setattr("tunnelkit.moves.part", lose)
    async with two_ways(limits=replace(SWIFT, first_answer_timeout=60.0)) as ways:
        async with fallen(ways) as (client, _), anyio.create_task_group() as group:
            await reach(ways, "answer")
            group.start_soon(release_once_closing, ways, client)
            client.close()
        assert ways.better.clients[-1]._lost


async def test_ends_that_disagree_about_the_past_part_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to ATTACH acknowledges what was never sent."""

    async def attach_to_a_liar(link: Link, connection: Connection, opening: ClientOpening) -> OpeningResult:
        opened = await attach(link, connection, opening)
        assert opened.attached is not None
        return replace(opened, attached=replace(opened.attached, peer_ack=2**40))

    async with two_ways() as ways, fallen(ways) as (_, events):
        session = session_of(ways)
        monkeypatch.setattr("tunnelkit.moves.attach", attach_to_a_liar)
        ways.better.clear()
        lost = await expect(events, Lost)
        assert lost == Lost(reason="the session is over: bad_ack")
        monkeypatch.undo()
        await expect(events, Connected)
        await eventually(lambda: session not in [each.id for each in ways.server.sessions()])
        assert await ways.get() == (200, b"fine")


# -- what a transport is given -----------------------------------------------------------------


async def test_a_task_of_a_transport_that_fails_costs_nothing_but_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def fail_late(task_status: TaskStatus[int]) -> None:
        task_status.started(7)
        raise ZeroDivisionError

    async def fail_early(task_status: TaskStatus[int]) -> None:
        raise KeyError("never started")

    async with two_ways() as ways, ways.join() as client:
        await client.wait_ready(10)
        tasks = ways.better.dials[0].tasks
        tasks.start_soon(fail)
        assert await tasks.start(fail_late) == 7
        with pytest.raises(KeyError):
            await tasks.start(fail_early)
        await anyio.wait_all_tasks_blocked()
        assert await ways.get() == (200, b"fine")
        tasks.start_soon(anyio.sleep_forever)  # and one that stays is ended with the client
    assert caplog.text.count("a task of a transport failed") == 2


async def test_each_connection_has_proofs_of_its_own() -> None:
    async with two_ways() as ways, fallen(ways) as (_, events):
        ways.better.clear()
        await expect(events, Moved)
        ways.better.cut()
        await expect(events, Resumed)
        for way in (ways.better, ways.other):
            pairs = zip(way.provers, way.proofs, strict=True)
            assert all(prover.check(proof, Purpose.POLL, 1) for prover, proof in pairs)
        every = ways.better.proofs + ways.other.proofs
        assert len(set(every)) == len(every) >= 3
