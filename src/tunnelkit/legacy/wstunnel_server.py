"""WStunnel's clients at a tunnel server: their websocket becomes an origin of a session inside the process.

Their wire has one message a request and one a response, and one message at a time each way. So a request is held
until it is whole: a slow upload would stop everybody else's. A response is passed on fragment by fragment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import anyio
from anyio.abc import TaskGroup

from ..agent import Agent
from ..agent_exchange import AgentExchange
from ..config import DEFAULT_LIMITS, Limits
from ..core.allowlist import HostAllowlist
from ..core.guard import Guard
from ..core.rules import RuleSet
from ..errors import ConnectionLost, HeadError, RemoteProtocolError, StreamBroken
from ..handshake import Refusal
from ..heads import ResponseHead, field_values, list_items
from ..http.codec import HeadParser
from ..http.parsers import DEFAULT_PARSER
from ..net.doorbell import Doorbell
from ..origins.base import Origin, OriginExchange
from ..transports.answers import Answer
from ..transports.base import MountedRequest, Offer
from ..transports.websocket.handshake import check_upgrade
from .fragments import FRAGMENT, FragmentSocket
from .holding import HeldBody, Store
from .inside import InsideClient
from .switching import accept_fields
from .wstunnel_handshake import read_handshake, refusal_answer
from .wstunnel_reading import begin_message
from .wstunnel_responses import Response
from .wstunnel_wire import (
    BODY_LIMIT,
    Ids,
    check_target,
    request_message,
)

__all__ = ["WStunnelServer"]

logger = logging.getLogger("tunnelkit.server")

_TOO_LARGE: Final = "a WStunnel client takes at most 100 MiB a request"


class WStunnelServer:
    """The server half of the transport ``wstunnel``."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, parser: HeadParser = DEFAULT_PARSER) -> None:
        self._limits = limits
        self._parser = parser
        self._store = Store(limits)

    async def mounted(self, request: MountedRequest, offer: Offer) -> None:
        refused = check_upgrade(request.method, request.fields)
        handshake = refused or read_handshake(request.fields)
        if isinstance(handshake, Answer):
            await _respond(request, handshake)
            return
        answer = await offer(handshake, request.peer)
        if isinstance(answer, Refusal):
            await _respond(request, refusal_answer(answer, request.fields, self._limits))
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
        peer = _Peer(socket, self._store, self._parser, self._limits)
        guard = Guard(allowlist=HostAllowlist(), rules=RuleSet())
        agent = Agent(limits=self._limits, origin=peer, named=peer, guard=guard, choose=peer.choose)
        inside = InsideClient(answer, agent, transport="wstunnel", limits=self._limits, budget=self._store.memory)
        try:
            await inside.run(lambda tasks: peer.start(tasks, inside.end))
            await socket.aclose(1001)
        finally:
            socket.abort()


async def _respond(request: MountedRequest, answer: Answer) -> None:
    with suppress(StreamBroken):  # the client left meanwhile: nobody is there to be told
        await request.respond(answer.status, answer.fields, answer.body)


class _Named(Origin):
    def __init__(self, peer: _Peer, x_host: bytes) -> None:
        self._peer = peer
        self._x_host = x_host

    async def serve(self, exchange: OriginExchange) -> None:
        await self._peer.ask(exchange, self._x_host)

    async def aclose(self) -> None: ...


class _Peer(Origin):
    """One of their clients, as the origin that it is."""

    def __init__(self, socket: FragmentSocket, store: Store, parser: HeadParser, limits: Limits) -> None:
        self._socket = socket
        self._store = store
        self._parser = parser
        self._limits = limits
        self._ids = Ids()
        self._waiting: dict[int, Response] = {}

    def choose(self, exchange: AgentExchange, x_host: bytes | None) -> Origin:
        """No X-Host is judged here: the far client does it, by its own regexp."""
        return self if x_host is None else _Named(self, x_host)

    def start(self, tasks: TaskGroup, end: Callable[[str], None]) -> None:
        tasks.start_soon(self._read_all, end)
        tasks.start_soon(self._answer_pings, end)
        tasks.start_soon(self._watch, end)

    # -- requests ------------------------------------------------------------------------------

    async def serve(self, exchange: OriginExchange) -> None:
        await self.ask(exchange, None)

    async def ask(self, exchange: OriginExchange, x_host: bytes | None) -> None:
        news = Doorbell()
        exchange.on_news(news.ring)
        response = Response(exchange.head, news, self._store, self._parser, self._limits)
        try:
            if await self._send(exchange, response, news, x_host):
                await response.pass_on(exchange)
        except ConnectionLost:
            pass  # which the reading side notices: the session ends, and every request with it
        except HeadError as error:
            exchange.fail(error.status, error.code, error.detail)
        finally:
            response.leave()  # its id stays taken until their answer to it has come

    async def _send(self, exchange: OriginExchange, response: Response, news: Doorbell, x_host: bytes | None) -> bool:
        """Whether the request was sent: it is not for a caller who left."""
        check_target(exchange.head.target)
        with self._store.body() as body:
            await _hold(exchange, body, news)
            number = self._ids.take()
            if number is None:
                raise HeadError(503, "overloaded", "as many requests as there are ids wait for their answers")

            def begin() -> bool:
                if not exchange.gone:
                    self._waiting[number] = response
                return not exchange.gone

            pieces = _pieces(request_message(number, exchange.head, body.size, x_host), body)
            try:
                sent = await self._socket.send(pieces, wanted=begin)
            except BaseException:
                self._socket.abort()  # half a message may be out
                raise
            if not sent:
                self._ids.give_back(number)
            return sent

    async def aclose(self) -> None: ...

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
        number, fragment = await begin_message(self._socket)
        response = self._waiting.get(number)
        while True:
            if response is not None:
                response.feed(fragment.data, last=fragment.last)
            if fragment.last:
                break
            fragment = await self._socket.receive()
        if response is not None:
            del self._waiting[number]
            self._ids.give_back(number)

    # -- liveness ------------------------------------------------------------------------------

    async def _answer_pings(self, end: Callable[[str], None]) -> None:
        with suppress(ConnectionLost):
            await self._socket.answer_pings()
        end("peer_lost")

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


async def _hold(exchange: OriginExchange, body: HeldBody, news: Doorbell) -> None:
    """Take the whole body of a request into ``body``, or what comes until the caller leaves. Raises ``HeadError``."""
    if not exchange.has_body:  # an upgrade's stream has no end
        return
    if b"100-continue" in list_items(field_values(exchange.head.fields, b"expect")):
        exchange.send_head(ResponseHead(100, [], b"Continue"))
    while not exchange.gone:
        news.muffle()
        data = exchange.body_waiting
        if data is None:
            await news.wait()
        elif not data:
            return
        else:
            if body.size + len(data) > BODY_LIMIT:
                raise HeadError(413, "body_too_large", _TOO_LARGE)
            body.write(data)
            exchange.body_taken()


def _pieces(head: bytes, body: HeldBody) -> Iterator[bytes]:
    yield head + body.read(max(0, FRAGMENT - len(head)))
    while data := body.read(FRAGMENT):
        yield data
