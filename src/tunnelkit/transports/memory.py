"""The memory transport: both ends in one program, with faults that tests switch on.

Give one ``MemoryTransport`` object to a server and to its clients. Nothing is encoded, and no task is left
behind: a message that is late is held in its queue until it is due.
"""

from __future__ import annotations

import heapq
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakSet

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from ..errors import ConfigError, ConnectionLost, DialError, LocalProtocolError, RegistrationRefused
from ..handshake import Grant, Refusal
from .base import Accepted, Connection, DialRequest, Offer, Peer, Transport

__all__ = ["MAX_MESSAGE", "QUEUE_LIMIT", "Faults", "MemoryConnection", "MemoryTransport", "memory_pair"]

logger = logging.getLogger("tunnelkit.server")

# The largest message, in bytes.
MAX_MESSAGE: Final = 64 * 1024

# Bytes on the way in one direction, above which ``ready`` waits. One more message may be taken then.
QUEUE_LIMIT: Final = 4 * MAX_MESSAGE

_NORMAL: Final = 1000


@dataclass(kw_only=True, slots=True)
class Faults:
    """What goes wrong on the way.

    ``delay``: seconds that every message takes that is sent from now on; ``reorder``: messages overtake each other
    (with a delay they take between none and twice of it); ``duplicate``: every message arrives twice; both count
    for connections made from now on.
    """

    delay: float = 0.0
    reorder: bool = False
    duplicate: bool = False
    random: random.Random = field(default_factory=lambda: random.Random(0), repr=False)


@dataclass(order=True, slots=True)
class _Late:
    """A message on its way."""

    due: float
    turn: float
    data: bytes = field(compare=False)


class _Way:
    """One direction: messages taken and not yet received."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._reorder = faults.reorder
        self._copies = 2 if faults.duplicate else 1
        self.stalled = False
        self._late: list[_Late] = []
        self._bytes = 0
        self._count = 0
        self._changed = anyio.Event()
        self._end: ConnectionLost | None = None  # what the receiver learns once everything has arrived
        self.last_received = anyio.current_time()

    @property
    def full(self) -> bool:
        return self._bytes >= QUEUE_LIMIT

    def put(self, data: bytes) -> None:
        for _ in range(self._copies):
            self._count += 1
            self._bytes += len(data)
            heapq.heappush(self._late, self._late_message(data))
        self.ring()

    def _late_message(self, data: bytes) -> _Late:
        faults = self._faults
        due, turn = anyio.current_time() + faults.delay, float(self._count)
        if self._reorder:
            due, turn = due + faults.delay * faults.random.uniform(-1, 1), faults.random.random()
        return _Late(due if faults.delay else 0.0, turn, data)

    def take(self) -> bytes | None:
        """The next message that has arrived. Raises ``ConnectionLost`` behind the last one."""
        if self.stalled:
            return None
        if not self._late:
            if self._end is not None:
                raise _again(self._end)
            return None
        if self._late[0].due > anyio.current_time():
            return None
        data = heapq.heappop(self._late).data
        self._bytes -= len(data)
        self.last_received = anyio.current_time()
        self.ring()
        return data

    def end(self, why: ConnectionLost) -> None:
        self._end = self._end or why
        self.ring()

    def drop(self) -> None:
        self._late.clear()
        self._bytes = 0
        self.ring()

    def ring(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def change(self) -> None:
        """Wait until something was put, taken or ended. Cancelling changes nothing."""
        await self._changed.wait()

    async def arrival(self) -> None:
        """The same, or until the first message that is on its way is due."""
        due = self._late[0].due if self._late and not self.stalled else math.inf
        with anyio.CancelScope(deadline=due):
            await self.change()


class MemoryConnection(Connection):
    """One end. Made by ``memory_pair`` and ``MemoryTransport``."""

    transport = "memory"
    max_message = MAX_MESSAGE
    wants_pings = True

    def __init__(self, faults: Faults, inward: _Way, outward: _Way) -> None:
        self.ordered = not (faults.reorder or faults.duplicate)
        self._in = inward
        self._out = outward
        self._lost: ConnectionLost | None = None

    def __repr__(self) -> str:
        return f"<MemoryConnection {'lost' if self._lost else 'open'}>"

    async def ready(self) -> int:
        await checkpoint()
        while True:
            self._check()
            if not self._out.full:
                return self.max_message
            await self._out.change()

    async def send(self, message: bytes) -> None:
        self._check()
        if len(message) > self.max_message:
            raise LocalProtocolError(
                f"a message of {len(message)} bytes, at most {self.max_message} may be sent", code="message_too_big"
            )
        self._out.put(bytes(message))

    async def receive(self) -> bytes:
        while True:
            self._check()
            try:
                message = self._in.take()
            except ConnectionLost as why:
                self.lose(why)
                raise
            if message is not None:
                return message
            await self._in.arrival()

    @property
    def last_received(self) -> float:
        return self._in.last_received

    async def aclose(self, code: int = _NORMAL, reason: str = "") -> None:
        if self._lost is None:
            self._out.end(ConnectionLost(reason or f"the peer closed with code {code}", clean=True, code=code))
            self.lose(ConnectionLost("closed at this end"))
        await checkpoint()

    def abort(self) -> None:
        """The peer loses what was on its way to it, and learns nothing else."""
        if self._lost is None:
            self._out.drop()
            self._out.end(ConnectionLost("the connection was aborted"))
            self.lose(ConnectionLost("aborted at this end"))

    def stall(self, stalled: bool = True) -> None:
        """Whether what the peer sends, its close included, is held up on its way here."""
        self._in.stalled = stalled
        self._in.ring()

    def lose(self, why: ConnectionLost) -> None:
        """The connection is over for this end, for that reason."""
        if self._lost is None:
            self._lost = why
            self._in.drop()
            self._out.ring()

    def _check(self) -> None:
        if self._lost is not None:
            raise _again(self._lost)


def _again(why: ConnectionLost) -> ConnectionLost:
    """A fresh one for every call: a raised exception collects its tracebacks."""
    return ConnectionLost(why.reason, clean=why.clean, code=why.code)


def memory_pair(faults: Faults | None = None) -> tuple[MemoryConnection, MemoryConnection]:
    """Two ends of one connection. Both ways share ``faults``."""
    faults = faults or Faults()
    there, back = _Way(faults), _Way(faults)
    return MemoryConnection(faults, back, there), MemoryConnection(faults, there, back)


class _Dial:
    """A client that waits for the server half's answer."""

    def __init__(self, request: DialRequest) -> None:
        self.handshake = request.handshake
        self.left = False
        self._answered = anyio.Event()
        self._result: tuple[MemoryConnection, Grant] | Exception | None = None

    def answer(self, result: tuple[MemoryConnection, Grant] | Exception) -> None:
        self._result = result
        self._answered.set()

    async def wait(self) -> tuple[MemoryConnection, Grant]:
        try:
            await self._answered.wait()
        except BaseException:
            if isinstance(self._result, tuple):  # answered and cancelled at once
                self._result[0].abort()
            raise
        assert self._result is not None
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


