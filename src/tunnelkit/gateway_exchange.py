"""One exchange at the server: a caller's request, the stream it is sent on, and the answer on its way back.

Its one task (the caller's connection's) only waits: body bytes up, and the answer down, are pumped synchronously by
whichever side has news. What may follow what, and how it ended, is ``core.exchange``'s to say.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from .core.decisions import Dispatch, Rejected
from .core.exchange import Delivery, Exchange
from .core.frames import ResetCode, StreamKind
from .core.known_heads import KnownRequest, KnownResponse
from .errors import HeadError, LocalProtocolError, RemoteProtocolError, SessionGone
from .forwarding import shared_response
from .gateway_request import Addressed, Prepared, open_fields, prepare
from .heads import RequestHead, ResponseHead, Trailers
from .http.request import CallerRequest
from .net.stream import RELAY_READ
from .problem import problem
from .splice import Splice
from .tunnel_stream import Stream, gather

if TYPE_CHECKING:
    from .gateway import Gateway
    from .server_session import ServerSession

__all__ = ["GatewayExchange"]

logger = logging.getLogger("tunnelkit.server")

# Body bytes kept for another dispatch until the peer's credit goes beyond them or a head came (design, section 8).
HELD_BYTES = 64 * 1024
# One turn of the pump down, to a caller that took nothing for a while; then the others have theirs.
TURN = 256 * 1024

_HTTP: Final = StreamKind.HTTP  # looked up once: most are


class GatewayExchange:
    """See the module. It is the handler of its stream (``link.StreamHandler``), and the registry's exchange."""

    # What all begin with. Most of it never changes: as attributes of each it cost more than what does.
    status = 0  # of what the caller was given
    session: ServerSession | None = None
    _known: KnownRequest | None = None
    _upgrade = False
    _block_size = 0
    _stream: Stream | None = None
    _outcome = ""  # for the log, where the exchange does not know it
    _held_size = 0
    _answer_ended = False
    _trailers: Trailers | None = None
    _switching: ResponseHead | None = None  # a 101 to be passed on
    _received_bytes = 0
    _sent_bytes = 0
    _attempt = 0
    _done = False
    _given = False  # the caller has the answer's end
    _received_told = False
    _left = False
    _awaits_room = False  # the task comes back when the caller takes more

    def __init__(self, gateway: Gateway, request: CallerRequest, where: Addressed, number: int) -> None:
        self.request = request
        self.number = number
        self.started = gateway.now()
        self.masked = where.tag
        self.digest = where.digest
        self.name = where.name
        self.head = request.head  # as it goes out, once it is submitted
        self._gateway = gateway
        self._where = where
        self._exchange = Exchange(client=False, limits=gateway.limits, heads=gateway.reader)
        self._held: list[bytes] | None = []
        self._body_done = not request.has_body
        self._inbox: list[bytes] = []  # the answer's bytes that the caller does not take yet: few pieces

    # -- the task ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Submit the request. What is left then is to ``finish``, or, where nobody will, to ``drop``."""
        try:
            self._submit()
        except BaseException:
            self._leave()
            raise

    async def finish(self) -> None:
        """Until the caller has its answer, or is gone."""
        try:
            while not self._done:
                await self._turn()
        finally:
            self._leave()

    def drop(self) -> None:
        self._leave()

    async def _turn(self) -> None:
        if self.request.gone:
            self._outcome = "caller_gone"
            self._done = True
            return
        if not self._body_done:
            self._pump_up()
        if self._inbox or self._answer_ended:
            self._pump_down()
            self.on_written()
        if self._switching is not None:
            await self._splice(self._switching)
        elif not self._done:
            self._awaits_room = bool(self._inbox) or not self.request.flush()
            await self.request.wait(readable=self._wants_input, writable=self._awaits_room)
            self._awaits_room = False

    @property
    def _wants_input(self) -> bool:
        """Always, to notice that the caller left, but while body bytes wait for room in the tunnel."""
        return self._body_done or self._stream is None or self._body_room > 0

    async def _splice(self, head: ResponseHead) -> None:
        stream = self._stream
        if stream is None:
            return
        peer = await self.request.upgrade(head)
        early, self._inbox = self._inbox, []
        splice = Splice(stream, peer, early, fin=self._answer_ended)
        self._done = True
        await splice.run()
        self._received_bytes, self._sent_bytes = splice.received, splice.delivered

    def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        gateway = self._gateway
        gateway.over(self)
        gateway.heads.stop(self)
        if self._stream is not None:
            self._withdraw_or_reset(ResetCode.CANCEL)
        now = gateway.now()
        if decisions := gateway.registry.cancel(self, now):
            gateway.execute(decisions)
        status, sent, seconds = self.status or 499, self._sent_bytes, now - self.started
        gateway.metrics.answered(status, received=self._received_bytes, sent=sent, seconds=seconds)
        outcome = self._outcome or self._exchange.told()
        self._tell_received()
        gateway.access.returned(
            id=self.number, token=self.masked, status=status, sent=sent, seconds=seconds, outcome=outcome
        )
        if gateway.events.of_requests:
            gateway.tell_finished(self, outcome, received=self._received_bytes, sent=sent, seconds=seconds)

    # -- placing: the registry's decisions -----------------------------------------------------

    def _submit(self) -> None:
        gateway = self._gateway
        wait, refusal = self._prepare()
        if refusal is not None:
            self._fail(refusal.status, refusal.code, refusal.detail)
            return
        decision = gateway.registry.submit(self.digest, self, self.started, wait=wait, named=self.name is not None)
        if isinstance(decision, Rejected):
            self.reject(decision)
            return
        if isinstance(decision, Dispatch):
            self.dispatch(decision.session, more=True)
        # Else the alarm comes before this one's own deadline. One that waits may be due when the start is over.
        if wait is not None or not isinstance(decision, Dispatch) or not gateway.alarm_is_set:
            gateway.set_alarm()
        if self._stream is not None:
            self._stream.flush()
        self._tell_received()

    def _tell_received(self) -> None:
        """Once, and behind the send where there is one: it is no part of what the caller waits for."""
        if self._received_told:
            return
        self._received_told = True
        request, gateway = self.request, self._gateway
        gateway.access.received(
            id=self.number,
            token=self.masked,
            verb=request.head.method,
            url=request.head.target,
            addr=request.peer.forwarded_for or request.peer.address,
            x_host=self._where.x_host or b"",
        )
        if gateway.events.of_requests:
            gateway.tell_started(self, self._where.x_host)

    def _prepare(self) -> tuple[float | None, HeadError | None]:
        """Make the head that goes out. How long the caller is ready to wait; and why the request must not go out,
        where it has passed here too often."""
        request = self.request
        try:
            prepared = request.plan(prepare, self._make_prepared)
        except HeadError as error:
            # What was asked for may hold the token.
            self.head = RequestHead(request.head.method, self._where.target, [])
            return None, error
        self._known, self._upgrade = prepared.known, prepared.upgrade
        self.head = prepared.known.head
        return prepared.wait, None

    def _make_prepared(self) -> Prepared:
        gateway = self._gateway
        trusted = gateway.trusts(self.request.peer.address)
        return prepare(self.request, self._where.target, trusted=trusted, base_path=gateway.base_path)

    def dispatch(self, session: ServerSession, *, more: bool = False) -> None:
        """Open a stream on ``session`` and give it all there is of the request. ``more``: a flush follows."""
        kind = StreamKind.UPGRADE if self._upgrade else _HTTP
        if self.request.byte_stream:
            kind = StreamKind.BYTES
        try:
            stream = session.link.open_stream(kind, self, open_fields(self._where, self.request.peer))
        except (LocalProtocolError, SessionGone):
            self._again(full=True)
            return
        self.session = session
        self._stream = stream
        if self._attempt:
            gateway, earlier = self._gateway, self._exchange.outcome
            self._exchange = Exchange(client=False, limits=gateway.limits, heads=gateway.reader, earlier=earlier)
        self._attempt += 1
        self._give_request(stream, more=more)

    def _give_request(self, stream: Stream, *, more: bool) -> None:
        assert self._known is not None  # without it, it was never submitted
        fin = not self.request.has_body and not self._upgrade
        block = self._exchange.send_known_request(self._known, fin=fin)
        self._block_size = len(block)
        if self._block_size > self._gateway.limits.head_block_limit:  # with what forwarding added
            self._withdraw_or_reset(ResetCode.CANCEL)
            self._fail(431, "head_too_large", "the head is too large to be sent through the tunnel")
            return
        stream.send_head(block, fin=fin, more=more)
        for piece in self._held or ():
            self._exchange.send_data(len(piece))
            stream.send_data(piece)
        if not self._body_done:
            self._pump_up()
        elif self.request.has_body:
            self._end_body(stream)

    def collapse(self) -> None:
        """Carrying out a decision failed: a fault of ours, which costs this exchange alone."""
        self._withdraw_or_reset(ResetCode.INTERNAL)
        self._fail(500, "internal_error", "the server failed to pass this request on")

    def withdraw(self) -> None:
        """The registry takes it from its session again; nothing of it was sent."""
        self._withdraw_or_reset(ResetCode.CANCEL)

    def reject(self, rejected: Rejected) -> None:
        """It found no place, or no time: it has left the registry."""
        self._withdraw_or_reset(ResetCode.CANCEL)
        detail = (rejected.code == "no_tunnel" and self._where.unknown) or rejected.detail
        self._fail(rejected.status, rejected.code, detail, retry_after=rejected.retry_after)

    def _again(self, *, full: bool = False, refused: bool = False) -> None:
        gateway = self._gateway
        gateway.execute(gateway.registry.again(self, gateway.now(), full=full, refused=refused))

    def _withdraw_or_reset(self, code: int) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if stream.withdraw():
            self._exchange.fail(was_sent=False)
        else:
            stream.reset(code)

    # -- the request's body --------------------------------------------------------------------

    @property
    def _body_room(self) -> int:
        room = self._stream.room if self._stream is not None else 0
        return room if self._held is None else min(room, HELD_BYTES - self._held_size)

    def _pump_up(self) -> None:
        stream = self._stream
        try:
            while stream is not None and not self._body_done and (room := self._body_room) > 0:
                data = self.request.receive_body_nowait(min(room, RELAY_READ))
                if data is None:
                    return
                if data:
                    self._give_body(stream, data)
                else:
                    self._body_done = True
                    self._end_body(stream)
        except HeadError as error:
            if self.request.gone:
                return  # a body cut short by its caller's leaving, which the task notices
            self._withdraw_or_reset(ResetCode.CANCEL)
            self._fail(error.status, error.code, error.detail)

    def _give_body(self, stream: Stream, data: bytes) -> None:
        self._received_bytes += len(data)
        self._exchange.send_data(len(data))
        stream.send_data(data)
        self._restart_head_clock()
        if self._held is not None:
            gather(self._held, data)
            self._held_size += len(data)

    def _end_body(self, stream: Stream) -> None:
        if self.request.trailers:
            stream.send_head(self._exchange.send_trailers(self.request.trailers), fin=True)
        else:
            self._exchange.send_fin()
            stream.send_fin()

    # -- the stream's events -------------------------------------------------------------------

    def on_sent(self) -> None:
        gateway = self._gateway
        gateway.registry.sent(self)
        gateway.heads.start(self)
        self._tell_received()
        gateway.access.sent(
            id=self.number,
            token=self.masked,
            info=self.head.method + b" " + self.head.target,
            ws=self.session.short_id if self.session is not None else "",
            attempt=self._attempt if self._attempt > 1 else None,
        )

    def on_progress(self, limit: int) -> None:
        self._restart_head_clock()
        if limit - self._block_size > HELD_BYTES:
            self._held = None
        self.on_room()

    def on_room(self) -> None:
        if not self._body_done:
            self._pump_up()
            self.request.wake()

    def on_head(self, block: bytes, fin: bool) -> None:
        try:
            known = self._exchange.receive_response(block, fin=fin)
        except RemoteProtocolError as error:
            self._bad_answer(error)
            return
        if isinstance(known, Trailers):
            self._trailers = known
        else:
            self._pass_head(known)
        self._answer_ended = fin  # only now: had the above failed, this one would have to be broken off

    def _pass_head(self, known: KnownResponse) -> None:
        head, out = known.head, known.plan(shared_response)
        if head.status == 101:
            self._answered(known)
            self._switching = out
            self.request.wake()
        elif head.status < 200:
            self.request.send_info(out)
        else:
            self._answered(known)
            self.request.send_head(out)
            if self._upgrade and self._stream is not None:  # refused: an ordinary response
                self._exchange.send_fin()
                self._stream.send_fin()

    def _answered(self, known: KnownResponse) -> None:
        self.status = known.head.status
        self._held = None
        self._gateway.heads.stop(self)
        ws = self.session.short_id if self.session is not None else ""
        self._gateway.access.answer(id=self.number, token=self.masked, ws=ws, length=known.length)

    def on_data(self, data: bytes, fin: bool) -> None:
        try:
            self._exchange.receive_data(len(data), fin=fin)
        except RemoteProtocolError as error:
            self._bad_answer(error)
            return
        if data and (self._inbox or self._switching is not None or not self._give(data)):
            gather(self._inbox, data)
        self._answer_ended = fin

    def on_settled(self) -> None:
        if self._switching is None and not self._awaits_room:
            self._pump_down()
            if not (self._done or self._given) and (self._inbox or not self.request.flush()):
                self.request.wake()

    def on_written(self) -> None:
        if self._given and not self._done:
            self._complete()

    def on_reset(self, code: int) -> None:
        stream, self._stream = self._stream, None
        if self._done or stream is None or self._answer_ended:  # what came whole is delivered, whoever is gone
            return
        self._exchange.fail(
            was_sent=stream.was_sent, refused=code == ResetCode.REFUSED, broken_off=code == ResetCode.BROKEN_OFF
        )
        self._lost(code)

    # -- the answer ----------------------------------------------------------------------------

    def _give(self, data: bytes) -> bool:
        if not self.request.try_send_body(data):
            return False
        self._sent_bytes += len(data)
        if self._stream is not None:
            self._stream.consume(len(data))
        return True

    def _pump_down(self) -> None:
        if self._switching is not None:
            return
        turn_ends = self._sent_bytes + TURN
        while self._inbox:
            if self._sent_bytes >= turn_ends:
                return
            if not self._give(self._inbox[0]) and not (self.request.flush() and self._give(self._inbox[0])):
                return
            del self._inbox[0]
        if self._answer_ended and not (self._done or self._given):
            self.request.send_end(self._trailers.fields if self._trailers is not None else None)
            self._given = True

    def _complete(self) -> None:
        if self._body_done and self._stream is not None:
            self._stream.forget()
            self._stream = None
        self._finish()

    def _finish(self) -> None:
        """What is left to do is done here where the task has nothing else to wake for: that costs more than it."""
        self._done = True
        if self.request.rest():
            self._leave()
        else:
            self.request.wake()

    # -- failures ------------------------------------------------------------------------------

    def _lost(self, code: int) -> None:
        """The stream is gone without a complete answer: reset with ``code``."""
        if self._exchange.may_dispatch_again(
            has_body=self.request.has_body,
            body_held=self._held is not None,
            other_session_attached=self._gateway.registry.others(self, self.session),
        ):
            self._gateway.heads.stop(self)
            self._again(refused=code == ResetCode.REFUSED)
        elif self._exchange.outcome is Delivery.NEVER_SENT:
            self._fail(502, "refused", "the tunnel client did not take the request")
        elif code == ResetCode.SESSION_GONE:
            self._fail(502, "tunnel_lost", "the tunnel client was lost before it had answered")
        else:
            self._fail(502, "origin_failed", "the origin failed before it had answered")

    def _bad_answer(self, error: Exception) -> None:
        logger.warning("the tunnel client sent an answer that cannot be passed on: %s token=%s", error, self.masked)
        self._withdraw_or_reset(ResetCode.PROTOCOL)
        self._fail(502, "bad_answer", "the answer of the tunnel client cannot be passed on")

    def _restart_head_clock(self) -> None:
        """For body bytes on their way to the origin, and for those that it took: small ones do not show in credit.
        An origin that takes none stops both when its window is full, and a caller that sends none has a clock of
        its own."""
        self._gateway.heads.restart(self)

    def head_late(self) -> None:
        """The time for the head of the answer is over."""
        if self._done:
            return
        self._withdraw_or_reset(ResetCode.TIMEOUT)
        self._fail(504, "response_timeout", "the origin did not answer in time")

    def _fail(self, status: int, code: str, detail: str, *, retry_after: float | None = None) -> None:
        """Tell the caller, or, when an answer has begun, break it off: never complete what is not whole."""
        if self._done or self._given:
            return
        request = self.request
        if self.status or self._exchange.outcome is Delivery.PARTLY:
            self.status = self.status or status
            request.abort()
        else:
            outcome = str(self._exchange.outcome) if status >= 502 else None
            head, body = problem(status, code, detail, request.head, retry_after=retry_after, outcome=outcome)
            self.status = status
            self._sent_bytes = len(body)
            request.send_head(head)
            request.try_send_body(body)
            request.send_end()
        self._inbox.clear()
        self._finish()
