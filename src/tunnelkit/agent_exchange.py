"""One exchange at the client: the handler of its stream, and what the origin sees of it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from .core.allowlist import HostOrigin
from .core.events import Opened
from .core.exchange import Delivery, Exchange
from .core.frames import ResetCode, StreamKind
from .core.known_heads import KnownRequest, KnownResponse
from .errors import HeadError, RemoteProtocolError, TunnelkitError
from .heads import Fields, RequestHead, ResponseHead, Trailers
from .net.stream import Buffer, ByteStream
from .origins.base import Begun, Origin, Perch
from .problem import problem
from .splice import Splice
from .tunnel_stream import OpenField, Stream, gather

if TYPE_CHECKING:
    from .agent import Agent

__all__ = ["AgentExchange"]

T = TypeVar("T")

logger = logging.getLogger("tunnelkit.client")

# Looked up once: see core.exchange.
_BYTES: Final = StreamKind.BYTES
_HTTP: Final = StreamKind.HTTP


class AgentExchange:
    """A ``StreamHandler``, an ``OriginExchange``, and what a worker serves."""

    # What all begin with, as in ``GatewayExchange``.
    x_host: HostOrigin | None = None
    caller = ""
    wanted: bytes | None = None
    has_body = True
    began = 0.0  # when its head came
    number = 0
    _by_destination = False
    _known: KnownRequest | None = None
    _request_ended = False
    _body_started = False
    _news = False  # of the body, which the origin was not told yet
    _origin: Origin | None = None  # that is to answer, once all that came with the head is here
    _assigned = False  # a worker has it, or will
    _gone = False
    _over = False
    _left = False
    _spliced = (0, 0)  # bytes of an upgraded connection: from the caller, and to it

    def __init__(self, agent: Agent, stream: Stream, opened: Opened) -> None:
        self._agent = agent
        self._stream = stream
        if opened.fields:
            self._read(opened.fields)
        self.byte_stream = opened.kind is _BYTES
        self._upgrade = opened.kind is not _HTTP
        self._exchange = Exchange(client=True, limits=agent.limits, heads=agent.heads)
        self._inbox: deque[bytes] = deque()
        self._trailers: Fields = []
        self._wake: Callable[[], None] = _nobody

    def _read(self, fields: Mapping[int, bytes]) -> None:
        self.caller = fields.get(OpenField.CALLER, b"").decode("ascii", "replace")
        self.wanted = fields.get(OpenField.X_HOST)
        self._by_destination = OpenField.BY_DESTINATION in fields

    # -- the stream's events -------------------------------------------------------------------

    def on_sent(self) -> None: ...

    def on_head(self, block: bytes, fin: bool) -> None:
        try:
            known = self._exchange.receive_request(block, fin=fin)
        except RemoteProtocolError as error:
            self._refuse_stream(error)
            return
        self._request_ended = fin
        if isinstance(known, Trailers):
            self._trailers = known.fields
            self._news = True
        elif known.head.target[:1] not in (b"/", b"*"):
            # To an origin that is a proxy too, an absolute form would name another host past the allowlist.
            self._refuse_stream(RemoteProtocolError("a target that is no path", code="bad_head"))
        elif self._upgrade and (fin or not known.offers):
            # What comes after its head would be neither a body nor another protocol's bytes.
            self._refuse_stream(RemoteProtocolError("an upgrade that is not offered", code="bad_head"))
        else:
            self._begin(known, has_body=not fin and not self._upgrade)

    def _begin(self, known: KnownRequest, *, has_body: bool) -> None:
        self.began = self._agent.now()
        self._known = known
        self.head = known.head.copy()
        self.has_body = has_body
        self._agent.begun(self)
        try:
            origin = self._agent.choose(self, self.wanted, by_destination=self._by_destination)
        except HeadError as error:
            self.fail(error.status, error.code, error.detail)
            self._leave()
            return
        if has_body:  # what came with the head goes out with it
            self._origin = origin
        else:
            self._assign(origin)

    def _assign(self, origin: Origin) -> None:
        self._agent.assign(self, origin)
        self._assigned = True  # only now: of one that could not be begun, nobody else takes leave

    def _refuse_stream(self, error: RemoteProtocolError) -> None:
        logger.warning("the server sent a request that cannot be passed on: %s (%s)", error, error.code)
        self._stream.reset(ResetCode.PROTOCOL)
        self._break_off()

    def on_data(self, data: bytes, fin: bool) -> None:
        try:
            self._exchange.receive_data(len(data), fin=fin)
        except RemoteProtocolError as error:
            self._refuse_stream(error)
            return
        if data:
            gather(self._inbox, data)
        self._request_ended = self._request_ended or fin
        self._news = True

    def on_settled(self) -> None:
        if self._left:
            self._drop_rest()
        elif self._origin is not None:
            origin, self._origin = self._origin, None
            self._news = False
            self._assign(origin)
        elif self._news:
            self._news = False
            self._wake()

    def on_written(self) -> None: ...

    def on_room(self) -> None:
        self._wake()

    def on_progress(self, limit: int) -> None:
        self._wake()

    def on_reset(self, code: int) -> None:
        self._break_off()

    def _break_off(self) -> None:
        """Nobody waits for the answer any more. Whoever serves it leaves by itself."""
        self._gone = True
        self._wake()
        if not self._assigned:
            self._leave()

    # -- serving -------------------------------------------------------------------------------

    async def serve(self, begun: Begun) -> Perch | None:
        """Let the origin finish what it began; whatever it does, the exchange ends here, with a whole answer or a
        truthful end. What ``begun.finish`` gives."""
        perch = None
        try:
            perch = await begun.finish()
            if not self._exchange_over:
                self._miss_rest()
        except Exception as error:
            if not isinstance(error, TunnelkitError):
                logger.exception("an origin failed")
            self.fail(502, "origin_failed", "the origin failed")
        finally:
            self._leave()
        return perch

    def advance(self, begun: Begun) -> bool:
        """The same as far as it goes without waiting. True: it is over, and the next may begin where it went out."""
        if not begun.advance():
            return False
        if not (self._gone or self._over):
            self._miss_rest()
        self._leave()
        return True

    def _miss_rest(self) -> None:
        self.fail(502, "origin_failed", "the origin gave no complete answer")

    @property
    def _exchange_over(self) -> bool:
        return self._gone or self._over

    def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        if not self._over:
            self._stream.reset(ResetCode.BROKEN_OFF if self.answered else ResetCode.CANCEL)
        self._drop_rest()
        self._wake = _nobody
        self._agent.over(self)

    def _drop_rest(self) -> None:
        """What may still come of the request is not wanted. The server stops sending it when it has the answer; what
        is on its way by then is consumed here, or the stream would never end."""
        while self._inbox:
            self._stream.consume(len(self._inbox.popleft()))
        if self._over and self._request_ended:
            self._stream.forget()

    @property
    def outcome(self) -> Delivery | None:
        """How far the answer came; None: the caller left before there was any."""
        if self._over:
            return Delivery.ANSWERED
        return Delivery.PARTLY if self.answered else None

    @property
    def counted(self) -> tuple[int, int]:
        """Bytes from the caller, and to it: of the bodies, or of an upgraded connection."""
        received, sent = self._spliced
        return self._exchange.request.seen + received, self._exchange.response.seen + sent

    @property
    def status(self) -> int | None:
        return self._exchange.status

    # -- for the origin ------------------------------------------------------------------------

    def plan(self, make: Callable[[RequestHead], T]) -> T:
        assert self._known is not None  # an origin was chosen for it
        return self._known.plan(make)

    @property
    def body_waiting(self) -> bytes | None:
        if self._inbox:
            return self._inbox[0]
        return b"" if self._request_ended else None

    def body_taken(self) -> None:
        if self._inbox:
            self._body_started = True
            self._stream.consume(len(self._inbox.popleft()))

    @property
    def trailers(self) -> Fields:
        return self._trailers

    @property
    def body_started(self) -> bool:
        return self._body_started

    @property
    def room(self) -> int:
        return self._stream.room

    def send_head(self, head: ResponseHead, *, fin: bool = False) -> None:
        if not self._exchange_over:
            self._stream.send_head(self._exchange.send_response(head, fin=fin), fin=fin)
            self._over = fin
            if self.answered:
                self._stream.fault_code = ResetCode.BROKEN_OFF

    def send_known(self, known: KnownResponse, *, more: bool = False) -> None:
        if not (self._gone or self._over):
            self._stream.send_head(self._exchange.send_known_response(known), more=more)
            self._stream.fault_code = ResetCode.BROKEN_OFF

    def send_body(self, data: Buffer) -> None:
        if not self._exchange_over:
            self._exchange.send_data(len(data))
            self._stream.send_data(data)

    def send_last(self, data: Buffer) -> None:
        if not (self._gone or self._over):
            self._exchange.send_data(len(data), fin=True)
            self._stream.send_data(data, fin=True, more=True)
            self._over = True
            self._stream.flush()

    def send_end(self, trailers: Fields | None = None) -> None:
        if self._exchange_over:
            return
        if trailers:
            self._stream.send_head(self._exchange.send_trailers(trailers), fin=True)
        else:
            self._exchange.send_fin()
            self._stream.send_fin()
        self._over = True
        self._stream.flush()

    @property
    def answered(self) -> bool:
        return self._exchange.status is not None

    def fail(self, status: int, code: str, detail: str) -> None:
        if self._exchange_over:
            return
        if self.answered:
            self._reset(ResetCode.BROKEN_OFF)
            return
        head, body = problem(status, code, detail, self.head)
        self.send_head(head)
        if body:
            self.send_body(body)
        self.send_end()

    def withdraw(self, *, sent: bool) -> None:
        if not self._exchange_over:
            code = ResetCode.SESSION_GONE if sent else ResetCode.REFUSED
            self._reset(ResetCode.BROKEN_OFF if self.answered else code)

    def _reset(self, code: ResetCode) -> None:
        self._gone = True
        self._stream.reset(code)

    async def splice(self, head: ResponseHead, peer: ByteStream) -> None:
        self.send_head(head)
        if self._gone:
            peer.abort()
            return
        early = list(self._inbox)
        self._inbox.clear()
        splice = Splice(self._stream, peer, early, fin=self._request_ended)
        try:
            await splice.run()
        finally:
            self._spliced = (splice.delivered, splice.received)
        self._over = True

    @property
    def gone(self) -> bool:
        return self._gone

    def on_news(self, wake: Callable[[], None]) -> None:
        self._wake = wake


def _nobody() -> None:
    """Nobody drives the exchange yet, or any more."""
