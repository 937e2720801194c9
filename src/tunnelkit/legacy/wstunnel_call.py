"""One request of a WStunnel server, on its stream of the session inside the process."""

from __future__ import annotations

from typing import Final

from ..config import Limits
from ..core.exchange import Exchange
from ..core.frames import ResetCode, StreamKind
from ..errors import HeadError, RemoteProtocolError
from ..forwarding import forward_request, forward_response
from ..heads import RequestHead, ResponseHead, field_values
from ..http.codec import Body, HeadParser
from ..http.codec_moves import Signal
from ..http.server_codec import ServerCodec
from ..link import Link
from ..net.doorbell import Doorbell
from ..tunnel_stream import OpenField, Stream
from .holding import HeldBody
from .wstunnel_wire import BODY_LIMIT

__all__ = ["Call"]

CHUNK: Final = 64 * 1024


class Call:
    """The stream's handler, and what the task does that waits for the answer's end.

    ``message`` is the request, from where it is to be read; the answer's body is written to ``body``. Raises
    ``HeadError`` for what is no request, and what ``Link.open_stream`` raises.
    """

    def __init__(self, link: Link, message: HeldBody, body: HeldBody, parser: HeadParser, limits: Limits) -> None:
        self._message = message
        self._body = body
        self._codec = ServerCodec(parser, limits)
        head = self._read_head()
        self.method = head.method
        # Theirs adds nothing, and passes on what callers and proxies say of themselves: so does this end.
        self._head = forward_request(_plain(head), peer_address="", scheme="http", trusted=True)
        self._has_body = self._codec.body_left != 0
        self._exchange = Exchange(client=False, limits=limits)
        self._bell = Doorbell()
        self._answer: ResponseHead | None = None
        self._ended = False
        self._failure: HeadError | None = None
        x_hosts = field_values(head.fields, b"x-host")
        if len(x_hosts) > 1:
            raise HeadError(400, "bad_request", "there is more than one X-Host field")
        fields = {OpenField.X_HOST: x_hosts[0]} if x_hosts else None
        self._stream: Stream = link.open_stream(StreamKind.HTTP, self, fields)

    def _read_head(self) -> RequestHead:
        while True:
            event = self._codec.next_event()
            if isinstance(event, RequestHead):
                return event
            data = self._message.read(CHUNK)
            if not data:
                raise HeadError(400, "bad_request", "the message holds no request")
            self._codec.receive_data(data)

    async def answer(self) -> ResponseHead:
        """The answer's head, once its body is there. Raises ``HeadError``."""
        try:
            fin = not self._has_body
            self._stream.send_head(self._exchange.send_request(self._head, fin=fin), fin=fin)
            while not self._ended:
                self._bell.muffle()
                self._give_body()
                await self._bell.wait()
        finally:
            self._stream.reset(ResetCode.CANCEL)
        if self._failure is not None:
            raise self._failure
        assert self._answer is not None
        return forward_response(self._answer)

    def _give_body(self) -> None:
        """What there is room for. What follows the body is nobody's."""
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
        self._bell.ring()

    # -- the stream's events -------------------------------------------------------------------

    def on_sent(self) -> None: ...

    def on_settled(self) -> None: ...
    def on_written(self) -> None: ...

    def on_room(self) -> None:
        self._bell.ring()

    def on_progress(self, limit: int) -> None:
        self._bell.ring()

    def on_head(self, block: bytes, fin: bool) -> None:
        try:
            head = self._exchange.receive_head(block, fin=fin)
        except RemoteProtocolError as error:
            self._end(HeadError(502, "bad_answer", str(error)))
            return
        if isinstance(head, ResponseHead) and head.status >= 200:  # theirs has neither interim ones nor trailers
            self._answer = head
        if fin:
            self._end()

    def on_data(self, data: bytes, fin: bool) -> None:
        try:
            self._exchange.receive_data(len(data), fin=fin)
            self._keep(data)
        except RemoteProtocolError as error:
            self._end(HeadError(502, "bad_answer", str(error)))
        except HeadError as error:
            self._end(error)
        else:
            self._stream.consume(len(data))
            if fin:
                self._end()

    def _keep(self, data: bytes) -> None:
        if self._body.size + len(data) > BODY_LIMIT:
            raise HeadError(502, "response_too_large", "WStunnel carries at most 100 MiB")
        self._body.write(data)

    def on_reset(self, code: int) -> None:
        self._end(HeadError(502, "origin_failed", "the origin gave no complete answer"))


def _plain(head: RequestHead) -> RequestHead:
    """Without the token, which theirs passes on, and without an upgrade, which theirs cannot carry."""
    fields = [field for field in head.fields if field[0].lower() not in (b"x-token", b"upgrade")]
    return RequestHead(head.method, head.target, fields, head.version)
