"""A box in the middle that meddles with HTTP: refuses upgrades, swallows frames, holds bodies back.

It stands where a reverse proxy would, in front of the tunnel server, and speaks plain HTTP/1.1. What it does to
bytes and connections (delay, rate, cuts, connections that are dropped when idle) is done by its ``relay``::

    async with serve_middlebox(port_of_the_server) as box:
        box.refuse_upgrades = 403
        ...  # let the client dial box.port
        await box.until(lambda: box.refused)
        box.relay.cut_every(1)
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import anyio
import h11

from ..errors import DialError, StreamBroken
from ..net.dial import connect_tcp
from ..net.listen import Listener
from ..net.stream import ByteStream
from .news import News
from .relay import DIAL_TIMEOUT, Relay, serve_relay

__all__ = ["MAX_HELD", "Middlebox", "Upgraded", "serve_middlebox"]

# Of one body that is held back. A longer one passes once so much of it is there, as with proxies whose disk is full.
MAX_HELD: Final = 64 * 1024 * 1024
MAX_HEAD: Final = 64 * 1024

_SWITCHING: Final = 101
_READ: Final = 64 * 1024

_Event: TypeAlias = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]
_Head: TypeAlias = h11.Request | h11.Response

_logger = logging.getLogger("tunnelkit.testing")


class _Side:
    """HTTP over one of the two connections."""

    def __init__(self, stream: ByteStream, role: type[h11.CLIENT] | type[h11.SERVER]) -> None:
        self.stream = stream
        self.http = h11.Connection(role, max_incomplete_event_size=MAX_HEAD)

    async def next(self) -> _Event:
        """The next event; ``PAUSED`` when what comes next is another request, or no HTTP any more."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.stream.receive(_READ))
        return event

    async def send(self, event: h11.Event) -> None:
        if data := self.http.send(event):
            await self.stream.send(data)

    def next_cycle(self) -> bool:
        """Whether the connection takes another request."""
        if self.http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self.http.start_next_cycle()
        return True

    async def gone(self) -> None:
        """Return when the peer ends its half. What it sends before stays, up to one read."""
        data = await self.stream.receive(_READ)
        self.http.receive_data(data)
        if data:
            await anyio.sleep_forever()


class _Far:
    """The connection to the server, which is dialled when the first request is passed on."""

    def __init__(self, box: Middlebox) -> None:
        self._box = box
        self._side: _Side | None = None

    async def side(self) -> _Side:
        if self._side is None:
            stream = await connect_tcp(self._box.host, self._box.target, timeout=DIAL_TIMEOUT)
            self._side = _Side(stream, h11.CLIENT)
        return self._side

    async def aclose(self) -> None:
        if self._side is not None:
            await self._side.stream.aclose()

    def abort(self) -> None:
        if self._side is not None:
            self._side.stream.abort()


class Upgraded:
    """A connection after its 101. ``swallowed`` bytes reached nobody; one that lost any carries nothing more."""

    def __init__(self) -> None:
        self.carried = 0
        self.swallowed = 0