class MemoryTransport(Transport):
    """Both ends in one program, without sockets: give the same object to a server and to its clients.

    ``faults`` count for all connections of this object; ``cut`` drops those there are, ``reachable = False`` lets no
    new one come about."""

    name = "memory"

    def __init__(self, *, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.reachable = True
        self._connections: WeakSet[MemoryConnection] = WeakSet()
        self._take: Callable[[_Dial], None] | None = None

    # -- faults --------------------------------------------------------------------------------

    def cut(self) -> None:
        """Lose every connection, with what was on the way in both directions."""
        for connection in self._connections:
            connection.lose(ConnectionLost("the connection was cut"))
        self._connections.clear()

    def stall(self) -> None:
        """Nothing arrives any more on the connections that there are, as on a dead link that nobody noticed."""
        for connection in self._connections:
            connection.stall()

    def resume(self) -> None:
        """What was held up by ``stall`` arrives."""
        for connection in self._connections:
            connection.stall(False)

    # -- the client half -----------------------------------------------------------------------

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        await checkpoint()
        if self._take is None or not self.reachable:
            raise DialError("connect", "no server listens on this MemoryTransport")
        dial = _Dial(request)
        self._take(dial)
        try:
            with anyio.fail_after(request.timeout):
                return await dial.wait()
        except TimeoutError as exc:
            raise DialError("handshake", f"no answer within {request.timeout:g} s") from exc
        finally:
            dial.left = True

    # -- the server half -----------------------------------------------------------------------

    async def listen(self, offer: Offer, *, task_status: TaskStatus[None]) -> None:
        if self._take is not None:
            raise ConfigError("transports", "this MemoryTransport has a server already", "give each server its own")
        waiting: set[_Dial] = set()
        async with anyio.create_task_group() as tasks:

            async def serve(dial: _Dial) -> None:
                accepted = await self._decide(dial, offer)
                waiting.discard(dial)
                if accepted is not None:
                    await accepted.serve(self._connect(dial, accepted.grant))

            def take(dial: _Dial) -> None:
                waiting.add(dial)
                tasks.start_soon(serve, dial)

            self._take = take
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._take = None
                for dial in waiting:
                    dial.answer(DialError("connect", "the server is gone"))

    async def _decide(self, dial: _Dial, offer: Offer) -> Accepted | None:
        try:
            answer = await offer(dial.handshake, Peer())
        except Exception:
            # One client's misfortune must not end the task group of all.
            logger.exception("an offer failed")
            dial.answer(DialError("handshake", "the server failed"))
            return None
        if isinstance(answer, Refusal):
            dial.answer(
                RegistrationRefused(answer.status, answer.code, answer.detail, retry_after=answer.retry_after)
            )
            return None
        if dial.left:
            answer.abandon()
            return None
        return answer

    def _connect(self, dial: _Dial, grant: Grant) -> MemoryConnection:
        client, server = memory_pair(self.faults)
        self._connections.update((client, server))
        dial.answer((client, grant))
        return server
