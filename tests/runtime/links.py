"""Two links joined by memory connections, connections that wait on command, and handlers that move a pattern."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.core.budget import Budget
from tunnelkit.core.events import Opened
from tunnelkit.core.frames import StreamKind
from tunnelkit.core.opening import Attached, OpeningResult
from tunnelkit.errors import ConnectionLost
from tunnelkit.link import Link
from tunnelkit.transports.base import Connection
from tunnelkit.transports.memory import Faults, MemoryConnection, memory_pair
from tunnelkit.tunnel_stream import Stream, StreamHandler

__all__ = ["SOON", "Ask", "Echo", "Gate", "Joined", "Silent", "joined", "pattern"]

Acceptor: TypeAlias = Callable[[Stream, Opened], StreamHandler | None]

# Clocks that a test may wait for, and windows that a test fills with little data.
SOON = replace(
    DEFAULT_LIMITS,
    ping_active_silence=0.05,
    ping_active_timeout=0.05,
    ping_idle_silence=0.05,
    ping_idle_timeout=0.05,
)

logger = logging.getLogger("tunnelkit.test")


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


class Silent:
    """A handler that only notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.news = anyio.Event()

    def _note(self, what: object) -> None:
        self.heard.append(what)
        self.news.set()

    def on_sent(self) -> None:
        self._note("sent")

    def on_head(self, block: bytes, fin: bool) -> None:
        self._note(("head", block, fin))

    def on_data(self, data: bytes, fin: bool) -> None:
        self._note(("data", data, fin))

    def on_reset(self, code: int) -> None:
        self._note(("reset", code))

    def on_room(self) -> None:
        self._note("room")

    def on_progress(self, limit: int) -> None:
        self._note("progress")

    def on_settled(self) -> None: ...
    def on_written(self) -> None: ...

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(10):
            while not condition():
                self.news = anyio.Event()
                await self.news.wait()


