"""The client's next move: which transport to dial, when, and whether to resume, open anew or give up.

A pure decision (design, section 4 "Reconnecting"): outcomes go in, the next try comes out. ``now`` and the jitter (a
random float from 0 to 1) are arguments. Transports are ordered, the best first.

First at once, dials at least ``retry_first`` apart; after failures the bound of the random delay ("full jitter")
doubles from ``retry_first`` to ``retry_cap_resumable`` while the session can still be resumed, and to ``retry_cap``
after; a connection that made progress starts it over. A transport that something in between will not let pass is
changed for the next one at once; only a whole round of them counts as a failure. What worked last begins the round.

While a transport is in use that is not the best, the better ones are probed, and a live session moves to one that
proves itself. The wait between probes is at most ``probe_first``, doubling to ``probe_cap``. It doubles when a probe
fails, and when a transport that was moved to is given up again. It starts over only once the best one was in use
for as long as ``probe_cap``: what carries a session for seconds and then swallows it is not probed fast for ever.
A transport that was moved to is trusted, that is dialled again when it is lost, once it was in use for as long as
the wait before it; until then its loss means the one of before, at once.

A session without grace ends with its connection: it is never resumed, nor moved to another transport.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from ..config import Limits
from ..errors import TERMINAL_CODES, AnsweredByOther, DialError, LocalProtocolError, ProxyError, RegistrationRefused

__all__ = ["CHOICE_MOVES", "RETRY_AFTER_LIMIT", "Choice", "ChoiceState", "Failed", "GiveUp", "Kind", "Probe", "Try"]

# A Retry-After may come from anything in between: it must not silence a client for days.
RETRY_AFTER_LIMIT: Final = 300.0
# 2 ** 20 times any sensible first delay is beyond any sensible cap.
_MAX_DOUBLINGS: Final = 20
# The server's own word, and yet about the way alone: it does not serve this transport, but may well serve another.
_OTHER_WAY_CODES: Final = frozenset({"unknown_transport"})


@dataclass(frozen=True, slots=True)
class Try:
    """Dial ``transport`` at ``when``; ``resume``: the session of before, else a fresh one. ``brief``: another
    transport is left in this round, and no mere guess, so wait for a first answer no longer than
    ``first_answer_timeout``."""

    transport: str
    when: float
    resume: bool
    brief: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """Find out at ``when`` whether ``transport``, a better one than that in use, carries messages."""

    transport: str
    when: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The tunnel server's word is final: ``code`` is one of ``errors.TERMINAL_CODES``."""

    code: str


class Kind(enum.Enum):
    """What a dial failed of."""

    WAY = enum.auto()  # no way to the server: name, TCP, proxy
    TLS = enum.auto()
    HANDSHAKE = enum.auto()  # no answer to the handshake, a broken one, or that of something in between (a proxy too)
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
        if isinstance(error, ProxyError) and error.status is not None:
            return cls(Kind.HANDSHAKE)  # it will not tunnel, and may pass plain requests on all the same
        return cls(_KINDS.get(error.stage, Kind.WAY))


_KINDS: Final = {"tls": Kind.TLS, "handshake": Kind.HANDSHAKE, "transport": Kind.BROKEN}


class ChoiceState(enum.Enum):
    IDLE = enum.auto()
    DIALLING = enum.auto()
    CONNECTED = enum.auto()
    PROBING = enum.auto()  # connected, and a better transport is being tried
    MOVING = enum.auto()  # it proved itself: ATTACH goes out on it
    OVER = enum.auto()


_S = ChoiceState

CHOICE_MOVES: Final[dict[tuple[ChoiceState, str], ChoiceState]] = {
    (_S.IDLE, "dial"): _S.DIALLING,
    (_S.DIALLING, "grant"): _S.DIALLING,
    (_S.DIALLING, "fail"): _S.IDLE,
    (_S.DIALLING, "connect"): _S.CONNECTED,
    (_S.DIALLING, "end"): _S.OVER,
    (_S.CONNECTED, "probe"): _S.PROBING,
    (_S.PROBING, "fail probe"): _S.CONNECTED,
    (_S.PROBING, "begin to move"): _S.MOVING,
    (_S.MOVING, "move"): _S.CONNECTED,
    **{(state, "lose"): _S.IDLE for state in (_S.CONNECTED, _S.PROBING, _S.MOVING)},
    **{(state, "end"): _S.OVER for state in (_S.CONNECTED, _S.PROBING, _S.MOVING)},
}


