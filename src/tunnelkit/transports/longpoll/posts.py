"""The way up at the server, sans-IO: which post may be read, when it is answered, and what is dropped.

A post is answered once the session has *taken* its message: that is the backpressure. Posts come in any order and
any number of times; each message is handed up once, in the order in which they came whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from ...errors import LocalProtocolError
from ..answers import Answer
from .wire import POST_WINDOW

__all__ = ["Post", "Posts", "State"]


class State(Enum):
    """Of one request."""

    __hash__ = object.__hash__  # its own is a call of Python's

    QUEUED = auto()  # there is no room for its body
    READING = auto()
    WAITING = auto()  # for its number to be taken, whichever request brought it
    TAKEN = auto()  # to be answered
    REFUSED = auto()


class _Move(Enum):
    __hash__ = object.__hash__

    ADMIT = auto()
    PASS_OVER = auto()  # its message came, or comes, by another request
    WHOLE = auto()
    TAKE = auto()
    END = auto()  # of the connection


_TABLE: Final[dict[tuple[State, _Move], State]] = {
    (State.QUEUED, _Move.ADMIT): State.READING,
    (State.QUEUED, _Move.PASS_OVER): State.WAITING,
    (State.READING, _Move.PASS_OVER): State.WAITING,
    (State.READING, _Move.WHOLE): State.WAITING,
    (State.WAITING, _Move.TAKE): State.TAKEN,
    **{(state, _Move.END): State.REFUSED for state in (State.QUEUED, State.READING, State.WAITING)},
    # What is settled stays so.
    **{(state, _Move.END): state for state in (State.TAKEN, State.REFUSED)},
}


class Post:
    """One request. ``reserved`` bytes of room are its own: while there are any, its body is to be read.

    ``wake`` is called when one of the two changes, and may be called for nothing.
    """

    __slots__ = ("length", "number", "refusal", "reserved", "state", "wake")

    def __init__(self, number: int, length: int, wake: Callable[[], None]) -> None:
        self.number = number
        self.length = length
        self.state = State.QUEUED
        self.reserved = 0
        self.refusal: Answer | None = None
        self.wake = wake

    @property
    def settled(self) -> bool:
        return self.state in (State.TAKEN, State.REFUSED)

    def move(self, move: _Move) -> None:
        state = _TABLE.get((self.state, move))
        if state is None:
            raise LocalProtocolError(f"no {move.name} in state {self.state.name}")
        if state is not self.state:
            self.state = state
            self.wake()


class Posts:
    """Of one connection. ``limit`` bytes of bodies are held, or may be coming in; one always may."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._floor = 1  # the lowest number that was not taken
        self._taken: set[int] = set()  # above it
        self._readers: dict[int, Post] = {}  # at most one a number: READING or QUEUED
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._whole: set[int] = set()  # numbers that came whole and were not taken
        self._queue: deque[Post] = deque()
        self._open: set[Post] = set()
        self._refusal: Answer | None = None  # for whoever comes after the end
        self.held = 0  # bytes

    @property
    def reading(self) -> bool:
        """Bodies are on their way, or wait for room."""
        return bool(self._readers)

    # -- requests ------------------------------------------------------------------------------

    def arrive(self, number: int, length: int, wake: Callable[[], None]) -> Post | None:
        """A post came; None when its number is out of the window."""
        if number >= self._floor + POST_WINDOW:
            return None
        post = Post(number, length, wake)
        self._open.add(post)
        if self._refusal is not None:
            post.refusal = self._refusal
            post.move(_Move.END)
        elif self._is_taken(number) or number in self._whole:
            post.move(_Move.PASS_OVER)
            self._reserve(post, self._limit // 2)  # its body only has to come out of the way
            if number not in self._whole:
                post.move(_Move.TAKE)
        elif not length:
            self._replace(number)  # by nothing: what is left of it is not handed up behind what was answered
            post.move(_Move.PASS_OVER)
            self._take(number)  # a sign of life, and nothing to hand up
        else:
            self._take_place(post)
        return post

    def _take_place(self, post: Post) -> None:
        """The newest request for a number is the one that is read: an older one may be stuck for good."""
        self._replace(post.number)
        self._readers[post.number] = post
        self._queue.append(post)
        self._admit()

    def _replace(self, number: int) -> None:
        older = self._readers.get(number)
        if older is not None:
            self._dismiss(older)
            older.move(_Move.PASS_OVER)

    def _dismiss(self, reader: Post) -> None:
        """Who is in the queue is a reader, so that it is no longer than the window, however often posts come."""
        del self._readers[reader.number]
        if reader.state is State.QUEUED:
            self._queue.remove(reader)
        self._release(reader)

    def whole(self, post: Post, message: bytes, *, hungry: bool) -> None:
        """Its body was read. ``hungry``: somebody waits for just this, so that it is as good as taken."""
        if post.state is not State.READING:
            self._release(post)
            self._admit()
            return
        number = post.number
        del self._readers[number]
        post.reserved = 0  # the room is the message's now
        post.move(_Move.WHOLE)
        self._arrived.append((number, message))
        if hungry:
            self._take(number)
        else:
            self._whole.add(number)

    def leave(self, post: Post) -> None:
        """A request is over, whatever became of it."""
        self._open.discard(post)
        if self._readers.get(post.number) is post:
            self._dismiss(post)
        self._release(post)
        self._admit()

    def next_message(self) -> bytes | None:
        """Hand one up."""
        if not self._arrived:
            return None
        number, message = self._arrived.popleft()
        self.held -= len(message)
        if number in self._whole:
            self._whole.discard(number)
            self._take(number)
        self._admit()
        return message

    # -- numbers -------------------------------------------------------------------------------

    def _is_taken(self, number: int) -> bool:
        return number < self._floor or number in self._taken

    def _take(self, number: int) -> None:
        self._taken.add(number)
        while self._floor in self._taken:
            self._taken.discard(self._floor)
            self._floor += 1
        for post in self._open:
            if post.number == number and post.state is State.WAITING:
                post.move(_Move.TAKE)

    # -- room ----------------------------------------------------------------------------------

    def _reserve(self, post: Post, limit: int) -> bool:
        if self.held and self.held + post.length > limit:
            return False
        post.reserved = post.length
        self.held += post.length
        return True

    def _release(self, post: Post) -> None:
        self.held -= post.reserved
        post.reserved = 0

    def _admit(self) -> None:
        """Let those read for whom there is room now, in the order in which they came."""
        queue = self._queue
        while queue:
            if not self._reserve(queue[0], self._limit):
                return
            queue.popleft().move(_Move.ADMIT)

    # -- the end -------------------------------------------------------------------------------

    def end(self, refusal: Answer, *, keep: bool) -> None:
        """Nothing is taken any more; ``keep``: what came whole may still be handed up."""
        self._refusal = refusal
        self._queue.clear()
        self._readers.clear()
        if not keep:
            self.held -= sum(len(message) for _, message in self._arrived)
            self._arrived.clear()
        for post in self._open:
            self._release(post)
            post.refusal = refusal
            post.move(_Move.END)
