"""What passes on a connection before a session is attached to it (design, section 4, Opening and Attaching).

Until ATTACH nothing but PING and PONG passes, so that a probe of a better way proves a round trip before it takes
a healthy session. A connection that is set up changes nothing yet; ATTACH moves the session.

The driver's order. Server: ``receive_message`` until ``attached``; fence the old connection; ``attach_message``;
``Session.attach``. Client: ``ping_message`` where a round trip is to be proved; ``attach_message``;
``receive_message`` until ``attached``; fence the old connection; ``Session.attach``; then ``unread``.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from ..config import Limits
from ..errors import LocalProtocolError, RemoteProtocolError
from ..proof import PROOF_SIZE
from .message import HEADER_SIZE, MAX_EPOCH, Header, Kind, build, check_known, split_header

__all__ = ["Attached", "ClientOpening", "OpeningInput", "OpeningResult", "OpeningState", "ServerOpening"]


@dataclass(frozen=True, slots=True)
class Attached:
    """The connection may be given to ``Session.attach`` now."""

    epoch: int
    peer_ack: int


@dataclass(frozen=True, slots=True)
class OpeningResult:
    """What a received message asks for."""

    reply: bytes | None = None  # to be sent now
    attached: Attached | None = None
    verified: bool = False  # our PING came back unchanged
    unread: bytes | None = None  # it overtook the answer to ATTACH: for ``Session.receive_message``, once attached


class OpeningState(Enum):
    OPENING = auto()
    ATTACHING = auto()  # client: ATTACH was written; server: it was received
    DONE = auto()


class OpeningInput(Enum):
    PING = auto()  # written by the client, received by the server
    PONG = auto()
    WRITE_ATTACH = auto()
    READ_ATTACH = auto()
    READ_OTHER = auto()


_Table = dict[tuple[OpeningState, OpeningInput], OpeningState]
_S, _I = OpeningState, OpeningInput

# The server reads ATTACH, then writes its own; nothing but that may come between.
_SERVER: Final[_Table] = {
    (_S.OPENING, _I.PING): _S.OPENING,
    (_S.OPENING, _I.READ_ATTACH): _S.ATTACHING,
    (_S.ATTACHING, _I.WRITE_ATTACH): _S.DONE,
}
# Only the client pings here: a server's PING could cross ATTACH, and its PONG would reach an attached session.
# The PONG of an earlier ping may still be under way. On a connection without order anything of the new epoch may
# overtake the answer to ATTACH, and proves the same.
_CLIENT: Final[_Table] = {
    (_S.OPENING, _I.PING): _S.OPENING,
    (_S.OPENING, _I.PONG): _S.OPENING,
    (_S.OPENING, _I.WRITE_ATTACH): _S.ATTACHING,
    (_S.ATTACHING, _I.PONG): _S.ATTACHING,
    (_S.ATTACHING, _I.READ_ATTACH): _S.DONE,
    (_S.ATTACHING, _I.READ_OTHER): _S.DONE,
}
_READ_INPUTS: Final = {Kind.PING: _I.PING, Kind.PONG: _I.PONG, Kind.ATTACH: _I.READ_ATTACH}


class _Opening:
    """What both ends share: the state, and PING and PONG of epoch 0."""

    _table: _Table

    def __init__(self, epoch: int, tag: bytes, limits: Limits) -> None:
        if not 1 <= epoch <= MAX_EPOCH:
            raise LocalProtocolError(f"no epoch: {epoch}", code="bad_epoch")
        self._epoch = epoch
        self._tag = tag
        self._limits = limits
        self._state = OpeningState.OPENING

    @property
    def state(self) -> OpeningState:
        return self._state

    def __repr__(self) -> str:
        return f"<{type(self).__name__} epoch {self._epoch} {self._state.name}>"

    def _write(self, move: OpeningInput) -> None:
        state = self._table.get((self._state, move))
        if state is None:
            raise LocalProtocolError(f"{move.name} is no move in {self._state.name}")
        self._state = state

    def _read(self, move: OpeningInput, kind: int) -> None:
        state = self._table.get((self._state, move))
        if state is None:
            raise RemoteProtocolError(f"{Kind(kind).name} during {self._state.name}", code="not_attached")
        self._state = state

    def _echo_payload(self, header: Header, message: bytes) -> bytes:
        """The payload of a PING or PONG, which belongs to no epoch yet."""
        if header[3]:
            raise RemoteProtocolError("a PING or PONG before ATTACH has epoch 0", code="bad_epoch")
        if len(message) - HEADER_SIZE > self._limits.ping_payload_limit:
            raise RemoteProtocolError("the payload of a PING or PONG is too long", code="ping_too_long")
        return message[HEADER_SIZE:]


class ServerOpening(_Opening):
    """The server's side of one connection until it is attached. ``epoch`` and ``tag`` are the handshake's."""

    _table = _SERVER

    def receive_message(self, message: bytes) -> OpeningResult:
        """One message in. Raises ``RemoteProtocolError``: the connection is to be dropped, the session untouched."""
        header = split_header(message)
        if not check_known(header):
            return OpeningResult()
        kind = header[0]
        move = _READ_INPUTS.get(Kind(kind), OpeningInput.READ_OTHER)
        self._read(move, kind)
        if move is OpeningInput.PING:
            payload = self._echo_payload(header, message)
            return OpeningResult(reply=build(Kind.PONG, 0, 0, 0, (payload,)))
        return OpeningResult(attached=self._check_attach(header, message))

    def attach_message(self, ack: int) -> bytes:
        """The answer, written after the old connection was fenced: ``ack`` is what the session has received."""
        self._write(OpeningInput.WRITE_ATTACH)
        return build(Kind.ATTACH, self._epoch, 0, ack)

    def _check_attach(self, header: Header, message: bytes) -> Attached:
        genuine = hmac.compare_digest(message[HEADER_SIZE:], self._tag)
        if header[3] != self._epoch or not genuine:
            raise RemoteProtocolError("ATTACH does not repeat the handshake's epoch and proof", code="bad_proof")
        return Attached(self._epoch, header[5])


class ClientOpening(_Opening):
    """The client's side of one connection until the server's answer to ATTACH."""

    _table = _CLIENT

    def __init__(self, epoch: int, tag: bytes, limits: Limits, *, ordered: bool = True) -> None:
        if len(tag) != PROOF_SIZE:
            raise LocalProtocolError(f"a tag has {PROOF_SIZE} bytes, not {len(tag)}", code="bad_proof")
        super().__init__(epoch, tag, limits)
        self._ordered = ordered
        self._pinged: bytes | None = None

    def ping_message(self, payload: bytes) -> bytes:
        """A PING that proves a round trip with this payload each way; one at a time."""
        self._write(OpeningInput.PING)
        if len(payload) > self._limits.ping_payload_limit:
            raise LocalProtocolError("the payload of a PING is too long", code="ping_too_long")
        self._pinged = payload
        return build(Kind.PING, 0, 0, 0, (payload,))

    def attach_message(self, ack: int) -> bytes:
        """ATTACH with the tag; ``ack`` is what the session has received. No message may follow until the answer."""
        self._write(OpeningInput.WRITE_ATTACH)
        return build(Kind.ATTACH, self._epoch, 0, ack, (self._tag,))

    def receive_message(self, message: bytes) -> OpeningResult:
        """One message in. Raises ``RemoteProtocolError``: the connection is to be dropped, the session untouched."""
        header = split_header(message)
        if not check_known(header):
            return OpeningResult()
        if header[0] == Kind.PONG and header[3] == 0:
            return self._receive_echo(header, message)
        return self._receive_answer(header, message)

    def _receive_echo(self, header: Header, message: bytes) -> OpeningResult:
        self._read(OpeningInput.PONG, header[0])
        if self._echo_payload(header, message) != self._pinged:
            raise RemoteProtocolError("PONG does not repeat the PING", code="bad_pong")
        return OpeningResult(verified=True)

    def _receive_answer(self, header: Header, message: bytes) -> OpeningResult:
        kind, epoch, ack = header[0], header[3], header[5]
        answer = kind == Kind.ATTACH
        if not answer and self._ordered:
            raise RemoteProtocolError(f"{Kind(kind).name} in place of the answer to ATTACH", code="not_attached")
        if epoch != self._epoch:
            raise RemoteProtocolError(f"epoch {epoch} in place of {self._epoch}", code="bad_epoch")
        self._read(OpeningInput.READ_ATTACH if answer else OpeningInput.READ_OTHER, kind)
        if answer and len(message) > HEADER_SIZE:
            raise RemoteProtocolError("the answer to ATTACH has no payload", code="bad_attach")
        return OpeningResult(attached=Attached(self._epoch, ack), unread=None if answer else message)
