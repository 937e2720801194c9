"""One exchange on one stream: a request and its response, or an upgraded connection. Sans-IO.

Both ends use the same machine. It has two halves, each a table: the server's end sends the request half and
receives the response half, the client's end the other way round. A move that a table does not hold is illegal:
``LocalProtocolError`` for what we send, ``RemoteProtocolError`` for what we receive. After either, the stream is to
be reset; the machine is of no more use, but for what ``fail`` and ``record`` tell.

The halves are joined at three places: a request asks for its response; 101 switches both halves to raw bytes
(RFC 9110 15.2.2), and is legal only where the request offered an upgrade; any other final response refuses the offer.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, TypeAlias

from ..config import DEFAULT_LIMITS, Limits
from ..errors import HeadError, LocalProtocolError, ProtocolError, RemoteProtocolError
from ..heads import (
    Fields,
    RequestHead,
    ResponseHead,
    Trailers,
    encode_trailers,
    switches_as_offered,
    validate_trailers,
)
from .known_heads import HeadReader, KnownRequest, KnownResponse

__all__ = [
    "INTERIM_LIMIT",
    "REQUEST",
    "RESPONSE",
    "Delivery",
    "Exchange",
    "Move",
    "State",
    "Table",
    "may_dispatch_again",
]


# -- tables ------------------------------------------------------------------------------------


# Interim heads before the final one: each costs the receiver much more than it takes to send.
INTERIM_LIMIT: Final = 1000


class State(IntEnum):
    IDLE = 0  # nothing yet: of the response, no request either
    WAITING = 1  # response: the request is there
    OFFERED = 2  # request: an upgrade is offered; nothing may follow before the answer
    BODY = 3
    ENDING = 4  # only FIN may follow
    UPGRADED = 5  # raw bytes
    DONE = 6


class Move(IntEnum):
    HEAD = 0  # request head
    OFFER = 1  # request head that offers an upgrade
    ASKED = 2  # response: a request head passed
    INTERIM = 3
    FINAL = 4
    SWITCH = 5  # 101
    REFUSE = 6  # request: a final response that is not 101, offer or not
    DATA = 7
    TRAILERS = 8
    FIN = 9


Table: TypeAlias = Mapping[State, Mapping[Move, State]]

REQUEST: Table = {
    State.IDLE: {Move.HEAD: State.BODY, Move.OFFER: State.OFFERED},
    State.OFFERED: {Move.SWITCH: State.UPGRADED, Move.REFUSE: State.ENDING},
    # An early final response does not end the request (RFC 9112 9.3): what is under way of it may still come.
    State.BODY: {
        Move.DATA: State.BODY,
        Move.TRAILERS: State.ENDING,
        Move.FIN: State.DONE,
        Move.REFUSE: State.BODY,
    },
    State.ENDING: {Move.FIN: State.DONE, Move.REFUSE: State.ENDING},
    State.UPGRADED: {Move.DATA: State.UPGRADED, Move.FIN: State.DONE},
    State.DONE: {Move.REFUSE: State.DONE},
}

RESPONSE: Table = {
    State.IDLE: {Move.ASKED: State.WAITING},
    State.WAITING: {Move.INTERIM: State.WAITING, Move.FINAL: State.BODY, Move.SWITCH: State.UPGRADED},
    State.BODY: {Move.DATA: State.BODY, Move.TRAILERS: State.ENDING, Move.FIN: State.DONE},
    State.ENDING: {Move.FIN: State.DONE},
    State.UPGRADED: {Move.DATA: State.UPGRADED, Move.FIN: State.DONE},
    State.DONE: {},
}


# Looking a member up in its enum takes twice as long as calling a function (CPython 3.11): hence names.
_IDLE: Final = State.IDLE
_OFFERED: Final = State.OFFERED
_DONE: Final = State.DONE
_HEAD: Final = Move.HEAD
_FINAL: Final = Move.FINAL
_REFUSE: Final = Move.REFUSE
_DATA: Final = Move.DATA
_FIN: Final = Move.FIN
_AFTER_ASKED: Final = RESPONSE[State.IDLE][Move.ASKED]
_NO_FIELDS: Final[Fields] = []


class _Half:
    """One direction: its state, and the bytes that passed against those that Content-Length promised."""

    __slots__ = ("error", "expected", "name", "seen", "state", "table")

    def __init__(self, name: str, table: Table, error: type[ProtocolError]) -> None:
        self.name = name
        self.table = table
        self.error = error
        self.state = _IDLE
        self.expected: int | None = None
        self.seen = 0

    def allows(self, move: Move) -> bool:
        return move in self.table[self.state]

    def move(self, move: Move) -> None:
        state = self.table[self.state].get(move)
        if state is None:
            raise self._illegal(move)
        self.state = state

    def _illegal(self, move: Move) -> ProtocolError:
        return self.error(f"{move.name} of a {self.name} that is {self.state.name}", code="bad_exchange")

    def data(self, size: int, fin: bool) -> None:
        """Body bytes, or raw ones once upgraded, and the end with them; without any it is only the end."""
        if size or not fin:
            state = self.table[self.state].get(_DATA)
            if state is None:
                raise self._illegal(_DATA)
            self.state = state
            self.seen += size
            if self.expected is not None and self.seen > self.expected:
                raise self.error(f"the {self.name}'s body is longer than its Content-Length", code="long_body")
        if fin:
            self.end()

    def end(self) -> None:
        if self.expected is not None and self.seen < self.expected:
            raise self.error(f"the {self.name}'s body is shorter than its Content-Length", code="short_body")
        state = self.table[self.state].get(_FIN)
        if state is None:
            raise self._illegal(_FIN)
        self.state = state


# -- outcomes ----------------------------------------------------------------------------------


class Delivery(IntEnum):
    """How far a request came (design, section 8, "Delivery"). ``str`` is the name for logs and error bodies."""

    NEVER_SENT = 0  # no byte of OPEN was taken by any connection, or the peer said `refused`
    SENT = 1  # without an answer
    PARTLY = 2  # a final head was written
    ANSWERED = 3

    def __str__(self) -> str:
        return _NAMES[self]


_NAMES: Final = {delivery: delivery.name.lower() for delivery in Delivery}
_NEVER_SENT: Final = Delivery.NEVER_SENT
_SENT: Final = Delivery.SENT
_ANSWERED: Final = Delivery.ANSWERED


_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})


def may_dispatch_again(
    delivery: Delivery,
    method: bytes,
    *,
    has_body: bool,
    body_held: bool,
    other_session_attached: bool,
    sent_before: bool = False,
) -> bool:
    """Whether a failed exchange's request may go out once more.

    ``delivery`` is this attempt's; ``sent_before`` tells that an earlier one was sent without an answer.
    ``body_held`` means that every body byte read so far is still held."""
    if delivery is Delivery.NEVER_SENT:
        return body_held or not has_body
    if delivery is Delivery.SENT:
        return method in _REPEATABLE and not has_body and other_session_attached and not sent_before
    return False


# -- the machine -------------------------------------------------------------------------------


class Exchange:
    """One attempt at an exchange. ``client`` tells the tunnel client's end, where the request comes in.

    ``limits`` judge what the peer sends, with some room for the fields that a gateway adds; ``heads`` does it with
    the heads, for many exchanges. ``earlier`` is what became of the request's former attempts.
    """

    __slots__ = (
        "_broken_off",
        "_earlier",
        "_heads",
        "_in",
        "_interim",
        "_limits",
        "_offer",
        "_out",
        "_sent",
        "method",
        "request",
        "response",
        "status",
    )

    def __init__(
        self,
        *,
        client: bool,
        limits: Limits = DEFAULT_LIMITS,
        heads: HeadReader | None = None,
        earlier: Delivery = _NEVER_SENT,
    ) -> None:
        if client:
            self.request = self._in = _Half("request", REQUEST, RemoteProtocolError)
            self.response = self._out = _Half("response", RESPONSE, LocalProtocolError)
        else:
            self.request = self._out = _Half("request", REQUEST, LocalProtocolError)
            self.response = self._in = _Half("response", RESPONSE, RemoteProtocolError)
        self._limits = limits
        self._heads = heads if heads is not None else HeadReader(limits)
        self._earlier = earlier
        self._interim = 0  # heads
        self._offer = _NO_FIELDS  # the fields of a request that offers an upgrade
        self._sent = True  # until ``fail`` says otherwise
        self._broken_off = False
        self.method = b""
        self.status: int | None = None

    def __repr__(self) -> str:
        return (
            f"<Exchange {self.method.decode('ascii', 'replace')} request={self.request.state.name}"
            f" response={self.response.state.name} status={self.status}>"
        )

    # -- sending -------------------------------------------------------------------------------

    def send_request(self, head: RequestHead, *, fin: bool = False) -> bytes:
        """The block of the request's head, for a HEAD frame. ``fin``: it has no body."""
        return self.send_known_request(KnownRequest.outgoing(head), fin=fin)

    def send_known_request(self, known: KnownRequest, *, fin: bool = False) -> bytes:
        """The same for a head that was sent before."""
        if self._out is not self.request:
            raise self._not_ours(self.request)
        self._take_request(self.request, known, fin)
        return known.block

    def send_response(self, head: ResponseHead, *, fin: bool = False) -> bytes:
        """The block of an interim head, or of the final one, or of 101."""
        return self.send_known_response(KnownResponse.outgoing(head), fin=fin)

    def send_known_response(self, known: KnownResponse, *, fin: bool = False) -> bytes:
        """The same for a head that was sent before."""
        if self._out is not self.response:
            raise self._not_ours(self.response)
        self._take_response(self.response, known, fin)
        return known.block

    def send_data(self, size: int, *, fin: bool = False) -> None:
        """``size`` body bytes, or raw ones once upgraded, are about to go; with none it is only the FIN."""
        self._out.data(size, fin)

    def send_trailers(self, fields: Fields) -> bytes:
        """The block of the trailer section, which ends our half: its frame carries FIN."""
        block = encode_trailers(fields)
        self._out.move(Move.TRAILERS)
        self._out.end()
        return block

    def send_fin(self) -> None:
        self._out.end()

    def _not_ours(self, half: _Half) -> LocalProtocolError:
        return LocalProtocolError(f"this end receives the {half.name}", code="bad_exchange")

    # -- receiving -----------------------------------------------------------------------------

    def receive_request(self, block: bytes, *, fin: bool = False) -> KnownRequest | Trailers:
        """Decode, validate and judge a block of the request's half. What comes out may be written elsewhere; of
        trailers, those that may not be passed on are dropped."""
        known = self._heads.read(block)
        if isinstance(known, Trailers):
            return self._take_trailers(known, fin)
        if not isinstance(known, KnownRequest) or self.request is not self._in:
            raise self._misplaced(known.head)
        self._take_request(self.request, known, fin)
        return known

    def receive_response(self, block: bytes, *, fin: bool = False) -> KnownResponse | Trailers:
        """The same for the other half."""
        known = self._heads.read(block)
        if isinstance(known, Trailers):
            return self._take_trailers(known, fin)
        if not isinstance(known, KnownResponse) or self.response is not self._in:
            raise self._misplaced(known.head)
        self._take_response(self.response, known, fin)
        return known

    def receive_head(self, block: bytes, *, fin: bool = False) -> RequestHead | ResponseHead | Trailers:
        """The same for the half that comes in at this end, and as a head of its own."""
        if self._in is self.request:
            request = self.receive_request(block, fin=fin)
            return request if isinstance(request, Trailers) else request.head.copy()
        response = self.receive_response(block, fin=fin)
        return response if isinstance(response, Trailers) else response.head.copy()

    def receive_data(self, size: int, *, fin: bool = False) -> None:
        """A DATA event; with no bytes it is only its FIN."""
        self._in.data(size, fin)

    def _misplaced(self, head: RequestHead | ResponseHead) -> RemoteProtocolError:
        name = "request" if isinstance(head, RequestHead) else "response"
        return RemoteProtocolError(f"the peer sent a {name}, which this end sends", code="bad_exchange")

    def _take_trailers(self, trailers: Trailers, fin: bool) -> Trailers:
        self._in.move(Move.TRAILERS)
        if not fin:
            raise RemoteProtocolError("trailers that do not end their half", code="bad_exchange")
        self._in.end()
        try:
            return Trailers(validate_trailers(trailers.fields, self._limits))
        except HeadError as error:
            raise RemoteProtocolError(error.detail, code="bad_head") from error

    # -- both ways -----------------------------------------------------------------------------

    def _take_request(self, half: _Half, known: KnownRequest, fin: bool) -> None:
        # An upgrade's half stays open for the raw bytes; with FIN on the head there could be none.
        offer = known.offers and not fin
        half.move(Move.OFFER if offer else _HEAD)
        if offer:
            self._offer = known.head.fields
        self.response.state = _AFTER_ASKED  # it was IDLE for as long as the request was
        self.method = known.head.method
        half.expected = known.length
        if fin:
            half.end()

    def _take_response(self, half: _Half, known: KnownResponse, fin: bool) -> None:
        head = known.head
        status = head.status
        if status >= 200:
            half.move(_FINAL)
            if self.request.state is _OFFERED:  # to all the others it changes nothing
                self.request.move(_REFUSE)
            bodiless = status == 204 or status == 304 or self.method == b"HEAD"
            half.expected = 0 if bodiless else known.length
            self.status = status
        elif status == 101:
            self._switch(half, head)
        else:
            half.move(Move.INTERIM)
            self._interim += 1
            if self._interim > INTERIM_LIMIT:
                raise half.error(f"more than {INTERIM_LIMIT} interim responses", code="bad_exchange")
        if fin:
            half.end()

    def _switch(self, half: _Half, head: ResponseHead) -> None:
        if not self.request.allows(Move.SWITCH):
            raise half.error("101 without an offer to upgrade", code="bad_exchange")
        if not switches_as_offered(head, self._offer):
            raise half.error("101 to a protocol that was not offered", code="bad_exchange")
        half.move(Move.SWITCH)
        self.request.move(Move.SWITCH)
        self.request.expected = None  # raw bytes have no length, whatever the head said
        self.status = 101

    # -- what became of it ---------------------------------------------------------------------

    @property
    def upgraded(self) -> bool:
        return self.status == 101

    @property
    def complete(self) -> bool:
        """Both halves ended as they should."""
        return self.request.state is _DONE and self.response.state is _DONE

    def fail(self, *, was_sent: bool, refused: bool = False, broken_off: bool = False) -> Delivery:
        """The stream was lost, withdrawn or reset. ``was_sent``: a byte of OPEN was taken by a connection;
        ``refused``: the peer promises that no byte reached an origin; ``broken_off``: it says that an answer had
        begun, whether its head came or not. Gives this attempt's delivery."""
        self._sent = was_sent and not refused
        self._broken_off = broken_off
        return self.delivery

    @property
    def delivery(self) -> Delivery:
        """Of this attempt alone."""
        if self.response.state is _DONE:
            return _ANSWERED
        if self.status is not None or self._broken_off:
            return Delivery.PARTLY
        dispatched = self.request.state is not _IDLE
        return _SENT if dispatched and self._sent else _NEVER_SENT

    @property
    def outcome(self) -> Delivery:
        """Of all attempts: what the caller is told."""
        if self.response.state is _DONE:
            return _ANSWERED
        return max(self._earlier, self.delivery)

    def told(self) -> str:
        """The same by its name."""
        return _NAMES[self.outcome]

    def may_dispatch_again(self, *, has_body: bool, body_held: bool, other_session_attached: bool) -> bool:
        """``may_dispatch_again`` for this exchange, after ``fail``."""
        return may_dispatch_again(
            self.delivery,
            self.method,
            has_body=has_body,
            body_held=body_held,
            other_session_attached=other_session_attached,
            sent_before=self._earlier is not Delivery.NEVER_SENT,
        )
