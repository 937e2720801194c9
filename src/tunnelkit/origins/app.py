"""What all apps in this process have in common: how many run at once, and what becomes of those that fail."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable

import anyio

from ..config import Limits
from ..errors import AppError, CallerGone
from ..forwarding import upgrade_of
from .base import Origin, OriginExchange
from .conversation import Conversation

__all__ = ["AppOrigin", "exited", "report", "report_late", "run_apart"]

logger = logging.getLogger("tunnelkit.client")


class AppOrigin(Origin):
    """An app that is called once for each request. Its failures are told to the caller without its words, and
    logged with them."""

    def __init__(self, *, limits: Limits) -> None:
        self.limits = limits
        self._running = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} running={self._running}>"

    async def serve(self, exchange: OriginExchange) -> None:
        upgrade = upgrade_of(exchange.head)
        if upgrade is not None and not self.upgrades_to(upgrade):
            exchange.fail(501, "upgrade_not_implemented", "the app behind this tunnel does not speak this protocol")
        elif self._running >= self.limits.app_calls:
            exchange.fail(503, "overloaded", "too many requests run in the app behind this tunnel")
        else:
            await self._count(exchange)

    async def _count(self, exchange: OriginExchange) -> None:
        self._running += 1
        try:
            await self._guard(exchange)
        finally:
            self._running -= 1

    async def _guard(self, exchange: OriginExchange) -> None:
        try:
            await self.answer(exchange)
        except Exception as error:
            report(exchange, error)

    def upgrades_to(self, protocols: bytes) -> bool:
        """Whether the app speaks one of ``protocols``, an Upgrade field's value."""
        return False

    @abstractmethod
    async def answer(self, exchange: OriginExchange) -> None:
        """Call the app. What it raises is logged, and told as 502 or by breaking the response off."""

    async def aclose(self) -> None:
        """There is nothing to let go of: an app's own resources are its lifespan's."""


def report(exchange: OriginExchange, error: Exception) -> None:
    """An app raised ``error``."""
    if exchange.gone:
        report_late(error)
        return
    logger.error("an app failed", exc_info=error)
    exchange.fail(502, "origin_failed", "the app raised an error")


def exited() -> AppError:
    """For SystemExit: a request is not to end the program."""
    return AppError("the app called sys.exit")


def report_late(error: Exception) -> None:
    """An app raised ``error`` when its caller had left: many do by that alone."""
    logger.debug("an app failed after its caller had left: %r", error, exc_info=error)


async def run_apart(conversation: Conversation, call: Callable[[], Awaitable[None]]) -> None:
    """Run ``call`` in a task of its own, because what an app puts into context variables must not reach the next
    request: the agent's tasks serve one after the other. What it raises comes out as it is, but for CallerGone. An
    app that will not hear that nobody is there is cancelled."""
    failures: list[Exception] = []

    async def guarded() -> None:
        try:
            await call()
        except CallerGone:
            pass
        except SystemExit:
            failures.append(exited())
        except Exception as error:
            failures.append(error)
        except BaseExceptionGroup as group:  # of tasks of the app's own
            exits, rest = group.split(SystemExit)
            if exits is None:
                raise
            failures.append(exited())
            if not isinstance(rest, Exception | None):
                raise rest from None

    try:
        async with anyio.create_task_group() as group:
            conversation.on_deaf = group.cancel_scope.cancel
            group.start_soon(guarded)
    finally:
        conversation.close()
    if failures:
        raise failures[0]
