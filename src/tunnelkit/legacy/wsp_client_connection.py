"""One of our client's connections to a wsp server: idle, then one request and its answer, then idle again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import anyio

from ..config import Limits
from ..errors import ConnectionLost, HeadError, LocalProtocolError, RemoteProtocolError, SessionGone
from ..forwarding import forward_request, forward_response
from ..heads import ResponseHead
from ..link import Link
from ..problem import CODES, code_of
from .fragments import Fragment, FragmentSocket
from .wsp_client_call import Call
from .wsp_heads import CLIENT_FAILED, failed_response, request_head, response_from
from .wsp_wire import JSON_LIMIT, Request, Response, read_request, write_response

__all__ = ["PING_INTERVAL", "PONG_TIME", "STEADY", "PoolConnection", "PoolKeeper"]

logger = logging.getLogger("tunnelkit.client")

PING_INTERVAL: Final = 30.0  # seconds, as theirs
PONG_TIME: Final = 10.0  # for the answer, while the connection is idle
STEADY: Final = 1.0  # a connection that stands this long was meant to


class PoolKeeper(Protocol):
    """Whoever keeps the connections is told what becomes of each."""

    def on_request(self) -> None: ...

    def on_answered(self) -> None: ...

    def on_steady(self) -> None: ...


class PoolConnection:
    """``run`` it. What breaks its wire's rules, or breaks off, costs this connection alone."""

    def __init__(self, socket: FragmentSocket, link: Link, keeper: PoolKeeper, limits: Limits) -> None:
        self.busy = False
        self.proved = False  # the server kept it for a while, or used it
        self.failure = "it was closed"
        self._socket = socket
        self._link = link
        self._keeper = keeper
        self._limits = limits
        self._early: Fragment | None = None  # of the next request
        self._retiring = False
        self._answered = False  # but for the end of the answer that is being written
        self._waiting = anyio.CancelScope()  # for something behind a request, beside its answer
        self._scope = anyio.CancelScope()
        self._failed = False

    async def run(self) -> None:
        """Until it is lost, or retired. Raises nothing but cancellation."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._guard, self._socket.answer_pings)
                    tasks.start_soon(self._guard, self._keep_alive)
                    await self._guard(self._serve)
                    tasks.cancel_scope.cancel()
        finally:
            if self.busy or self._failed:
                self._socket.abort()
            else:
                await self._socket.aclose(1000)

    def retire(self) -> None:
        """Take no more requests: the end, once the one that is being answered is."""
        self._retiring = True
        if not self.busy:
            self._scope.cancel()

    async def _guard(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except ConnectionLost as error:
            logger.debug("a connection to a wsp server ended: %s", error)
            self._fail(error)
        except RemoteProtocolError as error:
            logger.warning("a wsp server sent what is none of its messages: %s (%s)", error, error.code)
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        self.failure = str(error)
        self._scope.cancel()

    # -- liveness ------------------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        await anyio.sleep(STEADY)
        self._prove()
        while True:
            await anyio.sleep(PING_INTERVAL - PONG_TIME)
            await self._socket.ping()
            asked = anyio.current_time()
            await anyio.sleep(PONG_TIME)
            # Their server reads nothing while it waits for a slow caller: then silence says nothing.
            if not self.busy and self._socket.last_received < asked:
                raise ConnectionLost("the server does not answer pings")

    def _prove(self) -> None:
        if not self.proved:
            self.proved = True
            self._keeper.on_steady()

    # -- requests ------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while not self._retiring:
            first = await self._next_fragment()
            self.busy = True
            self._keeper.on_request()
            request = read_request(await self._rest_of_text(first))
            self._prove()
            await self._answer(request)
            self.busy = False
            self._keeper.on_answered()

    async def _next_fragment(self) -> Fragment:
        early, self._early = self._early, None
        return await self._socket.receive() if early is None else early

    async def _rest_of_text(self, fragment: Fragment) -> bytes:
        text = bytearray()
        while True:
            if not fragment.text:
                raise RemoteProtocolError("a body without a request", code="bad_message")
            text += fragment.data
            if len(text) > JSON_LIMIT:
                raise RemoteProtocolError(f"a request of more than {JSON_LIMIT} bytes", code="bad_message")
            if fragment.last:
                return bytes(text)
            fragment = await self._socket.receive()

    async def _answer(self, request: Request) -> None:
        call = self._call(request)
        self._answered, self._waiting = False, anyio.CancelScope()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._guard, partial(self._respond, request, call))
                await self._guard(partial(self._take_body, call))
        finally:
            if isinstance(call, Call):
                call.leave()

    def _call(self, request: Request) -> Call | HeadError:
        """The request on its way, or why it is not."""
        try:
            origin, head = request_head(request, self._limits)
            head = forward_request(head, peer_address="", scheme=origin.scheme, trusted=True)
            return Call(self._link, origin, head, self._limits, has_body=request.length != 0)
        except HeadError as error:
            return error
        except (LocalProtocolError, SessionGone):
            return HeadError(503, "overloaded", "the tunnel client is busy, or ends")

    async def _take_body(self, call: Call | HeadError) -> None:
        """Theirs waits for no answer before the body is taken, so all of it is, wanted or not; and then for the end
        of the connection, beside the answer."""
        last = False
        while not last:
            fragment = await self._socket.receive()
            if fragment.text:
                raise RemoteProtocolError("a request in place of a body", code="bad_message")
            if isinstance(call, Call):
                await call.give(fragment.data, last=fragment.last)
            last = fragment.last
        with self._waiting:
            self._early = await self._socket.receive()
            if not self._answered:
                raise RemoteProtocolError("a request before the answer to the last", code="bad_message")

    # -- answers -------------------------------------------------------------------------------

    async def _respond(self, request: Request, call: Call | HeadError) -> None:
        try:
            if isinstance(call, HeadError):
                raise call
            head = _of_the_origin(await call.head())
        except HeadError as error:
            await self._tell_failure(error)
        else:
            await self._pass_on(call, response_from(forward_response(head), request.method))
        self._waiting.cancel()

    async def _pass_on(self, call: Call, response: Response) -> None:
        await self._socket.send_text(write_response(response))
        last = False
        while not last:
            piece, last = await call.piece()
            self._answered = last
            await self._socket.send_fragment(piece, last=last)

    async def _tell_failure(self, error: HeadError) -> None:
        response, body = _failure(error)
        await self._socket.send_text(write_response(response))
        self._answered = True
        await self._socket.send_fragment(body, last=True)


def _of_the_origin(head: ResponseHead) -> ResponseHead:
    """Raises ``HeadError`` for an answer that our own end made."""
    code = code_of(head)
    if code is None:
        return head
    title = CODES[code].title if code in CODES else "the request failed"
    raise HeadError(head.status, code, title)


# As Go's own errors begin, for those who sort failures by their beginning.
_WORDS: Final = {
    "origin_unreachable": "dial tcp: the origin cannot be reached",
    "origin_tls": "tls: no secure connection to the origin",
}
_REFUSALS: Final = frozenset({"destination_refused", "x_host_refused"})


def _failure(error: HeadError) -> tuple[Response, bytes]:
    if error.code in _REFUSALS:
        body = b"Destination is not allowed\n"
        return Response(status=CLIENT_FAILED, fields=[], length=len(body)), body
    return failed_response(_WORDS.get(error.code, error.detail))