class Echo:
    """At the client: sends back what it gets, consuming it only as it goes out."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.code: int | None = None
        self._waiting: list[bytes] = []
        self._ended = False

    def on_sent(self) -> None: ...

    def on_head(self, block: bytes, fin: bool) -> None:
        self.stream.send_head(block, fin=fin)
        if fin:
            self.stream.forget()

    def on_data(self, data: bytes, fin: bool) -> None:
        self._waiting.append(data)
        self._ended = fin

    def on_settled(self) -> None:
        self._pump()

    def on_written(self) -> None: ...

    def on_room(self) -> None:
        self._pump()

    def on_progress(self, limit: int) -> None: ...

    def on_reset(self, code: int) -> None:
        self.code = code

    def _pump(self) -> None:
        while self._waiting and (room := self.stream.room):
            piece = self._waiting[0][:room]
            self.stream.send_data(piece)
            self.stream.consume(len(piece))
            self._waiting[0] = self._waiting[0][room:]
            if not self._waiting[0]:
                del self._waiting[0]
        if self._ended and not self._waiting:
            self._ended = False
            self.stream.send_fin()
            self.stream.forget()


class Ask:
    """At the server: sends a head and ``size`` bytes, and gathers the answer."""

    def __init__(self, link: Link, size: int) -> None:
        self.answer = bytearray()
        self.code: int | None = None
        self.done = anyio.Event()
        self.progressed = anyio.Event()  # set when anything came back
        self._rest = pattern(size)
        self._ended = False
        self.stream = link.open_stream(StreamKind.HTTP, self)
        self.stream.send_head(b"a head")
        self._pump()

    def on_sent(self) -> None: ...

    def on_head(self, block: bytes, fin: bool) -> None:
        assert block == b"a head"
        self._note_end(fin)

    def on_data(self, data: bytes, fin: bool) -> None:
        self.answer += data
        self.stream.consume(len(data))
        self._note_end(fin)

    def _note_end(self, fin: bool) -> None:
        self.progressed.set()
        if fin:
            self.stream.forget()
            self.done.set()

    def on_settled(self) -> None: ...
    def on_written(self) -> None: ...

    def on_progress(self, limit: int) -> None: ...

    def on_room(self) -> None:
        self._pump()

    def on_reset(self, code: int) -> None:
        self.code = code
        self.done.set()

    def _pump(self) -> None:
        while self._rest and (room := self.stream.room):
            self.stream.send_data(self._rest[:room])
            self._rest = self._rest[room:]
        if not self._rest and not self._ended:
            self._ended = True
            self.stream.send_fin()

    async def answered(self) -> bytes:
        with anyio.fail_after(10):
            await self.done.wait()
        return bytes(self.answer)


class Gate(Connection):
    """A connection whose calls wait where a test wants it: ``ready``, ``send``, ``receive`` and ``aclose`` before
    anything happens, ``sent`` when the message was taken already."""

    def __init__(self, inner: MemoryConnection, pings: bool = True) -> None:
        self.inner = inner
        self.wants_pings = pings
        self.transport = inner.transport
        self.max_message = inner.max_message
        self.ordered = inner.ordered
        self.stubborn = False  # what waits does not notice a cancellation, as a thread would not
        self._gates: dict[str, anyio.Event] = {}
        self._arrived: dict[str, anyio.Event] = {}

    def hold(self, *names: str) -> None:
        for name in names:
            self._gates[name] = anyio.Event()
            self._arrived[name] = anyio.Event()

    def release(self) -> None:
        for gate in self._gates.values():
            gate.set()

    async def arrived(self, name: str) -> None:
        with anyio.fail_after(10):
            await self._arrived[name].wait()

    def has_arrived(self, name: str) -> bool:
        return self._arrived[name].is_set()

    async def _pass(self, name: str) -> None:
        if name in self._gates:
            self._arrived[name].set()
            with anyio.CancelScope(shield=self.stubborn):
                await self._gates[name].wait()

    async def ready(self) -> int:
        await self._pass("ready")
        return await self.inner.ready()

    async def send(self, message: bytes) -> None:
        await self._pass("send")
        await self.inner.send(message)
        await self._pass("sent")

    async def receive(self) -> bytes:
        await self._pass("receive")
        return await self.inner.receive()

    @property
    def last_received(self) -> float:
        return self.inner.last_received

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        await self._pass("aclose")
        await self.inner.aclose(code, reason)

    def abort(self) -> None:
        self.inner.abort()


class Joined:
    """A server's link and a client's, and the connections between them, one after the other."""

    def __init__(
        self, group: TaskGroup, limits: Limits, accept: Callable[[Stream, Opened], StreamHandler | None]
    ) -> None:
        self.group = group
        self.epoch = 0
        self.budgets = Budget(limits.max_buffered_bytes), Budget(limits.max_buffered_bytes)
        self.failures: dict[str, Exception] = {}  # why the last run of each end returned
        self.scopes: dict[str, anyio.CancelScope] = {}
        self._over: dict[str, anyio.Event] = {}
        self.server = self._make(limits, client=False, budget=self.budgets[0])
        self.client = self._make(limits, client=True, budget=self.budgets[1], accept=accept)

    def _make(
        self,
        limits: Limits,
        *,
        client: bool,
        budget: Budget,
        accept: Acceptor | None = None,
    ) -> Link:
        return Link(
            client=client,
            limits=limits,
            budget=budget,
            peer_window=limits.replay_limit,
            peer_floor=limits.stream_floor,
            peer_max_streams=limits.max_streams,
            logger=logger,
            accept=accept,
        )

    def attach(self, faults: Faults | None = None, *, only: str = "", pings: bool = True) -> tuple[Gate, Gate]:
        """A new connection takes over at both ends, or at one; the server's end of it, and the client's."""
        self.epoch += 1
        server, client = (Gate(end, pings) for end in memory_pair(faults))
        for name, link in (("server", self.server), ("client", self.client)):
            if only in ("", name):
                link.fence(ConnectionLost("another connection took over"))
        if only != "client":
            self._start("server", self.server, server, self.client.session.received)
        if only != "server":
            self._start("client", self.client, client, self.server.session.received)
        return server, client

    def _start(self, name: str, link: Link, connection: Gate, peer_ack: int) -> None:
        scope = self.scopes[name] = anyio.CancelScope()
        over = self._over[name] = anyio.Event()
        opened = OpeningResult(attached=Attached(self.epoch, peer_ack))

        async def run() -> None:
            try:
                with scope:
                    self.failures[name] = await link.run(connection, opened)
            finally:
                over.set()

        self.group.start_soon(run)

    async def over(self, name: str) -> Exception:
        """Wait until the last run of an end returned; why it did."""
        with anyio.fail_after(10):
            await self._over[name].wait()
        return self.failures[name]

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(10):
            while not condition():  # noqa: ASYNC110 - the state of a core rings no bell
                await anyio.sleep(0.002)

    async def clean(self) -> None:
        """Nothing is left of any stream, and no memory is held."""
        links = self.server, self.client
        await self.until(lambda: not any(link.mux.active_streams or link.streams.by_id for link in links))
        await self.until(lambda: not any(budget.used for budget in self.budgets))


@asynccontextmanager
async def joined(limits: Limits = DEFAULT_LIMITS, accept: Acceptor | None = None) -> AsyncIterator[Joined]:
    async with anyio.create_task_group() as group:
        yield Joined(group, limits, accept or (lambda stream, opened: Echo(stream)))
        group.cancel_scope.cancel()
