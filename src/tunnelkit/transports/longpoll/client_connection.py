"""A long-poll connection as its client sees it.

The polls run inline in ``receive``: poll n+1 is on its way before message n is returned, so a message down costs one
wake-up. ``send`` hands a message to a lane, which writes it out at once; the lane's worker wakes once more, for the
answer. A timekeeper sleeps to the first time by which something must have happened, and a probe, once, finds out
whether answers can be streamed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, NoReturn

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ...config import Limits
from ...errors import ConnectionLost, LocalProtocolError
from ..base import TURN
from .client_call import Call
from .client_courier import Courier
from .client_lane import Lane
from .client_poll import Poll
from .client_probe import passes_unbuffered
from .client_requests import Requests
from .client_state import Lessons, Pending, Polls, Posts
from .wire import Op, close_fields

__all__ = ["CLOSE_TIMEOUT", "ClientConnection"]

logger = logging.getLogger("tunnelkit.client")

CLOSE_TIMEOUT = 1.0  # for the posts that are out, and the close, together

# Messages sent without a wait, after which the other tasks get their turn, and cancellation its chance.
_TURNS: Final = 16

# Bytes of a message that is given before the next poll leaves.
_SMALL: Final = 1024

_NORMAL: Final = 1000


class ClientConnection:
    """A ``Connection``. ``call`` is what the opening went over. ``streams``: answers are streamed from the first one
    on; ``probes``: once it is known that they can be. What it starts in ``tasks`` ends with it."""

    transport = "longpoll"
    ordered = False
    wants_pings = False
    turn = TURN  # it makes no difference

    def __init__(
        self,
        requests: Requests,
        call: Call,
        *,
        limits: Limits,
        lessons: Lessons,
        tasks: TaskGroup,
        streams: bool = False,
        probes: bool = False,
    ) -> None:
        self._now = requests.now
        now = self._now()
        self.max_message = limits.poll_body
        self.at_once: int | None = limits.poll_posts
        self._requests = requests
        self._limits = limits
        self._lessons = lessons
        self._tasks = tasks
        self._streams = streams
        self._probes = probes and lessons.may_stream(now)
        self._polls = Polls(limits, lessons, now)
        self._posts = Posts(limits, now)
        self._poll = Poll(self, requests, self._polls, lessons, call)
        self._lanes: list[Lane] = []
        self._lost: ConnectionLost | None = None
        self._closed = False
        self._over = False  # the lanes have ended too
        self._news: anyio.Event | None = None  # for whoever waits for a lane
        self._alarm = anyio.Event()
        self._due = inf  # what the timekeeper sleeps to
        self._timekeeper = anyio.CancelScope()
        self._probing = anyio.CancelScope()
        self._turns = 0
        self._take: Callable[[bytes], None] | None = None  # who is given all that comes
        self._turn_ends = 0.0  # when the others are to have theirs
        self._next_poll()
        self._start(self._keep_time)

    def __repr__(self) -> str:
        state = "lost" if self._lost else "streamed" if self._streams else "strict"
        return f"<ClientConnection longpoll {state}>"

    @property
    def active(self) -> bool:
        return self._polls.active

    @active.setter
    def active(self, value: bool) -> None:
        if value and not self._polls.active:
            self._polls.active = True
            if self._polls.streamed and self._poll.busy:
                self._polls.hurry(self._now())
                self.watch(min(self._poll.due, self._ping_at))
        self._polls.active = value

    # -- receiving -----------------------------------------------------------------------------

    async def receive(self) -> bytes:
        poll = self._poll
        while True:
            self._check()
            message = poll.step()
            if not poll.busy:
                self._answered(message)
            if message:
                return message
            if message is None:
                await poll.wait()

    async def receive_into(self, take: Callable[[bytes], None]) -> NoReturn:
        self._take = take
        try:
            while True:
                self._turn_ends = self._now() + TURN
                self._check()
                if self._take_messages(take):
                    await self._poll.wait(self._take_all)
                else:
                    await checkpoint()
        finally:
            self._take = None

    def _take_messages(self, take: Callable[[bytes], None]) -> bool:
        """Give all messages that are here. False: their turn is over, and there may be more."""
        poll = self._poll
        while self._lost is None:
            message = poll.step()
            # What is small is worked on before the next poll leaves: a caller waits for that.
            if not (poll.busy or (message and len(message) <= _SMALL)):
                self._answered(message)
            if message is None:
                break
            try:
                if message:
                    take(message)
            finally:
                self._handled(message)
            if self._now() >= self._turn_ends:
                return False
        return True

    def _take_all(self) -> bool:
        """Bytes came while the receiver waits. True: it can wait on."""
        if self._take is None or self._probes:  # a task is begun by a task
            return False
        self._turn_ends = self._now() + TURN
        return self._take_messages(self._take) and self._lost is None and self._poll.rests

    def _handled(self, message: bytes) -> None:
        """And whoever did so may have ended the connection."""
        if not self._poll.busy and self._lost is None:
            self._answered(message)

    def _answered(self, message: bytes | None) -> None:
        """The poll was."""
        self._polls.answered(empty=not message)
        self._next_poll()
        self._probe_once()

    def _next_poll(self) -> None:
        self._poll.carry(self._polls.begin(self._now(), streamed=self._streams))

    @property
    def last_received(self) -> float:
        return max([self._poll.heard, *(lane.heard for lane in self._lanes)])

    # -- sending -------------------------------------------------------------------------------

    async def ready(self) -> int:
        """Wait until a post may go out: at once where none is, else when one is answered, or when there was time
        enough for what belongs together to come together."""
        self._turns += 1
        if self._turns > _TURNS:
            self._turns = 0
            await checkpoint()
        while True:
            self._check()
            when = self._posts.next_at
            if when <= self._now():
                return self.max_message
            await self._wait_for_news(when)

    async def send(self, message: bytes) -> None:
        self._check()
        if not 0 < len(message) <= self.max_message:  # an empty body is a ping, or a hold that is over
            raise LocalProtocolError(
                f"a message of {len(message)} bytes, from 1 to at most {self.max_message} may be sent",
                code="message_too_big" if message else "message_empty",
            )
        while self._posts.next_at == inf:
            await self._wait_for_news(inf)
            self._check()
        self._post(message)

    def room_now(self) -> int:
        lane = self._lanes[0] if self._lanes else None
        waits = self._lost is not None or lane is None or not lane.can_take or self._posts.next_at > self._now()
        return 0 if waits else self.max_message

    def send_now(self, message: bytes) -> None:
        self._post(message)

    def _post(self, message: bytes) -> None:
        pending = self._posts.begin(len(message), self._now())
        self._free_lane().take(Op.UP, pending, message)

    def _free_lane(self) -> Lane:
        """The first that is free: so few connections stay warm, and the others grow old and are closed."""
        for lane in self._lanes:
            if not lane.busy:
                return lane
        lane = Lane(self, self._requests, self._posts)
        self._lanes.append(lane)
        return lane

    async def _wait_for_news(self, deadline: float) -> None:
        self._turns = 0
        if self._news is None:
            self._news = anyio.Event()
        with anyio.CancelScope(deadline=deadline):
            await self._news.wait()

    def _tell_news(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    # -- for couriers --------------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        return self._closed

    def answered(self, post: Pending) -> None:
        self._posts.answered(post)
        self._tell_news()
        self.watch(self._ping_at)  # with nothing under way any more, the time to the next ping runs

    def start(self, lane: Lane) -> None:
        self._start(lane.run)

    def watch(self, due: float) -> None:
        if due < self._due:
            self._due = due
            self._alarm.set()

    def lose(self, why: ConnectionLost) -> None:
        """The connection is over. The first reason stands."""
        self._fail(why)
        self._end()

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.start_soon(self._guard, work)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """The tasks are not ours alone: what goes wrong here costs this connection."""
        try:
            await work()
        except Exception:
            logger.exception("a long-poll connection failed")
            self.lose(ConnectionLost("it failed at this end"))
        except BaseException:
            self.abort()
            raise

    # -- time ----------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        with self._timekeeper:
            while True:
                self._due = self._first_due()
                self._alarm = anyio.Event()
                with anyio.CancelScope(deadline=self._due):
                    await self._alarm.wait()
                self._handle_time(self._now())

    def _first_due(self) -> float:
        longest = self._polls.longest_hold
        times = [min(lane.due, lane.parked_until(longest)) for lane in self._lanes]
        return min([self._poll.due, self._ping_at, *times])

    @property
    def _ping_at(self) -> float:
        return self._posts.ping_at(active=self.active) if self._polls.streamed else inf

    def _handle_time(self, now: float) -> None:
        couriers: list[Courier] = [self._poll, *self._lanes]
        for courier in couriers:
            if courier.due <= now:
                courier.interrupt("nothing came back in time")
        for lane in self._lanes:
            if lane.parked_until(self._polls.longest_hold) <= now:
                lane.retire()
        if self._ping_at <= now:
            self._post(b"")

    # -- streaming -----------------------------------------------------------------------------

    def _probe_once(self) -> None:
        if self._probes:
            self._probes = False
            self._start(self._probe)

    async def _probe(self) -> None:
        with self._probing:
            if await passes_unbuffered(self._requests, self._limits.poll_answer_timeout):
                self._streams = True
            else:
                self._lessons.stay_strict(self._now())

    # -- the end -------------------------------------------------------------------------------

    async def aclose(self, code: int = _NORMAL, reason: str = "") -> None:
        if self._closed:
            return
        self._closed = True
        if self._lost is not None:
            return
        self._fail(ConnectionLost("closed at this end"))
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                await self._say_goodbye(code, reason)
        finally:
            self._end()

    async def _say_goodbye(self, code: int, reason: str) -> None:
        """Once everything that was sent has arrived."""
        await self._settle()
        pending = self._posts.close(self._now(), CLOSE_TIMEOUT)
        self._free_lane().take(Op.CLOSE, pending, more=close_fields(code, reason))
        await self._settle()

    async def _settle(self) -> None:
        """Until every post is answered, or nobody works at it any more."""
        while self._posts.out and not self._over:
            await self._wait_for_news(inf)

    def abort(self) -> None:
        self._closed = True
        self.lose(ConnectionLost("aborted at this end"))

    def _fail(self, why: ConnectionLost) -> None:
        """Nothing is received or sent any more; lanes go on with what they have. To cut a streamed answer now would
        fail the connection at the server, with all that they still carry."""
        self._lost = self._lost or why
        self._poll.stop()
        self._probing.cancel()
        self._tell_news()

    def _end(self) -> None:
        self._over = True
        self._poll.end()
        for lane in self._lanes:
            lane.leave()
        self._timekeeper.cancel()
        self._tell_news()

    def _check(self) -> None:
        if self._lost is not None:
            # A fresh one for every call: a raised exception collects its tracebacks.
            raise ConnectionLost(self._lost.reason, clean=self._lost.clean, code=self._lost.code)
