"""One of a long-poll client's ways up: a worker, and the connection that it keeps for the next post."""

from __future__ import annotations

from math import inf
from typing import Protocol

from ...errors import ConnectionLost
from ...heads import Fields
from ...http.client_codec import RequestBlock
from .client_courier import Courier, Owner
from .client_requests import Requests
from .client_state import Pending, Posts
from .wire import Op

__all__ = ["Lane", "LaneOwner"]


class LaneOwner(Owner, Protocol):
    def start(self, lane: Lane) -> None:
        """Have a task ``run`` the lane."""
        ...

    @property
    def closing(self) -> bool:
        """Only what is out is still carried."""
        ...

    def answered(self, post: Pending) -> None:
        """One of the lanes has the answer to what it carried."""
        ...


class Lane(Courier):
    """``run`` lives as long as there is something to carry or a connection to keep."""

    name = "a post"

    def __init__(self, owner: LaneOwner, requests: Requests, posts: Posts) -> None:
        super().__init__(owner, requests)
        self._lane_owner = owner
        self._posts = posts
        self._op = Op.UP
        self._carried: Pending | None = None  # the last
        self._more: Fields = []
        self._running = False
        self._parked_at = inf
        self._retired = False

    def take(self, op: Op, pending: Pending, body: bytes = b"", more: Fields | None = None) -> None:
        """Carry a request. What the kernel takes of it leaves before this returns, where a connection is kept."""
        self._op = op
        self._carried = pending
        self._more = more or []
        self._parked_at = inf
        self.carry(pending, body)
        if not self._running:
            self._running = True
            self._lane_owner.start(self)
        elif self._call is not None and self._call.unsent:
            self._call.wake()  # the worker waits for the answer alone

    # -- the worker ----------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            while not self._ended and (self.busy or self._keeps()):
                await self._go_on()
        finally:
            self._running = False
        await self._let_go()

    async def _go_on(self) -> None:
        if not self._advance():
            await self.wait(self._take_answer)

    def _advance(self) -> bool:
        """Go on with what came. False: nothing did."""
        if self.step() is None:
            return False
        if self._pending is None:
            self._park()
        else:
            self._break(self._pending, "a message came in answer to a post")
        return True

    def _take_answer(self) -> bool:
        """Bytes came while the worker waits. True: it can wait on, for more of them or for the next post's."""
        if not self._advance():
            return self.rests
        # Whether it is quiet is looked at by who wants to use it; what else comes calls again.
        return self._call is not None and self._call.kept and not (self.busy or self._ended or self._retired)

    @property
    def can_take(self) -> bool:
        """A post would leave at once, with no task begun or woken for it."""
        return self._running and self._call is not None and not (self.busy or self._ended or self._retired)

    def _park(self) -> None:
        assert self._carried is not None
        self._parked_at = self._now()
        self._lane_owner.answered(self._carried)

    def _keeps(self) -> bool:
        return not self._retired and self._has_connection()

    async def _let_go(self) -> None:
        call, self._call = self._call, None
        self._parked_at = inf
        self._retired = False
        if call is not None:
            await call.aclose()

    # -- time ----------------------------------------------------------------------------------

    def parked_until(self, longest: float) -> float:
        """When the connection that is kept has been quiet for ``longest`` seconds."""
        return self._parked_at + longest

    def retire(self) -> None:
        """Let go of a connection that was quiet for so long that something on the way may have forgotten it."""
        self._parked_at = inf
        self._retired = True
        if self._call is not None:
            self._call.wake()

    def leave(self) -> None:
        """The connection is over: what is not answered is dropped, what is idle is closed in order."""
        if self.busy:
            self.end()
        else:
            self.retire()

    # -- posts ---------------------------------------------------------------------------------

    def _begin_attempt(self, pending: Pending, now: float) -> None:
        self._posts.attempt(pending, now)

    def _head(self, pending: Pending, length: int, now: float) -> RequestBlock:
        return self._requests.make(self._op, pending.number, length=length, more=self._more)

    def _progress(self, pending: Pending, now: float) -> None:
        self._posts.progress(pending, now)

    def _over(self, why: ConnectionLost) -> bytes | None:
        """A server that closes at the same time takes no post; it waits to hear that this end polls no more."""
        if self._lane_owner.closing and self._op is Op.UP and why.clean:
            self._done()
            return b""
        return super()._over(why)

    def _unreachable(self, pending: Pending, reason: str) -> None:
        """A server that closed at the same time is not there any more, and nobody would hear the goodbye."""
        if self._lane_owner.closing:
            self._owner.lose(ConnectionLost(reason))
        else:
            super()._unreachable(pending, reason)

    def _cut(self, pending: Pending, now: float) -> None:
        """That teaches nothing: no post is held for long."""
