"""One long-poll connection at the server: what its requests, the link above it and its one timer do to each other.

The state machines decide (``polls``, ``posts``); this joins them to events and a clock. Requests
are carried by tasks of their own (``server``), which register here and are woken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

import anyio
from anyio.lowlevel import checkpoint

from ...config import Limits
from ...errors import ConnectionLost, LocalProtocolError
from ...net.loop import loop_clock
from ...net.timers import Timer, Timers
from ...proof import Prover
from ..answers import Answer
from ..base import TURN
from .polls import Poll, Polls
from .posts import Post, Posts
from .wire import Asked, closed_answer, lost_in_order, refused

__all__ = ["CLOSE_TIMEOUT", "UNKNOWN", "ServerConnection"]

CLOSE_TIMEOUT = 1.0  # for what was taken to arrive, and the next poll to be told

UNKNOWN: Final = refused(410, "unknown_connection", "no such connection here: open another")

_NORMAL: Final = 1000


class ServerConnection:
    """A ``Connection``. ``forget`` is called once, when no request belongs to it any more."""

    transport = "longpoll"
    ordered = False
    wants_pings = False
    turn = TURN  # it makes no difference

    def __init__(
        self, connection_id: str, prover: Prover, limits: Limits, timers: Timers, forget: Callable[[str], None]
    ) -> None:
        self.id = connection_id
        self.prover = prover
        self.max_message = limits.poll_body
        self.at_once: int | None = 1  # a poll's answer, until the next poll is here
        self.probes = 0  # the number of the last probe
        self._timers = timers
        self._forget = forget
        self._now = loop_clock()
        self._heard = now = self._now()
        self._polls = Polls(limits, now)
        self._posts = Posts(limits.early_post_limit)
        self._is_active = False
        self._lost: ConnectionLost | None = None
        self._closing = False
        self._peer_closed = False
        self._over = False  # forgotten
        self._timer: Timer | None = None
        self._sender: anyio.Event | None = None  # waits for a poll, or for the close to be told
        self._receiver: anyio.Event | None = None  # waits for a message
        self._take: Callable[[bytes], None] | None = None  # who is given each as it comes
        self._failure: Exception | None = None  # of theirs
        self._rearm()

    def __repr__(self) -> str:
        return f"<ServerConnection longpoll {'lost' if self._lost else 'open'}>"

    # -- for the link --------------------------------------------------------------------------

    async def ready(self) -> int:
        """Wait until a poll waits for a message."""
        while True:
            self._check()
            if self._polls.ready:
                return self.max_message
            await self._wait_to_send()

    async def send(self, message: bytes) -> None:
        if not 0 < len(message) <= self.max_message:  # an empty body is a ping, or a hold that is over
            raise LocalProtocolError(
                f"a message of {len(message)} bytes, from 1 to at most {self.max_message} may be sent",
                code="message_too_big" if message else "message_empty",
            )
        await self.ready()  # the poll that was ready may have gone since
        self._polls.answer(message)

    def room_now(self) -> int:
        return self.max_message if self._polls.ready and self._lost is None else 0

    def send_now(self, message: bytes) -> None:
        self._polls.answer(message)  # which makes nothing due sooner than it was

    async def receive_into(self, take: Callable[[bytes], None]) -> NoReturn:
        while (message := self._posts.next_message()) is not None:
            take(message)
            await checkpoint()
        self._take = take
        try:
            while self._failure is None:
                self._check()
                await self._wait_to_receive()
            failure, self._failure = self._failure, None
            try:
                raise failure
            finally:
                del failure  # its traceback has this frame
        finally:
            self._take = None

    async def receive(self) -> bytes:
        while True:
            message = self._posts.next_message()
            if message is not None:
                return message
            self._check()
            await self._wait_to_receive()

    @property
    def last_received(self) -> float:
        return self._heard

    @property
    def active(self) -> bool:
        return self._is_active

    @active.setter
    def active(self, active: bool) -> None:
        self._is_active = active
        if self._polls.set_active(active, self._now()):
            self._rearm()

    async def aclose(self, code: int = _NORMAL, reason: str = "") -> None:
        if self._closing:
            return
        if self._lost is not None:
            self.abort()
            return
        self._closing = True
        farewell = closed_answer(code, reason)
        self._lose(ConnectionLost("closed at this end"), farewell)
        self._polls.close(farewell)
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                while not self._peer_closed and not self._polls.told and self._polls.lost is None:
                    await self._wait_to_send()
        finally:
            self.abort()

    def abort(self) -> None:
        if self._over:
            return
        self._over = True
        self._lose(ConnectionLost("aborted at this end"), UNKNOWN)
        self._polls.end(UNKNOWN)
        self._forget(self.id)

    # -- for requests --------------------------------------------------------------------------

    def poll_arrived(self, asked: Asked, wake: Callable[[], None]) -> Poll | None:
        """None when the number is out of the window. Give it to ``poll_left`` in the end."""
        now = self._heard = self._now()
        poll = self._polls.arrive(asked.number, asked.hold, now, stream=asked.stream, wake=wake)
        if poll is not None:
            self.at_once = None if poll.stream else 1
        self._polls_changed()
        return poll

    def poll_written(self, poll: Poll, size: int) -> None:
        """See ``Polls.written``."""
        self._polls.written(poll, size, self._now())
        self._polls_changed()

    def poll_left(self, poll: Poll, *, complete: bool) -> None:
        """See ``Polls.leave``."""
        self._polls.leave(poll, self._now(), complete=complete)
        self._polls_changed()

    def post_arrived(self, asked: Asked, wake: Callable[[], None]) -> Post | None:
        """None when the number is out of the window. Give it to ``post_left`` in the end."""
        self.heard()
        return self._posts.arrive(asked.number, asked.length, wake)

    def post_read(self, post: Post, message: bytes) -> None:
        self.heard()
        take = self._take
        hungry = take is not None or (self._receiver is not None and not self._receiver.is_set())
        self._posts.whole(post, message, hungry=hungry)
        if take is None:
            self._ring_receiver()
        else:
            self._hand_up(take)

    def _hand_up(self, take: Callable[[bytes], None]) -> None:
        """In the post's own task: to wake another for it would cost a turn of the loop."""
        try:
            while (message := self._posts.next_message()) is not None:
                take(message)
        except Exception as error:
            self._take = None
            self._failure = error
            self._ring_receiver()

    def post_left(self, post: Post) -> None:
        self._posts.leave(post)

    def heard(self) -> None:
        """A byte came."""
        self._heard = self._now()
        self._polls.heard(self._heard)

    def peer_closed(self, code: int, reason: str) -> None:
        """What came whole before is still given to the link, which then hears of it. Nobody will poll again."""
        self._peer_closed = True
        answer = closed_answer(code, reason)
        self._lose(lost_in_order(code, reason), answer, keep=True)
        self._polls.close(answer)
        self._polls.end(answer)

    # -- time ----------------------------------------------------------------------------------

    def _rearm(self) -> None:
        """One timer, set anew only for something earlier: else it looks again when it strikes."""
        due = float("inf") if self._lost is not None else self._polls.due
        timer = self._timer
        if timer is not None and timer.active:
            if due >= timer.when:
                return
            timer.cancel()
        self._timer = self._timers.at(due, self._strike) if due < float("inf") else None

    def _strike(self) -> None:
        now = self._now()
        if self._posts.reading:  # a client whose post is on its way is not silent; how slow it may be is HTTP's rule
            self._polls.heard(now)
        self._polls.expire(now)
        self._polls_changed()

    # -- inside --------------------------------------------------------------------------------

    def _polls_changed(self) -> None:
        if self._polls.lost is not None and self._lost is None:
            self._lose(ConnectionLost(self._polls.lost), UNKNOWN)
            self.abort()
        self._rearm()
        self._ring_sender()

    def _lose(self, why: ConnectionLost, refusal: Answer, *, keep: bool = False) -> None:
        """The connection is over for the link. The first reason stands."""
        self._lost = self._lost or why
        self._posts.end(refusal, keep=keep)
        if self._timer is not None:
            self._timer.cancel()
        self._ring_sender()
        self._ring_receiver()

    async def _wait_to_send(self) -> None:
        bell = self._sender = anyio.Event()
        try:
            await bell.wait()
        finally:
            if self._sender is bell:  # and not that of a close, which began meanwhile
                self._sender = None

    async def _wait_to_receive(self) -> None:
        self._receiver = anyio.Event()
        try:
            await self._receiver.wait()
        finally:
            self._receiver = None

    def _ring_sender(self) -> None:
        if self._sender is not None:
            self._sender.set()

    def _ring_receiver(self) -> None:
        if self._receiver is not None:
            self._receiver.set()

    def _check(self) -> None:
        """A fresh one for every call: a raised exception collects its tracebacks."""
        if self._lost is not None:
            raise ConnectionLost(self._lost.reason, clean=self._lost.clean, code=self._lost.code)
