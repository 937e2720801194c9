"""A TCP relay that misbehaves on command: rate, cuts by FIN or RST, silence. Between tunnel client and server.

In a test's own process, or as a program: ``python -m tests.e2e.relay PORT TARGET_PORT``, which prints ``relaying on
PORT`` and takes the commands ``cut fin``, ``cut rst``, ``silence SECONDS``, ``refuse``, ``accept`` and ``rate BYTES``
on its standard input.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream

__all__ = ["Relay", "serve_relay"]


@dataclass(eq=False)
class _Pair:
    near: SocketStream
    far: SocketStream
    scope: anyio.CancelScope
    carried: int = 0
    cut_after: int | None = None  # bytes
    rst: bool = True


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
    _silent: anyio.Event | None = None
    _due: dict[str, float] = field(default_factory=dict)
    _news: anyio.Event = field(default_factory=anyio.Event)

    async def until(self, condition: object) -> None:
        """Wait until ``condition()`` holds; it is looked at whenever bytes passed or connections came and went."""
        assert callable(condition)
        with anyio.fail_after(30):
            while not condition():
                self._news = anyio.Event()
                await self._news.wait()

    def cut(self, *, rst: bool = True) -> int:
        """End every connection now; how many there were."""
        for pair in self.pairs:
            self._end(pair, rst=rst)
        return len(self.pairs)

    def cut_after(self, count: int, *, rst: bool = True) -> None:
        """End each present connection when it has carried ``count`` more bytes."""
        for pair in self.pairs:
            pair.cut_after, pair.rst = pair.carried + count, rst

    def silence(self) -> None:
        """Nothing passes any more, and nobody is told, until ``speak``. Connections can still be made."""
        self._silent = self._silent or anyio.Event()

    def speak(self) -> None:
        if self._silent is not None:
            self._silent.set()
            self._silent = None

    def _end(self, pair: _Pair, *, rst: bool) -> None:
        self.cuts += 1
        if rst:
            for stream in (pair.near, pair.far):
                raw = stream.extra(SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair.scope.cancel()

    async def handle(self, near: SocketStream) -> None:
        self.connections += 1
        if self.refusing:
            raw = near.extra(SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await anyio.aclose_forcefully(near)
            return
        far = await anyio.connect_tcp("127.0.0.1", self.target)
        with anyio.CancelScope() as scope:
            pair = _Pair(near, far, scope)
            self.pairs.append(pair)
            self._news.set()
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._pump, pair, near, far, "up")
                    group.start_soon(self._pump, pair, far, near, "down")
            finally:
                self.pairs.remove(pair)
                self._news.set()
                await anyio.aclose_forcefully(near)
                await anyio.aclose_forcefully(far)

    async def _pump(self, pair: _Pair, source: SocketStream, target: SocketStream, way: str) -> None:
        try:
            async for data in source:
                while self._silent is not None:
                    await self._silent.wait()
                self._count(pair, len(data))
                await target.send(data)
                await self._pace(way, len(data))
            await target.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pair.scope.cancel()

    def _count(self, pair: _Pair, count: int) -> None:
        pair.carried += count
        self.carried += count
        self._news.set()
        if pair.cut_after is not None and pair.carried >= pair.cut_after:
            pair.cut_after = None
            self._end(pair, rst=pair.rst)

    async def _pace(self, way: str, count: int) -> None:
        if self.rate:
            now = anyio.current_time()
            due = self._due[way] = max(self._due.get(way, now), now) + count / self.rate
            if due - now > 0.01:
                await anyio.sleep(due - now)  # this is the slow link that the test wants


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

    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        try:
            yield relay
        finally:
            relay.speak()
            group.cancel_scope.cancel()
    await listener.aclose()


async def main(port: int, target: int) -> None:
    async with serve_relay(target, port=port) as relay:
        print(f"relaying on {relay.port}", flush=True)
        async for line in anyio.wrap_file(sys.stdin):
            match line.split():
                case ["cut", how]:
                    print(f"cut {relay.cut(rst=how == 'rst')}", flush=True)
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
