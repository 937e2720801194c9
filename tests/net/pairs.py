"""Pairs of joined byte streams of every kind, for the tests of this directory."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio
import trustme
from anyio.lowlevel import checkpoint

from tunnelkit.net.adopt import adopt
from tunnelkit.net.memory import memory_pair
from tunnelkit.net.sockets import SocketStream
from tunnelkit.net.stream import ByteStream
from tunnelkit.net.tls import TlsStream

KINDS = ("native", "sockets", "unix", "tls-native", "tls-sockets", "tls-memory", "memory")
Pair = tuple[ByteStream, ByteStream]
KERNEL_BUFFER = 128 * 1024
MOMENT: Final = 0.005  # seconds in which nothing is to happen


class Certificates:
    """An authority of the tests' own, with contexts for both ends of 127.0.0.1 and localhost."""

    def __init__(self) -> None:
        self.ca = trustme.CA()
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(self.client)
        self.server = self.server_for("localhost", "127.0.0.1")

    def server_for(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names).configure_cert(context)
        return context


CERTIFICATES = Certificates()


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    """Two joined TCP sockets on loopback, non-blocking, with kernel buffers that are small and keep their size."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
        one.connect(listening.getsockname())
        other, _ = listening.accept()
    for sock in (one, other):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what was sent is there
    one.setblocking(False)
    other.setblocking(False)
    return one, other


def unix_sockets() -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


async def open_plain_pair(kind: str) -> Pair:
    if kind == "memory":
        return memory_pair()
    one, other = unix_sockets() if kind == "unix" else tcp_sockets()
    if kind == "sockets":
        return SocketStream(one), SocketStream(other)
    return await adopt(one), await adopt(other)


async def open_tls_pair(client: ByteStream, server: ByteStream) -> tuple[TlsStream, TlsStream]:
    ends: list[TlsStream] = []

    async def serve() -> None:
        ends.append(await TlsStream.server(server, CERTIFICATES.server, timeout=10))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        ends.insert(0, await TlsStream.client(client, CERTIFICATES.client, server_hostname="localhost", timeout=10))
    one, other = ends
    return one, other


async def open_pair(kind: str) -> Pair:
    under = kind.removeprefix("tls-")
    plain = await open_plain_pair(under)
    return await open_tls_pair(*plain) if under != kind else plain


@asynccontextmanager
async def pair_of(kind: str) -> AsyncIterator[Pair]:
    """Both ends are aborted at the end."""
    one, other = await open_pair(kind)
    try:
        yield one, other
    finally:
        one.abort()
        other.abort()
        await checkpoint()  # asyncio closes a socket a turn later


async def read_all(stream: ByteStream) -> bytes:
    pieces = []
    while piece := await stream.receive():
        pieces.append(piece)
    return b"".join(pieces)


async def read_exactly(stream: ByteStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive(count - len(data))
        assert piece, f"the end after {len(data)} of {count} bytes"
        data += piece
    return data


async def fill(stream: ByteStream, data: bytes = bytes(range(256)) * 1024) -> int:
    """Send until nothing more is taken, with the loop running in between; how much was taken."""
    taken = 0
    idle = 0
    while idle < 2:
        count = stream.try_send(data[taken % 256 :])
        taken += count
        idle = 0 if count else idle + 1
        await returns_soon(partial(stream.wait, writable=True))
    return taken


async def returns_soon(wait: Callable[[], Awaitable[None]]) -> bool:
    """Whether that ``wait`` returns within a moment. One that was much longer than asked for tells nothing: the
    machine was busy with others, and the wait had no turn."""
    while True:
        began = anyio.current_time()
        with anyio.move_on_after(MOMENT) as scope:
            await wait()
        if not scope.cancelled_caught:
            return True
        if anyio.current_time() - began < 10 * MOMENT:
            return False


def pattern(count: int) -> bytes:
    """The first ``count`` of the bytes that ``fill`` sends."""
    return (bytes(range(256)) * (count // 256 + 1))[:count]
