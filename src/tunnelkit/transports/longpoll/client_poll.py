"""A long-poll client's way down: one poll after the other."""

from __future__ import annotations

import logging

from ...errors import ConnectionLost
from ...http.client_codec import RequestBlock
from .client_call import Call
from .client_courier import Courier, Owner
from .client_requests import Requests
from .client_state import Lessons, Pending, Polls
from .wire import Op, poll_fields

__all__ = ["Poll"]

logger = logging.getLogger("tunnelkit.client")


class Poll(Courier):
    """``call`` is a connection that is there already."""

    name = "a poll"

    def __init__(self, owner: Owner, requests: Requests, polls: Polls, lessons: Lessons, call: Call) -> None:
        super().__init__(owner, requests)
        self._call = call
        self._polls = polls
        self._lessons = lessons
        self._logged = False

    def _begin_attempt(self, pending: Pending, now: float) -> None:
        self._polls.attempt(now)

    def _head(self, pending: Pending, length: int, now: float) -> RequestBlock:
        more = poll_fields(self._polls.left(now), stream=self._polls.streamed)
        return self._requests.make(Op.DOWN, pending.number, more=more)

    def _progress(self, pending: Pending, now: float) -> None:
        self._polls.progress(now)

    def _died(self, pending: Pending, now: float) -> None:
        if self._polls.streamed:  # bytes always pass, and yet it is cut for its age
            self._cut(pending, now)
        else:
            super()._died(pending, now)

    def _cut(self, pending: Pending, now: float) -> None:
        if self._polls.cut(now) and not self._logged:
            self._logged = True
            longest = self._polls.longest_hold
            logger.info("something on the way cuts polls that wait: they wait for %g s from now on", longest)

    def _repeat(self, pending: Pending, reason: str, retry_after: float = 0.0) -> None:
        """A streamed answer may have brought messages that nobody knows of: it fails as a whole."""
        if not self._polls.streamed:
            super()._repeat(pending, reason, retry_after)
            return
        self._lessons.stay_strict(pending.begun)
        self._owner.lose(ConnectionLost(f"a streamed answer broke off: {reason}"))
