"""A WSGI app (PEP 3333) as origin: each call in a thread of its own, of which there are so many and no more."""

from __future__ import annotations

import logging
from contextlib import suppress
from contextvars import copy_context
from threading import Thread
from wsgiref.types import WSGIApplication

import anyio
import anyio.from_thread
from anyio.lowlevel import EventLoopToken, current_token

from ..config import DEFAULT_LIMITS, Limits
from ..errors import AppError, CallerGone, ConfigError
from .answer import Answer
from .app import AppOrigin, exited, report
from .base import OriginExchange
from .conversation import Conversation
from .facts import request_facts
from .wsgi_call import WsgiCall
from .wsgi_environ import wsgi_environ

__all__ = ["WsgiOrigin"]

logger = logging.getLogger("tunnelkit.client")


class WsgiOrigin(AppOrigin):
    """Serves ``app`` (Flask, Django, Bottle and so on) without a port.

    ``root_path``
        SCRIPT_NAME: where the app believes itself to be mounted.
    ``host``
        What HTTP_HOST and SERVER_NAME say: None for what the caller asked for.
    ``limits``
        ``wsgi_threads`` calls run at once and ``app_calls`` more wait for their turn.

    A thread cannot be cancelled. When its caller leaves, a call gets an OSError where it next reads or yields. When
    the client ends, a call that does neither is left to itself, and holds nothing up: the threads are daemons.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        root_path: str = "",
        host: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(limits=limits)
        if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
            raise ConfigError("root_path", f"{root_path!r} must begin with / and not end with it")
        self._app = app
        self._root_path = root_path
        self._host = host
        self._free = anyio.Semaphore(limits.wsgi_threads)

    async def answer(self, exchange: OriginExchange) -> None:
        waiting = anyio.CancelScope()
        conversation = Conversation(exchange, on_gone=waiting.cancel)
        try:
            with waiting:
                await self._free.acquire()
            if waiting.cancelled_caught:  # the caller left before its turn
                return
            await self._run(conversation)
        finally:
            conversation.close()

    async def _run(self, conversation: Conversation) -> None:
        head = conversation.exchange.head
        facts = request_facts(head, self._host, conversation.exchange.caller)
        environ = wsgi_environ(head, facts, self._root_path)
        answer = Answer(conversation, limits=self.limits)
        call = WsgiCall(self._app, environ, conversation, answer, current_token())
        thread = _CallThread(call, self._free)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads
            self._free.release()
            raise
        try:
            await thread.ended.wait()
        except BaseException:
            if not answer.complete:
                logger.warning("a call of the WSGI app has not ended, and is left to itself")
            raise
        if thread.error is not None and not isinstance(thread.error, CallerGone):
            report(conversation.exchange, thread.error)


class _CallThread(Thread):
    """Runs one call in a copy of the context that it was made in. ``free`` is released when it really ends."""

    def __init__(self, call: WsgiCall, free: anyio.Semaphore) -> None:
        super().__init__(name="tunnelkit WSGI", daemon=True)
        self.ended = anyio.Event()
        self.error: Exception | None = None
        self._call = call
        self._token: EventLoopToken = call.token
        self._free = free
        self._around = copy_context()

    def run(self) -> None:
        try:
            self._around.run(self._call)
        except SystemExit:
            self.error = exited()
        except Exception as error:
            self.error = error
        except BaseException as error:  # asyncio's CancelledError, say: in a thread it cancels nothing
            self.error = AppError(f"the app raised {type(error).__name__}")
            self.error.__cause__ = error
        finally:
            self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError, anyio.RunFinishedError):  # the event loop is over: nobody waits
            anyio.from_thread.run_sync(self._end, token=self._token)

    def _end(self) -> None:
        self._free.release()
        self.ended.set()
