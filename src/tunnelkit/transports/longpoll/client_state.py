"""What a long-poll client has out and how long it waits for it, sans-IO: ``now`` and chance come in as arguments.

A cut TCP connection is no lost connection: whatever was out is repeated, with the number it had, until it is too
late. Two times say when that is. ``quiet_until`` belongs to one attempt, ``give_up`` to the request: no attempt
begins after it. Bytes that pass are life, and move both.
"""

from __future__ import annotations

from math import inf
from typing import Final

from ...config import KIB, Limits
from .wire import KEEP_ALIVE_IDLE, POST_WINDOW

__all__ = ["LESSON_TIME", "Lessons", "Pending", "Polls", "Posts"]

# The first repeat goes at once: most likely a kept-alive connection was closed meanwhile. Then with full jitter.
_RETRY_FIRST: Final = 0.1
_RETRY_CAP: Final = 1.0

# Of a post: it is given up after as many times the answer timeout. Bytes of as many attempts put that off.
_TRIES: Final = 3

# A message of this size is no small one: the next need not wait for company.
_SMALL: Final = 32 * KIB
# Seconds that a small message waits while another is out, so that what comes meanwhile goes with it: a request costs
# ten times what a few frames do.
_GATHER: Final = 0.005

# The client's own signs of life beside a streamed answer, while no exchange runs. With the polls they stay below
# three requests a minute, and well within the server's patience (``KEEP_ALIVE_IDLE + poll_absence``).
_PING_IDLE: Final = 22.0

# What was learnt about the way counts for so long: networks change, and phones change theirs.
LESSON_TIME: Final = 600.0


class Lessons:
    """What the connections of one transport found out about the way, for those that follow."""

    def __init__(self) -> None:
        self._hold = inf
        self._hold_until = -inf
        self._strict_until = -inf

    def hold(self, now: float) -> float:
        """The longest that a poll should wait; infinite where nothing is known."""
        return self._hold if now < self._hold_until else inf

    def polls_are_cut(self, hold: float, now: float) -> None:
        self._hold, self._hold_until = hold, now + LESSON_TIME

    def may_stream(self, now: float) -> bool:
        """Whether it is time to find out if answers pass unbuffered."""
        return now >= self._strict_until

    def stay_strict(self, now: float) -> None:
        """Something holds answers back, or broke a streamed one off."""
        self._strict_until = now + LESSON_TIME


class Pending:
    """One request, from its first attempt until it is answered."""

    __slots__ = ("begun", "give_up", "moved", "moves", "number", "quiet_until", "tries")

    def __init__(self, number: int, now: float, patience: float) -> None:
        self.number = number
        self.begun = now
        self.give_up = now + patience
        self.quiet_until = inf  # between attempts
        self.tries = 0
        self.moved = False  # bytes passed on the last attempt
        self.moves = 0  # attempts of which that is true

    def attempt(self, now: float, patience: float) -> None:
        self.tries += 1
        self.moved = False
        self.quiet_until = min(now + patience, self.give_up)

    def progress(self, now: float, patience: float) -> None:
        """Bytes passed: this attempt may take its time, and should it break off there is some left for another,
        unless something breaks off each."""
        if not self.moved:
            self.moved = True
            self.moves += 1
        self.quiet_until = now + patience
        if self.moves <= _TRIES:
            self.give_up = max(self.give_up, self.quiet_until + patience / 2)

    def failed(self, now: float, chance: float, not_before: float = 0.0) -> float | None:
        """When to repeat it after the attempt failed; None when it is too late. ``chance`` is in [0, 1);
        ``not_before`` is a Retry-After, in seconds."""
        self.quiet_until = inf
        most = min(_RETRY_CAP, _RETRY_FIRST * 2 ** min(self.tries - 2, 10)) if self.tries > 1 else 0.0
        when = now + max(chance * most, not_before)
        return when if when < self.give_up else None


