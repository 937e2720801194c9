"""Sessions inside the process, for peers that know none: the other end of each is an adaptor."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from ..agent import Agent
from ..attaching import attach
from ..client_session import ClientSession, agreed_limits
from ..config import Limits
from ..core.budget import Budget
from ..core.opening import ServerOpening
from ..errors import ConnectionLost, RemoteProtocolError
from ..handshake import Grant
from ..link import Link
from ..proof import FIRST_EPOCH, KEY_SIZE, attach_tag
from ..transports.base import Accepted
from ..transports.memory import MemoryConnection, memory_pair

__all__ = ["InsideClient", "InsideServer"]

logger = logging.getLogger("tunnelkit.server")


class InsideClient:
    """The client's end of a session that the server granted to such a peer: ``agent`` takes its requests.

    There is no resuming: a peer that is lost takes its session with it. ``budget`` is for all such sessions together.
    """

    def __init__(
        self, accepted: Accepted, agent: Agent, *, transport: str, limits: Limits, budget: Budget | None = None
    ) -> None:
        grant = accepted.grant
        self._accepted = accepted
        self._agent = agent
        self._near, self._far = memory_pair()
        self._near.transport = transport  # what pages and logs tell of the session
        self._link = Link(
            client=True,
            limits=agreed_limits(limits, grant),
            budget=budget if budget is not None else Budget(limits.max_buffered_bytes),
            peer_window=grant.replay_window,
            peer_floor=grant.stream_floor,
            peer_max_streams=grant.max_streams,
            logger=logger,
            accept=agent.accept,
        )
        self._session = ClientSession(grant, self._link)

    @property
    def near(self) -> MemoryConnection:
        return self._near

    async def run(self, serve: Callable[[TaskGroup], object]) -> None:
        """Register, and carry requests until the session ends, or ``end``. ``serve`` is called once the session has
        begun: it starts what the adaptor needs."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._agent.run)
            tasks.start_soon(self._accepted.serve, self._near)
            try:
                opening = self._session.opening(self._session.next_epoch(), self._far)
                opened = await attach(self._link, self._far, opening)
                serve(tasks)
                await self._link.run(self._far, opened)
            except (ConnectionLost, RemoteProtocolError) as error:
                logger.debug("a session inside the process ended: %s", error)
            finally:
                self.end("closed")
                tasks.cancel_scope.cancel()

    async def retire(self, code: str, timeout: float) -> None:
        """Take nothing new, and end once what runs is over, or after ``timeout`` seconds."""
        self._agent.drain()
        self._link.mux.goaway()
        self._link.ring()
        with anyio.move_on_after(timeout):
            await self._link.settle()
        self.end(code)

    def end(self, code: str) -> None:
        """What runs fails truthfully. Idempotent, synchronous."""
        self._link.end(code)


class InsideServer:
    """The server's end of a session for a client of ours whose server is of another make. Open streams on ``link``.
    ``going_away`` is called when the client takes nothing new.

    There is no resuming: a peer that is lost takes its session with it, and the client opens another.
    """

    def __init__(self, *, transport: str, limits: Limits, going_away: Callable[[], None] | None = None) -> None:
        self._limits = limits
        self._near, self._far = memory_pair()
        self._far.transport = transport
        # Neither end can be lost alone, and a loop that stood still for a while must not end the session.
        self._near.wants_pings = self._far.wants_pings = False
        self.grant = Grant(
            session_id=secrets.token_hex(16),
            resume_key=secrets.token_bytes(KEY_SIZE),
            replay_window=limits.replay_limit,
            stream_floor=limits.stream_floor,
            max_streams=limits.max_streams,
            grace=0.0,
        )
        self.link = Link(
            client=False,
            limits=limits,
            budget=Budget(limits.max_buffered_bytes),
            peer_window=limits.replay_limit,
            peer_floor=limits.stream_floor,
            peer_max_streams=limits.max_streams,
            logger=logger,
            going_away=going_away,
        )

    @property
    def connection(self) -> MemoryConnection:
        """For the client."""
        return self._far

    def lose(self, error: Exception) -> None:
        """The peer is lost, and its session with it: at both ends, of which neither may have attached yet."""
        lost = ConnectionLost(str(error))
        self.link.fence(lost)
        self._far.lose(lost)
        self._near.lose(lost)

    async def run(self) -> None:
        """Serve the client's connection to its end. Raises nothing but cancellation."""
        assert self.grant.resume_key is not None
        tag = attach_tag(self.grant.resume_key, self.grant.session_id, FIRST_EPOCH)
        machine = ServerOpening(FIRST_EPOCH, tag, self._limits)
        try:
            while (opened := machine.receive_message(await self._near.receive())).attached is None:
                if opened.reply is not None:
                    await self._near.send(opened.reply)
            await self.link.run(self._near, opened, greeting=machine.attach_message(self.link.session.received))
        except (ConnectionLost, RemoteProtocolError) as error:
            logger.debug("a session inside the process ended: %s", error)
        finally:
            self.link.end("closed")
            self._near.abort()
