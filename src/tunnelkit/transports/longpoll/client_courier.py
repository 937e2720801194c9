"""Carries requests, one at a time, each until it is answered: over a connection that is kept, or over a new one.

A courier is driven by one task, and whatever it knows stands in it, so that cancelling that task loses nothing. What
is synchronous may be called by others.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from math import inf
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from ...errors import ConfigError, ConnectionLost, DialError
from ...http.client_codec import RequestBlock
from ...net.stream import Taker
from .client_answers import Reply, Verdict, judge_reply
from .client_call import FAILURES, Call
from .client_requests import Requests
from .client_state import Pending

__all__ = ["Courier", "Owner"]


class Owner(Protocol):
    """The connection, as couriers see it."""

    def lose(self, why: ConnectionLost) -> None: ...

    def watch(self, due: float) -> None:
        """Look at the courier's ``due`` then."""
        ...


class Courier:
    name: str  # of what it carries, for messages

    def __init__(self, owner: Owner, requests: Requests) -> None:
        self._owner = owner
        self._requests = requests
        self._call: Call | None = None
        self._pending: Pending | None = None
        self._body = b""
        self._out = False  # the request is on its way, on ``_call``
        self._retry_at = -inf
        self._interrupted = ""  # why
        self._scope: anyio.CancelScope | None = None
        self._ended = False
        self._now = requests.now
        self.heard = self._now()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'busy' if self.busy else 'idle'}{' ended' if self._ended else ''}>"

    # -- what is carried -----------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """A request is not answered yet."""
        return self._pending is not None

    @property
    def due(self) -> float:
        """When ``interrupt`` is due, unless bytes pass before."""
        return self._pending.quiet_until if self._pending is not None else inf

    def carry(self, pending: Pending, body: bytes = b"") -> None:
        """Begin a request; it leaves at once if a connection is there."""
        self._pending = pending
        self._body = body
        self._retry_at = -inf
        if self._has_connection():
            self._attempt(pending)
            self._send(pending)

    def _has_connection(self) -> bool:
        if self._call is not None and not self._call.idle:
            self._drop()
        return self._call is not None

    def _attempt(self, pending: Pending) -> None:
        self._interrupted = ""
        self._begin_attempt(pending, self._now())
        self._owner.watch(pending.quiet_until)

    def _send(self, pending: Pending) -> None:
        assert self._call is not None
        head = self._head(pending, len(self._body), self._now())
        self._call.begin(head, self._body, number=pending.number)
        self._out = True

    # -- how a kind of request differs ---------------------------------------------------------

    @abstractmethod
    def _begin_attempt(self, pending: Pending, now: float) -> None:
        """Another attempt begins, with the way to the server if there is none."""

    @abstractmethod
    def _head(self, pending: Pending, length: int, now: float) -> RequestBlock: ...

    @abstractmethod
    def _progress(self, pending: Pending, now: float) -> None:
        """Bytes passed."""

    @abstractmethod
    def _cut(self, pending: Pending, now: float) -> None:
        """An attempt died before there was an answer, or something in between said so."""

    # -- the answer ----------------------------------------------------------------------------

    def step(self) -> bytes | None:
        """Go on as far as that goes without waiting. The answer's body, after which it is not ``busy``, or a message
        of one that is streamed; None where neither is there."""
        call, pending = self._call, self._pending
        if not self._out or call is None or pending is None:
            return None
        try:
            result = call.step()
        except FAILURES as error:
            self._note_progress(call, pending)
            self._break(pending, self._interrupted or str(error))
            return None
        self._note_progress(call, pending)
        return self._judge(pending, result) if isinstance(result, Reply) else result

    def _note_progress(self, call: Call, pending: Pending) -> None:
        if call.moved:
            call.moved = False
            self.heard = call.last_received
            self._progress(pending, self._now())

    def _judge(self, pending: Pending, reply: Reply) -> bytes | None:
        self._out = False
        judgement = judge_reply(reply, pending.number)
        if judgement.verdict is Verdict.DONE:
            self._done()
            return reply.body
        if judgement.lost is not None:
            return self._over(judgement.lost)
        if judgement.verdict is Verdict.CUT:
            self._cut(pending, self._now())
        self._repeat(pending, judgement.reason, judgement.retry_after)
        return None

    def _done(self) -> None:
        self._pending = None
        self._body = b""

    def _over(self, why: ConnectionLost) -> bytes | None:
        """The answer was that the connection is none any more."""
        self._owner.lose(why)
        return None

    def _break(self, pending: Pending, reason: str) -> None:
        """The attempt came to nothing."""
        self._out = False
        self._drop()
        self._died(pending, self._now())
        self._repeat(pending, reason)

    def _died(self, pending: Pending, now: float) -> None:
        if not pending.moved:  # else it was not cut for waiting
            self._cut(pending, now)

    def _repeat(self, pending: Pending, reason: str, retry_after: float = 0.0) -> None:
        when = pending.failed(self._now(), random.random(), retry_after)
        if when is None:
            self._owner.lose(ConnectionLost(f"{self.name} was not answered in time: {reason}"))
        else:
            self._retry_at = when

    def _unreachable(self, pending: Pending, reason: str) -> None:
        """There was no connection to be had."""
        self._repeat(pending, reason)

    # -- waiting -------------------------------------------------------------------------------

    @property
    def rests(self) -> bool:
        """What is on its way needs nothing but bytes of its answer."""
        return self._out and self._call is not None and self._call.rests

    async def wait(self, taker: Taker | None = None) -> None:
        """Wait for what the request needs next: time, a connection, bytes, which ``taker`` may take where they come.
        Cancelling changes nothing."""
        pending = self._pending
        if self._ended:
            await checkpoint()
        elif pending is not None and not self._out:
            await self._set_out(pending)
        elif self._call is not None:
            await self._call.wait(taker)

    async def _set_out(self, pending: Pending) -> None:
        try:
            with anyio.CancelScope() as self._scope:
                await anyio.sleep_until(self._retry_at)
                self._attempt(pending)
                if not self._has_connection():
                    self._call = await self._requests.dial()
        except (DialError, ConfigError) as error:
            self._unreachable(pending, str(error))
            return
        finally:
            self._scope = None
        if self._ended:
            self._drop()
        elif self._interrupted:
            self._break(pending, self._interrupted)
        else:
            self._send(pending)

    # -- the end -------------------------------------------------------------------------------

    def interrupt(self, why: str) -> None:
        """Give this attempt up. The driving task does the rest."""
        self._interrupted = why
        if self._pending is not None:
            self._pending.quiet_until = inf
        if self._scope is not None:
            self._scope.cancel()
        elif self._call is not None:
            self._call.abort()

    def stop(self) -> None:
        """Carry no more. What is on its way is left alone, and no longer looked at."""
        self._ended = True
        self._out = False
        if self._scope is not None:
            self._scope.cancel()
        elif self._call is not None:
            self._call.wake()

    def end(self) -> None:
        """Carry no more, and let go of the connection."""
        self.stop()
        self.interrupt("ended")
        self._drop()
        self._body = b""  # what is lost refers to itself, and waits for a collection: not with a megabyte each

    def _drop(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.abort()
