"""ASGI's lifespan scope: the app starts before the tunnel does, and shuts down after it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from anyio.abc import TaskStatus

from ..config import Limits
from ..errors import AppError
from ..lifetime import run_beside
from .asgi_types import ASGIApp, Message

__all__ = ["Lifespan"]

logger = logging.getLogger("tunnelkit.client")

REFUSED_TIMEOUT: Final = 1.0  # seconds for an app that said that it does not start, to end by itself

_VERSIONS: Final = {"version": "3.0", "spec_version": "2.0"}


class Lifespan:
    """``required``: an app without lifespan is an error. Otherwise it is served without: the specification lets an
    app say so by raising."""

    def __init__(self, app: ASGIApp, *, required: bool, limits: Limits) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._required = required
        self._limits = limits
        self._scope = anyio.CancelScope()
        self._settled = anyio.Event()  # it started, or never will
        self._stop = anyio.Event()
        self._over = anyio.Event()
        self._asked = 0
        self._complete = False
        self._refusal: str | None = None
        self._failure: AppError | None = None

    @asynccontextmanager
    async def around(self) -> AsyncGenerator[None]:
        """Start the app, and shut it down afterwards. Raises AppError if it does not start."""
        async with run_beside(self._run):
            await self._settled.wait()
            if self._failure is not None:
                raise self._failure
            # From here on only we end it: a cancellation of the program around must leave it its shutdown.
            self._scope.shield = True
            try:
                yield
            finally:
                await self._shut_down()

    async def _shut_down(self) -> None:
        self._stop.set()
        with anyio.move_on_after(self._limits.app_shutdown_timeout, shield=True) as waiting:
            await self._over.wait()
        if waiting.cancelled_caught:
            logger.warning("the app did not shut down within %g s", self._limits.app_shutdown_timeout)
        self._scope.cancel()

    # -- the app's call ------------------------------------------------------------------------

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        error: Exception | None = None
        with self._scope:
            self._scope.deadline = anyio.current_time() + self._limits.app_startup_timeout
            try:
                await self._app(self._lifespan_scope(), self._receive, self._send)
            except Exception as raised:
                error = raised
        if not self._settled.is_set():
            self._failure = self._judge(error)
            self._settled.set()
        elif error is not None:
            logger.error("an app's lifespan failed", exc_info=error)
        self._over.set()

    def _lifespan_scope(self) -> dict[str, Any]:
        return {"type": "lifespan", "asgi": dict(_VERSIONS), "state": self.state}

    def _judge(self, error: Exception | None) -> AppError | None:
        """The call ended before its startup was complete: is that a failure, or an app without lifespan?"""
        if self._refusal is not None:
            return _because("the app did not start" + (f": {self._refusal}" if self._refusal else ""), error)
        if self._scope.cancelled_caught:
            return AppError(f"the app did not start within {self._limits.app_startup_timeout:g} s")
        if self._required:
            return _because("the app has no lifespan", error)
        logger.info("the app is served without lifespan, which it does not support (%r)", error)
        return None

    async def _receive(self) -> Message:
        self._asked += 1
        if self._asked == 1:
            return {"type": "lifespan.startup"}
        if self._refusal is not None:  # its loop goes on, but there is nothing to wait for
            self._scope.cancel()
        await self._stop.wait()
        if self._asked > 2:  # there is nothing more to tell
            await anyio.sleep_forever()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._scope.deadline = float("inf")
            self._settled.set()
        elif kind == "lifespan.startup.failed":
            self._refusal = str(message.get("message", ""))
            self._scope.deadline = min(self._scope.deadline, anyio.current_time() + REFUSED_TIMEOUT)
        elif kind == "lifespan.shutdown.failed":
            logger.error("the app did not shut down: %s", message.get("message", ""))
        elif kind != "lifespan.shutdown.complete":
            raise AppError(f"the app sent {kind!r} in its lifespan")


def _because(text: str, cause: Exception | None) -> AppError:
    error = AppError(text)
    error.__cause__ = cause
    return error
