"""Where each direction of an HTTP/1.1 connection stands, and what may follow what."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final

from ..errors import LocalProtocolError

__all__ = [
    "AFTER_CYCLE",
    "AFTER_DATA",
    "AFTER_END",
    "AFTER_EOF",
    "AFTER_FAIL",
    "AFTER_HEAD",
    "AFTER_INFO",
    "AFTER_SWITCH",
    "TRANSITIONS",
    "After",
    "Move",
    "Signal",
    "State",
]


class Signal(Enum):
    """No event now, and why."""

    NEED_DATA = "receive more"
    PAUSED = "the message is complete: start_next_cycle, or take trailing_data"
    CLOSED = "the peer closed between two messages"


class State(IntEnum):
    """Of one direction."""

    HEAD = 0
    BODY = 1
    DONE = 2
    SWITCHED = 3
    CLOSED = 4
    ERROR = 5


class Move(IntEnum):
    INFO = 0
    HEAD = 1
    DATA = 2
    END = 3
    CYCLE = 4
    SWITCH = 5
    EOF = 6
    FAIL = 7


# Both directions of both roles. A missing key is an illegal move.
TRANSITIONS: dict[tuple[State, Move], State] = {
    (State.HEAD, Move.INFO): State.HEAD,
    (State.HEAD, Move.HEAD): State.BODY,
    (State.HEAD, Move.SWITCH): State.SWITCHED,
    (State.HEAD, Move.EOF): State.CLOSED,
    (State.HEAD, Move.FAIL): State.ERROR,
    (State.BODY, Move.DATA): State.BODY,
    (State.BODY, Move.END): State.DONE,
    (State.BODY, Move.FAIL): State.ERROR,
    (State.DONE, Move.CYCLE): State.HEAD,
    (State.DONE, Move.SWITCH): State.SWITCHED,
    (State.DONE, Move.FAIL): State.ERROR,
}


class After(dict[State, State]):
    """Where a direction stands after ``move``, by where it stood. To look up an illegal one raises
    ``LocalProtocolError``. One a move: a function that looks for both takes four times as long."""

    def __init__(self, move: Move) -> None:
        super().__init__({state: after for (state, each), after in TRANSITIONS.items() if each is move})
        self._name = move.name

    def __missing__(self, state: State) -> State:
        raise LocalProtocolError(f"{self._name} is not possible in state {state.name}")


AFTER_INFO: Final = After(Move.INFO)
AFTER_HEAD: Final = After(Move.HEAD)
AFTER_DATA: Final = After(Move.DATA)
AFTER_END: Final = After(Move.END)
AFTER_CYCLE: Final = After(Move.CYCLE)
AFTER_SWITCH: Final = After(Move.SWITCH)
AFTER_EOF: Final = After(Move.EOF)
AFTER_FAIL: Final = After(Move.FAIL)
