"""Our client at a wsp server: a pool of connections, of which each carries one request at a time.

Behind the pool is one session inside the process, which lasts as long as any connection does. The server knows
neither tokens nor names: callers reach what its clients can reach, whichever of them answers.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from typing import Final

import anyio
from anyio.abc import TaskGroup
from wsproto.utilities import generate_nonce

from ..config import DEFAULT_LIMITS, Limits
from ..errors import ConnectionLost, DialError, RegistrationRefused
from ..handshake import Grant
from ..heads import Fields
from ..net.stream import ByteStream
from ..transports.answers import MOUNT, Target, judge_answer
from ..transports.base import Connection, DialRequest
from ..transports.websocket.opening import OpeningExchange, opening_request
from .fragments import FragmentSocket
from .inside import InsideServer
from .switching import check_switched
from .wsp_client_connection import PoolConnection
from .wsp_client_pool import Backoff, PoolPlan, PoolSize
from .wsp_wire import Greeting, handshake_fields, is_wrong_key, write_greeting

__all__ = ["REGISTER", "WspClient"]

logger = logging.getLogger("tunnelkit.client")

REGISTER: Final = "/register"  # where their server takes clients, unless both are configured otherwise, and
REQUEST: Final = "/request"  # callers

# Seconds that answers may take to be written out when the session is over, and when the client was drained.
LEAVE_TIME: Final = 1.0
DRAIN_TIME: Final = 5.0


class WspClient:
    """The client half of the transport ``wsp``."""

    def __init__(self, size: PoolSize, limits: Limits = DEFAULT_LIMITS) -> None:
        self._size = size
        self._limits = limits
        self._backoffs: dict[str, Backoff] = {}  # by URL, of which a client has one

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        if request.handshake.resume is not None:
            raise RegistrationRefused(410, "unknown_session", "a wsp server keeps no sessions")
        way = _Way(request, self._size)
        backoff = self._backoffs.setdefault(request.url, Backoff(self._limits))
        await anyio.sleep_until(backoff.when)
        first = await way.open()
        pool = _Pool(way, self._size, backoff, self._limits)
        request.tasks.start_soon(pool.run_session)
        request.tasks.start_soon(pool.run, first)
        return pool.inside.connection, replace(pool.inside.grant, public_url=_public_url(request.url))


def _target(url: str) -> Target:
    """The path is the URL's own, where it has one."""
    target = Target.parse(url)
    return replace(target, path=target.path.removesuffix(MOUNT) or REGISTER)


def _public_url(url: str) -> str:
    """Where callers come, if nothing in between changes paths."""
    return url.removesuffix(REGISTER) + REQUEST


# -- one connection ----------------------------------------------------------------------------------


class _Way:
    """Opens connections. What the user gave that their server does not take shows here (``LocalProtocolError``)."""

    def __init__(self, request: DialRequest, size: PoolSize) -> None:
        self._request = request
        self._target = _target(request.url)
        self._greeting = write_greeting(Greeting(request.handshake.instance, size.poolidlesize))

    async def open(self) -> FragmentSocket:
        """One connection, registered as far as their server tells: it says nothing to a greeting. Raises
        ``DialError``, and ``RegistrationRefused`` for a wrong key."""
        request, target = self._request, self._target
        stream: ByteStream | None = None
        try:
            with anyio.fail_after(request.timeout):
                stream = await request.dialler(target.host, target.port, tls=target.tls)
                socket = await self._switch(stream)
                await socket.send_text(self._greeting)
                return socket
        except TimeoutError as exc:
            _abort(stream)
            raise DialError("handshake", f"no answer from {request.url} within {request.timeout:g} s") from exc
        except ConnectionLost as exc:
            _abort(stream)
            raise DialError("handshake", f"the server closed the connection: {exc}") from exc
        except BaseException:
            _abort(stream)
            raise

    async def _switch(self, stream: ByteStream) -> FragmentSocket:
        key = generate_nonce()
        exchange = OpeningExchange(stream, self._target)
        await exchange.send(opening_request(self._target, self._fields(key)))
        head = await exchange.head()
        fields = list(head.headers.raw_items())
        if head.status_code != 101:
            raise _refusal(head.status_code, fields, await exchange.body(), tls=self._target.tls)
        check_switched(fields, key, program="wsp")
        return FragmentSocket(stream, client=True, early=exchange.early)

    def _fields(self, key: bytes) -> Fields:
        request = self._request
        fields = handshake_fields(self._target, key, request.handshake.password)
        if request.user_agent:
            fields.append((b"User-Agent", request.user_agent.encode()))
        if request.handshake.authorization is not None:  # for a proxy in front
            fields.append((b"Authorization", request.handshake.authorization.encode()))
        return fields


