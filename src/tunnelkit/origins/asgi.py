"""An ASGI 3 app as origin, in the client's own process."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio

from ..config import DEFAULT_LIMITS, Limits
from ..errors import ConfigError
from ..forwarding import upgrade_of
from ..heads import Fields, list_items
from .answer import Answer
from .app import AppOrigin, report_late, run_apart
from .asgi_http import HttpCycle
from .asgi_lifespan import Lifespan
from .asgi_types import ASGIApp, http_scope, websocket_scope
from .asgi_websocket import WebSocketCycle
from .base import OriginExchange
from .conversation import Conversation
from .facts import RequestFacts, request_facts
from .websocket_opening import refuse_opening

__all__ = ["AsgiOrigin"]

logger = logging.getLogger("tunnelkit.client")


class AsgiOrigin(AppOrigin):
    """Serves ``app`` (Starlette, FastAPI, Quart, Django and so on) without a port. One client's.

    ``lifespan``
        "auto": the app is started before the client registers, and shut down after its session; one that knows no
        lifespan (it raises) is served all the same. "on": it must know it. "off": it is not asked.
    ``root_path``
        What ASGI calls so: where the app believes itself to be mounted. It stands before every path.
    ``host``
        What Host says to the app: None for what the caller asked for, anything else is said.
    ``limits``
        ``app_calls``, ``app_websocket_message``, ``app_startup_timeout``, ``app_shutdown_timeout``.

    The app runs in the client's event loop: one that is written for asyncio works on asyncio. When its caller leaves,
    a call is not cancelled, but told: it gets ``http.disconnect``, and ``send`` raises an OSError. It is cancelled
    when the client ends.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        lifespan: Literal["auto", "on", "off"] = "auto",
        root_path: str = "",
        host: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(limits=limits)
        if lifespan not in ("auto", "on", "off"):
            raise ConfigError("lifespan", f"must be auto, on or off, not {lifespan!r}")
        if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
            raise ConfigError("root_path", f"{root_path!r} must begin with / and not end with it")
        self._app = app
        self._lifespan = lifespan
        self._root_path = root_path
        self._host = host
        self._state: dict[str, Any] = {}

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        if self._lifespan == "off":
            yield
            return
        life = Lifespan(self._app, required=self._lifespan == "on", limits=self.limits)
        async with life.around():
            self._state = life.state
            yield

    def upgrades_to(self, protocols: bytes) -> bool:
        return b"websocket" in list_items([protocols])

    async def answer(self, exchange: OriginExchange) -> None:
        conversation = Conversation(exchange)
        facts = request_facts(exchange.head, self._host, exchange.caller)
        if upgrade_of(exchange.head) is None:
            complete = await self._answer_http(conversation, facts)
        elif refusal := refuse_opening(exchange.head):
            complete = await self._refuse_upgrade(conversation, *refusal)
        else:
            complete = await self._answer_websocket(conversation, facts)
        if not complete and not exchange.gone:
            logger.error("an app failed: its call ended without a complete response")
            exchange.fail(502, "origin_failed", "the app ended without a complete response")

    async def _answer_http(self, conversation: Conversation, facts: RequestFacts) -> bool:
        cycle = HttpCycle(conversation, limits=self.limits)
        scope = http_scope(conversation.exchange.head, facts, self._root_path, self._state)
        await run_apart(conversation, lambda: self._app(scope, cycle.receive, cycle.send))
        return cycle.complete

    async def _refuse_upgrade(self, conversation: Conversation, status: int, fields: Fields) -> bool:
        answer = Answer(conversation, limits=self.limits)
        answer.start(status, [*fields, (b"Content-Length", b"0")])
        answer.end()
        return True

    async def _answer_websocket(self, conversation: Conversation, facts: RequestFacts) -> bool:
        scope = websocket_scope(conversation.exchange.head, facts, self._root_path, self._state)
        async with anyio.create_task_group() as group:
            cycle = WebSocketCycle(conversation, group, scope["subprotocols"], limits=self.limits)
            error: Exception | None = None
            try:
                await run_apart(conversation, lambda: self._app(scope, cycle.receive, cycle.send))
            except Exception as raised:
                error = raised
            left = cycle.caller_left
            await cycle.finish(failed=error is not None)
        if error is not None and left:
            report_late(error)
        elif error is not None:
            raise error
        return cycle.complete
