"""What the answer to a long-poll request means: a table for the server's own words, and one for everybody else's.

Only what carries a ``code`` is the server's own refusal (design, section 4). The rest came from something in between,
which knows nothing of the connection: where time may help, the request is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from ...errors import ConnectionLost
from ...handshake import Refusal, refusal_from_problem
from ...heads import Fields
from ..answers import judge_answer, retry_after
from .wire import closed_reason, is_own_answer

__all__ = ["Judgement", "Reply", "Verdict", "judge_reply"]


class Verdict(Enum):
    DONE = auto()
    REPEAT = auto()
    CUT = auto()  # something in between did not wait so long: repeat, and wait for a shorter time
    LOST = auto()


@dataclass(slots=True)  # frozen, it would take four times as long to make
class Reply:
    """A whole answer."""

    status: int
    fields: Fields
    body: bytes
    own: bool = False  # it is known to be the server's own


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    reason: str = ""  # of REPEAT and CUT
    retry_after: float = 0.0  # seconds
    lost: ConnectionLost | None = None  # of LOST


_DONE: Final = Judgement(Verdict.DONE)

# The server's own codes that are not the end of the connection.
_BY_CODE: Final = {"poll_replaced": Verdict.REPEAT}

# Statuses that are not the end of it, whoever gave them. 2xx is a page of somebody's: a portal's, a cache's.
_BY_STATUS: Final = {408: Verdict.REPEAT, 429: Verdict.REPEAT, 502: Verdict.CUT, 504: Verdict.CUT}
_BY_CLASS: Final = {2: Verdict.REPEAT, 5: Verdict.REPEAT}


def judge_reply(reply: Reply, number: int) -> Judgement:
    """What ``reply`` to request ``number`` means."""
    if reply.own or is_own_answer(reply.status, reply.fields, number):
        return _DONE
    refusal = refusal_from_problem(reply.status, reply.fields, reply.body)
    if refusal is not None:
        return _by_the_server(refusal)
    reason = str(judge_answer(reply.status, reply.fields, reply.body, tls=True))
    return _judgement(_of_status(reply.status), reason, retry_after(reply.fields))


def _by_the_server(refusal: Refusal) -> Judgement:
    closed = closed_reason(refusal)
    if closed is not None:
        return Judgement(Verdict.LOST, lost=closed)
    verdict = _BY_CODE.get(refusal.code) or _of_status(refusal.status)
    reason = f"the tunnel server refused: {refusal.detail or refusal.code} (code {refusal.code})"
    return _judgement(verdict, reason, refusal.retry_after)


def _of_status(status: int) -> Verdict:
    return _BY_STATUS.get(status) or _BY_CLASS.get(status // 100, Verdict.LOST)


def _judgement(verdict: Verdict, reason: str, wait: float | None) -> Judgement:
    if verdict is Verdict.LOST:
        return Judgement(verdict, lost=ConnectionLost(reason))
    return Judgement(verdict, reason, wait or 0.0)