def _abort(stream: ByteStream | None) -> None:
    if stream is not None:
        stream.abort()


def _refusal(status: int, fields: Fields, body: bytes, *, tls: bool) -> RegistrationRefused | DialError:
    if is_wrong_key(status, body):
        return RegistrationRefused(status, "unauthorized", "the wsp server's secret key is another")
    return judge_answer(status, fields, body, tls=tls)


# -- all of them -------------------------------------------------------------------------------------


class _Pool:
    """The connections of one session, which ends with the last of them."""

    def __init__(self, way: _Way, size: PoolSize, backoff: Backoff, limits: Limits) -> None:
        self.inside = InsideServer(transport="wsp", limits=limits, going_away=self._retire)
        self._way = way
        self._limits = limits
        self._backoff = backoff
        self._plan = PoolPlan(size, backoff)
        self._connections: set[PoolConnection] = set()
        self._retiring = False
        self._over = anyio.Event()  # the session
        self._news = anyio.Event()

    async def run_session(self) -> None:
        """Raises nothing but cancellation."""
        try:
            await self.inside.run()
        finally:
            self._over.set()

    async def run(self, first: FragmentSocket) -> None:
        """Until the session is over, and a moment longer. Raises nothing."""
        async with anyio.create_task_group() as tasks:
            tasks.cancel_scope.shield = True  # the end of the session ends it
            self._plan.dialling()
            self._take_in(first, tasks)
            tasks.start_soon(self._fill, tasks)
            await self._over.wait()
            await self._leave()
            tasks.cancel_scope.cancel()

    async def _leave(self) -> None:
        """What was answered whole is written out; what was not has ended with the session."""
        patience = DRAIN_TIME if self._retiring else LEAVE_TIME
        self._retire()
        with anyio.move_on_after(patience):
            while self._connections:
                await self._news.wait()

    def _retire(self) -> None:
        """The client takes nothing new: their server is to ask others."""
        self._retiring = True
        for connection in self._connections:
            connection.retire()
        self._ring()

    def _ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def _fill(self, tasks: TaskGroup) -> None:
        while not self._retiring:
            news = self._news
            await anyio.sleep_until(self._backoff.when)
            for _ in range(self._plan.missing):
                self._plan.dialling()
                tasks.start_soon(self._dial, tasks)
            await news.wait()

    async def _dial(self, tasks: TaskGroup) -> None:
        try:
            socket = await self._way.open()
        except (DialError, RegistrationRefused) as error:
            level = logging.DEBUG if self._backoff.failing else logging.WARNING
            logger.log(level, "the pool of connections to the wsp server cannot grow: %s", error)
            self._plan.dial_failed(anyio.current_time(), random.random())
        else:
            self._take_in(socket, tasks)
        self._ring()

    def _take_in(self, socket: FragmentSocket, tasks: TaskGroup) -> None:
        self._plan.connected()
        connection = PoolConnection(socket, self.inside.link, self, self._limits)
        self._connections.add(connection)
        tasks.start_soon(self._keep, connection)
        if self._retiring:
            connection.retire()

    async def _keep(self, connection: PoolConnection) -> None:
        await connection.run()
        self._connections.discard(connection)
        now = anyio.current_time()
        self._plan.lost(now, random.random(), busy=connection.busy, proved=connection.proved)
        if self._plan.empty and not self._retiring:
            self.inside.lose(ConnectionLost(f"the last connection of the pool ended: {connection.failure}"))
        self._ring()

    # -- what connections tell -----------------------------------------------------------------

    def on_request(self) -> None:
        self._plan.begun()
        self._ring()

    def on_answered(self) -> None:
        self._plan.ended()

    def on_steady(self) -> None:
        self._backoff.worked()
        self._ring()
