"""A server and clients over the memory transport, callers on memory streams, and origins that a test drives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
from anyio.abc import TaskGroup

from tunnelkit import TunnelClient, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.core.budget import Budget
from tunnelkit.heads import ResponseHead
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.peer import Peer
from tunnelkit.origins.base import Origin, OriginExchange
from tunnelkit.transports.memory import MemoryTransport

__all__ = ["QUICK", "TOKEN", "Answering", "Caller", "Tunnel", "eventually", "plain", "tunnel"]

TOKEN = "a-token-for-the-tests"
URL = "ws://memory.test"

# Dials that follow each other at once, so that nobody waits for a backoff.
QUICK = replace(DEFAULT_LIMITS, retry_first=0.02, retry_cap=0.02, retry_cap_resumable=0.02)

Answer = Callable[[OriginExchange], Awaitable[None]]


class News:
    """Lets an origin wait until its exchange has news."""

    def __init__(self, exchange: OriginExchange) -> None:
        self._bell = anyio.Event()
        exchange.on_news(self._ring)

    def _ring(self) -> None:
        self._bell.set()

    async def wait(self) -> None:
        await self._bell.wait()
        self._bell = anyio.Event()


async def plain(exchange: OriginExchange, body: bytes = b"fine") -> None:
    exchange.send_head(ResponseHead(200, [(b"Content-Length", b"%d" % len(body))], b"OK"))
    exchange.send_body(body)
    exchange.send_end()


class Answering(Origin):
    """An origin that is a function."""

    def __init__(self, answer: Answer = plain) -> None:
        self.answer = answer
        self.heads: list[bytes] = []  # targets, in order
        self.closed = 0  # how often

    async def serve(self, exchange: OriginExchange) -> None:
        self.heads.append(exchange.head.target)
        await self.answer(exchange)

    async def aclose(self) -> None:
        self.closed += 1


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that other tasks, or clocks of a few milliseconds, bring about."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - the state of a core rings no bell
            await anyio.sleep(0.002)


class Caller:
    """A caller's connection."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.read = b""

    async def send(self, method: str, path: str, *lines: str, body: bytes = b"") -> None:
        head = [f"{method} {path} HTTP/1.1", "Host: caller.test", *lines]
        if body:
            head.append(f"Content-Length: {len(body)}")
        await self.stream.send("\r\n".join([*head, "", ""]).encode() + body)

    async def head(self) -> bytes:
        """The head of the next response."""
        with anyio.fail_after(10):
            while b"\r\n\r\n" not in self.read:
                piece = await self.stream.receive()
                assert piece, f"the connection ended: {self.read!r}"
                self.read += piece
        head, _, self.read = self.read.partition(b"\r\n\r\n")
        return head

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next response, which has a Content-Length or none."""
        head = await self.head()
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        with anyio.fail_after(10):
            while len(self.read) < length:
                piece = await self.stream.receive()
                assert piece, f"the connection ended: {self.read!r}"
                self.read += piece
        body, self.read = self.read[:length], self.read[length:]
        return int(head.split(b" ")[1]), body


class Tunnel:
    def __init__(self, group: TaskGroup, server: TunnelServer, transport: MemoryTransport, limits: Limits) -> None:
        self.group = group
        self.server = server
        self.transport = transport
        self.limits = limits

    @property
    def budget(self) -> Budget:
        assert self.server._running is not None
        return self.server._running.table._budget

    def client(self, origin: Origin | str | None = None, **options: Any) -> TunnelClient:
        """A client of this server; ``tunnelkit.TunnelClient``'s options."""
        given: dict[str, Any] = {"token": TOKEN, "transport": self.transport, "limits": self.limits} | options
        return TunnelClient(URL, origin=origin if origin is not None else Answering(), **given)

    def call(self, capacity: int = 64 * 1024) -> Caller:
        """A caller that connects now."""
        near, far = memory_pair(capacity)
        assert self.server._running is not None
        peer = Peer(address="127.0.0.1", port=1, forwarded_for="127.0.0.1")
        self.group.start_soon(self.server._running.front.serve_connection, far, peer)
        return Caller(near)

    async def get(self, path: str = "/", *lines: str) -> tuple[int, bytes]:
        """One request, on a connection of its own."""
        caller = self.call()
        await caller.send("GET", f"/_token/{TOKEN}{path}", *lines)
        answer = await caller.answer()
        caller.stream.abort()
        return answer

    async def clean(self) -> None:
        """Nothing of any exchange is left at the server, and no memory is held but the sessions' floors."""
        running = self.server._running
        assert running is not None
        await eventually(lambda: not running.gateway.active)
        await eventually(lambda: not any(session.link.mux.active_streams for session in running.table))
        await eventually(lambda: self.budget.used == len(running.table) * self.limits.replay_floor)


@asynccontextmanager
async def tunnel(*, limits: Limits = QUICK, **options: Any) -> AsyncIterator[Tunnel]:
    """A server that speaks memory alone (its listener is there, and nobody comes by it)."""
    transport = MemoryTransport()
    server = TunnelServer("127.0.0.1:0", limits=limits, transports=[transport], **options)
    async with server, anyio.create_task_group() as group:
        yield Tunnel(group, server, transport, limits)
        group.cancel_scope.cancel()
