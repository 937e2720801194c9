"""An exchange without a tunnel: a test plays the caller."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio

from tunnelkit.core.exchange import Exchange
from tunnelkit.heads import Fields, RequestHead, ResponseHead
from tunnelkit.net.stream import Buffer, ByteStream
from tunnelkit.origins.base import OriginExchange

__all__ = ["FakeExchange", "request"]


def request(method: bytes = b"GET", target: bytes = b"/", *fields: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(method, target, [(b"Host", b"app.test"), *fields])


class FakeExchange(OriginExchange):
    """``sent`` is what the origin answered. The rules of an exchange are kept, as the agent keeps them."""

    def __init__(self, head: RequestHead | None = None, *, has_body: bool = False, room: int = 1 << 30) -> None:
        self.head = head or request()
        self.x_host = None
        self.caller = ""
        self.has_body = has_body
        self.sent: list[object] = []
        self.spliced: ByteStream | None = None
        self._answer = Exchange(client=True)
        self._answer.receive_head(Exchange(client=False).send_request(self.head))
        self._pieces: deque[bytes] = deque()
        self._ended = not has_body
        self._room = room
        self._gone = False
        self._wake: Callable[[], None] = _nobody
        self._left = anyio.Event()

    # -- the caller ----------------------------------------------------------------------------

    def give(self, *pieces: bytes, end: bool = False) -> None:
        self._pieces += pieces
        self._ended = self._ended or end
        self._wake()

    def make_room(self, size: int) -> None:
        self._room = size
        self._wake()

    def leave(self) -> None:
        self._gone = True
        self._left.set()
        self._wake()

    @property
    def body(self) -> bytes:
        return b"".join(piece for piece in self.sent if isinstance(piece, bytes))

    # -- the origin ----------------------------------------------------------------------------

    @property
    def body_waiting(self) -> bytes | None:
        return self._pieces[0] if self._pieces else b"" if self._ended else None

    def body_taken(self) -> None:
        self._pieces.popleft()

    @property
    def trailers(self) -> Fields:
        return []

    @property
    def body_started(self) -> bool:
        return False

    @property
    def room(self) -> int:
        return self._room

    def send_head(self, head: ResponseHead, *, fin: bool = False) -> None:
        self._answer.send_response(head, fin=fin)
        self.sent.append(head)

    def send_body(self, data: Buffer) -> None:
        self._answer.send_data(len(data))
        self._room -= len(data)
        self.sent.append(bytes(data))

    def send_end(self, trailers: Fields | None = None) -> None:
        self._answer.send_fin()
        self.sent.append(trailers or "end")

    @property
    def answered(self) -> bool:
        return self._answer.status is not None

    def fail(self, status: int, code: str, detail: str) -> None:
        self.sent.append((status, code))
        self._gone = self._gone or self.answered

    async def splice(self, head: ResponseHead, peer: ByteStream) -> None:
        self.send_head(head)
        self.spliced = peer
        try:
            await self._left.wait()
        finally:
            peer.abort()

    @property
    def gone(self) -> bool:
        return self._gone

    def on_news(self, wake: Callable[[], None]) -> None:
        self._wake = wake


def _nobody() -> None: ...
