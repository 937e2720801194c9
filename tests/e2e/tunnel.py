"""A whole tunnel on loopback for a test: origin, server, client and, where it is wanted, a relay on the link."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio

from tunnelkit import Limits, TunnelClient, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.net.dial import connect_tcp
from tunnelkit.net.stream import ByteStream

from .origin import TestOrigin, serve_origin
from .relay import Relay, serve_relay

__all__ = ["SHORT", "TOKEN", "Tunnel", "exchange", "open_tunnel", "parse_head", "read_head"]

TOKEN = "a-token-for-the-tests"

# Clocks for tests of loss and grace: everything as by default, only sooner.
SHORT = replace(
    DEFAULT_LIMITS,
    ping_active_silence=0.4,
    ping_active_timeout=0.4,
    ping_idle_silence=1.0,
    ping_idle_timeout=0.5,
    dial_timeout=0.7,
    retry_cap_resumable=0.4,
    retry_cap=1.0,
    grace=2.0,
)


@dataclass
class Tunnel:
    origin: TestOrigin
    server: TunnelServer
    client: TunnelClient
    relay: Relay | None

    @property
    def port(self) -> int:
        return int(self.server.url.rpartition(":")[2])

    def path(self, target: str) -> str:
        """The target by which callers reach ``target`` of the origin."""
        return f"/_token/{TOKEN}{target}"

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[ByteStream]:
        """A caller's connection."""
        stream = await connect_tcp("127.0.0.1", self.port, timeout=5)
        try:
            yield stream
        finally:
            stream.abort()

    async def get(self, target: str, **fields: str) -> tuple[int, list[tuple[str, str]], bytes]:
        """One GET through the tunnel, on a connection of its own."""
        return await exchange(self.port, "GET", self.path(target), fields=fields)


async def exchange(
    port: int, method: str, target: str, *, fields: dict[str, str] | None = None, body: bytes = b""
) -> tuple[int, list[tuple[str, str]], bytes]:
    """One request on a connection of its own; status, fields and body of the final response.

    Raises ``AssertionError`` when the connection ends before the response is complete.
    """
    stream = await connect_tcp("127.0.0.1", port, timeout=5)
    try:
        lines = [f"{method} {target} HTTP/1.1", "Host: tunnel.test", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in (fields or {}).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        await stream.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        while True:
            status, answer, rest = await read_head(stream)
            if status >= 200:
                return status, answer, await _read_body(stream, method, status, answer, rest)
    finally:
        stream.abort()


async def read_head(stream: ByteStream, data: bytes = b"") -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, fields, and what came behind the head."""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive()
        assert piece, f"the connection ended inside a head: {data!r}"
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return *parse_head(head), rest


def parse_head(head: bytes) -> tuple[int, list[tuple[str, str]]]:
    line, *lines = head.decode("latin-1").split("\r\n")
    fields = [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)]
    return int(line.split(" ")[1]), fields


async def _read_body(
    stream: ByteStream, method: str, status: int, fields: list[tuple[str, str]], data: bytes
) -> bytes:
    values = {name.lower(): value for name, value in fields}
    if method == "HEAD" or status in (204, 304):
        return b""
    if "chunked" in values.get("transfer-encoding", ""):
        return await _read_chunked(stream, data)
    length = int(values["content-length"]) if "content-length" in values else None
    pieces = [data]
    size = len(data)
    while length is None or size < length:
        piece = await stream.receive()
        if not piece:
            assert length is None, f"{size} of {length} bytes, then the end"
            break
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


async def _read_chunked(stream: ByteStream, data: bytes) -> bytes:
    body = bytearray()
    while True:
        while b"\r\n" not in data:
            data += await _receive_more(stream)
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            return bytes(body)
        while len(data) < size + 2:
            data += await _receive_more(stream)
        body += data[:size]
        data = data[size + 2 :]


async def _receive_more(stream: ByteStream) -> bytes:
    piece = await stream.receive()
    assert piece, "the connection ended inside a chunked body"
    return piece


@asynccontextmanager
async def open_tunnel(
    *,
    relay: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    server_options: dict[str, Any] | None = None,
    client_options: dict[str, Any] | None = None,
    ready: bool = True,
) -> AsyncIterator[Tunnel]:
    """All parts in this event loop, ready for requests."""
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(serve_origin())
        server = await stack.enter_async_context(
            TunnelServer("127.0.0.1:0", **({"limits": limits} | (server_options or {})))
        )
        port = int(server.url.rpartition(":")[2])
        between = await stack.enter_async_context(serve_relay(port)) if relay else None
        options: dict[str, Any] = {"token": TOKEN, "origin": origin.url, "limits": limits} | (client_options or {})
        url = f"ws://127.0.0.1:{between.port if between is not None else port}"
        client = await stack.enter_async_context(TunnelClient(url, **options))
        if ready:
            await client.wait_ready(10)
        yield Tunnel(origin, server, client, between)


async def gather(*jobs: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run all at once; their results in order."""
    results: list[Any] = [None] * len(jobs)

    async def run(index: int, job: Callable[[], Awaitable[Any]]) -> None:
        results[index] = await job()

    async with anyio.create_task_group() as group:
        for index, job in enumerate(jobs):
            group.start_soon(run, index, job)
    return results
