"""A tunnel whose link a test cuts, mutilates and silences."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from tunnelkit import Limits
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.events import ClientEvent, Lost, Resumed, Retrying
from tunnelkit.testing.relay import End, Pair, Relay

from .tunnel import SHORT, Tunnel, open_tunnel
from .ways import Way, current

__all__ = ["Lossy", "lossy"]


def _is_whole(pair: Pair) -> bool:
    return pair.cut_at is None and not any(flow.muted or flow.half_close for flow in pair.flows)


@dataclass
class Lossy:
    """A tunnel over a relay, and what its client said."""

    tunnel: Tunnel
    relay: Relay
    events: list[ClientEvent] = field(default_factory=list)
    _news: anyio.Event = field(default_factory=anyio.Event)

    def __post_init__(self) -> None:
        self.way: Way = current()
        self.session_id = self.current_session()

    def current_session(self) -> str:
        (session,) = self.tunnel.server.sessions()
        return session.id

    def count(self, kind: type[ClientEvent]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    async def listen(self) -> None:
        async for event in self.tunnel.client.events():
            self.events.append(event)
            news, self._news = self._news, anyio.Event()
            news.set()

    async def until(self, condition: Callable[[], bool], timeout: float = 15) -> None:
        """Wait until ``condition()`` holds; it is looked at after every event of the client."""
        with anyio.fail_after(timeout):
            while not condition():
                await self._news.wait()

    async def resumed(self, times: int, timeout: float = 15) -> None:
        await self.until(lambda: self.count(Resumed) >= times, timeout)

    async def carried(self, count: int) -> None:
        """Wait until so many more bytes passed."""
        target = self.relay.carried + count
        await self.relay.until(lambda: self.relay.carried >= target)

    async def cut_after(self, count: int, how: End) -> None:
        """Wait until connections of now are cut, each after so many bytes more, and the first one is."""
        before = self.relay.cuts
        self.relay.cut_after(count, how, how)
        await self.relay.until(lambda: self.relay.cuts > before)

    def losses(self, cuts: int) -> int:
        """How many connections of the transport's so many cuts cost."""
        return 0 if self.way.outlives_cuts else cuts

    async def recovered(self, cuts: int, timeout: float = 15) -> None:
        """Wait until the link carries again, after so many cuts in all."""
        if not self.way.outlives_cuts:
            await self.resumed(cuts, timeout)
        with anyio.fail_after(timeout):
            await self.relay.until(lambda: any(_is_whole(pair) and pair.carried for pair in self.relay.pairs))

    async def check_alive(self) -> None:
        status, _, _ = await self.tunnel.get("/status/200")
        assert status == 200

    def check_one_session(self, *, losses: int) -> None:
        """It was one session all the time, lost and resumed so many times, in turn."""
        assert self.current_session() == self.session_id
        told = [type(event) for event in self.events if not isinstance(event, Retrying)]
        assert told == [Lost, Resumed] * losses
        assert all(event.away < DEFAULT_LIMITS.grace for event in self.events if isinstance(event, Resumed))


@asynccontextmanager
async def lossy(limits: Limits = SHORT, **options: Any) -> AsyncIterator[Lossy]:
    """One transport alone: its cuts are not to be evaded by another. Where it outlives them, a machine that pauses is
    not to cost it more than they do."""
    assert current() is not Way.AUTO
    if current().outlives_cuts:
        limits = replace(limits, poll_answer_timeout=max(limits.poll_answer_timeout, 2.0), poll_absence=3.0)
    async with open_tunnel(relay=True, limits=limits, **options) as tunnel:
        assert tunnel.relay is not None
        link = Lossy(tunnel, tunnel.relay)
        async with anyio.create_task_group() as group:
            group.start_soon(link.listen)
            await anyio.wait_all_tasks_blocked()  # the listener is there before the first event
            yield link
            group.cancel_scope.cancel()
