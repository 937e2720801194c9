"""An exchange that passes its calls on to another: what stands around one changes only what it is there for."""

from __future__ import annotations

from collections.abc import Callable

from ..heads import Fields, ResponseHead
from ..net.stream import Buffer, ByteStream
from .base import OriginExchange

__all__ = ["PassingExchange"]


class PassingExchange(OriginExchange):
    def __init__(self, inner: OriginExchange) -> None:
        self.head = inner.head
        self.x_host = inner.x_host
        self.caller = inner.caller
        self.has_body = inner.has_body
        self._inner = inner

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @property
    def body_waiting(self) -> bytes | None:
        return self._inner.body_waiting

    def body_taken(self) -> None:
        self._inner.body_taken()

    @property
    def trailers(self) -> Fields:
        return self._inner.trailers

    @property
    def body_started(self) -> bool:
        return self._inner.body_started

    @property
    def room(self) -> int:
        return self._inner.room

    def send_head(self, head: ResponseHead, *, fin: bool = False) -> None:
        self._inner.send_head(head, fin=fin)

    def send_body(self, data: Buffer) -> None:
        self._inner.send_body(data)

    def send_end(self, trailers: Fields | None = None) -> None:
        self._inner.send_end(trailers)

    @property
    def answered(self) -> bool:
        return self._inner.answered

    def fail(self, status: int, code: str, detail: str) -> None:
        self._inner.fail(status, code, detail)

    def withdraw(self, *, sent: bool) -> None:
        self._inner.withdraw(sent=sent)

    async def splice(self, head: ResponseHead, peer: ByteStream) -> None:
        await self._inner.splice(head, peer)

    @property
    def gone(self) -> bool:
        return self._inner.gone

    def on_news(self, wake: Callable[[], None]) -> None:
        self._inner.on_news(wake)
