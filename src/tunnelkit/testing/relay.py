"""A TCP relay that misbehaves on command, between any two ends: delay, rate, cuts, stalls, black holes.

The side that dials is *near* (a tunnel client), the side that is dialled is *far* (a tunnel server); bytes go *up*
from near to far, and *down*. Everything can be switched while connections run, and everything is counted::

    async with serve_relay(port_of_the_server) as relay:
        ...  # let the client dial relay.port
        await relay.until(lambda: relay.carried > 100_000)
        relay.cut()

``python -m tunnelkit.testing`` is a relay as a program.
"""

from __future__ import annotations

import enum
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal, TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ..errors import DialError, StreamBroken
from ..net.dial import connect_tcp
from ..net.listen import Listener
from ..net.stream import ByteStream
from .news import News

__all__ = ["DELAY_BUFFER", "End", "Pair", "Relay", "Way", "serve_relay"]

Way: TypeAlias = Literal["up", "down"]
_Clock: TypeAlias = Callable[[], Awaitable[None]]

# Bytes that one direction of a connection holds while they are delayed. A link as long as that is never full.
DELAY_BUFFER: Final = 16 * 1024 * 1024
DIAL_TIMEOUT: Final = 5.0

_logger = logging.getLogger("tunnelkit.testing")


class End(enum.Enum):
    """How one side of a connection learns that it is over."""

    RST = enum.auto()
    FIN = enum.auto()
    UNTOLD = enum.auto()  # not at all: the connection stays open and carries nothing


class _Flow:
    """One direction of a connection: what was read and is not yet due."""

    def __init__(self, way: Way, source: ByteStream, target: ByteStream) -> None:
        self.way = way
        self.source = source
        self.target = target
        self.waiting: deque[tuple[float, bytes]] = deque()  # b"" is the end
        self.held = 0
        self.muted = False  # whatever comes is dropped
        self.half_close = False  # the target is to be sent FIN, and nothing else after it

    @property
    def due(self) -> float:
        return self.waiting[0][0] if self.waiting else math.inf

    def put(self, due: float, data: bytes) -> None:
        self.waiting.append((due, data))
        self.held += len(data)

    def take(self) -> bytes:
        data = self.waiting.popleft()[1]
        self.held -= len(data)
        return data


class Pair:
    """A connection through the relay. ``up`` and ``down`` are the bytes it carried."""

    def __init__(self, near: ByteStream, far: ByteStream) -> None:
        self.near = near
        self.far = far
        self.up = 0
        self.down = 0
        self.last_carried = anyio.current_time()
        self.cut_at: int | None = None  # carried bytes
        self.ends = (End.RST, End.RST)
        self.scope = anyio.CancelScope()
        self.flows = (_Flow("up", near, far), _Flow("down", far, near))

    @property
    def carried(self) -> int:
        return self.up + self.down


