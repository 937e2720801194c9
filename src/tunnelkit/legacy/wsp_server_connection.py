"""One connection of a wsp client: idle, then one request and its answer, then idle again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from ..config import Limits
from ..errors import ConnectionLost, RemoteProtocolError
from .fragments import FragmentSocket
from .wsp_server_call import Call
from .wsp_server_pool import Pool

__all__ = ["BUSY_SILENCE", "PoolConnection"]

logger = logging.getLogger("tunnelkit.server")

# Seconds without a byte after which a connection is lost in the middle of a request. Their client does not read then,
# so it answers no ping; but it sends one each 30 s.
BUSY_SILENCE: Final = 75.0


class PoolConnection:
    """``run`` it. What breaks its wire's rules, or breaks off, costs this connection alone."""

    def __init__(self, socket: FragmentSocket, pool: Pool[PoolConnection], limits: Limits) -> None:
        self._socket = socket
        self._pool = pool
        self._limits = limits
        self._call: Call | None = None
        self._idle = anyio.CancelScope()
        self._scope = anyio.CancelScope()
        self._failed = False
        self._over = False

    async def run(self) -> None:
        """Join the pool, and serve it until the connection is lost, or ``close``. Raises nothing but cancellation."""
        self._pool.free(self, anyio.current_time())
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._guard, self._socket.answer_pings)
                    tasks.start_soon(self._guard, self._watch)
                    await self._guard(self._serve)
                    tasks.cancel_scope.cancel()
            self._leave()
            if not self._failed:
                await self._socket.aclose(1001)
        finally:
            self._leave()
            self._socket.abort()

    def _leave(self) -> None:
        self._over = True
        self._pool.leave(self)
        if self._call is not None:
            self._call.ended.set()

    def close(self) -> None:
        self._scope.cancel()

    async def ask(self, call: Call) -> None:
        """Carry ``call``, once the pool gave this connection out. Returns when nothing more comes of it."""
        if not self._over:  # it may have been lost since
            self._call = call
            self._idle.cancel()
            await call.ended.wait()

    async def _guard(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except ConnectionLost as error:
            logger.debug("a wsp client's connection ended: %s", error)
            self._fail()
        except RemoteProtocolError as error:
            logger.warning("a wsp client sent what is none of its messages: %s (%s)", error, error.code)
            self._fail()

    def _fail(self) -> None:
        self._failed = True
        self._scope.cancel()

    # -- requests ------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            call = await self._next_call()
            if not await call.carry(self._socket):
                if isinstance(call.failure, RemoteProtocolError):
                    raise call.failure
                raise ConnectionLost("a request on it did not end as it should")
            self._call = None
            self._pool.free(self, anyio.current_time())
            call.ended.set()

    async def _next_call(self) -> Call:
        """Whatever comes before is a fault."""
        with anyio.CancelScope() as self._idle:
            if self._call is None:
                await self._socket.receive()
                raise RemoteProtocolError("a message that nobody asked for", code="bad_message")
        assert self._call is not None
        return self._call

    # -- liveness ------------------------------------------------------------------------------

    async def _watch(self) -> None:
        limits = self._limits
        while True:
            await anyio.sleep(limits.ping_idle_silence)
            silence = self._socket.silence(anyio.current_time())
            if self._call is not None and silence > BUSY_SILENCE:
                raise ConnectionLost("the client was silent in the middle of a request")
            if self._call is None and silence >= limits.ping_idle_silence:
                await self._socket.ping()
                await anyio.sleep(limits.ping_idle_timeout)
                if self._call is None and self._socket.silence(anyio.current_time()) > limits.ping_idle_timeout:
                    raise ConnectionLost("the client does not answer pings")
