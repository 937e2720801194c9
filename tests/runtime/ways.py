"""Two ways to one server over memory transports: a better one that keeps order, and one that does not."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any, Final

import anyio
from anyio.abc import TaskStatus

from tunnelkit import TunnelClient, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS, MIB, Limits
from tunnelkit.core.message import Kind, split_header
from tunnelkit.errors import AnsweredByOther, ConnectionLost
from tunnelkit.events import ClientEvent, EventStream
from tunnelkit.handshake import Grant, Handshake, Refusal
from tunnelkit.proof import Prover, Purpose
from tunnelkit.transports.base import Accepted, Connection, DialRequest, Offer, Peer
from tunnelkit.transports.memory import Faults, MemoryConnection, MemoryTransport

from .tunnels import Answering, Tunnel

__all__ = ["ALL", "SWIFT", "Way", "Ways", "expect", "longpoll", "two_ways", "websocket"]

ALL: Final = frozenset(Kind)

# Dials and probes that follow each other at once, so that nobody waits for a clock.
SWIFT = replace(
    DEFAULT_LIMITS,
    retry_first=0.005,
    retry_cap=0.02,
    retry_cap_resumable=0.02,
    first_answer_timeout=1.0,  # a loaded machine keeps it
    probe_first=0.02,
    probe_cap=0.04,
    probe_timeout=1.0,
)


def kind_of(message: bytes) -> Kind:
    return Kind(split_header(message)[0])


class Way(MemoryTransport):
    """A memory transport under another's name, with the faults of middleboxes beside its own.

    ``blocked``: the handshake is answered by something in between; ``silent``: it is not answered.
    ``swallows``: messages of these kinds, from the client, are lost on connections made from now on; ``mutes``: those
    from the server. ``holds``: where ATTACH is on its way until ``release``, "up", or its answer, "down"; ``held``:
    it is now.
    """

    def __init__(self, name: str, *, max_message: int, faults: Faults | None = None, pings: bool = True) -> None:
        super().__init__(faults=faults)
        self.name = name
        self.blocked = self.silent = self.held = False
        self.holds = ""
        self.swallows: frozenset[Kind] = frozenset()
        self.mutes: frozenset[Kind] = frozenset()
        self.dials: list[DialRequest] = []
        self.clients: list[MemoryConnection] = []  # each dial's end of its connection, in order
        self.taken: list[list[tuple[Kind, int]]] = []  # what each of them took: kind and size
        self.on_dial: Callable[[], object] = lambda: None
        self.proofs: list[bytes] = []  # a proof that the client makes for each connection,
        self.provers: list[Prover] = []  # and what the server checks it with
        self._max_message = max_message
        self._pings = pings

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        self.dials.append(request)
        self.on_dial()
        if self.blocked:
            raise AnsweredByOther(403, "a middlebox answered, with status 403")
        if self.silent:
            await anyio.sleep_forever()
        connection, grant = await super().dial(request)
        self.proofs.append(request.prover(grant).make(Purpose.POLL, 1))
        return connection, grant

    async def listen(self, offer: Offer, *, task_status: TaskStatus[None]) -> None:
        async def noting(handshake: Handshake, peer: Peer) -> Accepted | Refusal:
            answer = await offer(handshake, peer)
            if not isinstance(answer, Refusal):
                self.provers.append(answer.prover)
            return answer

        await super().listen(noting, task_status=task_status)

    def _connect(self, dial: Any, grant: Grant) -> MemoryConnection:
        server = super()._connect(dial, grant)
        client = dial._result[0]
        assert isinstance(client, MemoryConnection)
        taken: list[tuple[Kind, int]] = []
        for end in (client, server):
            end.transport, end.max_message, end.wants_pings = self.name, self._max_message, self._pings

        def note(message: bytes) -> None:
            taken.append((kind_of(message), len(message)))
            self._hold("up", server, message)

        self._listen_in(client, self.swallows, note)
        self._listen_in(server, self.mutes, partial(self._hold, "down", client))
        self.clients.append(client)
        self.taken.append(taken)
        return server

    def _listen_in(self, end: MemoryConnection, swallows: frozenset[Kind], note: Callable[[bytes], object]) -> None:
        send = end.send

        async def listening(connection: MemoryConnection, message: bytes) -> None:
            note(message)
            if kind_of(message) not in swallows:
                await send(message)

        end.send = MethodType(listening, end)  # type: ignore[method-assign]

    def _hold(self, way: str, receiver: MemoryConnection, message: bytes) -> None:
        if self.holds == way and kind_of(message) is Kind.ATTACH:
            receiver.stall()
            self.held = True

    def release(self) -> None:
        self.holds, self.held = "", False
        self.resume()

    def took(self, kind: Kind, connection: int = -1) -> bool:
        """Whether that connection's client sent such a message."""
        return any(each is kind for each, _ in self.taken[connection])

    def clear(self) -> None:
        """New connections come about, and whatever is sent on them passes."""
        self.blocked = self.silent = False
        self.swallows = self.mutes = frozenset()


def websocket() -> Way:
    return Way("websocket", max_message=64 * 1024)


def longpoll(*, seed: int = 0) -> Way:
    """Like posts in flight and answers that are repeated."""
    faults = Faults(reorder=True, duplicate=True, random=random.Random(seed))
    return Way("longpoll", max_message=MIB, faults=faults, pings=False)


class Ways(Tunnel):
    """A server that is reached by either."""

    better: Way
    other: Way

    def join(self, origin: Any = None, **options: Any) -> TunnelClient:
        return self.client(origin or Answering(), **({"transport": [self.better, self.other]} | options))

    def block(self) -> None:
        """The better way is closed by something in between, and what it carried is cut."""
        self.better.blocked = True
        self.better.cut()


async def expect(events: EventStream, *kinds: type[ClientEvent]) -> ClientEvent:
    """The next event of one of these kinds; others are passed over."""
    with anyio.fail_after(10):
        async for event in events:
            if isinstance(event, kinds):
                return event
    raise ConnectionLost("the client ended")


@asynccontextmanager
async def two_ways(*, limits: Limits = SWIFT, **options: Any) -> AsyncIterator[Ways]:
    better, other = websocket(), longpoll()
    server = TunnelServer("127.0.0.1:0", limits=limits, transports=[better, other], **options)
    async with server, anyio.create_task_group() as group:
        ways = Ways(group, server, better, limits)
        ways.better, ways.other = better, other
        yield ways
        group.cancel_scope.cancel()
