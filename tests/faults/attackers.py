"""Callers that mean to keep connections for as long as they can: slow heads, slow bodies, slow reading."""

from __future__ import annotations

import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import anyio
from anyio.abc import TaskGroup

from .ends import TOKEN, Tunnel

__all__ = ["Attacker", "Slow", "attack"]

LOOK = 0.2  # seconds between two looks whether an attacker was shut
SMALL = 4096  # bytes that a kernel keeps for one that does not read


class Slow(StrEnum):
    HEAD = "head"
    BODY = "body"
    READ = "read"


FIELDS = f"Host: 127.0.0.1\r\nX-Token: {TOKEN}\r\n".encode()
# What each says at once; then a byte each time, but for the one that reads one: of more than can be kept on the way.
BEGINNINGS = {
    Slow.HEAD: b"GET /echo?slow HTTP/1.1\r\n" + FIELDS + b"X-Slow: ",
    Slow.BODY: b"PUT /sink?slow HTTP/1.1\r\n" + FIELDS + b"Content-Length: 1000000\r\n\r\n",
    Slow.READ: b"GET /bytes/20000000?slow HTTP/1.1\r\n" + FIELDS + b"\r\n",
}


@dataclass
class Attacker:
    kind: Slow
    period: float  # seconds between two bytes
    shut: float | None = None  # when the server had enough, in seconds from the attack's start
    told: bytes = b""  # the first line of an answer
    _socket: socket.socket = field(default_factory=socket.socket, repr=False)

    async def run(self, port: int, began: float) -> None:
        """Until it is shut."""
        with self._socket:
            if self.kind is Slow.READ:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            self._socket.setblocking(False)
            self._socket.connect_ex(("127.0.0.1", port))
            await anyio.wait_writable(self._socket)
            self._socket.send(BEGINNINGS[self.kind])
            await self._drip()
        self.shut = anyio.current_time() - began

    async def _drip(self) -> None:
        watch = select.poll()
        watch.register(self._socket, select.POLLRDHUP if self.kind is not Slow.READ else 0)
        next_byte = 0.0
        while not watch.poll(0):  # POLLERR and POLLHUP are always told
            if anyio.current_time() >= next_byte:
                next_byte = anyio.current_time() + self.period
                self._one_byte()
            await anyio.sleep(LOOK)
        if self.kind is not Slow.READ:
            self.told = self._socket.recv(65536).partition(b"\r\n")[0]

    def _one_byte(self) -> None:
        try:
            if self.kind is Slow.READ:
                self._socket.recv(1)
            else:
                self._socket.send(b"x")
        except (BlockingIOError, ConnectionError):
            pass  # nothing there yet; or the end, which is looked for elsewhere


@asynccontextmanager
async def attack(tunnel: Tunnel, count: int, period: float) -> AsyncIterator[list[Attacker]]:
    """``count`` of each kind at once. At the end of the context all were shut."""
    attackers = [Attacker(kind, period) for _ in range(count) for kind in Slow]
    async with anyio.create_task_group() as group:
        _begin(group, tunnel, attackers)
        yield attackers


def _begin(group: TaskGroup, tunnel: Tunnel, attackers: list[Attacker]) -> None:
    began = anyio.current_time()
    for attacker in attackers:
        group.start_soon(attacker.run, tunnel.port, began)
