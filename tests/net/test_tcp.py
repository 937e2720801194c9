from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tunnelkit.errors import DialError, StreamBroken
from tunnelkit.net import tcp
from tunnelkit.net.dial import connect_tcp, connect_unix

pytestmark = pytest.mark.anyio

V4 = socket.AF_INET
V6 = socket.AF_INET6


def listening_socket() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(5)
    return sock


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, Any]) -> None:
    async def getaddrinfo(host: str, port: int, **kwargs: Any) -> list[Any]:
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)


class Attempts:
    """Stands for ``socket.connect``: some addresses are dead, some refuse, the others are connected."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, dead: tuple[str, ...] = (), refuse: tuple[str, ...] = ()):
        self.dead, self.refuse = dead, refuse
        self.tried: list[str] = []
        self.opened: list[socket.socket] = []
        monkeypatch.setattr(tcp, "_connect_socket", self.connect)
        self.target = listening_socket()

    async def connect(self, sock: socket.socket, address: Any) -> None:
        self.tried.append(address[0])
        self.opened.append(sock)
        if address[0] in self.dead:
            await anyio.sleep_forever()
        if address[0] in self.refuse:
            raise OSError(errno.ECONNREFUSED, "refused")
        sock.setblocking(True)
        sock.connect(self.target.getsockname())
        sock.setblocking(False)

    @property
    def still_open(self) -> int:
        return sum(sock.fileno() != -1 for sock in self.opened)


@asynccontextmanager
async def attempts(monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> AsyncIterator[Attempts]:
    made = Attempts(monkeypatch, **kwargs)
    try:
        yield made
    finally:
        made.target.close()
        await anyio.lowlevel.checkpoint()


async def test_connect() -> None:
    with listening_socket() as listening:
        port = listening.getsockname()[1]
        stream = await connect_tcp("127.0.0.1", port, timeout=5)
        accepted, _ = listening.accept()
        with accepted:
            assert stream.peer_address == ("127.0.0.1", port)
            assert stream.local_address == accepted.getpeername()
            accepted.sendall(b"hello")
            assert await stream.receive() == b"hello"
            await stream.aclose()


async def test_a_name_with_several_addresses() -> None:
    with listening_socket() as listening:  # on IPv4 alone; localhost is often ::1 first
        stream = await connect_tcp("localhost", listening.getsockname()[1], timeout=5)
        await stream.aclose()


async def test_refused() -> None:
    with listening_socket() as listening:
        port = listening.getsockname()[1]
    with pytest.raises(DialError, match=rf"127.0.0.1:{port}: connection refused \(is the server running") as caught:
        await connect_tcp("127.0.0.1", port, timeout=5)
    assert caught.value.stage == "connect"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 100 + ".example", "a..b", ""])
async def test_a_name_that_is_not_found(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not host:
        resolve_to(monkeypatch)  # some resolvers take "" for this machine
        monkeypatch.setattr(anyio, "getaddrinfo", _fail_to_resolve)
    with pytest.raises(DialError, match="was not found") as caught:
        await connect_tcp(host, 80, timeout=5)
    assert caught.value.stage == "resolve"


async def _fail_to_resolve(*args: Any, **kwargs: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        await anyio.sleep_forever()

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    with pytest.raises(DialError, match=r"no answer from example\.com:80 within 0\.02 s") as caught:
        await connect_tcp("example.com", 80, timeout=0.02)
    assert caught.value.stage == "resolve"


async def test_only_addresses_that_are_permitted_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each address that the name has is judged, by what the resolver said at its one and only question."""
    judged: list[str] = []
    asked: list[str] = []
    addresses = [(V6, ("::1", 1, 0, 0)), (V4, ("127.0.0.2", 1)), (V4, ("127.0.0.3", 1))]

    async def getaddrinfo(host: str, port: int, **kwargs: Any) -> list[Any]:
        asked.append(host)
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

    def permits(address: str) -> bool:
        judged.append(address)
        return address == "127.0.0.3"

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    async with attempts(monkeypatch) as made:
        stream = await connect_tcp("example.com", 1, timeout=5, permits=permits)
        assert sorted(judged) == ["127.0.0.2", "127.0.0.3", "::1"]
        assert made.tried == ["127.0.0.3"]
        assert asked == ["example.com"]
        stream.abort()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0", "2130706433", "::1", "::ffff:127.0.0.1"])
