from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trustme

from tunnelkit.errors import ConfigError, DialError, StreamBroken
from tunnelkit.net import listen
from tunnelkit.net.dial import Dial, connect_tcp
from tunnelkit.net.listen import Handler, Listener, parse_address
from tunnelkit.net.stream import ByteStream

from .pairs import CERTIFICATES, read_all

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(listener: Listener, handler: Handler) -> AsyncIterator[int]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: listener.serve(handler, task_status=task_status))
        yield listener.addresses[0][1]
        tasks.cancel_scope.cancel()


async def echo(stream: ByteStream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def asks(port: int, question: bytes = b"hello") -> bytes:
    stream = await connect_tcp("127.0.0.1", port, timeout=5)
    await stream.send(question)
    await stream.send_eof()
    try:
        return await read_all(stream)
    finally:
        await stream.aclose()


# -- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65_535)),
        (":8080", ("", 8080)),
        ("*:8080", ("", 8080)),
    ],
)
def test_parse_address(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "8080", "localhost", "localhost:", "localhost:http", "h:65536", "::1:80", "h:²"]
)
def test_a_bad_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^admin_listen: ") as caught:
        parse_address(text, field="admin_listen")
    assert caught.value.fix


def test_bind_several() -> None:
    listener = Listener.bind("127.0.0.1:0", "[::1]:0")
    (v4, port4), (v6, port6) = listener.addresses
    assert (v4, v6) == ("127.0.0.1", "::1")
    assert port4
    assert port6
    assert listener.urls == [f"http://127.0.0.1:{port4}", f"http://[::1]:{port6}"]
    listener.close()
    listener.close()
    assert "closed" in repr(listener)


def test_all_addresses_of_a_name_share_a_port() -> None:
    listener = Listener.bind("localhost:0")
    assert len({port for _, port in listener.addresses}) == 1
    listener.close()


def test_all_interfaces() -> None:
    listener = Listener.bind(":0")
    assert "0.0.0.0" in [host for host, _ in listener.addresses]
    assert len({port for _, port in listener.addresses}) == 1
    listener.close()


def test_a_port_in_use() -> None:
    first = Listener.bind("127.0.0.1:0")
    address = f"127.0.0.1:{first.addresses[0][1]}"
    with pytest.raises(ConfigError, match=rf"^listen: {address} is already in use; stop the program"):
        Listener.bind("127.0.0.1:0", address)
    first.close()
    Listener.bind(address).close()


@pytest.mark.parametrize(
    ("address", "text"), [("192.0.2.1:0", "is no address of this machine"), ("no-such.invalid:1", "was not found")]
)
def test_an_address_that_cannot_be_bound(address: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Listener.bind(address)


def fake_bind(monkeypatch: pytest.MonkeyPatch, failures: dict[str, list[int]]) -> list[Any]:
    """Let ``_bind_one`` fail with the given errors, in turn, for a host; what was tried."""
    tried: list[Any] = []
    real = listen._bind_one

    def bind_one(family: int, sockaddr: Any) -> socket.socket:
        tried.append(sockaddr[:2])
        errors = failures.get(sockaddr[0])
        if errors:
            raise OSError(errors.pop(0), "made up")
        return real(family, sockaddr)

    monkeypatch.setattr(listen, "_bind_one", bind_one)
    return tried


def test_a_machine_without_ipv6_listens_on_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_bind(monkeypatch, {"::": [errno.EAFNOSUPPORT]})
    listener = Listener.bind(":0")
    assert [host for host, _ in listener.addresses] == ["0.0.0.0"]
    listener.close()


def test_a_name_none_of_whose_addresses_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_bind(monkeypatch, {"::": [errno.EADDRNOTAVAIL], "0.0.0.0": [errno.EADDRNOTAVAIL]})
    with pytest.raises(ConfigError, match="no address of this machine"):
        Listener.bind(":0")


def test_a_free_port_that_is_taken_elsewhere_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fake_bind(monkeypatch, {"::": [errno.EADDRINUSE], "0.0.0.0": [errno.EADDRINUSE]})
    listener = Listener.bind(":0")
    assert len(tried) >= 4
    listener.close()


def test_it_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_bind(monkeypatch, {"127.0.0.1": [errno.EADDRINUSE] * 20})
    with pytest.raises(ConfigError, match="already in use"):
        Listener.bind("127.0.0.1:0")


# -- serving -----------------------------------------------------------------------------------


async def test_connections_get_their_handlers() -> None:
    async with serving(Listener.bind("127.0.0.1:0"), echo) as port:
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await asks(port, b"%d" % number))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, number)
        assert sorted(answers) == sorted(b"%d" % number for number in range(100))


