"""Three small proxies for the tests, each with one user: HTTP CONNECT, SOCKS5, and HTTP for requests in absolute
form. They lead to one port only, whatever they are asked for, and remember what that was."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

__all__ = ["PASSWORD", "USER", "TestProxy", "serve_forward_proxy", "serve_http_proxy", "serve_socks_proxy"]

USER = "walter"
PASSWORD = "p@ss:word"
_BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.IncompleteRead)


@dataclass
class TestProxy:
    """``asked`` holds "host:port" of each request that was let through."""

    __test__ = False

    port: int
    target: int
    asked: list[str] = field(default_factory=list)
    refused: int = 0


_Negotiation = Callable[[TestProxy, SocketStream, BufferedByteReceiveStream], Awaitable[bool]]


async def _knows(fields: list[str], stream: SocketStream) -> bool:
    credentials = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    if f"proxy-authorization: basic {credentials}".lower() in {each.lower() for each in fields}:
        return True
    await stream.send(b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n")
    return False


async def _http(proxy: TestProxy, stream: SocketStream, reader: BufferedByteReceiveStream) -> bool:
    line, *fields = (await reader.receive_until(b"\r\n\r\n", 65536)).decode().split("\r\n")
    method, authority, _ = line.split(" ")
    if method != "CONNECT":  # a client that looks for another way
        await stream.send(b"HTTP/1.1 405 I only tunnel\r\nAllow: CONNECT\r\nContent-Length: 0\r\n\r\n")
        return False
    if not await _knows(fields, stream):
        return False
    proxy.asked.append(authority)
    await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    return True


async def _socks(proxy: TestProxy, stream: SocketStream, reader: BufferedByteReceiveStream) -> bool:
    """RFC 1928 with RFC 1929."""
    _, count = await reader.receive_exactly(2)
    if 2 not in await reader.receive_exactly(count):
        await stream.send(b"\x05\xff")
        return False
    await stream.send(b"\x05\x02")
    _, size = await reader.receive_exactly(2)
    user = await reader.receive_exactly(size)
    password = await reader.receive_exactly((await reader.receive_exactly(1))[0])
    if (user.decode(), password.decode()) != (USER, PASSWORD):
        await stream.send(b"\x01\x01")
        return False
    await stream.send(b"\x01\x00")
    _, _, _, kind = await reader.receive_exactly(4)
    if kind == 3:
        host = (await reader.receive_exactly((await reader.receive_exactly(1))[0])).decode()
    else:
        host = ".".join(map(str, await reader.receive_exactly(4)))
    proxy.asked.append(f"{host}:{int.from_bytes(await reader.receive_exactly(2))}")
    await stream.send(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
    return True


@asynccontextmanager
async def _serve(target: int, negotiate: _Negotiation) -> AsyncIterator[TestProxy]:
    async def tunnel(proxy: TestProxy, near: SocketStream) -> None:
        reader = BufferedByteReceiveStream(near)
        if not await negotiate(proxy, near, reader):
            proxy.refused += 1
            return
        async with await anyio.connect_tcp("127.0.0.1", proxy.target) as far:
            await _join(near, reader, far)

    async with _listening(target, tunnel) as proxy:
        yield proxy


@asynccontextmanager
async def _listening(
    target: int, serve: Callable[[TestProxy, SocketStream], Awaitable[None]]
) -> AsyncIterator[TestProxy]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy = TestProxy(listener.extra(SocketAttribute.local_port), target)

    async def handle(near: SocketStream) -> None:
        async with near:
            try:
                await serve(proxy, near)
            except* _BROKEN:
                pass  # either side left

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        try:
            yield proxy
        finally:
            group.cancel_scope.cancel()


async def _join(near: SocketStream, reader: BufferedByteReceiveStream, far: SocketStream) -> None:
    async with anyio.create_task_group() as group:

        async def pump(receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]) -> None:
            try:
                while True:
                    await send(await receive())
            except _BROKEN:
                group.cancel_scope.cancel()

        group.start_soon(pump, reader.receive, far.send)
        group.start_soon(pump, far.receive, near.send)


def serve_http_proxy(target: int) -> AbstractAsyncContextManager[TestProxy]:
    return _serve(target, _http)


def serve_socks_proxy(target: int) -> AbstractAsyncContextManager[TestProxy]:
    return _serve(target, _socks)


@asynccontextmanager
async def serve_forward_proxy(target: int) -> AsyncIterator[TestProxy]:
    """It needs no CONNECT, and knows none. ``asked`` holds the authority of every request."""
    async with _listening(target, _forward) as proxy:
        yield proxy


async def _forward(proxy: TestProxy, near: SocketStream) -> None:
    reader = BufferedByteReceiveStream(near)
    async with await anyio.connect_tcp("127.0.0.1", proxy.target) as far, anyio.create_task_group() as group:
        group.start_soon(_copy, far, near, group.cancel_scope)
        while True:
            line, *fields = (await reader.receive_until(b"\r\n\r\n", 65536)).decode().split("\r\n")
            method, url, version = line.split(" ")
            assert url.startswith("http://"), url
            if not await _knows(fields, near):
                proxy.refused += 1
                group.cancel_scope.cancel()
                return
            authority, _, path = url.removeprefix("http://").partition("/")
            proxy.asked.append(authority)
            kept = [field for field in fields if not field.lower().startswith("proxy-")]
            await far.send("\r\n".join([f"{method} /{path} {version}", *kept, "", ""]).encode())
            length = next(int(field[16:]) for field in fields if field.lower().startswith("content-length: "))
            while length:
                piece = await reader.receive(min(length, 65536))
                await far.send(piece)
                length -= len(piece)


async def _copy(source: SocketStream, sink: SocketStream, scope: anyio.CancelScope) -> None:
    try:
        while True:
            await sink.send(await source.receive())
    except _BROKEN:
        scope.cancel()