class Relay(News):
    """Made by ``serve_relay``. Its attributes may be set at any time."""

    def __init__(self, tasks: TaskGroup, target: int, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__()
        self.target = target  # port
        self.host = host
        self.port = port  # where it listens
        # -- faults --
        self.rate = 0.0  # bytes a second each way, all connections together; 0: unlimited
        self.delay = 0.0  # seconds that everything takes each way
        self.refusing = False  # new connections are reset
        self.cut_next: deque[int] = deque()  # each is a coming connection's: cut when it has carried so much
        # -- counted --
        self.connections = 0  # accepted so far
        self.refused = 0
        self.cuts = 0  # connections cut, those for idleness included
        self.idle_cuts = 0
        self.up = 0  # bytes
        self.down = 0
        self.pairs: list[Pair] = []  # the connections there are
        self._tasks = tasks
        self._stalled: dict[Way, anyio.Event] = {}
        self._due: dict[Way, float] = {}
        self._clocks: dict[str, anyio.CancelScope] = {}

    def __repr__(self) -> str:
        return (
            f"<Relay {len(self.pairs)} of {self.connections} connections, {self.cuts} cuts, {self.refused} refused, "
            f"{self.up} bytes up, {self.down} down>"
        )

    @property
    def carried(self) -> int:
        """Bytes, both ways together."""
        return self.up + self.down

    # -- faults --------------------------------------------------------------------------------

    def cut(self, near: End = End.RST, far: End = End.RST) -> int:
        """End every connection now; how many there were. What is on its way is lost.

        With ``UNTOLD`` for one side the connection is half-open: that side hears nothing more and is not told.
        """
        pairs = self.pairs.copy()
        for pair in pairs:
            self._end(pair, near, far)
        return len(pairs)

    def cut_after(self, count: int, near: End = End.RST, far: End = End.RST) -> None:
        """End each present connection when it has carried exactly ``count`` more bytes, both ways together."""
        for pair in self.pairs:
            pair.cut_at, pair.ends = pair.carried + count, (near, far)

    def cut_in(self, seconds: float, near: End = End.RST, far: End = End.RST) -> None:
        """End each present connection in ``seconds``, if it lives so long."""
        pairs = self.pairs.copy()

        async def wait() -> None:
            await anyio.sleep(seconds)
            for pair in pairs:
                self._end(pair, near, far)

        self._tasks.start_soon(wait)

    def cut_every(self, seconds: float, near: End = End.RST, far: End = End.RST) -> None:
        """End all connections every ``seconds``, from now on; 0 stops that."""

        async def clock() -> None:
            while True:
                await anyio.sleep(seconds)
                self.cut(near, far)

        self._set_clock("every", clock if seconds else None)

    def drop_idle(self, seconds: float, near: End = End.UNTOLD, far: End = End.UNTOLD) -> None:
        """End each connection that carried nothing for ``seconds``, from now on; 0 stops that. By default nobody is
        told, as with a firewall that forgets."""

        async def clock() -> None:
            while True:
                now = anyio.current_time()
                for pair in [pair for pair in self.pairs if now - pair.last_carried >= seconds]:
                    self.idle_cuts += 1
                    self._end(pair, near, far)
                oldest = min((pair.last_carried for pair in self.pairs), default=now)
                await anyio.sleep(max(oldest + seconds - now, 0.001))

        self._set_clock("idle", clock if seconds else None)

    def mute(self, way: Way | None = None) -> None:
        """A black hole: what the present connections are sent, in one direction or both, is read and dropped for
        ever, and nobody is told."""
        for pair in self.pairs:
            for flow in pair.flows:
                flow.muted = flow.muted or way in (None, flow.way)

    def half_close(self, *, near: bool) -> None:
        """Send FIN to one side of each present connection as if its peer had; the other direction goes on."""
        for pair in self.pairs:
            flow = pair.flows[near]
            flow.half_close = True
            flow.source.wake()

    def stall(self, way: Way | None = None) -> None:
        """Nothing passes any more, in one direction or both, and nobody is told, until ``resume``: then it arrives.
        Connections can still be made. Little is held here: the senders feel it."""
        for each in _ways(way):
            self._stalled.setdefault(each, anyio.Event())

    def resume(self, way: Way | None = None) -> None:
        """What ``stall`` held up goes on, all of it or one ``way``."""
        for each in _ways(way):
            if (stalled := self._stalled.pop(each, None)) is not None:
                stalled.set()

    # -- clocks --------------------------------------------------------------------------------

    def _set_clock(self, name: str, clock: _Clock | None) -> None:
        if (old := self._clocks.pop(name, None)) is not None:
            old.cancel()
        if clock is not None:
            scope = self._clocks[name] = anyio.CancelScope()
            self._tasks.start_soon(_within, scope, clock)

    # -- connections ---------------------------------------------------------------------------

    async def handle(self, near: ByteStream) -> None:
        """Carry one connection to its end."""
        self.connections += 1
        self._ring()
        if self.refusing:
            self.refused += 1
            near.abort()
            return
        try:
            far = await connect_tcp(self.host, self.target, timeout=DIAL_TIMEOUT)
        except DialError:
            return  # nobody listens at the target: the near side sees an end
        try:
            await self._join(Pair(near, far))
        finally:
            far.abort()

    async def _join(self, pair: Pair) -> None:
        if self.cut_next:
            pair.cut_at = self.cut_next.popleft()
        self.pairs.append(pair)
        self._ring()
        try:
            with pair.scope:
                async with anyio.create_task_group() as group:
                    for flow in pair.flows:
                        group.start_soon(self._pump, pair, flow)
        finally:
            cut = not self._forget(pair)
        if not cut and not pair.scope.cancel_called:
            await pair.far.aclose()  # both sides ended in order
            return
        async with anyio.create_task_group() as group:
            group.start_soon(_part, pair.near, pair.ends[0])
            group.start_soon(_part, pair.far, pair.ends[1])

    def _end(self, pair: Pair, near: End, far: End) -> None:
        if pair in self.pairs:  # both its pumps may come to the place of the cut
            self.cuts += 1
            pair.ends = near, far
            self._forget(pair)
            pair.scope.cancel()

    def _forget(self, pair: Pair) -> bool:
        known = pair in self.pairs
        if known:
            self.pairs.remove(pair)
        self._ring()
        return known

    # -- bytes ---------------------------------------------------------------------------------

    async def _pump(self, pair: Pair, flow: _Flow) -> None:
        """One task reads and writes, so that a target that takes nothing holds its source up."""
        try:
            while True:
                await checkpoint()  # two fast ends would never let the others have their turn
                if flow.half_close:
                    await self._drop_the_rest(flow)
                    return
                if flow.due > anyio.current_time():
                    await self._read(flow)
                elif not await self._pass_on(pair, flow):
                    return
        except StreamBroken:
            if not flow.muted and not flow.half_close:
                pair.scope.cancel()

    async def _read(self, flow: _Flow) -> None:
        """Wait for more to come, or for what came to be due."""
        with anyio.CancelScope(deadline=flow.due):
            if flow.held >= DELAY_BUFFER or (flow.waiting and not flow.waiting[-1][1]):
                await anyio.sleep_forever()
            await flow.source.wait(readable=True)
            if (data := flow.source.receive_nowait()) is not None:
                flow.put(anyio.current_time() + self.delay, data)

    async def _pass_on(self, pair: Pair, flow: _Flow) -> bool:
        """Hand over what is due next; False at the end."""
        while (stalled := self._stalled.get(flow.way)) is not None:
            await stalled.wait()
        data = flow.take()
        if flow.muted:
            return bool(data)
        if not data:
            await flow.target.send_eof()
            return False
        data = self._count(pair, flow.way, data)
        await flow.target.send(data)
        if pair.cut_at is not None and pair.carried >= pair.cut_at:
            self._end(pair, *pair.ends)
        await self._pace(flow.way, len(data))
        return True

    async def _drop_the_rest(self, flow: _Flow) -> None:
        await flow.target.send_eof()
        while await flow.source.receive():
            pass

    def _count(self, pair: Pair, way: Way, data: bytes) -> bytes:
        """What of ``data`` still passes."""
        if pair.cut_at is not None:
            data = data[: max(pair.cut_at - pair.carried, 0)]
        for counting in (pair, self):
            if way == "up":
                counting.up += len(data)
            else:
                counting.down += len(data)
        pair.last_carried = anyio.current_time()
        self._ring()
        return data

    async def _pace(self, way: Way, count: int) -> None:
        if self.rate:
            now = anyio.current_time()
            due = self._due[way] = max(self._due.get(way, now), now) + count / self.rate
            if due - now > 0.01:
                await anyio.sleep(due - now)  # this is the slow link that was asked for


def _ways(way: Way | None) -> tuple[Way, ...]:
    return ("up", "down") if way is None else (way,)


async def _within(scope: anyio.CancelScope, clock: _Clock) -> None:
    with scope:
        await clock()


async def _part(stream: ByteStream, end: End) -> None:
    try:
        with suppress(StreamBroken):
            if end is End.UNTOLD:
                await anyio.sleep_forever()
            elif end is End.FIN:
                await stream.send_eof()
                while await stream.receive():
                    pass  # a close with bytes unread would send RST
                await stream.aclose()
    finally:
        stream.abort()  # RST, or nothing once it is closed


@asynccontextmanager
async def serve_relay(
    target: int, *, host: str = "127.0.0.1", port: int = 0, rate: float = 0.0, delay: float = 0.0
) -> AsyncIterator[Relay]:
    """Relay from ``relay.port`` on loopback to ``target`` at ``host`` while the context lasts; then every connection
    is reset. Raises ``ConfigError`` when ``port`` cannot be had."""
    listener = Listener.bind(f"127.0.0.1:{port}", logger=_logger)
    async with anyio.create_task_group() as tasks:
        relay = Relay(tasks, target, host=host, port=listener.addresses[0][1])
        relay.rate, relay.delay = rate, delay
        await tasks.start(lambda *, task_status: listener.serve(relay.handle, task_status=task_status))
        try:
            yield relay
        finally:
            tasks.cancel_scope.cancel()