class Middlebox(News):
    """Made by ``serve_middlebox``. Every fault may be switched at any time, and counts from then on."""

    def __init__(self, relay: Relay, target: int, host: str) -> None:
        super().__init__()
        self.relay = relay  # stands in front, and does what concerns bytes and not HTTP
        self.target = target
        self.host = host
        # -- faults --
        self.refuse_upgrades = 0  # the status that every request to upgrade is answered with; 0: it passes
        self.swallow = False  # upgrades pass, and nothing of what comes after the 101, on connections there are too
        self.buffer = False  # bodies, of requests and of responses, pass when they are complete
        # -- counted --
        self.requests = 0
        self.refused = 0
        self.upgrades: list[Upgraded] = []  # every connection that was answered 101, in order
        self.held = 0  # bodies held back until they were complete

    def __repr__(self) -> str:
        return (
            f"<Middlebox {self.requests} requests, {self.refused} upgrades refused, {len(self.upgrades)} passed, "
            f"{self.swallowed} bytes swallowed, {self.held} bodies held>"
        )

    @property
    def port(self) -> int:
        """Where clients find it, on 127.0.0.1."""
        return self.relay.port

    @property
    def swallowed(self) -> int:
        """Bytes, of all connections together."""
        return sum(each.swallowed for each in self.upgrades)

    # -- one connection ------------------------------------------------------------------------

    async def handle(self, stream: ByteStream) -> None:
        """Carry one connection's requests to their end."""
        near, far = _Side(stream, h11.SERVER), _Far(self)
        try:
            await self._serve(near, far)
            await far.aclose()
        except* (h11.ProtocolError, StreamBroken) as errors:
            _logger.info("the middlebox breaks a connection off: %s", errors.exceptions[0])
            stream.abort()
        finally:
            far.abort()

    async def _serve(self, near: _Side, far: _Far) -> None:
        while isinstance(request := await near.next(), h11.Request):
            self.requests += 1
            self._ring()
            if not await self._serve_one(near, far, request) or not near.next_cycle():
                return

    async def _serve_one(self, near: _Side, far: _Far, request: h11.Request) -> bool:
        """Whether another request may follow."""
        if self.refuse_upgrades and _wants_upgrade(request):
            self.refused += 1
            await _respond(near, self.refuse_upgrades, b"upgrades are not allowed here\n")
            self._ring()
            return True
        try:
            server = await far.side()
        except DialError:
            await _respond(near, 502, b"the server is not reached\n")
            return True
        await self._exchange(near, server, request)
        if near.http.our_state is h11.SWITCHED_PROTOCOL:
            await self._carry(near, server)
            return False
        return server.next_cycle()

    async def _exchange(self, near: _Side, far: _Side, request: h11.Request) -> None:
        """The request goes up while the answer may come down already; a caller that leaves ends both."""
        async with anyio.create_task_group() as tasks:

            async def upwards() -> None:
                await self._pass_on(near, far, request)
                await near.gone()
                tasks.cancel_scope.cancel()

            tasks.start_soon(upwards)
            await self._answer(near, far)
            tasks.cancel_scope.cancel()

    async def _answer(self, near: _Side, far: _Side) -> None:
        while isinstance(head := await far.next(), h11.InformationalResponse):
            await near.send(head)
            if head.status_code == _SWITCHING:
                return
        if not isinstance(head, h11.Response):
            raise h11.RemoteProtocolError("the server ended without an answer")
        await self._pass_on(far, near, head)

    async def _pass_on(self, source: _Side, target: _Side, head: _Head) -> None:
        """One message. Held back, its head waits for the end of its body too."""
        waiting: list[h11.Event] = [head]
        size = 0
        if self.buffer and source.http.they_are_waiting_for_100_continue:
            await source.send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            if not self.buffer or size > MAX_HELD:
                await _send_all(target, waiting)
            event = await source.next()
            if not isinstance(event, (h11.Data, h11.EndOfMessage)):
                raise h11.RemoteProtocolError("a message ended too early")
            if isinstance(event, h11.EndOfMessage):
                break
            waiting.append(h11.Data(data=bytes(event.data)))
            size += len(event.data)
        if waiting and size:
            self.held += 1
        await _send_all(target, [*waiting, event])
        self._ring()

    # -- after the 101 -------------------------------------------------------------------------

    async def _carry(self, near: _Side, far: _Side) -> None:
        state = Upgraded()
        self.upgrades.append(state)
        self._ring()
        async with anyio.create_task_group() as tasks:

            async def pump(source: _Side, target: ByteStream) -> None:
                await self._pump(state, source.stream, target, bytes(source.http.trailing_data[0]))

            tasks.start_soon(pump, near, far.stream)
            tasks.start_soon(pump, far, near.stream)

    async def _pump(self, state: Upgraded, source: ByteStream, target: ByteStream, data: bytes) -> None:
        data = data or await source.receive(_READ)
        while data:
            if self.swallow or state.swallowed:
                state.swallowed += len(data)
            else:
                state.carried += len(data)
                await target.send(data)
            self._ring()
            data = await source.receive(_READ)
        await target.send_eof()


async def _send_all(target: _Side, events: list[h11.Event]) -> None:
    for event in events:
        await target.send(event)
    events.clear()


async def _respond(near: _Side, status: int, body: bytes) -> None:
    """An answer of the box's own."""
    while isinstance(await near.next(), h11.Data):
        pass
    fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    await near.send(h11.Response(status_code=status, headers=fields))
    await near.send(h11.Data(data=body))
    await near.send(h11.EndOfMessage())


def _wants_upgrade(request: h11.Request) -> bool:
    fields: Sequence[tuple[bytes, bytes]] = request.headers
    return any(name == b"upgrade" for name, _ in fields)


@asynccontextmanager
async def serve_middlebox(target: int, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Middlebox]:
    """A box between ``box.port`` on loopback and ``target`` at ``host``, while the context lasts. Raises
    ``ConfigError`` when ``port`` cannot be had."""
    listener = Listener.bind("127.0.0.1:0", logger=_logger)
    async with anyio.create_task_group() as tasks, serve_relay(listener.addresses[0][1], port=port) as relay:
        box = Middlebox(relay, target, host)
        await tasks.start(lambda *, task_status: listener.serve(box.handle, task_status=task_status))
        try:
            yield box
        finally:
            tasks.cancel_scope.cancel()
