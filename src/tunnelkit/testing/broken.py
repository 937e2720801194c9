"""Transports that break the contract, each in one way: the conformance kit has to fail them all.

They are the memory transport with a fault in its connections, and they show what a mistake of that kind looks like.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from ..errors import ConnectionLost
from ..handshake import Grant, Handshake, Refusal
from ..transports.base import Accepted, Connection, DialRequest, Offer, Peer, Transport
from ..transports.memory import Faults, MemoryTransport

__all__ = [
    "BROKEN",
    "BrokenTransport",
    "Doubling",
    "Dropping",
    "Hoarding",
    "LosingOnCancel",
    "Reordering",
    "Shielding",
    "Swallowing",
    "Truncating",
]


class _Wrapped(Connection):
    """A connection as good as the one inside it."""

    ordered = True

    def __init__(self, inner: Connection) -> None:
        self.transport = inner.transport
        self.max_message = inner.max_message
        self._inner = inner

    async def ready(self) -> int:
        return await self._inner.ready()

    async def send(self, message: bytes) -> None:
        await self._inner.send(message)

    async def receive(self) -> bytes:
        return await self._inner.receive()

    @property
    def last_received(self) -> float:
        return self._inner.last_received

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        await self._inner.aclose(code, reason)

    def abort(self) -> None:
        self._inner.abort()


class BrokenTransport(Transport):
    """``connection`` wraps both ends; ``faults`` are those of the memory transport below."""

    name = MemoryTransport.name
    connection: type[_Wrapped] = _Wrapped

    def __init__(self, faults: Faults | None = None) -> None:
        self.inner = MemoryTransport(faults=faults)

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        connection, grant = await self.inner.dial(request)
        return self.connection(connection), grant

    async def listen(self, offer: Offer, *, task_status: TaskStatus[None]) -> None:
        async def wrapping(handshake: Handshake, peer: Peer) -> Accepted | Refusal:
            answer = await offer(handshake, peer)
            return answer if isinstance(answer, Refusal) else _Serving(answer, self.connection)

        await self.inner.listen(wrapping, task_status=task_status)


class _Serving:
    def __init__(self, inner: Accepted, wrap: type[_Wrapped]) -> None:
        self.grant = inner.grant
        self.prover = inner.prover
        self._inner = inner
        self._wrap = wrap

    async def serve(self, connection: Connection) -> None:
        await self._inner.serve(self._wrap(connection))

    def abandon(self) -> None:
        self._inner.abandon()


class Dropping(BrokenTransport):
    """Now and then, a message is taken and never delivered."""

    class connection(_Wrapped):
        _taken = 0

        async def send(self, message: bytes) -> None:
            self._taken += 1
            if self._taken % 7:
                await super().send(message)


class Reordering(BrokenTransport):
    """Messages overtake each other, on connections that say they keep order."""

    def __init__(self) -> None:
        super().__init__(Faults(reorder=True))


class Doubling(BrokenTransport):
    """Messages arrive twice, on connections that say they keep order."""

    def __init__(self) -> None:
        super().__init__(Faults(duplicate=True))


class Truncating(BrokenTransport):
    """The end of a large message is missing."""

    class connection(_Wrapped):
        async def send(self, message: bytes) -> None:
            await super().send(message[:60_000] if len(message) <= self.max_message else message)


class Swallowing(BrokenTransport):
    """A cancelled receive takes its cancellation for a loss."""

    class connection(_Wrapped):
        async def receive(self) -> bytes:
            try:
                return await super().receive()
            except BaseException as exc:
                raise ConnectionLost(f"failed: {exc}") from exc


class Shielding(BrokenTransport):
    """A receive cannot be cancelled at all."""

    class connection(_Wrapped):
        async def receive(self) -> bytes:
            with anyio.CancelScope(shield=True):
                return await super().receive()
            raise AssertionError("a scope that nobody cancels")


class LosingOnCancel(BrokenTransport):
    """A receive that is cancelled at the wrong moment has taken a message, and loses it."""

    class connection(_Wrapped):
        async def receive(self) -> bytes:
            message = await super().receive()
            await checkpoint()
            return message


class Hoarding(BrokenTransport):
    """Whatever is sent is taken at once, and piles up."""

    class connection(_Wrapped):
        async def ready(self) -> int:
            await checkpoint()
            return self.max_message


_Case: TypeAlias = tuple[type[BrokenTransport], str]

# Each with the check that is meant to find it.
BROKEN: Final[tuple[_Case, ...]] = (
    (Dropping, "every_message_arrives"),
    (Reordering, "order_is_kept"),
    (Doubling, "nothing_is_repeated"),
    (Truncating, "every_size_arrives_whole"),
    (Swallowing, "a_waiting_receive_can_be_cancelled"),
    (Shielding, "a_waiting_receive_can_be_cancelled"),
    (LosingOnCancel, "a_cancelled_receive_loses_nothing"),
    (Hoarding, "ready_waits_for_a_peer_that_does_not_read"),
)
