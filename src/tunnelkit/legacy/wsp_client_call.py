"""One request of a wsp server, on a stream of the session inside the process."""

from __future__ import annotations

from collections import deque
from typing import Final

import anyio

from ..config import Limits
from ..core.allowlist import HostOrigin
from ..core.exchange import Exchange
from ..core.frames import ResetCode, StreamKind
from ..errors import ConnectionLost, HeadError, LocalProtocolError, RemoteProtocolError
from ..heads import RequestHead, ResponseHead
from ..link import Link
from ..tunnel_stream import OpenField, Stream, gather

__all__ = ["ANSWER_TIME", "Call"]

# Seconds without any progress until an answer's head. Theirs waits for ever, and so would the connection.
ANSWER_TIME: Final = 1200.0


class Call:
    """The stream's handler. One task gives it the body of the request, one takes the answer from it.

    Raises what ``Link.open_stream`` raises. ``has_body`` False: what comes of a body is an error.
    """

    def __init__(self, link: Link, origin: HostOrigin, head: RequestHead, limits: Limits, *, has_body: bool) -> None:
        self._exchange = Exchange(client=False, limits=limits)
        self._gives = has_body  # the stream still takes body
        self._body_left = has_body  # more of it may come
        self._head: ResponseHead | None = None
        self._pieces: deque[bytes] = deque()
        self._complete = False
        self._broken: HeadError | None = None
        self._news = anyio.Event()
        fields = {OpenField.X_HOST: str(origin).encode(), OpenField.BY_DESTINATION: b""}
        self._stream: Stream = link.open_stream(StreamKind.HTTP, self, fields)
        self._stream.send_head(self._exchange.send_request(head, fin=not has_body), fin=not has_body)

    def leave(self) -> None:
        """Whatever is not there yet is not wanted. Idempotent."""
        self._gives = False
        self._stream.reset(ResetCode.CANCEL)

    # -- the request's body --------------------------------------------------------------------

    async def give(self, data: bytes, *, last: bool) -> None:
        """The next of the body: returns when it is on its way, or nobody wants it any more. Raises
        ``RemoteProtocolError`` for a body of another length than was told."""
        if data and not self._body_left:
            raise RemoteProtocolError("a body where none was announced", code="long_body")
        try:
            await self._send(memoryview(data), last=last)
        except LocalProtocolError as error:  # ours, as far as the exchange can know
            raise RemoteProtocolError(str(error), code=error.code) from error

    async def _send(self, view: memoryview, *, last: bool) -> None:
        while view and self._gives:
            room = self._stream.room
            if room <= 0:
                await self._news.wait()
                continue
            piece, view = bytes(view[:room]), view[room:]
            self._exchange.send_data(len(piece))
            self._stream.send_data(piece)
        if last and self._gives:
            self._gives = False
            self._exchange.send_fin()
            self._stream.send_fin()

    # -- the answer ----------------------------------------------------------------------------

    async def head(self) -> ResponseHead:
        """The final head. Raises ``HeadError`` when there is none."""
        while self._head is None:
            if self._broken is not None:
                raise self._broken
            with anyio.move_on_after(ANSWER_TIME) as waiting:
                await self._news.wait()
            if waiting.cancelled_caught:
                raise HeadError(504, "response_timeout", "no answer came in time")
        return self._head

    async def piece(self) -> tuple[bytes, bool]:
        """The next of the answer's body, which may be empty, and whether it is the last. Raises ``ConnectionLost``
        when the answer broke off."""
        while not self._pieces and not self._complete:
            if self._broken is not None:
                raise ConnectionLost("the answer broke off")
            await self._news.wait()
        data = self._pieces.popleft() if self._pieces else b""
        self._stream.consume(len(data))
        return data, self._complete and not self._pieces

    # -- the stream's events -------------------------------------------------------------------

    def on_sent(self) -> None: ...

    def on_settled(self) -> None: ...
    def on_written(self) -> None: ...

    def on_room(self) -> None:
        self._ring()

    def on_progress(self, limit: int) -> None:
        self._ring()

    def on_head(self, block: bytes, fin: bool) -> None:
        try:
            head = self._exchange.receive_head(block, fin=fin)
        except RemoteProtocolError as error:
            self._break(HeadError(502, "bad_answer", str(error)))
            return
        if (
            isinstance(head, ResponseHead) and head.status >= 200
        ):  # neither interim ones nor trailers are in their wire
            self._head = head
        self._go_on(fin)

    def on_data(self, data: bytes, fin: bool) -> None:
        try:
            self._exchange.receive_data(len(data), fin=fin)
        except RemoteProtocolError as error:
            self._break(HeadError(502, "bad_answer", str(error)))
            return
        if data:
            gather(self._pieces, data)
        self._go_on(fin)

    def on_reset(self, code: int) -> None:
        if code == ResetCode.SESSION_GONE:
            self._break(HeadError(503, "draining", "the tunnel client ends"))
        else:
            self._break(HeadError(502, "origin_failed", "the origin gave no complete answer"))

    def _go_on(self, fin: bool) -> None:
        if fin:
            self._complete = True
            self._gives = False  # what is answered whole needs no more of the request
        self._ring()

    def _break(self, why: HeadError) -> None:
        self._broken = self._broken or why
        self._gives = False
        self._ring()

    def _ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()
