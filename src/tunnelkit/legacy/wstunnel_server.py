"""WStunnel's clients at a tunnel server: their websocket becomes an origin of a session inside the process.

Their wire has one message a request and one a response, and one message at a time each way. So a request is held
until it is whole (a slow upload would stop everybody else's), in a file beyond ``IN_MEMORY``; and a response is
passed on fragment by fragment, whatever its caller takes, up to ``BACKLOG``: then that caller is cut, never the
tunnel.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from typing import IO, Final

import anyio
from anyio.abc import TaskGroup

from ..agent import Agent, AgentExchange
from ..config import DEFAULT_LIMITS, Limits
from ..core.allowlist import HostAllowlist
from ..core.guard import Guard
from ..core.rules import RuleSet
from ..errors import ConnectionLost, HeadError, RemoteProtocolError, StreamBroken
from ..handshake import Refusal
from ..heads import RequestHead, ResponseHead, field_values, list_items
from ..http.codec import HeadParser
from ..http.parsers import DEFAULT_PARSER
from ..origins.base import Origin, OriginExchange
from ..transports.answers import Answer
from ..transports.base import MountedRequest, Offer
from ..transports.websocket.handshake import check_upgrade
from .fragments import FRAGMENT, FragmentSocket
from .inside import InsideClient
from .switching import accept_fields
from .wstunnel_wire import (
    BODY_LIMIT,
    ID_SIZE,
    Ids,
    ResponseReader,
    Whole,
    parse_id,
    read_handshake,
    refusal_answer,
    request_message,
)

__all__ = ["BACKLOG", "WStunnelServer"]

logger = logging.getLogger("tunnelkit.server")

BACKLOG: Final = 8 * 1024 * 1024  # of one response, for a caller that does not take it
IN_MEMORY: Final = 256 * 1024  # of one request's body


class WStunnelServer:
    """The server half of the transport ``wstunnel``."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, parser: HeadParser = DEFAULT_PARSER) -> None:
        self._limits = limits
        self._parser = parser

    async def mounted(self, request: MountedRequest, offer: Offer) -> None:
        refused = check_upgrade(request.method, request.fields)
        handshake = refused or read_handshake(request.fields)
        if isinstance(handshake, Answer):
            await _respond(request, handshake)
            return
        answer = await offer(handshake, request.peer)
        if isinstance(answer, Refusal):
            await _respond(request, refusal_answer(answer))
            return
        try:
            (key,) = field_values(request.fields, b"sec-websocket-key")
            stream = await request.upgrade(accept_fields(key))
        except StreamBroken:
            answer.abandon()
            return
        except BaseException:
            answer.abandon()
            raise
        socket = FragmentSocket(stream, client=False, texts=False)
        peer = _Peer(socket, self._parser, self._limits)
        inside = InsideClient(answer, _Agent(peer, self._limits), transport="wstunnel", limits=self._limits)
        try:
            await inside.run(lambda tasks: peer.start(tasks, inside.end))
            await socket.aclose(1001)
        finally:
            socket.abort()


async def _respond(request: MountedRequest, answer: Answer) -> None:
    with suppress(StreamBroken):  # the client left meanwhile: nobody is there to be told
        await request.respond(answer.status, answer.fields, answer.body)


class _Agent(Agent):
    """It judges no X-Host: the far client does, by its own regexp."""

    def __init__(self, peer: _Peer, limits: Limits) -> None:
        super().__init__(
            limits=limits, origin=peer, named=peer, guard=Guard(allowlist=HostAllowlist(), rules=RuleSet())
        )
        self._peer = peer

    def choose(self, exchange: AgentExchange, x_host: bytes | None, *, by_destination: bool) -> Origin:
        return self._peer if x_host is None else _Named(self._peer, x_host)


class _Named(Origin):
    def __init__(self, peer: _Peer, x_host: bytes) -> None:
        self._peer = peer
        self._x_host = x_host

    async def serve(self, exchange: OriginExchange) -> None:
        await self._peer.ask(exchange, self._x_host)

    async def aclose(self) -> None: ...