class Choice:
    """Ask ``next``, then tell ``dialling``, ``granted`` if it was, then ``failed`` or ``connected``, and ``lost``.

    While connected, ask ``next_probe``, then tell ``probing``, then ``probe_failed``; or ``moving``, then ``moved``
    (or ``lost``, when ATTACH was not answered).
    """

    def __init__(
        self,
        limits: Limits,
        *,
        transports: tuple[str, ...] = ("websocket",),
        guessed: frozenset[str] = frozenset(),
    ) -> None:
        """``transports``: names, the best first; those ``guessed`` most servers do not know."""
        if not transports:
            raise ValueError("there must be at least one transport")
        self._limits = limits
        self._transports = transports
        self._guessed = guessed
        self._state = ChoiceState.IDLE
        self._index = 0  # the transport in use, or to try
        self._trusted = 0  # the one that a round begins with: it worked last
        self._failures = 0  # since the last progress
        self._idle_since: float | None = None  # None: nothing was tried yet
        self._last_dial = float("-inf")
        self._resume_until = float("-inf")
        self._grace = 0.0
        self._last = Failed(Kind.WAY)  # why the next try is made
        self._end = ""
        self._used = -1  # the transport that carried the session last (-1: none),
        self._used_since = 0.0  # through any number of connections,
        self._moved = False  # and whether it was moved to
        self._wasted = 0  # probes that failed, and moves that were taken back
        self._probed = 0  # the transport to probe
        self._probe_from = 0.0  # when the wait for the next probe began

    def __repr__(self) -> str:
        return f"<Choice {self._state.name} {self.transport} failures={self._failures}>"

    @property
    def transport(self) -> str:
        """The one in use, or to be tried next."""
        return self._transports[self._index]

    # -- the next try ------------------------------------------------------------------------------

    def next(self, now: float, jitter: float) -> Try | GiveUp:
        """The next try. Changes nothing."""
        if self._state is ChoiceState.OVER:
            return GiveUp(self._end)
        if self._state is not ChoiceState.IDLE:
            raise LocalProtocolError(f"cannot choose the next try while {self._state.name}")
        since = now if self._idle_since is None else self._idle_since
        when = max(since + self._delay(since, jitter), self._last_dial + self._limits.retry_first)
        return Try(self.transport, when, resume=when < self._resume_until, brief=self._is_brief)

    @property
    def _is_brief(self) -> bool:
        following = self._after(self._index)
        return following is not None and self._transports[following] not in self._guessed

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
        return _doubled(self._limits.retry_first, self._failures - 1, cap)

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
        elif failure.kind in (Kind.HANDSHAKE, Kind.BROKEN) or failure.code in _OTHER_WAY_CODES:
            self._last = replace(failure, retry_after=None) if self._after(self._index) is not None else failure
            self._try_next_transport()
        else:
            self._failures += 1

    def connected(self, grace: float, now: float) -> None:
        """The session is attached; its grant promises to keep it ``grace`` seconds after a loss."""
        self._advance("connect")
        self._grace = grace
        if self._index != self._used:
            if self._moved and self._index > self._used:
                self._wasted += 1
            self._use(now, moved=False)

    def lost(self, now: float, *, progressed: bool, bye: str | None = None) -> None:
        """The connection ended, or the one that the session was moving to did not take it.

        ``progressed``: an offset was acknowledged, either way, or a ping answered: the connection was worth
        something. ``bye``: the code that ended the session with it, if that is so.
        """
        if bye in TERMINAL_CODES:
            self._finish(str(bye))
            return
        state = self._state
        self._advance("lose")
        self._idle_since = now
        self._last = Failed(Kind.WAY)
        if progressed:
            self._failures = 0
        self._choose_after_loss(state, now - self._used_since, progressed=progressed)
        self._judge_probe(state, now)
        if bye is None:
            self._resume_until = now + self._grace
        else:
            self._forget_session()

    # -- better transports -------------------------------------------------------------------------

    def next_probe(self, jitter: float) -> Probe | None:
        """The next look for a better transport; None when the best is in use, or the session cannot move. Changes
        nothing."""
        if self._state is not ChoiceState.CONNECTED:
            raise LocalProtocolError(f"cannot choose the next probe while {self._state.name}")
        if self._index == 0 or not self._grace:
            return None
        # Better ones are probed one after the other; a wait follows the last of them.
        wait = self._probe_wait() * (1 + jitter) / 2 if self._probed == 0 else 0.0
        return Probe(self._transports[self._probed], self._probe_from + wait)

    def probing(self) -> None:
        """The probe is dialled. A loss of the connection in use makes it void."""
        self._advance("probe")

    def probe_failed(self, now: float) -> None:
        self._advance("fail probe")
        self._probed += 1
        if self._probed == self._index:
            self._waste(now)

    def moving(self) -> None:
        """The probe carried a round trip, and ATTACH goes out on it: the connection in use is about to end."""
        self._advance("begin to move")

    def moved(self, now: float) -> None:
        """ATTACH was answered: the session goes on over the transport that was probed."""
        self._advance("move")
        self._failures = 0
        self._trusted, self._index = self._index, self._probed
        self._use(now, moved=True)

    def _probe_wait(self) -> float:
        return _doubled(self._limits.probe_first, self._wasted, self._limits.probe_cap)

    def _waste(self, now: float) -> None:
        self._wasted += 1
        self._wait_for_probe(now)

    def _wait_for_probe(self, now: float) -> None:
        self._probed = 0
        self._probe_from = now

    def _use(self, now: float, *, moved: bool) -> None:
        self._used, self._used_since, self._moved = self._index, now, moved
        self._wait_for_probe(now)

    def _choose_after_loss(self, state: ChoiceState, lasted: float, *, progressed: bool) -> None:
        if self._moved and lasted < self._probe_wait():
            self._index = self._trusted  # the one of before worked
        elif progressed:
            self._trusted = self._index
        elif state is not ChoiceState.MOVING:
            self._try_next_transport()
        if self._used == 0 and lasted >= self._limits.probe_cap:
            self._wasted, self._moved = 0, False

    def _judge_probe(self, state: ChoiceState, now: float) -> None:
        """The connection in use was lost during a probe, or with the one that it was to move to."""
        if state is ChoiceState.PROBING:
            self._wait_for_probe(now)
        elif state is ChoiceState.MOVING:
            self._waste(now)

    # -- inside ------------------------------------------------------------------------------------

    def _after(self, index: int) -> int | None:
        """The transport that follows in this round; None when the round is over."""
        following = (index + 1) % len(self._transports)
        return None if following == self._trusted else following

    def _try_next_transport(self) -> None:
        following = self._after(self._index)
        if following is None:
            self._failures += 1
            following = self._trusted
        self._index = following

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


def _doubled(first: float, times: int, cap: float) -> float:
    return float(min(cap, first * 2 ** min(times, _MAX_DOUBLINGS)))
