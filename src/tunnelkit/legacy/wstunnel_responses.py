"""A response of a WStunnel client, on its way to a caller who takes it or does not.

Their wire has one message at a time and no flow control: to wait for a caller would stop everybody else. So what a
caller has not taken yet is held. One who is slow gets all of it in the end; one who is more than ``BACKLOG`` behind
and takes nothing any more is cut, and never the tunnel.
"""

from __future__ import annotations

from typing import Final

import anyio

from ..config import MIB, Limits
from ..errors import HeadError
from ..forwarding import forward_response
from ..heads import RequestHead, ResponseHead
from ..http.codec import HeadParser
from ..net.doorbell import Doorbell
from ..origins.base import OriginExchange
from .holding import Store
from .wstunnel_wire import ResponseReader, Whole

__all__ = ["BACKLOG", "PATIENCE", "Response"]

BACKLOG: Final = 8 * MIB
# Seconds that a caller who is further behind may take nothing.
PATIENCE: Final = 5.0
CHUNK: Final = 64 * 1024

_STOPPED: Final = HeadError(502, "bad_answer", "the caller stopped taking a response that cannot wait")


class Response:
    """Between the one task that reads their messages and the one that answers the exchange, whom ``news`` wakes."""

    def __init__(self, head: RequestHead, news: Doorbell, store: Store, parser: HeadParser, limits: Limits) -> None:
        self._reader: ResponseReader | None = ResponseReader(head, parser, limits)
        self._news = news
        self._head: ResponseHead | None = None  # not passed on yet
        self._body = store.body()
        self._whole: Whole | None = None
        self._failure: HeadError | None = None
        self._taken_at = 0.0  # when the caller took something last, or there was nothing to take

    def feed(self, data: bytes, *, last: bool) -> None:
        """Never waits: the next message may be another caller's."""
        if self._reader is None or self._failure is not None:
            return
        try:
            for part in self._reader.feed(data, last=last):
                self._keep(part)
        except HeadError as error:
            self._failure = error
        self._news.ring()

    def _keep(self, part: ResponseHead | bytes | Whole) -> None:
        if isinstance(part, bytes):
            if not self._body.left:
                self._taken_at = anyio.current_time()
            self._body.write(part)
        elif isinstance(part, Whole):
            self._whole = part
        elif part.status >= 200:  # there are no others in their wire
            self._head = part

    def leave(self) -> None:
        """Nobody wants it any more; what may still come of it is dropped."""
        self._reader = None
        self._body.close()

    # -- to the caller -------------------------------------------------------------------------

    async def pass_on(self, exchange: OriginExchange) -> None:
        """Answer ``exchange`` with what comes, to its end. Raises ``HeadError`` when that is a bad one."""
        while not exchange.gone:
            self._news.muffle()
            if self._head is not None:
                exchange.send_head(forward_response(self._head))
                self._head = None
            self._pass_body(exchange)
            if not self._body.left and self._failure is not None:
                raise self._failure
            if not self._body.left and self._whole is not None:
                exchange.send_end(self._whole.trailers)
                return
            await self._wait()

    def _pass_body(self, exchange: OriginExchange) -> None:
        while self._body.left and exchange.room > 0:
            exchange.send_body(self._body.read(min(exchange.room, CHUNK)))
            self._body.forget_read()
            self._taken_at = anyio.current_time()

    async def _wait(self) -> None:
        """Until there is news. Raises ``HeadError`` for a caller who has to be cut."""
        if self._body.left <= BACKLOG:
            await self._news.wait()
            return
        with anyio.CancelScope(deadline=self._taken_at + PATIENCE):
            await self._news.wait()
            return
        raise _STOPPED
