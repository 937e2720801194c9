"""Our client at a WStunnel server: each of their messages becomes a request of a session inside the process.

Their wire has one message at a time each way, no cancelling and no flow control. So requests and responses are held
until they are whole: an answer that is slow, or has no end, must not stop all others.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final

import anyio
from anyio.abc import TaskGroup
from wsproto.utilities import generate_nonce

from ..config import DEFAULT_LIMITS, Limits
from ..errors import (
    ConnectionLost,
    DialError,
    HeadError,
    LocalProtocolError,
    RegistrationRefused,
    RemoteProtocolError,
    SessionGone,
)
from ..handshake import Grant
from ..heads import Fields, ResponseHead, field_values
from ..http.codec import HeadParser
from ..http.parsers import DEFAULT_PARSER
from ..transports.answers import Target, judge_answer
from ..transports.base import Connection, DialRequest
from .fragments import FRAGMENT, Fragment, FragmentSocket
from .holding import HeldBody, Store
from .inside import InsideServer
from .switching import check_switched
from .wstunnel_call import Call
from .wstunnel_handshake import handshake_fields
from .wstunnel_opening import ask, check_server
from .wstunnel_reading import begin_message
from .wstunnel_wire import BODY_LIMIT, failure_message, response_message

__all__ = ["WStunnelClient"]

logger = logging.getLogger("tunnelkit.client")

MESSAGE_LIMIT: Final = BODY_LIMIT + 128 * 1024
FAREWELL: Final = 0.5  # seconds for the answers that are owed when the client ends, and then for an orderly end
ANSWER_TIME: Final = 1200.0  # seconds that their server waits for an answer, by default


class WStunnelClient:
    """The client half of the transport ``wstunnel``."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, parser: HeadParser = DEFAULT_PARSER) -> None:
        self._limits = limits
        self._parser = parser
        self._store = Store(limits)

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        if request.guessed or request.handshake.resume is not None:
            await check_server(request)
        if request.handshake.resume is not None:
            raise RegistrationRefused(410, "unknown_session", "a WStunnel server keeps no sessions")
        socket = await _open(request)
        inside = InsideServer(transport="wstunnel", limits=self._limits)
        peer = _Server(socket, inside, self._store, self._parser, self._limits)
        request.tasks.start_soon(peer.run)
        return inside.connection, inside.grant


async def _open(request: DialRequest) -> FragmentSocket:
    target, key = Target.parse(request.url), generate_nonce()
    answer = await ask(request, handshake_fields(target, key, request.handshake, request.user_agent))
    if answer.stream is None:
        raise _refusal(answer.status, answer.fields, answer.body, tls=target.tls)
    try:
        check_switched(answer.fields, key, program="WStunnel")
    except DialError:
        answer.stream.abort()
        raise
    return FragmentSocket(answer.stream, client=True, early=answer.early, texts=False)


def _refusal(status: int, fields: Fields, body: bytes, *, tls: bool) -> RegistrationRefused | DialError:
    """Theirs have no codes: only the answer that none but them gives is their word."""
    realm = b"".join(field_values(fields, b"www-authenticate"))
    if status == 401 and b'realm="wstunnel"' in realm:
        return RegistrationRefused(401, "unauthorized", body.decode("utf-8", "replace").strip()[:200])
    return judge_answer(status, fields, body, tls=tls)


