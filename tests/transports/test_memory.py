"""The memory transport: its faults, and its two halves. tests/testing has the conformance kit run on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

from tunnelkit.errors import ConfigError, ConnectionLost, DialError, RegistrationRefused
from tunnelkit.handshake import Grant, Handshake, Refusal
from tunnelkit.net.stream import ByteStream
from tunnelkit.transports.base import Accepted, Connection, DialRequest, Peer
from tunnelkit.transports.memory import Faults, MemoryTransport, memory_pair

from .conformance import lost, pump
from .stubs import PROVER, By, dial_request

pytestmark = pytest.mark.anyio

TOKEN = "0123456789abcdef"


async def test_delayed_messages_arrive_in_order_and_late() -> None:
    with anyio.fail_after(10):
        one, other = memory_pair(Faults(delay=0.05))
        before = anyio.current_time()
        await pump(one, [b"1", b"2"])
        assert [await other.receive(), await other.receive()] == [b"1", b"2"]
        assert anyio.current_time() - before >= 0.049  # uvloop's clock counts whole milliseconds


async def test_reordered_messages_overtake_each_other() -> None:
    with anyio.fail_after(10):
        one, other = memory_pair(Faults(reorder=True))
        assert not one.ordered
        messages = [bytes([i]) for i in range(50)]
        await pump(one, messages)
        got = [await other.receive() for _ in messages]
        assert got != messages
        assert sorted(got) == messages


async def test_duplicated_messages_arrive_twice() -> None:
    with anyio.fail_after(10):
        one, other = memory_pair(Faults(duplicate=True))
        await pump(one, [b"1", b"2"])
        assert [await other.receive() for _ in range(4)] == [b"1", b"1", b"2", b"2"]


# -- the transport -------------------------------------------------------------------------------


class Acceptance:
    """An ``Accepted`` whose connection a test holds until it is released."""

    def __init__(self) -> None:
        self.grant = Grant(session_id="n-1")
        self.prover = PROVER
        self.connection: Connection | None = None
        self.serving = anyio.Event()
        self.abandoned = False

    async def serve(self, connection: Connection) -> None:
        self.connection = connection
        self.serving.set()
        with suppress(ConnectionLost):
            while True:
                await connection.send(await connection.receive())

    def abandon(self) -> None:
        self.abandoned = True


class Server:
    """Offers that a test scripts."""

    def __init__(self) -> None:
        self.answer: Accepted | Refusal | Exception = Acceptance()
        self.gate = anyio.Event()
        self.gate.set()

    async def offer(self, handshake: Handshake, peer: Peer) -> Accepted | Refusal:
        await self.gate.wait()
        assert handshake.token == TOKEN
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def no_dialler(host: str, port: int, *, tls: bool) -> ByteStream:
    raise AssertionError("a memory transport dials nothing")


def request(timeout: float = 5) -> DialRequest:
    return dial_request(Handshake(token=TOKEN), By(no_dialler), timeout=timeout)


@asynccontextmanager
async def listening(transport: MemoryTransport, server: Server) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: transport.listen(server.offer, task_status=task_status))
        yield
        tasks.cancel_scope.cancel()


async def test_a_dial_reaches_the_listening_server() -> None:
    transport, server = MemoryTransport(), Server()
    with anyio.fail_after(10):
        async with listening(transport, server):
            connection, grant = await transport.dial(request())
            assert grant.session_id == "n-1"
            await pump(connection, [b"hello"])
            assert await connection.receive() == b"hello"
            await connection.aclose()


async def test_a_refusal_reaches_the_client() -> None:
    transport, server = MemoryTransport(), Server()
    server.answer = Refusal(status=401, code="unauthorized", detail="wrong password", retry_after=3)
    with anyio.fail_after(10):
        async with listening(transport, server):
            with pytest.raises(RegistrationRefused) as caught:
                await transport.dial(request())
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (401, "unauthorized", 3)


async def test_a_failing_offer_costs_only_its_own_dial() -> None:
    transport, server = MemoryTransport(), Server()
    server.answer = RuntimeError("a bug in a hook")
    with anyio.fail_after(10):
        async with listening(transport, server):
            with pytest.raises(DialError):
                await transport.dial(request())
            server.answer = Acceptance()
            connection, _ = await transport.dial(request())
            await connection.aclose()


async def test_a_slow_offer_is_abandoned_by_its_dial() -> None:
    transport, server = MemoryTransport(), Server()
    server.gate = anyio.Event()
    acceptance = server.answer = Acceptance()
    with anyio.fail_after(10):
        async with listening(transport, server):
            with pytest.raises(DialError, match=r"within 0.01 s"):
                await transport.dial(request(timeout=0.01))
            server.gate.set()
            await anyio.wait_all_tasks_blocked()
            assert acceptance.abandoned


async def test_dials_that_wait_learn_that_the_server_is_gone() -> None:
    transport, server = MemoryTransport(), Server()
    server.gate = anyio.Event()

    async def dial() -> None:
        with pytest.raises(DialError, match="gone"):
            await transport.dial(request())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, listening(transport, server):
            tasks.start_soon(dial)
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(DialError, match="no server"):
            await transport.dial(request())


async def test_unreachable_is_a_dial_error() -> None:
    transport, server = MemoryTransport(), Server()
    transport.reachable = False
    with anyio.fail_after(10):
        async with listening(transport, server):
            with pytest.raises(DialError):
                await transport.dial(request())


async def test_one_server_a_transport() -> None:
    transport, server = MemoryTransport(), Server()
    with anyio.fail_after(10):
        async with listening(transport, server):
            with pytest.raises(ConfigError, match="transports"):
                await transport.listen(server.offer, task_status=anyio.TASK_STATUS_IGNORED)


async def test_a_cut_ends_both_ends_at_once() -> None:
    transport, server = MemoryTransport(), Server()
    with anyio.fail_after(10):
        async with listening(transport, server):
            connection, _ = await transport.dial(request())
            transport.cut()
            with pytest.raises(ConnectionLost, match="cut") as caught:
                await connection.receive()
            assert not caught.value.clean
            with pytest.raises(ConnectionLost):
                await connection.ready()


async def test_a_stalled_link_delivers_when_it_resumes() -> None:
    transport, server = MemoryTransport(), Server()
    acceptance = server.answer = Acceptance()
    with anyio.fail_after(10):
        async with listening(transport, server):
            connection, _ = await transport.dial(request())
            await acceptance.serving.wait()
            transport.stall()
            await pump(connection, [b"held"])
            before = connection.last_received
            with anyio.move_on_after(0.05) as scope:
                await connection.receive()
            assert scope.cancelled_caught
            assert connection.last_received == before
            transport.resume()
            assert await connection.receive() == b"held"


async def test_an_end_that_alone_noticed_the_loss() -> None:
    with anyio.fail_after(10):
        one, other = memory_pair()
        one.lose(ConnectionLost("noticed here"))
        with pytest.raises(ConnectionLost, match="noticed here"):
            await one.receive()
        await other.send(b"into the void")
        with anyio.move_on_after(0.02) as scope:
            await other.receive()
        assert scope.cancelled_caught


async def test_an_end_that_is_lost_stays_lost() -> None:
    one, _ = memory_pair()
    one.lose(ConnectionLost("first"))
    one.lose(ConnectionLost("second"))
    with pytest.raises(ConnectionLost, match="first"):
        await one.ready()


async def test_a_dial_cancelled_at_the_moment_of_its_answer_leaves_nothing_open() -> None:
    transport, acceptance = MemoryTransport(), Acceptance()
    served = anyio.Event()

    async def serve(connection: Connection) -> None:
        await lost(connection.receive())
        served.set()

    acceptance.serve = serve  # type: ignore[method-assign]
    with anyio.fail_after(10):
        dialling = anyio.CancelScope()
        server = Server()

        async def offer(handshake: Handshake, peer: Peer) -> Accepted | Refusal:
            await anyio.wait_all_tasks_blocked()
            dialling.cancel()  # and the answer comes before the dial has noticed
            return acceptance

        server.offer = offer  # type: ignore[method-assign]
        async with listening(transport, server):
            with dialling:
                await transport.dial(request())
            assert dialling.cancelled_caught
            await served.wait()
    assert not acceptance.abandoned


async def test_repr_shows_the_state() -> None:
    one, _ = memory_pair()
    assert repr(one) == "<MemoryConnection open>"
    one.abort()
    assert repr(one) == "<MemoryConnection lost>"