async def test_a_name_without_an_address_that_is_permitted(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with attempts(monkeypatch) as made:
        with pytest.raises(DialError, match="has no address that may be connected to") as caught:
            await connect_tcp(host, 1, timeout=5, permits=lambda address: False)
        assert caught.value.stage == "address"
        assert made.tried == []


async def test_a_dead_address_delays_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_HEAD_START", 0.01)
    resolve_to(monkeypatch, (V6, ("::1", 1, 0, 0)), (V4, ("127.0.0.1", 1)))
    async with attempts(monkeypatch, dead=("::1",)) as made:
        made.opened.clear()
        # The family does not matter to Attempts' connect but for the first, which stays dead.
        stream = await connect_tcp("example.com", 1, timeout=5)
        assert made.tried == ["::1", "127.0.0.1"]
        assert made.still_open == 1
        stream.abort()
        await anyio.lowlevel.checkpoint()
        assert made.still_open == 0


async def test_an_address_that_refuses_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_HEAD_START", 3600)
    resolve_to(monkeypatch, (V4, ("127.0.0.2", 1)), (V4, ("127.0.0.3", 1)))
    async with attempts(monkeypatch, refuse=("127.0.0.2",)) as made:
        stream = await connect_tcp("example.com", 1, timeout=5)
        assert made.tried == ["127.0.0.2", "127.0.0.3"]
        stream.abort()


async def test_when_all_fail_every_reason_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, (V4, ("127.0.0.2", 1)), (V4, ("127.0.0.3", 1)), (V6, ("::2", 1, 0, 0)))
    async with attempts(monkeypatch, refuse=("127.0.0.2", "127.0.0.3", "::2")) as made:
        with pytest.raises(DialError, match=r"example\.com:1: connection refused \("):
            await connect_tcp("example.com", 1, timeout=5)
        assert made.tried == ["127.0.0.2", "::2", "127.0.0.3"]  # families in turn
        assert made.still_open == 0


@pytest.mark.parametrize(("addresses", "timeout"), [(["127.0.0.2"], 0.02), (["127.0.0.2", "127.0.0.3"], 0.5)])
async def test_no_answer_leaves_nothing_open(
    addresses: list[str], timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "_HEAD_START", 0.0)
    resolve_to(monkeypatch, *((V4, (address, 1)) for address in addresses))
    async with attempts(monkeypatch, dead=tuple(addresses)) as made:
        with pytest.raises(DialError, match=rf"no answer from example.com:1 within {timeout} s \(a firewall"):
            await connect_tcp("example.com", 1, timeout=timeout)
        assert made.tried == addresses
        assert made.still_open == 0


async def test_cancelled_it_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_HEAD_START", 0.0)
    resolve_to(monkeypatch, (V4, ("127.0.0.2", 1)), (V4, ("127.0.0.3", 1)))
    async with attempts(monkeypatch, dead=("127.0.0.2", "127.0.0.3")) as made:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect_tcp, "example.com", 1)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert made.still_open == 0


async def test_cancelled_when_it_has_just_connected_it_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, (V4, ("127.0.0.2", 1)), (V4, ("127.0.0.3", 1)))
    async with attempts(monkeypatch) as made:
        with anyio.CancelScope() as scope:
            connect = made.connect

            async def connect_and_cancel(sock: socket.socket, address: Any) -> None:
                await connect(sock, address)
                scope.cancel()

            monkeypatch.setattr(tcp, "_connect_socket", connect_and_cancel)
            await connect_tcp("example.com", 1)
        assert scope.cancelled_caught
        assert made.opened
        assert made.still_open == 0


async def test_a_connection_that_breaks_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def adopt(sock: socket.socket) -> Any:
        sock.close()
        raise StreamBroken("connection reset by the peer")

    monkeypatch.setattr(tcp, "adopt", adopt)
    path = str(tmp_path / "socket")
    with listening_socket() as listening, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen(1)
        with pytest.raises(DialError, match=r"cannot connect to 127\.0\.0\.1:.*reset"):
            await connect_tcp(*listening.getsockname())
        with pytest.raises(DialError, match=r"cannot connect to unix:.*reset"):
            await connect_unix(path)


async def test_a_real_connect_that_hangs_can_be_cancelled() -> None:
    """A full backlog: the kernel answers nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        with pytest.raises(DialError, match="no answer"):
            await connect_tcp(*address, timeout=0.05)
        for filler in fillers:
            filler.close()


async def test_a_connection_to_itself_is_refused() -> None:
    """TCP's simultaneous open: a socket bound to the port that it dials connects to itself."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        with pytest.raises(OSError, match="itself") as caught:
            await tcp._connect_socket(sock, sock.getsockname())
        assert caught.value.errno == errno.ECONNREFUSED


# -- unix --------------------------------------------------------------------------------------


async def test_unix(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(1)
        stream = await connect_unix(path, timeout=5)
        accepted, _ = listening.accept()
        with accepted:
            assert stream.peer_address == ("", 0)
            await stream.send(b"x")
            assert accepted.recv(10) == b"x"
            await stream.aclose()


async def test_unix_failures(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with pytest.raises(DialError, match="no such socket file"):
        await connect_unix(path, timeout=5)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        with pytest.raises(DialError, match="connection refused"):
            await connect_unix(path, timeout=5)


async def test_unix_with_a_full_backlog_waits_for_room(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        first = await connect_unix(path, timeout=5)
        with pytest.raises(DialError, match="no answer"):
            await connect_unix(path, timeout=0.03)
        accepted, _ = listening.accept()
        second = await connect_unix(path, timeout=5)
        accepted.close()
        first.abort()
        second.abort()
        await anyio.lowlevel.checkpoint()
