"""Our client at a WStunnel server: each of their messages becomes a request of a session inside the process.

Their wire has one message at a time each way, no cancelling and no flow control. So requests and responses are held
until they are whole, in files beyond ``IN_MEMORY``: an answer that is slow, or has no end, must not stop all others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, Final

import anyio
from anyio.abc import TaskGroup
from wsproto.utilities import generate_nonce

from ..config import DEFAULT_LIMITS, Limits
from ..core.exchange import Exchange
from ..core.frames import ResetCode, StreamKind
from ..errors import (
    ConnectionLost,
    DialError,
    HeadError,
    LocalProtocolError,
    RegistrationRefused,
    RemoteProtocolError,
    SessionGone,
)
from ..forwarding import forward_request, forward_response
from ..handshake import Grant
from ..heads import Fields, RequestHead, ResponseHead, field_values
from ..http.codec import Body, HeadParser, Signal
from ..http.parsers import DEFAULT_PARSER
from ..http.server_codec import ServerCodec
from ..transports.answers import Target, judge_answer
from ..transports.base import Connection, DialRequest
from ..tunnel_stream import OpenField, Stream
from .fragments import FRAGMENT, FragmentSocket
from .inside import InsideServer
from .switching import check_switched
from .wstunnel_handshake import handshake_fields
from .wstunnel_opening import ask, check_server
from .wstunnel_wire import (
    BODY_LIMIT,
    ID_SIZE,
    parse_id,
    response_message,
)

__all__ = ["WStunnelClient"]

logger = logging.getLogger("tunnelkit.client")

IN_MEMORY: Final = 256 * 1024  # of one body
MESSAGE_LIMIT: Final = BODY_LIMIT + 128 * 1024
ANSWER_TIME: Final = 1200.0  # seconds that their server waits for an answer, by default
CHUNK: Final = 64 * 1024

_TOKEN_FIELD: Final = b"x-token"  # theirs passes it on


class WStunnelClient:
    """The client half of the transport ``wstunnel``."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, parser: HeadParser = DEFAULT_PARSER) -> None:
        self._limits = limits
        self._parser = parser

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        if request.guessed or request.handshake.resume is not None:
            await check_server(request)
        if request.handshake.resume is not None:
            raise RegistrationRefused(410, "unknown_session", "a WStunnel server keeps no sessions")
        socket = await _open(request)
        inside = InsideServer(transport="wstunnel", limits=self._limits)
        peer = _Server(socket, inside, self._parser, self._limits)
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

    def __init__(self, socket: FragmentSocket, inside: InsideServer, parser: HeadParser, limits: Limits) -> None:
        self._socket = socket
        self._inside = inside
        self._parser = parser
        self._limits = limits

    async def run(self) -> None:
        """Raises nothing but cancellation."""
        try:
            async with anyio.create_task_group() as tasks:
                for part in (self._ping, self._socket.answer_pings):
                    tasks.start_soon(self._guard, part)
                tasks.start_soon(self._read_all, tasks)
                await self._inside.run()
                tasks.cancel_scope.cancel()
            await self._socket.aclose(1000)
        finally:
            self._socket.abort()

    async def _guard(self, part: object) -> None:
        try:
            await part()  # type: ignore[operator]
        except ConnectionLost as error:
            self._end(error)

    def _end(self, error: Exception) -> None:
        logger.debug("a WStunnel server's connection ended: %s", error)
        self._inside.link.fence(ConnectionLost(str(error)))
        self._inside.connection.lose(ConnectionLost(str(error)))

    async def _ping(self) -> None:
        """Theirs close a connection on which no ping came for their timeout (30 s by default; 3 s at the least)."""
        while True:
            await self._socket.ping()
            heard = self._socket.last_received
            await anyio.sleep(self._limits.ping_idle_timeout)
            if self._socket.last_received <= heard:
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
        message = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - whoever answers it closes it
        try:
            await self._hold(message)
            number = parse_id(message.read(ID_SIZE))
        except BaseException:
            message.close()
            raise
        tasks.start_soon(self._answer, number, message)

    async def _hold(self, message: IO[bytes]) -> None:
        last = False
        while not last:
            fragment = await self._socket.receive()
            message.write(fragment.data)
            last = fragment.last
            if message.tell() > MESSAGE_LIMIT:
                raise RemoteProtocolError("a request above 100 MiB", code="message_too_big")
        message.seek(0)

    async def _answer(self, number: int, message: IO[bytes]) -> None:
        with message, SpooledTemporaryFile(max_size=IN_MEMORY) as body:
            head = await self._call(message, body)
            try:
                await self._socket.send(_pieces(number, head, body), wanted=lambda: True)
            except ConnectionLost as error:
                self._end(error)

    async def _call(self, message: IO[bytes], body: IO[bytes]) -> ResponseHead:
        codec = ServerCodec(self._parser, self._limits)
        try:
            request = _first_head(codec, message)
            call = _Call(self._inside, request, codec, message, body, self._limits)
            with anyio.fail_after(ANSWER_TIME):
                return await call.answer()
        except HeadError as error:
            return _failure(body, error.status, error.detail)
        except (SessionGone, LocalProtocolError):
            return _failure(body, 502, "the tunnel client is busy or ends")
        except TimeoutError:
            return _failure(body, 504, "no answer came in time")


