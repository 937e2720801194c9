"""The client's next move: which transport to dial, when, and whether to resume, open anew or give up.

A pure decision (design, section 4 "Reconnecting"): outcomes go in, the next try comes out. ``now`` and the jitter (a
random float from 0 to 1) are arguments.

First at once, dials at least ``retry_first`` apart; after failures the bound of the random delay ("full jitter")
doubles from ``retry_first`` to ``retry_cap_resumable`` while the session can still be resumed, and to ``retry_cap``
after; a connection that made progress starts it over. A transport that something in between will not let pass is
changed for the next one at once; only a whole round of them counts as a failure.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from ..config import Limits
from ..errors import TERMINAL_CODES, AnsweredByOther, DialError, LocalProtocolError, RegistrationRefused

__all__ = ["CHOICE_MOVES", "RETRY_AFTER_LIMIT", "Choice", "ChoiceState", "Failed", "GiveUp", "Kind", "Try"]

# A Retry-After may come from anything in between: it must not silence a client for days.
RETRY_AFTER_LIMIT: Final = 300.0
# 2 ** 20 times any sensible first delay is beyond any sensible cap.
_MAX_DOUBLINGS: Final = 20


@dataclass(frozen=True, slots=True)
class Try:
    """Dial ``transport`` at ``when``; ``resume``: the session of before, else a fresh one."""

    transport: str
    when: float
    resume: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The tunnel server's word is final: ``code`` is one of ``errors.TERMINAL_CODES``."""

    code: str


class Kind(enum.Enum):
    """What a dial failed of."""

    WAY = enum.auto()  # no way to the server: name, TCP, proxy
    TLS = enum.auto()
    HANDSHAKE = enum.auto()  # no answer to the handshake, a broken one, or that of something in between
    REFUSED = enum.auto()  # by the tunnel server itself, with a code
    BROKEN = enum.auto()  # a bug of the transport, which may be somebody else's


@dataclass(frozen=True, slots=True)
class Failed:
    """A dial that came to nothing."""

    kind: Kind
    code: str = ""  # of a refusal
    retry_after: float | None = None

    @classmethod
    def of(cls, error: DialError | RegistrationRefused) -> Failed:
        if isinstance(error, RegistrationRefused):
            return cls(Kind.REFUSED, error.code, error.retry_after)
        if isinstance(error, AnsweredByOther):
            return cls(Kind.HANDSHAKE, retry_after=error.retry_after)
        return cls(_KINDS.get(error.stage, Kind.WAY))


_KINDS: Final = {"tls": Kind.TLS, "handshake": Kind.HANDSHAKE, "transport": Kind.BROKEN}


class ChoiceState(enum.Enum):
    IDLE = enum.auto()
    DIALLING = enum.auto()
    CONNECTED = enum.auto()
    OVER = enum.auto()


CHOICE_MOVES: Final[dict[tuple[ChoiceState, str], ChoiceState]] = {
    (ChoiceState.IDLE, "dial"): ChoiceState.DIALLING,
    (ChoiceState.DIALLING, "grant"): ChoiceState.DIALLING,
    (ChoiceState.DIALLING, "fail"): ChoiceState.IDLE,
    (ChoiceState.DIALLING, "connect"): ChoiceState.CONNECTED,
    (ChoiceState.DIALLING, "end"): ChoiceState.OVER,
    (ChoiceState.CONNECTED, "progress"): ChoiceState.CONNECTED,
    (ChoiceState.CONNECTED, "lose"): ChoiceState.IDLE,
    (ChoiceState.CONNECTED, "end"): ChoiceState.OVER,
}


