"""The responses of one WStunnel client, on their way to callers who take them or do not.

Their wire has one message at a time and no flow control: to wait for a caller would stop everybody else. So each
response may pile up to ``BACKLOG``, and all of a session's to ``receive_budget`` of the limits; then a caller is cut,
never the tunnel: the one with more than its own, or else the one that most has piled up for.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias

from ..config import KIB, MIB, Limits
from ..core.budget import Budget
from ..errors import HeadError
from ..heads import RequestHead, ResponseHead
from ..http.codec import HeadParser
from ..net.doorbell import Doorbell
from ..origins.base import OriginExchange
from .wstunnel_wire import ResponseReader, Whole

__all__ = ["BACKLOG", "Backlog", "Response"]

BACKLOG: Final = 8 * MIB  # of one response
# What each response has of the memory for all, however much the others took: one read of a socket.
FLOOR: Final = 64 * KIB
# Pieces below it are joined, since each has a cost of its own,
_SMALL: Final = KIB
# which for a head is counted with each of its fields.
_FIELD_COST: Final = 128

_Part: TypeAlias = "ResponseHead | bytes | Whole"


class Backlog:
    """What all callers of one session have not taken. ``memory`` is shared by all sessions."""

    def __init__(self, memory: Budget, limits: Limits) -> None:
        self._memory = memory
        self._limit = limits.receive_budget
        self._held = 0
        self._holders: set[Response] = set()

    def add(self, response: Response, size: int) -> bool:
        """Count ``size`` bytes more for ``response``; False: it was cut for them."""
        while not self._fits(response, size):
            most = response if response.held + size > BACKLOG else max(self._holders | {response}, key=_held)
            most.cut()
            if most is response:
                return False
        self._held += size
        response.held += size
        self._holders.add(response)
        return True

    def _fits(self, response: Response, size: int) -> bool:
        if response.held + size > BACKLOG or self._held + size > self._limit:
            return False
        reserve = self._memory.reserve if response.held < FLOOR else self._memory.reserve_spare
        return reserve(size)

    def take(self, response: Response, size: int) -> None:
        """``size`` bytes were passed on, or dropped."""
        self._held -= size
        response.held -= size
        self._memory.release(size)
        if not response.held:
            self._holders.discard(response)


def _held(response: Response) -> int:
    return response.held


class Response:
    """Between the one task that reads their messages and the one that answers the exchange. ``news`` wakes that."""

    def __init__(
        self, head: RequestHead, news: Doorbell, backlog: Backlog, parser: HeadParser, limits: Limits
    ) -> None:
        self.held = 0  # the backlog's count
        self._reader: ResponseReader | None = ResponseReader(head, parser, limits)
        self._news = news
        self._backlog = backlog
        self._parts: deque[_Part] = deque()
        self._failure: HeadError | None = None

    def feed(self, data: bytes, *, last: bool) -> None:
        """Never waits: the next message may be another caller's."""
        if self._reader is None or self._failure is not None:
            return
        try:
            for part in self._reader.feed(data, last=last):
                if not self._backlog.add(self, _cost(part)):
                    break
                self._keep(part)
        except HeadError as error:
            self._failure = error
        self._news.ring()

    def _keep(self, part: _Part) -> None:
        parts = self._parts
        before = parts[-1] if parts else None
        if isinstance(part, bytes) and isinstance(before, bytes) and len(part) < _SMALL and len(before) < _SMALL:
            parts[-1] = before + part
        else:
            parts.append(part)

    def cut(self) -> None:
        """Its caller takes too little."""
        self._failure = HeadError(502, "bad_answer", "the caller took too little of a response that cannot wait")
        self._drop()
        self._news.ring()

    def leave(self) -> None:
        """Nobody wants it any more; what may still come of it is dropped."""
        self._reader = None
        self._drop()

    def _drop(self) -> None:
        self._parts.clear()
        self._backlog.take(self, self.held)

    # -- to the caller -------------------------------------------------------------------------

    async def pass_on(self, exchange: OriginExchange) -> None:
        """Answer ``exchange`` with what comes, to its end."""
        while not exchange.gone:
            self._news.muffle()
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
                if not self._pass_bytes(exchange, part):
                    return False
                continue
            if isinstance(part, Whole):
                exchange.send_end()
                return True
            if part.status < 200 and exchange.room <= 0:  # there may be any number of them
                return False
            exchange.send_head(part)
            self._parts.popleft()
            self._backlog.take(self, _cost(part))
        return False

    def _pass_bytes(self, exchange: OriginExchange, data: bytes) -> bool:
        room = exchange.room
        if room <= 0:
            return False
        exchange.send_body(data[:room])
        if len(data) > room:
            self._parts[0] = data[room:]
        else:
            self._parts.popleft()
        self._backlog.take(self, min(room, len(data)))
        return True


def _cost(part: _Part) -> int:
    if isinstance(part, bytes):
        return len(part)
    if isinstance(part, ResponseHead):
        return _FIELD_COST + sum(len(name) + len(value) + _FIELD_COST for name, value in part.fields)
    return 0
