"""The way up at the server, sans-IO: which post may be read, when it is answered, and what is dropped.

A post is answered once the session has *taken* its message: that is the backpressure. Posts come in any order and
any number of times; each message is handed up once, in the order in which they came whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from .answers import Answer
from .longpoll_wire import POST_WINDOW

__all__ = ["Post", "Posts", "State"]


class State(Enum):
    """Of one request."""

    QUEUED = auto()  # there is no room for its body
    READING = auto()
    WAITING = auto()  # for its number to be taken, whichever request brought it
    TAKEN = auto()  # to be answered
    REFUSED = auto()


class Post:
    """One request. ``reserved`` bytes of room are its own: where there are any, its body is to be read."""

    __slots__ = ("length", "number", "refusal", "reserved", "state", "wake")

    def __init__(self, number: int, length: int, wake: Callable[[], None]) -> None:
        self.number = number
        self.length = length
        self.state = State.QUEUED
        self.reserved = 0
        self.refusal: Answer | None = None
        self.wake = wake  # whoever answers the request

    @property
    def settled(self) -> bool:
        return self.state in (State.TAKEN, State.REFUSED)


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
        self.held = 0  # bytes

    # -- requests ------------------------------------------------------------------------------

    def arrive(self, number: int, length: int, wake: Callable[[], None]) -> Post | None:
        """A post came; None when its number is out of the window."""
        if number >= self._floor + POST_WINDOW:
            return None
        post = Post(number, length, wake)
        self._open.add(post)
        if self._is_taken(number):
            post.state = State.TAKEN
            self._reserve(post)
        elif number in self._whole:
            post.state = State.WAITING
            self._reserve(post)
        elif not length:
            self._take(number)  # a sign of life, and nothing to hand up
            post.state = State.TAKEN
        else:
            self._take_place(post)
        return post

    def _take_place(self, post: Post) -> None:
        """The newest request for a number is the one that is read: an older one may be stuck for good."""
        older = self._readers.get(post.number)
        self._readers[post.number] = post
        if older is not None:
            self._release(older)
            older.state = State.WAITING
            older.wake()
        self._queue.append(post)
        self._admit()

    def whole(self, post: Post, message: bytes, *, hungry: bool) -> None:
        """Its body was read. ``hungry``: somebody waits for just this, so that it is as good as taken."""
        if post.state is not State.READING:
            self._release(post)  # a repeat's body, which only had to come out of the way
            return
        number = post.number
        del self._readers[number]
        post.reserved = 0  # the room is the message's now
        post.state = State.WAITING
        self._arrived.append((number, message))
        if hungry:
            self._take(number)
        else:
            self._whole.add(number)

    def leave(self, post: Post) -> None:
        """A request is over, whatever became of it."""
        self._open.discard(post)
        if self._readers.get(post.number) is post:
            del self._readers[post.number]
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
                post.state = State.TAKEN
                post.wake()

    # -- room ----------------------------------------------------------------------------------

    def _reserve(self, post: Post) -> bool:
        if self.held and self.held + post.length > self._limit:
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
            post = queue[0]
            if self._readers.get(post.number) is post:
                if not self._reserve(post):
                    return
                post.state = State.READING
                post.wake()
            queue.popleft()

    # -- the end -------------------------------------------------------------------------------

    def end(self, refusal: Answer, *, keep: bool) -> None:
        """Nothing is taken any more; ``keep``: what came whole may still be handed up."""
        if not keep:
            self._arrived.clear()
        for post in self._open:
            if post.state is not State.TAKEN:
                post.state = State.REFUSED
                post.refusal = refusal
                post.wake()