class _Server:
    """One of their servers, while the connection to it lasts."""

    def __init__(
        self, socket: FragmentSocket, inside: InsideServer, store: Store, parser: HeadParser, limits: Limits
    ) -> None:
        self._socket = socket
        self._inside = inside
        self._store = store
        self._parser = parser
        self._limits = limits
        self._messages: dict[HeldBody, anyio.CancelScope] = {}  # that are answered

    async def run(self) -> None:
        """Raises nothing but cancellation."""
        try:
            async with anyio.create_task_group() as tasks:
                for part in (self._ping, self._socket.answer_pings):
                    tasks.start_soon(self._guard, part)
                tasks.start_soon(self._read_all, tasks)
                try:
                    await self._inside.run()
                finally:
                    self._hurry()
                    tasks.cancel_scope.cancel()
        finally:
            await self._socket.aclose(1000, FAREWELL, skip=True)
            for message in self._messages:  # of tasks that never began
                message.close()

    def _hurry(self) -> None:
        """The session is over. Its answers were not told to their server yet, or that there are none."""
        for scope in self._messages.values():
            scope.deadline = anyio.current_time() + FAREWELL

    async def _guard(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except ConnectionLost as error:
            self._end(error)

    def _end(self, error: Exception) -> None:
        logger.debug("a WStunnel server's connection ended: %s", error)
        self._inside.lose(error)

    async def _ping(self) -> None:
        """Theirs close a connection on which no ping came for their timeout (30 s by default; 3 s at the least)."""
        while True:
            heard = self._socket.last_received
            await self._socket.ping()
            await anyio.sleep(self._limits.ping_idle_timeout)
            # While nobody reads, because a write waits, that has its own time.
            if self._socket.last_received <= heard and self._socket.silence(anyio.current_time()) > 0:
                raise ConnectionLost("the server does not answer pings")

    # -- requests ------------------------------------------------------------------------------

    async def _read_all(self, tasks: TaskGroup) -> None:
        try:
            while True:
                await self._read_message(tasks)
        except (ConnectionLost, RemoteProtocolError) as error:
            self._end(error)

    async def _read_message(self, tasks: TaskGroup) -> None:
        """One request, whole: theirs sends no other before its end."""
        number, fragment = await begin_message(self._socket)
        message = self._store.body()
        try:
            refused = await self._hold(message, fragment)
        except BaseException:
            message.close()
            raise
        if refused is None and len(self._messages) < self._limits.max_streams:
            self._messages[message] = anyio.CancelScope(shield=True)
            tasks.start_soon(self._answer, number, message)
            return
        message.close()
        # Here, in the reader's own time: a server that asks faster than it takes answers has to wait.
        await self._send([failure_message(number, refused or _BUSY)])

    async def _hold(self, message: HeldBody, fragment: Fragment) -> HeadError | None:
        """Take a message to its end; why it cannot be answered as it should."""
        refused: HeadError | None = None
        while True:
            if refused is None:
                try:
                    _add(message, fragment.data)
                except HeadError as error:
                    refused = error
                    message.close()
            if fragment.last:
                return refused
            fragment = await self._socket.receive()

    async def _answer(self, number: int, message: HeldBody) -> None:
        try:
            with self._messages[message], message, self._store.body() as body:
                try:
                    pieces: Iterable[bytes] = _pieces(number, *await self._call(message, body), body)
                except HeadError as error:
                    pieces = [failure_message(number, error)]
                await self._send(pieces)
        finally:
            del self._messages[message]

    async def _call(self, message: HeldBody, body: HeldBody) -> tuple[bytes, ResponseHead]:
        """The method, and the answer's head, with the answer's body in ``body``. Raises ``HeadError``."""
        try:
            call = Call(self._inside.link, message, body, self._parser, self._limits)
            with anyio.fail_after(ANSWER_TIME):
                return call.method, await call.answer()
        except (SessionGone, LocalProtocolError) as error:
            raise HeadError(502, "origin_failed", "the tunnel client is busy, or ends") from error
        except TimeoutError as error:
            raise HeadError(504, "response_timeout", "no answer came in time") from error

    async def _send(self, pieces: Iterable[bytes]) -> None:
        try:
            await self._socket.send(pieces, wanted=lambda: True)
        except (ConnectionLost, OSError) as error:  # a body's file that cannot be read: half a message is out
            self._socket.abort()
            self._end(error)


_BUSY: Final = HeadError(503, "overloaded", "the tunnel client answers as many requests as it may")


def _add(message: HeldBody, data: bytes) -> None:
    if message.size + len(data) > MESSAGE_LIMIT:
        raise HeadError(413, "body_too_large", "a request may have at most 100 MiB")
    message.write(data)


def _pieces(number: int, method: bytes, head: ResponseHead, body: HeldBody) -> Iterator[bytes]:
    bodiless = method == b"HEAD" or head.status in (204, 304)
    start = response_message(number, head, None if bodiless else body.size)
    yield start + body.read(max(0, FRAGMENT - len(start)))
    while data := body.read(FRAGMENT):
        yield data