class _Peer(Origin):
    """One of their clients, as the origin that it is."""

    def __init__(self, socket: FragmentSocket, parser: HeadParser, limits: Limits) -> None:
        self._socket = socket
        self._parser = parser
        self._limits = limits
        self._ids = Ids()
        self._waiting: dict[int, _Response] = {}

    def start(self, tasks: TaskGroup, end: Callable[[str], None]) -> None:
        tasks.start_soon(self._read_all, end)
        tasks.start_soon(self._socket.answer_pings)
        tasks.start_soon(self._watch, end)

    # -- requests ------------------------------------------------------------------------------

    async def serve(self, exchange: OriginExchange) -> None:
        await self.ask(exchange, None)

    async def ask(self, exchange: OriginExchange, x_host: bytes | None) -> None:
        news = _News()
        exchange.on_news(news.ring)
        with SpooledTemporaryFile(max_size=IN_MEMORY) as body:
            size = await _hold(exchange, body, news)
            if size is None:
                return
            number = self._ids.take()
            if number is None:
                exchange.fail(503, "overloaded", "as many requests as there are ids wait for their answers")
                return
            response = self._waiting[number] = _Response(exchange.head, news, self._parser, self._limits)
            pieces = _pieces(request_message(number, exchange.head, size, x_host), body)
            try:
                sent = await self._socket.send(pieces, wanted=lambda: not exchange.gone)
            except ConnectionLost:
                return  # which the reading side notices: the session ends, and every request with it
            if not sent:
                self._done(number)
                return
        try:
            await response.pass_on(exchange)
        finally:
            response.unwanted = True  # its id stays taken until their answer to it has come

    async def aclose(self) -> None: ...

    def _done(self, number: int) -> None:
        del self._waiting[number]
        self._ids.give_back(number)

    # -- responses -----------------------------------------------------------------------------

    async def _read_all(self, end: Callable[[str], None]) -> None:
        try:
            while True:
                await self._read_message()
        except ConnectionLost as error:
            logger.debug("a WStunnel client's connection ended: %s", error)
        except RemoteProtocolError as error:
            logger.warning("a WStunnel client sent what is none of its messages: %s", error)
        finally:
            end("peer_lost")

    async def _read_message(self) -> None:
        fragment = await self._socket.receive()
        data, last = fragment.data, fragment.last
        while len(data) < ID_SIZE and not last:
            fragment = await self._socket.receive()
            data, last = data + fragment.data, fragment.last
        number = parse_id(data[:ID_SIZE])
        response = self._waiting.get(number)
        data = data[ID_SIZE:]
        while True:
            if response is not None:
                response.feed(data, last=last)
            if last:
                break
            fragment = await self._socket.receive()
            data, last = fragment.data, fragment.last
        if response is not None:
            self._done(number)

    # -- liveness ------------------------------------------------------------------------------

    async def _watch(self, end: Callable[[str], None]) -> None:
        """Their clients ping, by default each 10 s; one that does not is asked."""
        limits = self._limits
        while True:
            heard = self._socket.last_received
            await anyio.sleep_until(heard + limits.ping_idle_silence)
            if self._socket.last_received > heard:
                continue
            with suppress(ConnectionLost), anyio.move_on_after(limits.ping_idle_timeout):
                await self._socket.ping()
            await anyio.sleep(limits.ping_idle_timeout)
            if self._socket.last_received <= heard:
                end("peer_silent")
                return


class _News:
    """A bell for one task."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()


async def _hold(exchange: OriginExchange, body: IO[bytes], news: _News) -> int | None:
    """Take the whole body of a request into ``body``; its size, or None when it is not to be sent."""
    if b"100-continue" in list_items(field_values(exchange.head.fields, b"expect")):
        exchange.send_head(ResponseHead(100, [], b"Continue"))
    size = 0
    while not exchange.gone:
        data = exchange.body_waiting
        if data is None:
            await news.wait()
        elif not data:
            return size
        else:
            size += len(data)
            if size > BODY_LIMIT:
                exchange.fail(413, "body_too_large", "a WStunnel client takes at most 100 MiB a request")
                return None
            body.write(data)
            exchange.body_taken()
    return None


def _pieces(head: bytes, body: IO[bytes]) -> Iterator[bytes]:
    body.seek(0)
    first = body.read(max(0, FRAGMENT - len(head)))
    yield head + first
    while data := body.read(FRAGMENT):
        yield data


class _Response:
    """Between the one who reads their messages and the one task that answers the exchange."""

    def __init__(self, head: RequestHead, news: _News, parser: HeadParser, limits: Limits) -> None:
        self.unwanted = False
        self._reader = ResponseReader(head, parser, limits)
        self._news = news
        self._parts: deque[ResponseHead | bytes | Whole] = deque()
        self._held = 0
        self._failure: HeadError | None = None

    def feed(self, data: bytes, *, last: bool) -> None:
        """Never waits: the next message may be another caller's."""
        if self.unwanted or self._failure is not None:
            return
        try:
            for part in self._reader.feed(data, last=last):
                self._parts.append(part)
                self._held += len(part) if isinstance(part, bytes) else 0
        except HeadError as error:
            self._failure = error
        if self._held > BACKLOG:
            self._failure = HeadError(502, "bad_answer", "the caller took too little of a response")
            self._parts.clear()
        self._news.ring()

    async def pass_on(self, exchange: OriginExchange) -> None:
        """Answer ``exchange`` with what comes, to its end."""
        while not exchange.gone:
            if self._pass_parts(exchange):
                return
            if self._failure is not None and not self._parts:
                exchange.fail(502, "bad_answer", self._failure.detail)
                return
            await self._news.wait()

    def _pass_parts(self, exchange: OriginExchange) -> bool:
        """What there is room for. True when the response is complete."""
        while self._parts:
            part = self._parts[0]
            if isinstance(part, bytes):
                room = exchange.room
                if room <= 0:
                    return False
                exchange.send_body(part[:room])
                self._held -= min(room, len(part))
                if len(part) > room:
                    self._parts[0] = part[room:]
                    continue
            elif isinstance(part, ResponseHead):
                exchange.send_head(part)
            else:
                exchange.send_end()
                return True
            self._parts.popleft()
        return False
