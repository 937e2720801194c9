"""The client's agent: takes streams that the server opens, judges the request, and hands it to an origin."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskStatus

from .agent_events import finished, started
from .agent_exchange import AgentExchange
from .agent_workers import Workers
from .config import Limits
from .core.events import Opened
from .core.frames import StreamKind
from .core.guard import Guard
from .core.known_heads import HeadReader
from .event_stream import Events
from .net.loop import Clock, loop_clock
from .origins.base import Origin
from .tunnel_stream import Stream, StreamHandler

__all__ = ["Agent", "Choose"]

# Which origin answers an exchange with that X-Host.
Choose: TypeAlias = Callable[[AgentExchange, bytes | None], Origin]

# Looked up once: see core.exchange.
_BYTES: Final = StreamKind.BYTES
_HTTP: Final = StreamKind.HTTP


class Agent:
    """``guard`` judges each request. ``origin`` answers those that name none, ``named`` those that name another;
    ``own`` is ``origin`` for those that name it by a whole URL; ``tcp`` has the streams of bytes. Where ``choose`` is
    given, it has the say of all of that."""

    def __init__(
        self,
        *,
        limits: Limits,
        origin: Origin | None,
        named: Origin,
        guard: Guard,
        choose: Choose | None = None,
        own: Origin | None = None,
        tcp: Origin | None = None,
        events: Events | None = None,
        around: Callable[[Origin], Origin] | None = None,
    ) -> None:
        self.limits = limits
        self.heads = HeadReader(limits)
        self.own = own
        self._guard = guard
        self._choose = choose
        self.draining = False
        self.active: set[AgentExchange] = set()
        self.idle = anyio.Event()  # set when drained
        self.answered = 0
        self._origin = origin
        self._named = named
        self._tcp = tcp
        self._events = events if events is not None else Events()
        self._numbers = itertools.count(1)
        self._around = around
        self.now: Clock = anyio.current_time
        self._workers = Workers()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """The workers live here, until cancelled."""
        self.now = loop_clock()
        await self._workers.run(task_status=task_status)

    def drain(self) -> None:
        """Take nothing new. ``idle`` is set when what runs is over."""
        self.draining = True
        if not self.active:
            self.idle.set()

    def accept(self, stream: Stream, opened: Opened) -> StreamHandler | None:
        """The handler of a stream that the server opened; None refuses it, and nothing reached an origin."""
        if self.draining or not self._workers.running or (opened.kind is _BYTES and self._tcp is None):
            return None
        exchange = AgentExchange(self, stream, opened)
        self.active.add(exchange)
        return exchange

    def begun(self, exchange: AgentExchange) -> None:
        """Its head came."""
        exchange.number = next(self._numbers)
        if self._events.of_requests:
            self._events.tell_request(started(exchange))

    def choose(self, exchange: AgentExchange, x_host: bytes | None, *, by_destination: bool) -> Origin:
        """Which origin answers. Raises ``HeadError`` for a request that must not be made."""
        if self._choose is not None:
            return self._choose(exchange, x_host)
        if exchange.byte_stream:
            assert self._tcp is not None  # the stream was accepted
            exchange.x_host = self._guard.choose_bytes(exchange.head, x_host)
            return self._tcp
        wanted = self._guard.choose(exchange.head, x_host, by_destination=by_destination)
        if wanted is None:
            assert self._origin is not None  # the guard's word
            return self._origin
        exchange.x_host = wanted
        return self.own if self.own is not None and by_destination and wanted == self._guard.own else self._named

    def assign(self, exchange: AgentExchange, origin: Origin) -> None:
        self._workers.give(exchange, (origin if self._around is None else self._around(origin)).begin(exchange))

    def over(self, exchange: AgentExchange) -> None:
        self.active.discard(exchange)
        self.answered += 1
        if exchange.began and self._events.of_requests:
            self._events.tell_request(finished(exchange))
        if self.draining and not self.active:
            self.idle.set()