class Polls:
    """The way down: one poll is out at a time, and waits at the server for up to ``hold`` seconds."""

    def __init__(self, limits: Limits, lessons: Lessons, now: float) -> None:
        self._limits = limits
        self._lessons = lessons
        self._cap = lessons.hold(now)
        self._shortest = min(limits.poll_hold_active, limits.poll_hold_idle)
        self._busy = False  # the last answer carried something
        self._attempted = now
        self.hold = 0.0
        self.active = False  # exchanges run
        self.streamed = False
        self.pending = Pending(0, now, 0.0)

    @property
    def longest_hold(self) -> float:
        """How long a connection of this way may be quiet."""
        return max(self._shortest, min(self._cap, self._limits.poll_hold_idle))

    def begin(self, now: float, *, streamed: bool = False) -> Pending:
        """Poll n+1. It acknowledges the answer to n."""
        limits = self._limits
        wanted = limits.poll_hold_active if self.active or self._busy else limits.poll_hold_idle
        self.hold = min(wanted, self.longest_hold)
        self.streamed = streamed
        patience = self._silence if streamed else self.hold + limits.poll_answer_timeout
        self.pending = Pending(self.pending.number + 1, now, patience)
        return self.pending

    def attempt(self, now: float) -> None:
        """The poll goes out, again perhaps. The next attempt is made early enough for its answer to come in time,
        should the network swallow this one."""
        self._attempted = now
        patience = inf if self.streamed else self.left(now) + self._limits.poll_answer_timeout / 2
        self.pending.attempt(now, patience)

    def left(self, now: float) -> float:
        """Of the hold: the seconds that an attempt asks for."""
        return max(0.0, self.pending.begun + self.hold - now)

    def hurry(self, now: float) -> None:
        """Exchanges begin to run, which makes a streamed answer be watched closer."""
        self.pending.quiet_until = now + self._silence

    def progress(self, now: float) -> None:
        """Bytes of its answer came."""
        self.pending.progress(now, self._silence if self.streamed else self._limits.poll_answer_timeout)

    @property
    def _silence(self) -> float:
        """How long a streamed answer may be quiet."""
        limits = self._limits
        return (limits.poll_hold_active if self.active else KEEP_ALIVE_IDLE) + limits.poll_answer_timeout

    def answered(self, *, empty: bool) -> None:
        self._busy = not empty

    def cut(self, now: float) -> bool:
        """The poll died while it was held; whether the next ones are held for a shorter time because of that.

        What dies younger than the shortest hold died of something else.
        """
        if now - self._attempted < self._shortest or self.hold <= self._shortest:
            return False
        self._cap = max(self._shortest, self.hold / 2)
        self._lessons.polls_are_cut(self._cap, now)
        return True


class Posts:
    """The way up: bounded posts, a few at a time. ``now``: the opening was answered just then."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._most = limits.poll_posts
        self._patience = limits.poll_answer_timeout
        self._ping_silence = min(limits.poll_hold_active, _PING_IDLE), _PING_IDLE
        self._number = 0
        self._gather_until = -inf
        self._last_sent = now
        self._open: set[Pending] = set()  # begun, and not answered

    @property
    def out(self) -> int:
        """How many are not answered."""
        return len(self._open)

    def begin(self, size: int, now: float) -> Pending:
        self._number += 1
        self._last_sent = now
        self._gather_until = now + _GATHER if size < _SMALL else -inf
        return self._opened(Pending(self._number, now, self._patience * _TRIES))

    def close(self, now: float, patience: float) -> Pending:
        """The request that closes the connection, which follows the posts."""
        return self._opened(Pending(1, now, patience))

    def _opened(self, post: Pending) -> Pending:
        self._open.add(post)
        return post

    def attempt(self, post: Pending, now: float) -> None:
        post.attempt(now, self._patience)

    def progress(self, post: Pending, now: float) -> None:
        """Bytes of it were taken."""
        post.progress(now, self._patience)

    def answered(self, post: Pending) -> None:
        self._open.discard(post)

    @property
    def next_at(self) -> float:
        """When the next may go out, unless one is answered before: a time that may be past; infinite while as many
        as there may be are out, or one is behind which the server takes no more: others may have passed it."""
        if not self._open:
            return -inf
        if len(self._open) >= self._most or self._number + 1 >= POST_WINDOW + min(post.number for post in self._open):
            return inf
        return self._gather_until

    def ping_at(self, *, active: bool) -> float:
        """When an empty post is due as a sign of life, while a streamed answer leaves the way up quiet."""
        return inf if self.out else self._last_sent + self._ping_silence[0 if active else 1]