class Choice:
    """Ask ``next``, then tell ``dialling``, ``granted`` if it was, then ``failed``; or ``connected``, ``progress``
    and ``lost``."""

    def __init__(self, limits: Limits, *, transports: tuple[str, ...] = ("websocket",)) -> None:
        """``transports``: names, the best first."""
        if not transports:
            raise ValueError("there must be at least one transport")
        self._limits = limits
        self._transports = transports
        self._state = ChoiceState.IDLE
        self._index = 0  # the transport to try
        self._trusted = 0  # the one that a round begins with: it worked last
        self._failures = 0  # since the last progress
        self._progressed = False  # on this connection
        self._idle_since: float | None = None  # None: nothing was tried yet
        self._last_dial = float("-inf")
        self._resume_until = float("-inf")
        self._grace = 0.0
        self._last = Failed(Kind.WAY)  # why the next try is made
        self._end = ""

    def __repr__(self) -> str:
        return f"<Choice {self._state.name} {self.transport} failures={self._failures}>"

    @property
    def transport(self) -> str:
        """The one in use, or to be tried next."""
        return self._transports[self._index]

    # -- the decision ------------------------------------------------------------------------------

    def next(self, now: float, jitter: float) -> Try | GiveUp:
        """The next try. Changes nothing."""
        if self._state is ChoiceState.OVER:
            return GiveUp(self._end)
        if self._state is not ChoiceState.IDLE:
            raise LocalProtocolError(f"cannot choose the next try while {self._state.name}")
        since = now if self._idle_since is None else self._idle_since
        when = max(since + self._delay(since, jitter), self._last_dial + self._limits.retry_first)
        return Try(self.transport, when, resume=when < self._resume_until)

    def _delay(self, since: float, jitter: float) -> float:
        resumable = since < self._resume_until
        if self._heals_slowly and not resumable:
            return self._limits.retry_tls * (1 + jitter) / 2
        delay = jitter * self._bound(resumable)
        if self._last.retry_after is not None:
            # The jitter comes on top, so that those who were all told the same do not come back together.
            delay += min(self._last.retry_after, RETRY_AFTER_LIMIT)
        return delay

    @property
    def _heals_slowly(self) -> bool:
        """Neither a wrong certificate nor a bug is gone in seconds. (A certificate that was right a moment ago was
        cut in its handshake; for a bug it is only so when there is no other transport to try.)"""
        kind = self._last.kind
        return kind is Kind.TLS or (kind is Kind.BROKEN and self._index == self._trusted)

    def _bound(self, resumable: bool) -> float:
        if self._failures == 0:
            return 0.0
        cap = self._limits.retry_cap_resumable if resumable else self._limits.retry_cap
        return float(min(cap, self._limits.retry_first * 2 ** min(self._failures - 1, _MAX_DOUBLINGS)))

    # -- outcomes ----------------------------------------------------------------------------------

    def dialling(self, now: float) -> None:
        self._advance("dial")
        self._last_dial = now

    def granted(self, grace: float, now: float) -> None:
        """A new session was granted, and ATTACH is about to be sent. If the answer to that is lost, the server may
        well serve the session already, with requests on it: it is resumed, not given up."""
        self._advance("grant")
        self._resume_until = now + grace

    def failed(self, failure: Failed, now: float) -> None:
        """The dial came to nothing."""
        if failure.code in TERMINAL_CODES:
            self._finish(failure.code)
            return
        self._advance("fail")
        self._idle_since = now
        self._last = failure
        if failure.code == "unknown_session" and self._resume_until != float("-inf"):
            self._forget_session()  # our session is over, and a fresh one is not refused for that: at once
        elif failure.kind in (Kind.HANDSHAKE, Kind.BROKEN):
            self._try_next_transport()
        else:
            self._failures += 1

    def connected(self, grace: float) -> None:
        """The session is attached; its grant promises to keep it ``grace`` seconds after a loss."""
        self._advance("connect")
        self._grace = grace
        self._progressed = False

    def progress(self) -> None:
        """An offset was acknowledged, either way: this connection is worth something."""
        self._advance("progress")
        self._progressed = True
        self._failures = 0
        self._trusted = self._index

    def lost(self, now: float, *, bye: str | None = None) -> None:
        """The connection ended. ``bye``: the code that ended the session with it, if that is so."""
        if bye in TERMINAL_CODES:
            self._finish(str(bye))
            return
        self._advance("lose")
        self._idle_since = now
        self._last = Failed(Kind.WAY)
        if not self._progressed:
            self._try_next_transport()
        if bye is None:
            self._resume_until = now + self._grace
        else:
            self._forget_session()

    # -- inside ------------------------------------------------------------------------------------

    def _try_next_transport(self) -> None:
        self._index = (self._index + 1) % len(self._transports)
        if self._index == self._trusted:
            self._failures += 1

    def _forget_session(self) -> None:
        self._resume_until = float("-inf")

    def _finish(self, code: str) -> None:
        self._advance("end")
        self._end = code

    def _advance(self, move: str) -> None:
        try:
            self._state = CHOICE_MOVES[self._state, move]
        except KeyError:
            raise LocalProtocolError(f"cannot {move} while {self._state.name}") from None