async def test_the_stream_tells_who_is_there_and_its_socket_is_set_up() -> None:
    seen: list[ByteStream] = []

    async def handler(stream: ByteStream) -> None:
        seen.append(stream)
        sock: socket.socket = stream._socket  # type: ignore[attr-defined]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 128 * 1024
        await stream.send(b"fine")

    async with serving(Listener.bind("127.0.0.1:0"), handler) as port:
        stream = await connect_tcp("127.0.0.1", port)
        assert await read_all(stream) == b"fine"
        assert seen[0].local_address == ("127.0.0.1", port)
        assert seen[0].peer_address == stream.local_address
        stream.abort()


async def test_a_handler_that_raises_ends_neither_the_listener_nor_others(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: ByteStream) -> None:
        if await stream.receive() == b"raise":
            raise ValueError("boom")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)

    async def fail() -> None:
        raise KeyError("inside a group")

    async with serving(Listener.bind("127.0.0.1:0"), handler) as port:
        for question in (b"raise", b"group"):
            with pytest.raises(StreamBroken):
                await asks(port, question)
        with pytest.raises(StreamBroken):
            await asks(port, b"raise")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert {record.name for record in caplog.records} == {"tunnelkit.server"}


async def test_a_peer_that_breaks_off_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tunnelkit.server")
    ended = anyio.Event()

    async def handler(stream: ByteStream) -> None:
        try:
            await echo(stream)
        finally:
            ended.set()

    async with serving(Listener.bind("127.0.0.1:0"), handler) as port:
        stream = await connect_tcp("127.0.0.1", port)
        await stream.send(b"x")
        await stream.receive()
        stream.abort()
        await ended.wait()
        assert await asks(port) == b"hello"
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


async def test_cancelled_it_aborts_every_connection() -> None:
    async with serving(Listener.bind("127.0.0.1:0"), echo) as port:
        stream = await connect_tcp("127.0.0.1", port)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
    with pytest.raises(StreamBroken):
        await stream.receive()
    with pytest.raises(DialError, match="refused"):
        await connect_tcp("127.0.0.1", port)
    await stream.aclose()


async def test_closed_it_accepts_no_more_and_ends_with_its_last_handler() -> None:
    listener = Listener.bind("127.0.0.1:0", "127.0.0.1:0")
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: listener.serve(echo, task_status=task_status))
        port = listener.addresses[0][1]
        stream = await connect_tcp("127.0.0.1", port)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        listener.close()
        with pytest.raises(DialError, match="refused"):
            await connect_tcp("127.0.0.1", port)
        await stream.send(b"still served")
        assert await stream.receive() == b"still served"
        await stream.aclose()


async def test_a_connection_that_breaks_before_it_is_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def adopt(sock: socket.socket) -> ByteStream:
        monkeypatch.undo()
        sock.close()
        raise StreamBroken("connection reset by the peer")

    monkeypatch.setattr(listen, "adopt", adopt)
    async with serving(Listener.bind("127.0.0.1:0"), echo) as port:
        await ends(await connect_tcp("127.0.0.1", port))
        assert await asks(port) == b"hello"
    assert caplog.records == []


# -- shortages ---------------------------------------------------------------------------------