def _failure(body: IO[bytes], status: int, detail: str) -> ResponseHead:
    body.seek(0)
    body.truncate()
    body.write(f"{detail}\n".encode())
    reason = {400: b"Bad Request", 502: b"Bad Gateway", 504: b"Gateway Timeout"}.get(status, b"")
    return ResponseHead(status, [(b"Content-Type", b"text/plain; charset=utf-8")], reason)


def _first_head(codec: ServerCodec, message: IO[bytes]) -> RequestHead:
    while not isinstance(event := codec.next_event(), RequestHead):
        data = message.read(CHUNK)
        codec.receive_data(data)
        if not data and event is not Signal.NEED_DATA:
            break
    if isinstance(event, RequestHead):
        return event
    raise HeadError(400, "bad_request", "the message holds no request")


def _pieces(number: int, head: ResponseHead, body: IO[bytes]) -> Iterator[bytes]:
    size = body.seek(0, 2)
    body.seek(0)
    bodiless = head.status in (204, 304) or (not size and bool(field_values(head.fields, b"content-length")))
    start = response_message(number, head, None if bodiless else size)
    yield start + body.read(max(0, FRAGMENT - len(start)))
    while data := body.read(FRAGMENT):
        yield data


class _Call:
    """One request on its stream: the stream's handler, and the task that waits for the answer's end."""

    def __init__(
        self,
        inside: InsideServer,
        head: RequestHead,
        codec: ServerCodec,
        message: IO[bytes],
        body: IO[bytes],
        limits: Limits,
    ) -> None:
        x_hosts = field_values(head.fields, b"x-host")
        self._head = forward_request(_without_token(head), peer_address="unknown", scheme="http", trusted=True)
        self._codec = codec
        self._message = message
        self._body = body
        self._has_body = codec.body_left != 0
        self._exchange = Exchange(client=False, limits=limits)
        self._news = anyio.Event()
        self._answer: ResponseHead | None = None
        self._ended = False
        self._failure: HeadError | None = None
        fields = {int(OpenField.X_HOST): x_hosts[0]} if x_hosts else None
        self._stream: Stream = inside.link.open_stream(StreamKind.HTTP, self, fields)

    async def answer(self) -> ResponseHead:
        """The answer's head, once its body is there. Raises ``HeadError``."""
        try:
            fin = not self._has_body
            self._stream.send_head(self._exchange.send_request(self._head, fin=fin), fin=fin)
            while not self._ended:
                self._news = anyio.Event()
                if self._has_body:
                    self._give_body()
                await self._news.wait()
        finally:
            self._stream.reset(ResetCode.CANCEL)
        if self._failure is not None:
            raise self._failure
        assert self._answer is not None
        return forward_response(self._answer)

    def _give_body(self) -> None:
        while self._has_body and self._stream.room > 0:
            event = self._codec.next_event(min(self._stream.room, CHUNK))
            if isinstance(event, Body):
                self._exchange.send_data(len(event.data))
                self._stream.send_data(bytes(event.data))
            elif event is Signal.NEED_DATA:
                self._codec.receive_data(self._message.read(CHUNK))
            else:
                self._has_body = False
                self._exchange.send_fin()
                self._stream.send_fin()

    def _end(self, failure: HeadError | None = None) -> None:
        self._failure = self._failure or failure
        self._ended = True
        self._news.set()

    # -- the stream's events -------------------------------------------------------------------

    def on_sent(self) -> None: ...

    def on_settled(self) -> None: ...

    def on_room(self) -> None:
        self._news.set()

    def on_progress(self, limit: int) -> None:
        self._news.set()

    def on_head(self, block: bytes, fin: bool) -> None:
        try:
            head = self._exchange.receive_head(block, fin=fin)
        except RemoteProtocolError as error:
            self._end(HeadError(502, "bad_answer", str(error)))
            return
        if isinstance(head, ResponseHead) and head.status >= 200:
            self._answer = head
        if fin:
            self._end()

    def on_data(self, data: bytes, fin: bool) -> None:
        try:
            self._exchange.receive_data(len(data), fin=fin)
        except RemoteProtocolError as error:
            self._end(HeadError(502, "bad_answer", str(error)))
            return
        self._body.write(data)
        self._stream.consume(len(data))
        if self._body.tell() > BODY_LIMIT:
            self._end(HeadError(502, "response_too_large", "WStunnel carries at most 100 MiB"))
        elif fin:
            self._end()

    def on_reset(self, code: int) -> None:
        self._end(HeadError(502, "origin_failed", "the origin gave no complete answer"))


def _without_token(head: RequestHead) -> RequestHead:
    fields = [field for field in head.fields if field[0].lower() not in (_TOKEN_FIELD, b"upgrade")]
    return RequestHead(head.method, head.target, fields, head.version)
