"""One request on one connection of a wsp client: two messages there, two messages back."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import anyio

from ..config import Limits
from ..core.allowlist import HostOrigin
from ..errors import ConnectionLost, HeadError, RemoteProtocolError
from ..heads import ResponseHead, content_length, field_values, list_items
from ..origins.base import OriginExchange
from .fragments import FragmentSocket
from .wsp_heads import CLIENT_FAILED, NOTE_LIMIT, read_failure, request_from, response_head
from .wsp_wire import JSON_LIMIT, Response, read_response, write_request

__all__ = ["Call"]

_CONTINUE: Final = ResponseHead(100, [], b"Continue")


class Call:
    """Raises ``HeadError`` for a request that their wire does not carry. ``carry`` it once; whoever waits for the end
    awaits ``ended``. Both bodies are streamed, as fast as the slower side takes them."""

    def __init__(self, exchange: OriginExchange, origin: HostOrigin, limits: Limits) -> None:
        self._exchange = exchange
        self._request = request_from(exchange.head, origin, has_body=exchange.has_body)
        self._limits = limits
        self.ended = anyio.Event()
        self.sent = False  # whole, but for its body: their client begins with it
        self.failure: Exception | None = None  # why there was no answer, or not all of one
        self._given = False  # the request's body, to its end
        self._whole = False  # the answer
        self._scope = anyio.CancelScope()
        self._news = anyio.Event()

    @property
    def told(self) -> bool:
        """The caller has a whole answer, or has left."""
        return self._whole or self._exchange.gone

    async def carry(self, socket: FragmentSocket) -> bool:
        """Ask, and pass the answer on. True: the connection may carry another request. Their wire has no word for a
        caller that leaves: it costs the connection."""
        self._exchange.on_news(self._hear)
        with self._scope:
            if self._exchange.gone:
                return True
            try:
                await socket.send_text(write_request(self._request))
            except ConnectionLost as error:
                self.failure = error
                return False
            self.sent = True
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._give_body, socket)
                await self._take_answer(socket)
                tasks.cancel_scope.cancel()
        return self._given and self._whole

    def _hear(self) -> None:
        if self._exchange.gone:
            self._scope.cancel()
        else:
            news, self._news = self._news, anyio.Event()
            news.set()

    # -- the request's body --------------------------------------------------------------------

    async def _give_body(self, socket: FragmentSocket) -> None:
        exchange = self._exchange
        expected = b"100-continue" in list_items(field_values(exchange.head.fields, b"expect"))
        if expected and not exchange.answered:  # a hostile client may have answered before it was asked
            exchange.send_head(_CONTINUE)
        with suppress(ConnectionLost):  # which the reading side hears of too
            while exchange.has_body and (data := await self._next_piece()):
                await socket.send_fragment(data, last=False)
                exchange.body_taken()
            await socket.send_fragment(b"", last=True)
            self._given = True

    async def _next_piece(self) -> bytes:
        while (data := self._exchange.body_waiting) is None:
            await self._news.wait()
        return data

    # -- the answer ----------------------------------------------------------------------------

    async def _take_answer(self, socket: FragmentSocket) -> None:
        try:
            response = read_response(await _text(socket))
            if response.status == CLIENT_FAILED and not response.fields:
                await self._take_failure(socket, response)
            else:
                await self._pass_on(socket, response)
            self._whole = True
        except (ConnectionLost, RemoteProtocolError, HeadError) as error:
            self.failure = error

    async def _take_failure(self, socket: FragmentSocket, response: Response) -> None:
        """Their client's own words."""
        words, last = b"", False
        while not last:
            fragment = await socket.receive()
            words, last = words + fragment.data, fragment.last
            if len(words) > NOTE_LIMIT:
                raise RemoteProtocolError("a note on a failure that does not end", code="bad_message")
        failure = read_failure(response, words)
        assert failure is not None
        self._exchange.fail(failure.status, failure.code, failure.detail)

    async def _pass_on(self, socket: FragmentSocket, response: Response) -> None:
        method = self._exchange.head.method
        head = response_head(response, method, self._limits)
        bodiless = method == b"HEAD" or head.status in (204, 304)
        left = 0 if bodiless else content_length(head.fields)
        self._exchange.send_head(head)
        last = False
        while not last:
            fragment = await socket.receive()
            last = fragment.last
            if left is not None:
                left -= len(fragment.data)
                if left < 0:
                    raise HeadError(502, "bad_response", "a response is longer than it says")
            await self._pass_piece(fragment.data)
        if left:
            raise HeadError(502, "truncated_response", "a response is shorter than it says")
        self._exchange.send_end()

    async def _pass_piece(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = self._exchange.room
            if room <= 0:
                await self._news.wait()
                continue
            self._exchange.send_body(view[:room])
            view = view[room:]


async def _text(socket: FragmentSocket) -> bytes:
    """A message whole. Theirs go by the order of messages alone, and never look at what kind one is."""
    text, last = bytearray(), False
    while not last:
        fragment = await socket.receive()
        text += fragment.data
        last = fragment.last
        if len(text) > JSON_LIMIT:
            raise RemoteProtocolError(f"a response's head of more than {JSON_LIMIT} bytes", code="bad_message")
    return bytes(text)
