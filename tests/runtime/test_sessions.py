"""The server's table: offers, attaching, grace, limits, and what each session holds of the process's memory."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from anyio.abc import TaskGroup

from tunnelkit.admission import Admission
from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.core.budget import Budget
from tunnelkit.core.credentials import Credentials
from tunnelkit.core.message import Kind, build, encode_bye, split_header
from tunnelkit.core.metrics import Metrics
from tunnelkit.core.opening import ClientOpening
from tunnelkit.core.registry import Registry
from tunnelkit.core.tokens import token_digest
from tunnelkit.errors import ConnectionLost
from tunnelkit.event_stream import Events
from tunnelkit.handshake import Grant, Handshake, Refusal, Resume
from tunnelkit.net.peer import Peer
from tunnelkit.net.timers import Timers
from tunnelkit.proof import Purpose, attach_tag, epoch_key, proof
from tunnelkit.public_names import PublicNames
from tunnelkit.registration import Granted, Registration
from tunnelkit.server_session import ServerSession
from tunnelkit.sessions import SessionTable
from tunnelkit.transports.base import Accepted
from tunnelkit.transports.memory import MemoryConnection, memory_pair

from .tunnels import TOKEN, eventually

pytestmark = pytest.mark.anyio

PEER = Peer(address="192.0.2.1", port=1000)

# A grace and an opening that a test may wait for.
SHORT = replace(
    DEFAULT_LIMITS,
    ping_active_silence=0.01,
    ping_active_timeout=0.01,
    ping_idle_silence=60.0,
    dial_timeout=0.01,
    retry_cap_resumable=0.01,
    grace=0.05,
    opening_timeout=0.05,
    silent_client_ping=0.05,
)


class Client:
    """What a client knows of its session, and its end of the present connection."""

    def __init__(self, here: Here, grant: Grant) -> None:
        assert grant.resume_key is not None
        self.here = here
        self.id = grant.session_id
        self.key = grant.resume_key
        self.epoch = 0
        self.connection: MemoryConnection | None = None

    def resume(self, epoch: int = 0, purpose: Purpose = Purpose.RESUME) -> Resume:
        epoch = epoch or self.epoch + 1
        tag = proof(epoch_key(self.key, epoch), purpose, self.id, epoch)
        return Resume(session_id=self.id, epoch=epoch, proof=tag)

    async def attach(self, accepted: Accepted, *, epoch: int = 0) -> None:
        """Serve an accepted offer, and attach on its connection."""
        self.epoch = epoch or self.epoch + 1
        self.connection, server = memory_pair()
        self.here.group.start_soon(accepted.serve, server)
        opening = ClientOpening(self.epoch, attach_tag(self.key, self.id, self.epoch), self.here.limits)
        await self.connection.send(opening.attach_message(0))
        with anyio.fail_after(10):
            result = opening.receive_message(await self.connection.receive())
        assert result.attached is not None

    @property
    def session(self) -> ServerSession:
        return next(session for session in self.here.table if session.id == self.id)


class Here:
    """A table with all that it stands on."""

    def __init__(self, group: TaskGroup, timers: Timers, limits: Limits) -> None:
        self.group = group
        self.timers = timers
        self.limits = limits
        self.budget = Budget(limits.max_buffered_bytes)
        self.started: list[ServerSession] = []
        self.decisions: list[object] = []
        numbers = itertools.count(1)
        self.registry: Registry = Registry(limits, started_at=0.0, pick=lambda n: 0)
        self.table = SessionTable(
            limits=limits,
            admission=Admission(
                limits=limits,
                credentials=Credentials({}, key=bytes(32)),
                listed=frozenset(),
                listed_only=False,
                trusts_proxies=False,
            ),
            registry=self.registry,
            timers=timers,
            budget=self.budget,
            execute=self._execute,
            make_id=lambda: f"n0-{next(numbers)}",
            make_key=lambda: bytes(32),
            started=self.started.append,
            names=PublicNames(limits=limits, base=None, public=None, bound={}, base_path=""),
            metrics=Metrics(()),
            events=Events(),
        )

    def _execute(self, decisions: Iterable[object]) -> None:
        self.decisions += decisions

    def handshake(self, **more: object) -> Handshake:
        return replace(Handshake(token=TOKEN), **more)  # type: ignore[arg-type]

    async def offered(self, peer: Peer = PEER, **more: object) -> Accepted:
        answer = await self.table.offer(self.handshake(**more), peer)
        assert not isinstance(answer, Refusal), answer
        return answer

    async def refused(self, **more: object) -> str:
        answer = await self.table.offer(self.handshake(**more), PEER)
        assert isinstance(answer, Refusal)
        return answer.code

    async def client(self, peer: Peer = PEER, **more: object) -> Client:
        """A client that registered."""
        accepted = await self.offered(peer, **more)
        client = Client(self, accepted.grant)
        await client.attach(accepted)
        return client

    async def empty(self) -> None:
        await eventually(lambda: not len(self.table) and not self.budget.used and not self.table._openings)
        assert not self.table._by_token


@asynccontextmanager
async def here(limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[Here]:
    timers = Timers()
    async with anyio.create_task_group() as group:
        await group.start(timers.run)
        yield Here(group, timers, limits)
        group.cancel_scope.cancel()


async def test_a_session_comes_and_goes() -> None:
    async with here() as world:
        client = await world.client()
        session = client.session
        assert session.attached
        assert world.started == [session]
        assert (session.transport, session.address) == ("memory", "192.0.2.1:1000")
        assert TOKEN not in repr(session)
        assert world.registry.attached(token_digest(TOKEN)) == [session]
        world.table.end(session, "over")
        world.table.end(session, "twice")
        assert session.ended == "over"
        assert world.registry.attached(token_digest(TOKEN)) == []
        await world.empty()


async def test_a_client_that_says_bye_is_gone_at_once() -> None:
    async with here() as world:
        client = await world.client()
        session = client.session
        assert client.connection is not None
        await client.connection.send(build(Kind.BYE, 1, 0, 0, (encode_bye("closed"),)))
        await eventually(lambda: session.ended)
        assert session.ended == "closed"
        await world.empty()


# -- grace and resume --------------------------------------------------------------------------


async def test_a_lost_session_is_kept_for_its_grace() -> None:
    async with here(SHORT) as world:
        client = await world.client()
        session = client.session
        assert client.connection is not None
        client.connection.abort()
        await eventually(lambda: session.ended)
        assert session.ended == "grace_expired"
        assert session.lost_at is not None
        assert anyio.current_time() - session.lost_at >= SHORT.grace
        await world.empty()


async def test_a_resume_ends_the_grace() -> None:
    async with here() as world:
        client = await world.client()
        session = client.session
        assert client.connection is not None
        client.connection.abort()
        await eventually(lambda: session.grace is not None)
        assert session.idle(anyio.current_time()) >= 0
        await client.attach(await world.offered(resume=client.resume()))
        assert session.attached
        assert session.grace is None
        assert len(world.started) == 1
        assert world.budget.used == world.limits.replay_floor


async def test_a_resume_takes_over_before_the_loss_is_noticed() -> None:
    async with here() as world:
        client = await world.client()
        old = client.connection
        assert old is not None
        await client.attach(await world.offered(resume=client.resume()))
        with pytest.raises(ConnectionLost):
            await old.receive()
        await anyio.wait_all_tasks_blocked()
        assert client.session.attached
        assert client.session.grace is None


async def test_a_server_task_that_is_cancelled_leaves_a_grace() -> None:
    """A transport may end its own tasks: the session must not stay for ever."""
    async with here(SHORT) as world:
        accepted = await world.offered()
        client = Client(world, accepted.grant)
        async with anyio.create_task_group() as group:
            outer, world.group = world.group, group
            await client.attach(accepted)
            world.group = outer
            group.cancel_scope.cancel()
        await world.empty()


async def test_resumes_that_are_refused() -> None:
    async with here() as world:
        client = await world.client()
        assert await world.refused(resume=client.resume(epoch=1)) == "stale_epoch"
        assert await world.refused(resume=replace(client.resume(), proof=bytes(32))) == "unknown_session"
        assert await world.refused(resume=replace(client.resume(), session_id="n0-99")) == "unknown_session"
        assert await world.refused(resume=client.resume(), token=TOKEN + "x") == "unknown_session"
        world.table.end(client.session, "over")
        assert await world.refused(resume=client.resume()) == "unknown_session"


async def test_of_two_resumes_the_later_epoch_wins() -> None:
    async with here() as world:
        client = await world.client()
        first = await world.offered(resume=client.resume(2))
        second = await world.offered(resume=client.resume(3))
        await client.attach(second, epoch=3)
        late, server = memory_pair()
        world.group.start_soon(first.serve, server)
        opening = ClientOpening(2, attach_tag(client.key, client.id, 2), world.limits)
        await late.send(opening.attach_message(0))
        with anyio.fail_after(10), pytest.raises(ConnectionLost):
            await late.receive()
        assert client.session.epoch == 3
        assert client.session.attached


async def test_a_resume_that_cannot_go_on_ends_the_session() -> None:
    async with here() as world:
        client = await world.client()
        session = client.session
        accepted = await world.offered(resume=client.resume())
        connection, server = memory_pair()
        world.group.start_soon(accepted.serve, server)
        opening = ClientOpening(2, attach_tag(client.key, client.id, 2), world.limits)
        await connection.send(opening.attach_message(1_000_000))  # more than was ever sent
        await eventually(lambda: session.ended)
        assert session.ended == "bad_ack"
        await world.empty()


# -- openings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("served", [True, False])
async def test_an_opening_is_superseded_by_the_next_of_the_same_client(served: bool) -> None:
    """Its ATTACH may have been swallowed: it must not hold the place of the token until it expires."""
    async with here(replace(DEFAULT_LIMITS, max_clients_per_token=1)) as world:
        first = await world.offered(instance="one")
        connection, server = memory_pair()
        if served:
            world.group.start_soon(first.serve, server)
            await anyio.wait_all_tasks_blocked()
        assert await world.refused(instance="two") == "too_many_clients"
        second = await world.offered(instance="one")
        if not served:
            world.group.start_soon(first.serve, server)
        with anyio.fail_after(10), pytest.raises(ConnectionLost):
            await connection.receive()
        client = Client(world, second.grant)
        await client.attach(second)
        assert client.session.attached
        assert world.budget.used == world.limits.replay_floor
        assert not world.table._openings


@pytest.mark.parametrize("how", ["abandon", "expire", "lost", "wrong", "late"])
async def test_an_opening_that_comes_to_nothing(how: str) -> None:
    async with here(SHORT if how in ("expire", "late") else DEFAULT_LIMITS) as world:
        accepted = await world.offered()
        assert world.budget.used == world.limits.replay_floor
        connection, server = memory_pair()
        if how == "abandon":
            accepted.abandon()
        elif how == "late":
            await world.empty()
            world.group.start_soon(accepted.serve, server)
            with anyio.fail_after(10), pytest.raises(ConnectionLost):
                await connection.receive()
        else:
            world.group.start_soon(accepted.serve, server)
            if how == "lost":
                connection.abort()
            elif how == "wrong":
                opening = ClientOpening(1, bytes(32), world.limits)
                await connection.send(opening.attach_message(0))
            if how != "lost":
                with anyio.fail_after(10), pytest.raises(ConnectionLost):
                    await connection.receive()
        await world.empty()
        assert world.started == []
        accepted.abandon()
        assert not world.budget.used


async def test_a_round_trip_before_attaching_changes_nothing() -> None:
    async with here() as world:
        accepted = await world.offered()
        client = Client(world, accepted.grant)
        connection, server = memory_pair()
        world.group.start_soon(accepted.serve, server)
        opening = ClientOpening(1, attach_tag(client.key, client.id, 1), world.limits)
        await connection.send(opening.ping_message(bytes(16_000)))
        with anyio.fail_after(10):
            assert opening.receive_message(await connection.receive()).verified
        assert len(world.table) == 0
        await connection.send(opening.attach_message(0))
        with anyio.fail_after(10):
            assert opening.receive_message(await connection.receive()).attached
        assert client.session.attached


async def test_an_opening_whose_session_ended_meanwhile() -> None:
    async with here() as world:
        client = await world.client()
        accepted = await world.offered(resume=client.resume())
        world.table.end(client.session, "over")
        connection, server = memory_pair()
        world.group.start_soon(accepted.serve, server)
        opening = ClientOpening(2, attach_tag(client.key, client.id, 2), world.limits)
        await connection.send(opening.attach_message(0))
        with anyio.fail_after(10), pytest.raises(ConnectionLost):
            await connection.receive()
        await world.empty()


# -- several sessions --------------------------------------------------------------------------


async def test_the_same_instance_supersedes_itself() -> None:
    async with here() as world:
        old = (await world.client(instance="one")).session
        other = (await world.client(instance="two")).session
        stranger = (await world.client(instance="one", token=TOKEN + "x")).session
        await world.offered(instance="one")
        assert old.ended == "superseded"
        assert other.ended is None
        assert stranger.ended is None


async def test_a_session_that_is_given_up() -> None:
    async with here() as world:
        client = await world.client()
        session = client.session
        forged = replace(client.resume(2, Purpose.GIVE_UP), proof=bytes(32))
        await world.offered(gives_up=forged)
        assert session.ended is None
        await world.offered(gives_up=client.resume(2, Purpose.GIVE_UP))
        assert session.ended == "given_up"


async def test_sessions_and_openings_are_counted() -> None:
    async with here(replace(DEFAULT_LIMITS, max_sessions=2)) as world:
        client = await world.client()
        opening = await world.offered()
        assert await world.refused() == "overloaded"
        opening.abandon()
        opening = await world.offered()
        assert await world.refused() == "overloaded"
        await client.attach(await world.offered(resume=client.resume()))  # a resume takes no place
        world.table.end(client.session, "over")
        await world.offered()


async def test_a_session_needs_the_floor_of_its_replay_buffer() -> None:
    limits = replace(DEFAULT_LIMITS, max_buffered_bytes=2 * DEFAULT_LIMITS.replay_floor + 100)
    async with here(limits) as world:
        first = await world.client()
        await world.client()
        assert world.budget.used == 2 * limits.replay_floor
        assert await world.refused() == "overloaded"
        world.table.end(first.session, "over")
        await world.client()


async def test_a_silent_client_makes_place_for_a_newcomer() -> None:
    async with here(replace(SHORT, max_clients_per_token=1, grace=60.0)) as world:
        client = await world.client()
        await world.offered(token=TOKEN + "x")  # others are not counted
        session = client.session
        assert client.connection is not None
        answers: list[Accepted | Refusal] = []

        async def newcomer() -> None:
            answers.append(await world.table.offer(world.handshake(), PEER))

        async with anyio.create_task_group() as group:  # two at once, and one place
            group.start_soon(newcomer)
            group.start_soon(newcomer)
        assert sum(isinstance(answer, Refusal) for answer in answers) == 1
        assert not session.attached
        assert session.ended is None


@asynccontextmanager
async def answering(client: Client) -> AsyncIterator[None]:
    """It answers one ping."""
    assert client.connection is not None
    connection = client.connection

    async def answer() -> None:
        message = await connection.receive()
        assert split_header(message)[0] == Kind.PING
        await connection.send(build(Kind.PONG, 1, 0, 0, (message[24:],)))

    async with anyio.create_task_group() as group:
        group.start_soon(answer)
        yield


async def test_a_client_that_answers_keeps_its_place() -> None:
    async with here(replace(DEFAULT_LIMITS, max_clients_per_token=1)) as world:
        client = await world.client()
        assert client.connection is not None
        async with answering(client):
            assert await world.refused() == "too_many_clients"
        assert client.session.attached


async def test_a_client_that_drains_makes_place_for_its_successor() -> None:
    """The registry has the word on who counts: what runs on the old one goes on, and nothing new comes to it."""
    async with here(replace(DEFAULT_LIMITS, max_clients_per_token=1)) as world:
        client = await world.client()
        world.table._retire(client.session)
        await world.client()
        assert client.session.attached
        assert len(world.table) == 2


async def test_a_token_that_is_not_listed_any_more_is_refused() -> None:
    """A reload may take it off the list while its handshake is judged."""
    async with here() as world:
        world.registry.relist(frozenset(), listed_only=True)
        assert await world.refused() == "forbidden"


async def test_a_newcomer_is_told_when_to_ask_again() -> None:
    """When an opening in its way has attached or died; else as soon as the clients would be asked anew."""
    limits = replace(SHORT, max_clients_per_token=1, opening_timeout=7.0)
    async with here(limits) as world:
        opening = await world.offered()
        answer = await world.table.offer(world.handshake(), PEER)
        assert isinstance(answer, Refusal)
        assert answer.retry_after is not None
        assert 0 < answer.retry_after <= 7.0
        client = Client(world, opening.grant)
        await client.attach(opening)
        async with answering(client):
            answer = await world.table.offer(world.handshake(), PEER)
        assert isinstance(answer, Refusal)
        assert answer.retry_after == limits.silent_client_ping


# -- draining and the end ----------------------------------------------------------------------


async def test_a_draining_table_takes_resumes_alone() -> None:
    async with here() as world:
        client = await world.client()
        world.table.drain()
        assert await world.refused() == "draining"
        await client.attach(await world.offered(resume=client.resume()))
        assert client.session.attached


async def test_a_drain_that_begins_while_an_offer_is_judged() -> None:
    async with here() as world:

        async def judge(registration: Registration) -> Granted:
            world.table.drain()
            return Granted()

        world.table.admission._authorise = judge
        assert await world.refused() == "draining"
        assert not world.budget.used


async def test_the_end_of_all() -> None:
    async with here() as world:
        clients = [await world.client() for _ in range(3)]
        left = anyio.Event()
        world.table.end_all("server_closing")
        world.table.all_left(left.set)
        with anyio.fail_after(10):
            for client in clients:
                assert client.connection is not None
                with pytest.raises(ConnectionLost):
                    await _read_on(client.connection)
            await left.wait()
        await world.empty()


async def _read_on(connection: MemoryConnection) -> None:
    while True:
        await connection.receive()


async def test_the_end_of_some_tokens() -> None:
    async with here() as world:
        mine, other = (await world.client()).session, (await world.client(token=TOKEN + "x")).session
        world.table.end_tokens({token_digest(TOKEN)}, "token_withdrawn")
        assert mine.ended == "token_withdrawn"
        assert other.ended is None


@pytest.mark.parametrize(
    ("address", "warns"), [("192.0.2.1", False), ("192.0.2.2", True)], ids=["the same", "another"]
)
async def test_a_second_client_from_another_address_is_a_warning(
    address: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever took a token elsewhere is seen, though every policy may let it in."""
    async with here() as world:
        first = await world.client()
        second = await world.client(Peer(address=address, port=2000))
        assert first.session.attached
        lines = [each for each in caplog.records if "from another address" in each.getMessage()]
        assert bool(lines) is warns
        assert all(line.levelno == logging.WARNING and TOKEN not in line.getMessage() for line in lines)
        assert second.connection is not None
        caplog.clear()
        second.connection.abort()
        await eventually(lambda: not second.session.attached)
        await second.attach(await world.offered(resume=second.resume()))
        assert "from another address" not in caplog.text  # it is no newcomer


async def test_addresses_of_clients() -> None:
    async with here() as world:
        session = (await world.client()).session
        session.peer = Peer(address="::1", port=7)
        assert session.address == "[::1]:7"
        session.peer = Peer(address="192.0.2.1", port=7, forwarded_for="198.51.100.7")
        assert session.address == "198.51.100.7"
