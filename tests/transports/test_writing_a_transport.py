"""The example of docs/writing-a-transport.md is what the page says: complete, short, and up to the suite."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType

import anyio
import pytest

from tunnelkit.errors import ConnectionLost, DialError, RegistrationRefused, StreamBroken
from tunnelkit.handshake import Grant, Handshake, Refusal, to_bytes
from tunnelkit.net.adopt import adopt
from tunnelkit.net.dial import Dial
from tunnelkit.net.memory import memory_pair
from tunnelkit.net.stream import ByteStream
from tunnelkit.transports.base import Accepted, Connection, DialRequest, Peer, Transport

from .conformance import ConnectionSuite, Pair, PairMaker, lost, pump, receive_all
from .stubs import PROVER, By, dial_request

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-transport.md"


def example_code() -> str:
    (code,) = re.findall(r"^```python\n(.*?class TcpTransport.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    return str(code).rpartition("```python\n")[2]


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    module = ModuleType("tcp_example")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        exec(compile(example_code(), str(PAGE), "exec"), module.__dict__)
        yield module


def test_it_is_as_short_as_promised() -> None:
    assert sum(bool(line.strip()) for line in example_code().splitlines()) < 150


class TestTheExample(ConnectionSuite):
    @pytest.fixture
    def make_pair(self, example: ModuleType) -> PairMaker:
        @asynccontextmanager
        async def over_sockets() -> AsyncIterator[Pair]:
            ends: list[Connection] = []
            for end in socket.socketpair():
                end.setblocking(False)
                ends.append(example.TcpConnection(await adopt(end)))
            try:
                yield ends[0], ends[1]
            finally:
                for connection in ends:
                    connection.abort()
                await anyio.wait_all_tasks_blocked()

        return over_sockets


class Echo:
    """An ``Accepted``."""

    grant = Grant(session_id="n-1")
    prover = PROVER

    async def serve(self, connection: Connection) -> None:
        with suppress(ConnectionLost):
            while True:
                await pump(connection, [await connection.receive()])
        connection.abort()

    def abandon(self) -> None:
        raise AssertionError("abandoned")


@asynccontextmanager
async def listening(example: ModuleType, answer: Accepted | Refusal) -> AsyncIterator[Transport]:
    transport: Transport = example.TcpTransport("127.0.0.1:0")

    async def offer(handshake: Handshake, peer: Peer) -> Accepted | Refusal:
        assert handshake.token == "0123456789abcdef"
        assert peer.address == "127.0.0.1"
        return answer

    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: transport.listen(offer, task_status=task_status))
        yield transport
        tasks.cancel_scope.cancel()


def request(token: str = "0123456789abcdef", timeout: float = 5) -> DialRequest:
    return dial_request(Handshake(token=token), Dial(), timeout=timeout)


async def test_its_halves_meet(example: ModuleType) -> None:
    with anyio.fail_after(10):
        async with listening(example, Echo()) as transport:
            connection, grant = await transport.dial(request())
            assert grant.session_id == "n-1"
            await pump(connection, [b"hello"])
            assert await connection.receive() == b"hello"
            await connection.aclose()


async def test_its_refusal_arrives(example: ModuleType) -> None:
    refusal = Refusal(status=403, code="forbidden", detail="not you", retry_after=9)
    with anyio.fail_after(10):
        async with listening(example, refusal) as transport:
            with pytest.raises(RegistrationRefused, match="not you") as caught:
                await transport.dial(request())
    assert caught.value.retry_after == 9


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00\x00\x00\x05hello", b"\xff" * 100, b"\x00\x00\x00\x00", to_bytes(Grant(session_id="n-1"))]
)
async def test_garbage_costs_its_own_connection(example: ModuleType, garbage: bytes) -> None:
    with anyio.fail_after(10):
        async with listening(example, Echo()) as transport:
            port = int(transport.address.rpartition(":")[2])  # type: ignore[attr-defined]
            stream = await Dial()("127.0.0.1", port, tls=False)
            await stream.send(garbage)
            await stream.send_eof()
            with suppress(StreamBroken):
                while await stream.receive():
                    pass
            stream.abort()
            connection, _ = await transport.dial(request())
            await connection.aclose()


async def test_a_silent_server_is_a_dial_error(example: ModuleType) -> None:
    near, far = memory_pair()

    async def dialler(host: str, port: int, *, tls: bool) -> ByteStream:
        return near

    silent = dial_request(Handshake(token="t" * 16), By(dialler), timeout=0.01)
    with anyio.fail_after(10):
        with pytest.raises(DialError):
            await example.TcpTransport("h:1").dial(silent)
        with pytest.raises(StreamBroken):
            await far.receive()


async def test_a_length_that_lies_is_judged_at_once(example: ModuleType) -> None:
    near, far = memory_pair()
    connection = example.TcpConnection(near)
    with anyio.fail_after(10):
        await far.send(b"\x7f\xff\xff\xff")
        assert (await lost(connection.receive())).code == 1009


async def test_bytes_one_by_one_and_an_end_in_the_middle(example: ModuleType) -> None:
    near, far = memory_pair()
    connection = example.TcpConnection(near)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def dribble() -> None:
                for byte in b"\x00\x00\x00\x02hi\x00\x00\x00\x09torn":
                    await far.send(bytes([byte]))
                await far.send_eof()

            tasks.start_soon(dribble)
            got, end = await receive_all(connection)
    assert got == [b"hi"]
    assert not end.clean
