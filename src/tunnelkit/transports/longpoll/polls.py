"""The way down at the server, sans-IO: which poll waits, what it is answered, and what of that is kept for a repeat.

One poll at a time is *current*: the newest number that came. Its request may have come several times, since a
client repeats what it had no answer to; what it gets is the same each time. ``docs/wire-format.md`` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from math import inf
from typing import Final

from ...config import Limits
from ...errors import LocalProtocolError
from ..answers import Answer
from .wire import KEEP_ALIVE_IDLE, STREAM_BYTES, STREAM_TIME, refused

__all__ = ["Poll", "Polls", "State"]


class State(Enum):
    """Of the current poll."""

    __hash__ = object.__hash__  # its own is a call of Python's

    ABSENT = auto()  # none came yet, or whoever asked went away before there was an answer
    HELD = auto()
    ANSWERED = auto()  # the answer is kept, and repeated, until the next poll shows that it arrived
    STREAMING = auto()
    STREAMED = auto()  # its end is being written, or was
    LOST = auto()  # what a streamed answer carried may not have arrived: the connection fails as a whole


class _Move(Enum):
    __hash__ = object.__hash__

    NEXT = auto()
    NEXT_STREAM = auto()
    REPEAT = auto()
    REPEAT_STREAM = auto()
    ANSWER = auto()
    LEAVE = auto()  # whoever asked went away
    END = auto()  # of a streamed answer, in order


_NEXTS: Final = {False: _Move.NEXT, True: _Move.NEXT_STREAM}
_REPEATS: Final = {False: _Move.REPEAT, True: _Move.REPEAT_STREAM}
_ARRIVALS: Final = (*_NEXTS.values(), *_REPEATS.values())

_TABLE: Final[dict[tuple[State, _Move], State]] = {
    **{(state, _Move.NEXT): State.HELD for state in State},
    **{(state, _Move.NEXT_STREAM): State.STREAMING for state in State},
    (State.ABSENT, _Move.REPEAT): State.HELD,
    (State.ABSENT, _Move.REPEAT_STREAM): State.STREAMING,
    (State.HELD, _Move.REPEAT): State.HELD,
    (State.HELD, _Move.REPEAT_STREAM): State.STREAMING,
    (State.HELD, _Move.ANSWER): State.ANSWERED,
    (State.HELD, _Move.LEAVE): State.ABSENT,
    (State.ANSWERED, _Move.REPEAT): State.ANSWERED,
    (State.ANSWERED, _Move.REPEAT_STREAM): State.ANSWERED,
    (State.STREAMING, _Move.ANSWER): State.STREAMING,
    (State.STREAMING, _Move.END): State.STREAMED,
    # A stream has no answer that could be given again.
    **{
        (state, move): State.LOST
        for state in (State.STREAMING, State.STREAMED)
        for move in (_Move.REPEAT, _Move.REPEAT_STREAM, _Move.LEAVE)
    },
    # What still comes for it is told its end by the connection.
    **{(State.LOST, move): State.LOST for move in (*_ARRIVALS, _Move.LEAVE)},
}

_REPLACED: Final = refused(409, "poll_replaced", "the same poll came again, and waits in place of this one")


class Poll:
    """One request that waits for an answer: it is *settled* when it has an ``answer`` or a ``refusal``.

    A streamed one has instead what is to be written next: a ``message``, a ``keep_alive``, and at last the ``end``.
    """

    __slots__ = (
        "answer",
        "due",
        "end",
        "keep_alive",
        "message",
        "number",
        "refusal",
        "sent",
        "stream",
        "until",
        "wake",
    )

    def __init__(self, number: int, *, stream: bool, wake: Callable[[], None]) -> None:
        self.number = number
        self.stream = stream
        self.wake = wake  # whoever answers the request
        self.answer: bytes | None = None
        self.refusal: Answer | None = None
        self.due = inf  # when it is answered though there is nothing; streamed: the next keep-alive
        self.until = inf  # when a streamed answer ends
        self.message: bytes | None = None
        self.keep_alive = False
        self.end = False
        self.sent = 0  # bytes of a streamed answer

    @property
    def settled(self) -> bool:
        return self.answer is not None or self.refusal is not None

    @property
    def has_output(self) -> bool:
        """Of a streamed one: there is something to write."""
        return self.message is not None or self.keep_alive or self.end or self.refusal is not None

    def give(self, answer: bytes) -> None:
        if not self.settled:
            self.answer = answer
            self.wake()

    def refuse(self, refusal: Answer) -> None:
        if not self.settled:
            self.refusal = refusal
            self.wake()

    def finish(self) -> None:
        self.end = True
        self.wake()


class Polls:
    """Of one connection. ``lost`` says why it is to be given up, once it is."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self.state = State.ABSENT
        self.lost: str | None = None
        self._number = 0
        self._current: Poll | None = None
        self._kept = b""  # the answer to it
        self._open: set[Poll] = set()
        self._absent_since = now
        self._heard = now  # the client, by whatever request
        self._active = False
        self._farewell: Answer | None = None
        self._told = False  # somebody was given the farewell

    # -- requests ------------------------------------------------------------------------------

    def arrive(self, number: int, hold: float, now: float, *, stream: bool, wake: Callable[[], None]) -> Poll | None:
        """A poll came, which may be held for ``hold`` seconds; None when its number is out of the window.

        A repeat whose answer is kept is settled at once. What waited before is released, or replaced."""
        self._heard = now
        repeat = number == self._number
        if not repeat and number != self._number + 1:
            return None
        poll = Poll(number, stream=stream, wake=wake)
        self._open.add(poll)
        self._move(_REPEATS[stream] if repeat else _NEXTS[stream])
        if self.state is State.LOST:
            self._lose("a streamed answer was asked for again")
        elif self.state is State.ANSWERED:
            poll.stream = False
            poll.give(self._kept)
        else:
            self._take_place(poll, repeat)
            self._begin(poll, hold, now)
        return poll

    def _take_place(self, poll: Poll, repeat: bool) -> None:
        older, self._current = self._current, poll
        self._number = poll.number
        self._kept = b""
        if older is None:
            return
        if older.stream:
            older.finish()
        elif repeat:
            older.refuse(_REPLACED)
        else:
            older.give(b"")

    def _begin(self, poll: Poll, hold: float, now: float) -> None:
        if self._farewell is not None:
            self._told = True
            poll.refuse(self._farewell)
        elif poll.stream:
            poll.due = now + self._keep_alive_after
            poll.until = now + STREAM_TIME
        else:
            limits = self._limits
            poll.due = now + min(hold, limits.poll_hold_active if self._active else limits.poll_hold_idle)

    def leave(self, poll: Poll, now: float, *, complete: bool) -> None:
        """A request is over. ``complete``: its answer was written whole, as far as this end can know."""
        self._open.discard(poll)
        if not self._open:
            self._absent_since = now
        if poll.stream and not complete:
            self._break(poll)
        elif poll is self._current and self.state is State.HELD and not poll.settled:
            self._move(_Move.LEAVE)
            self._current = None

    def _break(self, poll: Poll) -> None:
        if poll is self._current:
            self._move(_Move.LEAVE)
        self._lose("a streamed answer broke off")

    # -- answers -------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """A message would be on its way at once."""
        if self.state is State.STREAMING:
            return self._current is not None and self._current.message is None
        return self.state is State.HELD and self._farewell is None

    def answer(self, message: bytes) -> None:
        """Only when ``ready``."""
        poll = self._current
        if poll is None or not self.ready:
            raise LocalProtocolError("no poll waits for a message")
        self._move(_Move.ANSWER)
        if poll.stream:
            poll.message = message
            poll.wake()
        else:
            self._kept = message
            poll.give(message)

    def written(self, poll: Poll, size: int, now: float) -> None:
        """So many bytes of a streamed answer are with the socket: the message, or a keep-alive."""
        poll.message = None
        poll.keep_alive = False
        poll.sent += size
        poll.due = now + self._keep_alive_after
        if poll.sent >= STREAM_BYTES:
            self._end_stream(poll)

    def _end_stream(self, poll: Poll) -> None:
        if poll is self._current and self.state is State.STREAMING:
            self._move(_Move.END)
        poll.finish()

    # -- time ----------------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """The client sent something else."""
        self._heard = now

    def set_active(self, active: bool, now: float) -> bool:
        """Exchanges run: the client is told so by the first of them, and counts anew from then on. Whether something
        may be due sooner now."""
        if active and not self._active:
            self._heard = max(self._heard, now)
        self._active = active
        if self._current is None or not self._current.stream:
            return False
        self._current.due = min(self._current.due, now + self._keep_alive_after)
        return True

    @property
    def _keep_alive_after(self) -> float:
        return self._limits.poll_hold_active if self._active else KEEP_ALIVE_IDLE

    @property
    def due(self) -> float:
        """When ``expire`` has something to do."""
        if self.lost is not None:
            return inf
        if not self._open:
            return self._absent_since + self._limits.poll_absence
        poll = self._current
        if poll is None or self.state not in (State.HELD, State.STREAMING):
            return inf
        return min(poll.due, poll.until, self._silent_at) if poll.stream else poll.due

    @property
    def _silent_at(self) -> float:
        """Beside a streamed answer, which may never end, the client gives signs of life."""
        return self._heard + self._keep_alive_after + self._limits.poll_absence

    def expire(self, now: float) -> None:
        """Do what is due."""
        if now < self.due:
            return
        if not self._open:
            self._lose("no poll came")
            return
        poll = self._current
        assert poll is not None  # it is what is due
        if not poll.stream:
            self._move(_Move.ANSWER)
            poll.give(b"")
        elif now >= self._silent_at:
            self._lose("the client fell silent")
        elif now >= poll.until:
            self._end_stream(poll)
        else:
            poll.due = inf  # until it is written
            poll.keep_alive = True
            poll.wake()

    # -- the end -------------------------------------------------------------------------------

    def close(self, farewell: Answer) -> None:
        """Close in order: behind what was taken, the next poll that waits is answered with ``farewell``."""
        self._farewell = farewell
        poll = self._current
        if poll is not None and self.state is State.HELD:
            self._told = True
            poll.refuse(farewell)
        elif poll is not None and self.state is State.STREAMING:
            self._end_stream(poll)

    @property
    def told(self) -> bool:
        """Somebody was told, and nobody is being answered any more."""
        return self._told and not self._open

    def end(self, refusal: Answer) -> None:
        """Whoever waits gets ``refusal``; a streamed answer breaks off."""
        for poll in self._open:
            poll.refuse(refusal)

    def _lose(self, why: str) -> None:
        self.lost = self.lost or why

    def _move(self, move: _Move) -> None:
        state = _TABLE.get((self.state, move))
        if state is None:
            raise LocalProtocolError(f"no {move.name} in state {self.state.name}")
        self.state = state
