"""One client of wsp's: its connections, as the origin of a session inside the process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup

from ..agent import Agent
from ..agent_exchange import AgentExchange
from ..config import Limits
from ..core.allowlist import HostAllowlist, parse_x_host
from ..core.budget import Budget
from ..core.exchange import Delivery, may_dispatch_again
from ..core.guard import Guard
from ..core.rules import RuleSet
from ..errors import HeadError, RemoteProtocolError
from ..origins.base import Origin, OriginExchange
from ..transports.base import Accepted
from .fragments import FragmentSocket
from .inside import InsideClient
from .wsp_server_call import Call
from .wsp_server_connection import PoolConnection
from .wsp_server_pool import Place, Pool

__all__ = ["CLEANING", "FAREWELL_TIME", "ServedClient"]

logger = logging.getLogger("tunnelkit.server")

CLEANING: Final = 5.0  # seconds between two looks for idle connections that nobody needs
FAREWELL_TIME: Final = 5.0  # for the requests of a client without connections to be told


class ServedClient(Origin):
    """``run`` it, and ``serve_connection`` for each. ``size``: connections that the client keeps idle. ``left`` is
    called when it has none any more: another that comes is another client's. ``budget`` is for all clients."""

    def __init__(
        self, accepted: Accepted, size: int, limits: Limits, *, budget: Budget, left: Callable[[], None]
    ) -> None:
        self._limits = limits
        self._left = left
        self._pool: Pool[PoolConnection] = Pool(size)
        self._connections: set[PoolConnection] = set()
        self._alone = anyio.Event()
        self._over = False
        guard = Guard(allowlist=HostAllowlist(), rules=RuleSet())
        agent = Agent(limits=limits, origin=self, named=self, guard=guard, choose=self._choose)
        self._inside = InsideClient(accepted, agent, transport="wsp", limits=limits, budget=budget)

    def _choose(self, exchange: AgentExchange, x_host: bytes | None) -> Origin:
        """No destination is judged here: the server's rules did, and the far client does, by its own lists."""
        if x_host is None:
            raise HeadError(403, "x_host_refused", "a wsp client serves requests with X-PROXY-DESTINATION or X-Host")
        exchange.x_host = parse_x_host(x_host)
        return self

    async def run(self) -> None:
        """The session, until the last connection has left or the server ends it. Raises nothing but cancellation."""
        try:
            await self._inside.run(self._start)
        finally:
            self._over = True
            self._left()
            for connection in self._connections:
                connection.close()

    def _start(self, tasks: TaskGroup) -> None:
        tasks.start_soon(self._clean)
        tasks.start_soon(self._retire)

    async def _clean(self) -> None:
        while True:
            await anyio.sleep(CLEANING)
            for connection in self._pool.surplus(anyio.current_time()):
                connection.close()

    async def _retire(self) -> None:
        await self._alone.wait()
        await self._inside.retire("peer_lost", FAREWELL_TIME)

    async def serve_connection(self, socket: FragmentSocket, size: int) -> None:
        """To its end. Where there are as many as may be, it has come at once."""
        self._pool.size = size
        if self._over or self._pool.closed or self._pool.full:
            return
        connection = PoolConnection(socket, self._pool, self._limits)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._left()
                self._alone.set()

    # -- requests ------------------------------------------------------------------------------

    async def serve(self, exchange: OriginExchange) -> None:
        try:
            await self._answer(exchange)
        except HeadError as error:
            exchange.fail(error.status, error.code, error.detail)

    async def _answer(self, exchange: OriginExchange) -> None:
        """By the first connection that is free. One that is lost is told as what it is: never sent, and then it may
        go to another; or sent, and then only what may be repeated does, once (design, section 8)."""
        sent_before = False
        while not exchange.gone:
            assert exchange.x_host is not None
            call = Call(exchange, exchange.x_host, self._limits)
            connection = await self._free_connection(exchange)
            if connection is None:
                exchange.withdraw(sent=sent_before)
                return
            await connection.ask(call)
            if call.told or _tell_failure(exchange, call):
                return
            if not self._may_repeat(exchange, call, sent_before=sent_before):
                _tell_loss(exchange, twice=sent_before)
                return
            sent_before = sent_before or call.sent

    def _may_repeat(self, exchange: OriginExchange, call: Call, *, sent_before: bool) -> bool:
        return not exchange.answered and may_dispatch_again(
            Delivery.SENT if call.sent else Delivery.NEVER_SENT,
            exchange.head.method,
            has_body=exchange.has_body,
            body_held=not exchange.body_started,
            other_session_attached=not self._pool.closed,
            sent_before=sent_before,
        )

    async def _free_connection(self, exchange: OriginExchange) -> PoolConnection | None:
        """None when none became free in time, or none is left, or the caller is gone. The server's clock for the head
        runs meanwhile: the wait is to be over first, or what was never sent would be told as unanswered."""
        news = _Bell()
        exchange.on_news(news.ring)
        place: Place[PoolConnection] = Place(news.ring)
        self._pool.stand(place)
        limits = self._limits
        try:
            with anyio.move_on_after(min(limits.queue_timeout, limits.response_head_timeout / 2)):
                while place.connection is None and not exchange.gone and not self._pool.closed:
                    await news.wait()
            if not exchange.gone:
                connection, place.connection = place.connection, None
                return connection
            return None
        finally:
            self._pool.step_out(place, anyio.current_time())

    async def aclose(self) -> None: ...


def _tell_failure(exchange: OriginExchange, call: Call) -> bool:
    """An answer that is none; False where the connection was lost."""
    if isinstance(call.failure, HeadError):
        logger.warning("a wsp client's answer cannot be passed on: %s", call.failure.detail)
        exchange.fail(call.failure.status, call.failure.code, call.failure.detail)
    elif isinstance(call.failure, RemoteProtocolError):
        exchange.fail(502, "bad_answer", "the answer of the wsp client cannot be passed on")
    else:
        return False
    return True


def _tell_loss(exchange: OriginExchange, *, twice: bool) -> None:
    """What was sent twice already must not go out by another client's session."""
    if twice:
        exchange.fail(502, "tunnel_lost", "the request was sent twice, and both connections ended without an answer")
    else:
        exchange.withdraw(sent=True)


class _Bell:
    """For one task."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()
