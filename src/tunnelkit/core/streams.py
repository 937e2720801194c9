"""One stream of a session: its two halves as tables, and its record.

The halves are independent but for a reset, which ends both. Rule 1: ``stream.local`` and ``stream.remote`` are
only ever set to what these tables say. An input that a state does not list is illegal: ours is a
``LocalProtocolError``, the peer's a ``RemoteProtocolError``. The inputs of the remote half are the codes of the
frames themselves. A finished stream is not in any table: what comes late for it is ignored (hazard 5).

    local   IDLE -OPEN-> OPEN -SEND-> OPEN -SEND_FIN-> ENDING -FIN_SENT-> CLOSED
    remote  IDLE -OPEN-> OPEN <-HEAD MORE / HEAD-> IN_HEAD;  OPEN, IN_HEAD -(with FIN)-> CLOSED
    either  -RESET-> GONE
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from ..errors import LocalProtocolError
from .credit import ReceiveWindow
from .frames import CREDIT, DATA, DATA_FIN, HEAD, HEAD_FIN, HEAD_MORE, OPEN, RESET, Buffer

__all__ = [
    "AFTER_FIN",
    "AFTER_OPEN",
    "CLOSED",
    "ENDING",
    "LOCAL_MOVES",
    "OPENED",
    "REMOTE_MOVES",
    "Half",
    "Send",
    "Stream",
    "illegal_local",
    "move_local",
]


class Half(IntEnum):
    """The state of one half of a stream."""

    IDLE = 0  # no OPEN was sent or received
    OPEN = 1
    IN_HEAD = 2  # remote: a HEAD with MORE came, only HEAD may follow
    ENDING = 3  # local: the end was asked for, FIN waits to be sent
    CLOSED = 4  # FIN was sent or received
    GONE = 5  # reset by either side


class Send(IntEnum):
    """The inputs of the local half."""

    OPEN = 0  # by either side: both may send then
    SEND = 1  # a head or data
    SEND_FIN = 2
    FIN_SENT = 3  # FIN was pulled into a message
    RESET = 4  # by either side


LOCAL_MOVES: Final[dict[Half, dict[int, Half]]] = {
    Half.IDLE: {Send.OPEN: Half.OPEN},
    Half.OPEN: {Send.SEND: Half.OPEN, Send.SEND_FIN: Half.ENDING, Send.RESET: Half.GONE},
    Half.ENDING: {Send.FIN_SENT: Half.CLOSED, Send.RESET: Half.GONE},
    Half.CLOSED: {Send.RESET: Half.GONE},
    Half.GONE: {},
}

REMOTE_MOVES: Final[dict[Half, dict[int, Half]]] = {
    # Our own OPEN opens the peer's half only when it is sent: before that the peer cannot know the stream.
    Half.IDLE: {OPEN: Half.OPEN},
    Half.OPEN: {
        HEAD: Half.OPEN,
        HEAD_MORE: Half.IN_HEAD,
        HEAD_FIN: Half.CLOSED,
        DATA: Half.OPEN,
        DATA_FIN: Half.CLOSED,
        CREDIT: Half.OPEN,
        RESET: Half.GONE,
    },
    Half.IN_HEAD: {
        HEAD: Half.OPEN,
        HEAD_MORE: Half.IN_HEAD,
        HEAD_FIN: Half.CLOSED,
        CREDIT: Half.IN_HEAD,
        RESET: Half.GONE,
    },
    Half.CLOSED: {CREDIT: Half.CLOSED, RESET: Half.GONE},
    Half.GONE: {},
}

# Looking a member up in its enum takes twice as long as calling a function (CPython 3.11): hence names.
IDLE: Final = Half.IDLE
OPENED: Final = Half.OPEN
ENDING: Final = Half.ENDING
CLOSED: Final = Half.CLOSED
AFTER_OPEN: Final = REMOTE_MOVES[Half.IDLE][OPEN]
AFTER_FIN: Final = LOCAL_MOVES[Half.ENDING][Send.FIN_SENT]


class Stream:
    """The record of one stream, shared by the modules of the multiplexer. One is made for every exchange, so it
    holds only what every exchange needs; what is rare lives in side tables."""

    __slots__ = (
        "buffered",
        "charged",
        "id",
        "local",
        "mine",
        "opening",
        "out",
        "pieces_before",
        "queued",
        "remote",
        "send_limit",
        "sent",
        "served",
        "streams_before",
        "window",
    )

    def __init__(self, stream_id: int, window: ReceiveWindow, send_limit: int, opening: bytes | None) -> None:
        self.id = stream_id
        self.window = window
        self.mine = opening is not None  # we opened it
        self.opening = opening  # the OPEN frame, until it is sent
        self.local = OPENED
        self.remote = OPENED if opening is None else IDLE
        self.out: list[tuple[int, Buffer]] = []  # (HEAD or DATA, what waits to be sent)
        self.buffered = 0  # bytes in out
        self.charged = 0  # of them counted in the process's budget
        self.send_limit = send_limit
        self.sent = 0
        self.queued = False  # waits for its turn
        self.served = False  # had a turn
        # The session's large pieces and streams when it was opened (``company``).
        self.pieces_before = 0
        self.streams_before = 0

    def __repr__(self) -> str:
        return f"Stream({self.id}, local={self.local.name}, remote={self.remote.name})"

    @property
    def sendable(self) -> bool:
        """A turn would send something."""
        if self.opening is not None:
            return True
        if self.out:
            return self.send_limit > self.sent or not len(self.out[0][1])
        return self.local is ENDING

    @property
    def finished(self) -> bool:
        """Both halves ended and everything received was consumed."""
        window = self.window
        return self.local is CLOSED and self.remote is CLOSED and window.consumed == window.received


def move_local(stream: Stream, move: int) -> None:
    """Raises ``LocalProtocolError`` when the stream's own half does not know the move."""
    half = LOCAL_MOVES[stream.local].get(move)
    if half is None:
        raise illegal_local(stream, move)
    stream.local = half


def illegal_local(stream: Stream, move: int) -> LocalProtocolError:
    return LocalProtocolError(f"{Send(move).name} on stream {stream.id}, whose own half is {stream.local.name}")