class Flaky(socket.socket):
    """A listening socket whose ``accept`` fails as often as it is told."""

    failures: list[int]

    @classmethod
    def bound(cls, *failures: int) -> Flaky:
        sock = cls()
        sock.bind(("127.0.0.1", 0))
        sock.listen(10)
        sock.setblocking(False)
        sock.failures = list(failures)
        return sock

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            raise OSError(self.failures.pop(0), "made up")
        return super().accept()


async def test_without_descriptors_it_pauses_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listen, "_SHORTAGE_PAUSES", (0.001, 0.002))
    sock = Flaky.bound(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
    async with serving(Listener([sock]), echo) as port:
        assert await asks(port) == b"hello"
    assert sock.failures == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]  # one line a minute
    assert "cannot accept connections: Too many open files" in caplog.text


async def test_a_connection_that_broke_off_while_it_waited_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    sock = Flaky.bound(errno.ECONNABORTED, errno.EPERM, errno.EPROTO)
    async with serving(Listener([sock]), echo) as port:
        assert await asks(port) == b"hello"
    assert caplog.records == []


async def test_real_descriptors_run_out() -> None:
    resource = pytest.importorskip("resource", reason="a POSIX limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving(Listener.bind("127.0.0.1:0"), echo) as port:
        client = socket.socket()
        client.setblocking(False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
        try:
            client.connect_ex(("127.0.0.1", port))
            await anyio.wait_writable(client)
            client.send(b"hello")
            await anyio.wait_all_tasks_blocked()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await anyio.wait_readable(client)
        assert client.recv(10) == b"hello"
        client.close()


# -- TLS ---------------------------------------------------------------------------------------


async def test_tls_and_a_context_that_changes() -> None:
    contexts: list[ssl.SSLContext] = [CERTIFICATES.server]
    listener = Listener.bind("127.0.0.1:0", ssl_context=lambda: contexts[-1])
    assert listener.tls
    assert listener.urls[0].startswith("https://")
    async with serving(listener, echo) as port:
        dial = Dial(ssl_context=CERTIFICATES.client)
        first = await dial("localhost", port, tls=True)
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("localhost").configure_cert(stranger)
        contexts.append(stranger)
        with pytest.raises(DialError, match="not trusted"):
            await dial("localhost", port, tls=True)
        await first.send(b"still there")
        assert await first.receive() == b"still there"
        await first.aclose()


async def test_plain_http_to_a_tls_port_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tunnelkit.server")
    listener = Listener.bind("127.0.0.1:0", ssl_context=CERTIFICATES.server)
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: listener.serve(echo, task_status=task_status))
        answer = await asks(listener.addresses[0][1], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"\r\n\r\nTLS is required here: use https:// or wss://\n")
        listener.close()
    assert "no TLS with 127.0.0.1: TLS: http request" in caplog.text


@pytest.mark.parametrize("question", [b"\x00\x01garbage that is no TLS at all", b"", b"\x16\x03\x01"])
async def test_garbage_to_a_tls_port_costs_only_its_connection(
    question: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def no_handler(stream: ByteStream) -> Any:
        raise AssertionError("no handshake, no handler")

    async with serving(Listener.bind("127.0.0.1:0", ssl_context=CERTIFICATES.server), no_handler) as port:
        stream = await connect_tcp("127.0.0.1", port)
        await stream.send(question)
        await stream.send_eof()
        await ends(stream)
    assert caplog.records == []


async def ends(stream: ByteStream) -> None:
    try:
        await read_all(stream)
    except StreamBroken:
        pass
    finally:
        await stream.aclose()


async def test_silence_in_the_handshake_has_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tunnelkit.server")
    listener = Listener.bind("127.0.0.1:0", ssl_context=CERTIFICATES.server, handshake_timeout=0.05)
    async with serving(listener, echo) as port:
        stream = await connect_tcp("127.0.0.1", port)
        await ends(stream)
    assert "no handshake in time" in caplog.text


async def test_a_context_callable_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> ssl.SSLContext:
        raise ValueError("no context")

    async with serving(Listener.bind("127.0.0.1:0", ssl_context=broken), echo) as port:
        await ends(await connect_tcp("127.0.0.1", port))
    assert "no context" in caplog.text
