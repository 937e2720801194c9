"""A TCP relay that misbehaves on command: rate, cuts by FIN or RST, silence. Between tunnel client and server.

A cut ends the connections of both sides, or of one alone: the other side is then not told and hears nothing more.

In a test's own process, or as a program: ``python -m tests.e2e.relay PORT TARGET_PORT``, which prints ``relaying on
PORT`` and takes the commands ``cut fin``, ``cut rst``, ``silence SECONDS``, ``refuse``, ``accept`` and ``rate BYTES``
on its standard input.
"""

from __future__ import annotations

import enum
import socket
import struct
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream

__all__ = ["End", "Relay", "serve_relay"]


class End(enum.Enum):
    """How one side of a connection learns that it is over."""

    RST = enum.auto()
    FIN = enum.auto()
    UNTOLD = enum.auto()  # not at all: the connection stays, and carries nothing


_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


@dataclass(eq=False)
class _Pair:
    near: SocketStream
    far: SocketStream
    scope: anyio.CancelScope
    carried: int = 0  # bytes, both ways together
    cut_at: int | None = None  # carried bytes
    ends: tuple[End, End] = (End.RST, End.RST)  # of the near and the far side
    muted: bool = False
    finished: SocketStream | None = None  # was sent FIN; what still comes for it is dropped


@dataclass
class Relay:
    target: int
    port: int = 0
    rate: float = 0.0  # bytes a second each way, all connections together; 0: unlimited
    refusing: bool = False  # new connections are reset
    cuts: int = 0
    connections: int = 0  # accepted so far
    carried: int = 0
    pairs: list[_Pair] = field(default_factory=list)
    cut_next: deque[int] = field(default_factory=deque)  # each is a coming connection's, cut when it carried so much
    _silent: anyio.Event | None = None
    _due: dict[str, float] = field(default_factory=dict)
    _news: anyio.Event = field(default_factory=anyio.Event)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until ``condition()`` holds; it is looked at whenever bytes passed or connections came and went."""
        with anyio.fail_after(30):
            while not condition():
                await self._news.wait()

    def _happened(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    def cut(self, near: End = End.RST, far: End = End.RST) -> int:
        """End every connection now; how many there were. ``near`` is the side that dialled, the tunnel client's."""
        pairs = self.pairs.copy()
        for pair in pairs:
            self._end(pair, near, far)
        return len(pairs)

    def cut_after(self, count: int, near: End = End.RST, far: End = End.RST) -> None:
        """End each present connection when it has carried exactly ``count`` more bytes."""
        for pair in self.pairs:
            pair.cut_at, pair.ends = pair.carried + count, (near, far)

    def mute(self) -> None:
        """The present connections carry nothing any more, and nobody is told. Later ones are not concerned."""
        for pair in self.pairs:
            pair.muted = True

    def half_close(self, *, near: bool) -> None:
        """Send FIN to one side of each connection, as if its peer had; the other direction goes on."""
        for pair in self.pairs:
            pair.finished = pair.near if near else pair.far
            pair.finished.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_WR)

    def silence(self) -> None:
        """Nothing passes any more, and nobody is told, until ``speak``. Connections can still be made."""
        self._silent = self._silent or anyio.Event()

    def speak(self) -> None:
        if self._silent is not None:
            self._silent.set()
            self._silent = None

    def _end(self, pair: _Pair, near: End, far: End) -> None:
        if pair not in self.pairs:  # both its pumps came to the place of the cut
            return
        self.cuts += 1
        pair.ends = near, far
        self._forget(pair)
        pair.scope.cancel()

    def _forget(self, pair: _Pair) -> None:
        if pair in self.pairs:
            self.pairs.remove(pair)
        self._happened()

    async def handle(self, near: SocketStream) -> None:
        self.connections += 1
        self._happened()
        if self.refusing:
            await _part(near, End.RST)
            return
        try:
            far = await anyio.connect_tcp("127.0.0.1", self.target)
            try:
                await self._join(near, far)
            finally:
                await anyio.aclose_forcefully(far)
        finally:
            await anyio.aclose_forcefully(near)

    async def _join(self, near: SocketStream, far: SocketStream) -> None:
        pair = _Pair(near, far, anyio.CancelScope())
        if self.cut_next:
            pair.cut_at = self.cut_next.popleft()
        self.pairs.append(pair)
        self._happened()
        with pair.scope:
            async with anyio.create_task_group() as group:
                group.start_soon(self._pump, pair, near, far, "up")
                group.start_soon(self._pump, pair, far, near, "down")
        self._forget(pair)
        async with anyio.create_task_group() as group:
            group.start_soon(_part, near, pair.ends[0])
            group.start_soon(_part, far, pair.ends[1])

    async def _pump(self, pair: _Pair, source: SocketStream, target: SocketStream, way: str) -> None:
        try:
            async for data in source:
                while self._silent is not None:
                    await self._silent.wait()
                if pair.muted or pair.finished is target:
                    continue
                data = self._count(pair, data)
                await target.send(data)
                if pair.cut_at is not None and pair.carried >= pair.cut_at:
                    self._end(pair, *pair.ends)
                await self._pace(way, len(data))
            if not (pair.muted or pair.finished is target):
                await target.send_eof()
        except _BROKEN:
            if not (pair.muted or pair.finished is target):
                pair.scope.cancel()

    def _count(self, pair: _Pair, data: bytes) -> bytes:
        """What of ``data`` still passes."""
        if pair.cut_at is not None:
            data = data[: max(pair.cut_at - pair.carried, 0)]
        pair.carried += len(data)
        self.carried += len(data)
        self._happened()
        return data

    async def _pace(self, way: str, count: int) -> None:
        if self.rate:
            now = anyio.current_time()
            due = self._due[way] = max(self._due.get(way, now), now) + count / self.rate
            if due - now > 0.01:
                await anyio.sleep(due - now)  # this is the slow link that the test wants


async def _part(stream: SocketStream, end: End) -> None:
    try:
        with suppress(*_BROKEN, AttributeError):  # uvloop has no socket to show once its transport is closed
            if end is End.UNTOLD:
                await anyio.sleep_forever()
            elif end is End.RST:
                raw = stream.extra(SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                await stream.send_eof()
                async for _ in stream:  # a close with bytes unread would send RST
                    pass
    finally:
        await anyio.aclose_forcefully(stream)


@asynccontextmanager
async def serve_relay(target: int, *, port: int = 0, rate: float = 0.0) -> AsyncIterator[Relay]:
    """Relay to ``target`` on loopback while the context lasts."""
    relay = Relay(target, rate=rate)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    relay.port = listener.extra(SocketAttribute.local_port)

    async def handle(stream: SocketStream) -> None:
        try:
            await relay.handle(stream)
        except OSError:
            await anyio.aclose_forcefully(stream)  # nobody listens at the target: the caller sees an end

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        try:
            yield relay
        finally:
            relay.speak()
            group.cancel_scope.cancel()


async def main(port: int, target: int) -> None:
    async with serve_relay(target, port=port) as relay:
        print(f"relaying on {relay.port}", flush=True)
        async for line in anyio.wrap_file(sys.stdin):
            match line.split():
                case ["cut", how]:
                    print(f"cut {relay.cut(End[how.upper()], End[how.upper()])}", flush=True)
                case ["silence", seconds]:
                    relay.silence()
                    await anyio.sleep(float(seconds))
                    relay.speak()
                    print("spoke", flush=True)
                case ["refuse"]:
                    relay.refusing = True
                case ["accept"]:
                    relay.refusing = False
                case ["rate", rate]:
                    relay.rate = float(rate)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]), int(sys.argv[2]))
