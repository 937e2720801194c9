"""The tunnel server as an ASGI 3 app: each scope becomes a request for the same dispatcher that the front has."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeAlias

import anyio

from ..config import Limits
from ..errors import HeadError, StreamBroken
from ..heads import RequestHead
from ..http.own_answers import send_whole
from ..problem import problem
from .request import HttpRequest, Receive, ScopeRequest, Send
from .scope import has_body, http_head, peer_of, scheme_of, websocket_head
from .websocket import WebSocketRequest

__all__ = ["MountedServer", "Running"]

_logger = logging.getLogger("tunnelkit.server")

Scope: TypeAlias = MutableMapping[str, Any]
Dispatch: TypeAlias = Callable[[ScopeRequest], Awaitable[None]]

_INTERNAL = HeadError(500, "internal_error", "the server failed to answer this request")


class Running(Protocol):
    """What a server that runs has for its mount."""

    calls: set[anyio.CancelScope]  # of the mount, which end with the server

    async def dispatch(self, request: ScopeRequest) -> None: ...


class MountedServer:
    """``app(scope, receive, send)``.

    ``running`` gives what runs now, or None. As the root app the server starts and ends with the host's lifespan;
    below another app, which keeps lifespan to itself, enter the ``TunnelServer`` in that one's.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        running: Callable[[], Running | None],
        lifespan: Callable[[], AbstractAsyncContextManager[object]],
    ) -> None:
        self._limits = limits
        self._running = running
        self._lifespan = lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One scope. Raises RuntimeError while the server does not run. Cancelled, its exchange is cancelled too."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._follow(receive, send)
        elif kind == "http":
            await self._http(self._need_running(), scope, receive, send)
        elif kind == "websocket":
            await self._websocket(self._need_running(), scope, receive, send)
        else:
            raise ValueError(f"no ASGI scope of type {kind!r} is known here")

    def _need_running(self) -> Running:
        running = self._running()
        if running is None:
            raise RuntimeError("the tunnel server does not run: enter it (async with server) in the host's lifespan")
        return running

    async def _follow(self, receive: Receive, send: Send) -> None:
        """The host's lifespan: the server runs from its start-up to its shutdown."""
        await receive()
        stage = "startup"
        try:
            async with self._lifespan():
                stage = "shutdown"
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            _logger.exception("the tunnel server ended")
            await send({"type": f"lifespan.{stage}.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    # -- one request ---------------------------------------------------------------------------

    async def _http(self, running: Running, scope: Scope, receive: Receive, send: Send) -> None:
        head, failure = _head_or_failure(lambda: http_head(scope, self._limits))
        request = HttpRequest(
            head,
            peer_of(scope),
            scheme_of(scope),
            receive,
            send,
            extensions=scope.get("extensions") or {},
            has_body=has_body(scope, head) if failure is None else False,
            write_timeout=self._limits.write_timeout,
        )
        async with _beside(running, request.send_all):
            if failure is not None:
                _answer(request, failure)
            else:
                await request.decide_body()
                async with _beside(running, request.receive_all):
                    await _drive(request, running.dispatch)
            await _settle(request)
        await request.tell_broken()

    async def _websocket(self, running: Running, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        async with anyio.create_task_group() as tasks:
            key = b""
            try:
                head, key = websocket_head(scope, self._limits)
                failure = None
            except HeadError as error:
                head, failure = _NO_HEAD, error
            request = WebSocketRequest(
                head,
                peer_of(scope),
                scheme_of(scope),
                receive,
                send,
                key=key,
                extensions=scope.get("extensions") or {},
                max_message=self._limits.app_websocket_message,
                write_timeout=self._limits.write_timeout,
                tasks=tasks,
            )
            async with _beside(running, request.send_all), _beside(running, request.receive_first):
                if failure is not None:
                    _answer(request, failure)
                else:
                    await _drive(request, running.dispatch)
                await _settle(request)
                if request.bridge is not None:
                    await request.bridge.ended.wait()


_NO_HEAD = RequestHead(b"GET", b"/", [])


def _head_or_failure(make: Callable[[], RequestHead]) -> tuple[RequestHead, HeadError | None]:
    try:
        return make(), None
    except HeadError as error:
        return _NO_HEAD, error


@asynccontextmanager
async def _beside(running: Running, task: Callable[[], Coroutine[Any, Any, object]]) -> AsyncGenerator[None, None]:
    """Run ``task`` beside the body, to its end; the whole ends with the server."""
    async with anyio.create_task_group() as group:
        running.calls.add(group.cancel_scope)
        try:
            group.start_soon(task)
            yield
        finally:
            running.calls.discard(group.cancel_scope)
        group.cancel_scope.cancel()


async def _drive(request: ScopeRequest, dispatch: Dispatch) -> None:
    try:
        await dispatch(request)
    except HeadError as error:
        _answer(request, error)
    except StreamBroken:
        request.abort()
    except Exception:
        _logger.exception("a request's handler failed")
        _answer(request, _INTERNAL)


def _answer(request: ScopeRequest, error: HeadError) -> None:
    if request.answered:
        request.abort()
    else:
        send_whole(request, *problem(error.status, error.code, error.detail, request.head))


async def _settle(request: ScopeRequest) -> None:
    """Until the host has the whole answer. A handler that left none, or a part of one, is told as such."""
    if not request.answered and not request.gone:
        _answer(request, _INTERNAL)
    while not request.flush():
        await request.wait(writable=True)
