"""The example of a transport is what docs/writing-a-transport.md says: complete, short, and up to the kit."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

import custom_transport
from custom_transport import TcpConnection, TcpTransport
from tunnelkit import TunnelClient, TunnelServer
from tunnelkit.errors import ConfigError, DialError, StreamBroken
from tunnelkit.handshake import Grant, Handshake, to_bytes
from tunnelkit.net.dial import Dial, connect_tcp
from tunnelkit.net.memory import memory_pair
from tunnelkit.net.stream import ByteStream
from tunnelkit.testing import CHECKS, Check, run_check, wired
from tunnelkit.testing.checks.base import expect_lost, receive_all
from tunnelkit.transports.base import Transport
from tunnelkit.transports.lookup import find_transport

from ..testing.peers import serving
from ..transports.stubs import By, dial_request

pytestmark = pytest.mark.anyio

TOKEN = "a-token-for-the-tests"


def test_it_is_as_short_as_promised() -> None:
    assert len(Path(custom_transport.__file__).read_text("utf-8").splitlines()) < 100


@pytest.mark.parametrize("check", CHECKS, ids=str)
async def test_it_keeps_the_contract(check: Check) -> None:
    outcome = await run_check(check, lambda: wired(TcpTransport("127.0.0.1:0")))
    assert not outcome.not_applicable


# -- under a real server and client ------------------------------------------------------------


async def hello(stream: ByteStream) -> None:
    """An origin that answers one request."""
    while not (await stream.receive()).endswith(b"\r\n\r\n"):
        pass
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")


async def check_a_request_passes(transport: Transport | str) -> None:
    """With the server and the client each given ``transport``."""
    with anyio.fail_after(15):
        async with serving(hello) as origin, TunnelServer("127.0.0.1:0", transports=[transport]) as server:
            url = f"http://127.0.0.1:{origin.port}"
            async with TunnelClient("ws://tunnel.test", token=TOKEN, origin=url, transport=transport) as client:
                await client.wait_ready(10)
                assert client.transport == "tcp"
                caller = await connect_tcp("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=5)
                await caller.send(
                    f"GET /_token/{TOKEN}/ HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode()
                )
                answer = b""
                while data := await caller.receive():
                    answer += data
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert answer.endswith(b"hello")
                await caller.aclose()


async def test_it_is_loaded_as_an_object() -> None:
    await check_a_request_passes(TcpTransport("127.0.0.1:0"))


async def test_it_is_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    with anyio.fail_after(15):
        await custom_transport.main()
    assert capsys.readouterr().out == "joined by tcp\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package with two entry points had been installed: the class, and an object whose port is free."""
    (tmp_path / "tcp_carrier.py").write_text(
        "from custom_transport import TcpTransport\n\ncarrier = TcpTransport('127.0.0.1:0')\n"
    )
    info = tmp_path / "tcp_carrier-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tcp-carrier\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tunnelkit.transports]\ntcp = custom_transport:TcpTransport\ncarrier = tcp_carrier:carrier\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tcp_carrier", raising=False)


@pytest.mark.usefixtures("installed")
async def test_it_is_loaded_by_entry_point() -> None:
    assert isinstance(find_transport("tcp"), TcpTransport)
    await check_a_request_passes("carrier")


async def test_without_the_entry_point_it_is_not_found() -> None:
    with pytest.raises(ConfigError, match="no transport named 'tcp'"):
        find_transport("tcp")


# -- what the kit cannot know: its wire --------------------------------------------------------


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00\x00\x00\x05hello", b"\xff" * 100, b"\x00\x00\x00\x00", to_bytes(Grant(session_id="n-1"))]
)
async def test_garbage_costs_its_own_connection(garbage: bytes) -> None:
    with anyio.fail_after(10):
        transport = TcpTransport("127.0.0.1:0")
        async with wired(transport) as wires:
            stream = await Dial()("127.0.0.1", int(transport.address.rpartition(":")[2]), tls=False)
            await stream.send(garbage)
            await stream.send_eof()
            with suppress(StreamBroken):
                while await stream.receive():
                    pass
            stream.abort()
            await wires.connect()


@asynccontextmanager
async def raw_end() -> AsyncIterator[tuple[TcpConnection, ByteStream]]:
    near, far = memory_pair()
    with anyio.fail_after(10):
        yield TcpConnection(near), far


async def test_a_silent_server_is_a_dial_error() -> None:
    near, far = memory_pair()

    async def dialler(host: str, port: int, *, tls: bool) -> ByteStream:
        return near

    silent = dial_request(Handshake(token="t" * 16), By(dialler), timeout=0.01)
    with anyio.fail_after(10):
        with pytest.raises(DialError):
            await TcpTransport("h:1").dial(silent)
        with pytest.raises(StreamBroken):
            await far.receive()


async def test_what_is_no_grant_is_a_dial_error() -> None:
    near, far = memory_pair()

    async def dialler(host: str, port: int, *, tls: bool) -> ByteStream:
        answer = to_bytes(Handshake(token="t" * 16))
        await far.send(len(answer).to_bytes(4) + answer)
        return near

    with anyio.fail_after(10), pytest.raises(DialError, match="no tunnel server"):
        await TcpTransport("h:1").dial(dial_request(Handshake(token="t" * 16), By(dialler)))


async def test_a_length_that_lies_is_judged_at_once() -> None:
    async with raw_end() as (connection, far):
        await far.send(b"\x7f\xff\xff\xff")
        assert (await expect_lost(connection.receive(), "receive")).code == 1009


async def test_bytes_one_by_one_and_an_end_in_the_middle() -> None:
    async with raw_end() as (connection, far), anyio.create_task_group() as tasks:

        async def dribble() -> None:
            for byte in b"\x00\x00\x00\x02hi\x00\x00\x00\x09torn":
                await far.send(bytes([byte]))
                await anyio.wait_all_tasks_blocked()  # each is read alone
            await far.send_eof()

        tasks.start_soon(dribble)
        got, end = await receive_all(connection)
        assert got == [b"hi"]
        assert not end.clean


async def test_a_close_byte_by_byte() -> None:
    async with raw_end() as (connection, far), anyio.create_task_group() as tasks:

        async def dribble() -> None:
            for byte in b"\x80\x00\x03\xe9":
                await far.send(bytes([byte]))
                await anyio.wait_all_tasks_blocked()

        tasks.start_soon(dribble)
        _, end = await receive_all(connection)
        assert (end.clean, end.code) == (True, 1001)
