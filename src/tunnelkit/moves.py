"""A session's time with a connection, and its moves to better ones while it lives.

One task serves the connection in use. Another probes better transports, when ``core.choice`` says so: it dials with
the handshake of a resume and has a round trip prove the new connection, all of which leaves the session where it
is. Only then ATTACH goes out there; the server fences the old connection and answers, and the link switches. Should
the answer not come, nobody knows which connection the server serves: that is a loss like any other.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup

from .attaching import attach, part, prove
from .client_session import ClientSession
from .config import Limits
from .core.choice import Choice, Probe
from .core.opening import ClientOpening, OpeningResult
from .dialling import Dialling, no_answer
from .errors import ConnectionLost, DialError, RegistrationRefused, RemoteProtocolError, TunnelkitError
from .transports.base import Connection

__all__ = ["Stay"]

logger = logging.getLogger("tunnelkit.client")

# Seconds: a move that is under way when the session is ended may take so long to be undone.
CLOSE_TIMEOUT: Final = 1.0

_NO_WAY = (DialError, RegistrationRefused, ConnectionLost, RemoteProtocolError)


class Stay:
    """A session from one attaching to the loss of its connection, whatever moves lie between. ``connection`` is the
    one in use; ``moved`` is called with it after each move."""

    def __init__(
        self,
        *,
        session: ClientSession,
        connection: Connection,
        dialling: Dialling,
        choice: Choice,
        limits: Limits,
        label: str,
        moved: Callable[[Connection], None],
    ) -> None:
        self.connection = connection
        self._session = session
        self._link = session.link
        self._dialling = dialling
        self._choice = choice
        self._limits = limits
        self._label = label  # in log lines
        self._moved = moved
        self._seeking = anyio.CancelScope()
        self._moving: anyio.CancelScope | None = None  # while the answer to ATTACH is awaited
        self._failure: Exception | None = None  # of the connection in use
        self._over = anyio.Event()
        self._complaint = ""  # of the last probe

    async def run(self, opened: OpeningResult) -> Exception:
        """Serve until no connection is left; why the last one ended. When cancelled, it is dropped."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._serve, self.connection, opened)
            group.start_soon(self._seek, group)
            await self._over.wait()
            group.cancel_scope.cancel()
        assert self._failure is not None
        return self._failure

    def close(self) -> None:
        """The session is about to be ended. A move that is under way gets a moment to be undone."""
        if self._moving is None:
            self._seeking.cancel()
        else:
            self._moving.deadline = min(self._moving.deadline, anyio.current_time() + CLOSE_TIMEOUT)

    # -- the connection in use -----------------------------------------------------------------

    async def _serve(self, connection: Connection, opened: OpeningResult) -> None:
        try:
            failure = await self._serve_to_its_end(connection, opened)
        except RemoteProtocolError as error:
            failure = error
            connection.abort()
        if self.connection is connection:  # else the session has moved on
            self._failure = failure
            if self._moving is None:  # else the server ended it for the new one, and the move tells what becomes
                self._over.set()

    async def _serve_to_its_end(self, connection: Connection, opened: OpeningResult) -> Exception:
        if not self._link.gone:
            return await self._link.run(connection, opened)
        assert opened.attached is not None
        with anyio.move_on_after(CLOSE_TIMEOUT):
            try:
                await part(connection, opened.attached.epoch, self._link.session.received, "closed")
            except ConnectionLost:
                logger.debug("the connection of an ended session was lost %s", self._label)
        connection.abort()
        return ConnectionLost("the session ended while it moved")

    # -- better ones ---------------------------------------------------------------------------

    async def _seek(self, group: TaskGroup) -> None:
        with self._seeking:
            while (probe := self._choice.next_probe(random.random())) is not None:
                await anyio.sleep_until(probe.when)
                self._choice.probing()
                found = await self._try(probe)
                if found is None:
                    self._choice.probe_failed(anyio.current_time())
                elif not await self._move(group, *found):
                    return

    async def _try(self, probe: Probe) -> tuple[Connection, ClientOpening] | None:
        """A connection that carried a round trip. Whatever else happens here concerns nobody but the probe."""
        try:
            with anyio.fail_after(self._limits.probe_timeout):
                return await self._prove(probe)
        except TimeoutError:
            self._complain(no_answer(probe.transport, self._limits.probe_timeout))
        except _NO_WAY as error:
            self._complain(error)
        except Exception:
            logger.exception("a probe of %s failed %s", probe.transport, self._label)
        return None

    async def _prove(self, probe: Probe) -> tuple[Connection, ClientOpening]:
        connection, opening = await self._dialling.resume(probe.transport, self._session)
        try:
            await prove(connection, opening, self._limits)
        except BaseException:
            connection.abort()
            raise
        return connection, opening

    def _complain(self, error: TunnelkitError) -> None:
        """One line at INFO as long as the reason is the same."""
        complaint = str(error)
        level = logging.DEBUG if complaint == self._complaint else logging.INFO
        self._complaint = complaint
        logger.log(level, "still by %s: %s %s", self.connection.transport, complaint, self._label)

    async def _move(self, group: TaskGroup, connection: Connection, opening: ClientOpening) -> bool:
        """Have the session go on over ``connection``; whether it does."""
        if self._over.is_set() or self._link.gone:
            connection.abort()
            return False
        self._choice.moving()
        opened = await self._attach(connection, opening)
        if opened is None:
            self._over.set()
            return False
        self._failure = None
        self.connection = connection
        self._choice.moved(anyio.current_time())
        if not self._link.gone:
            self._moved(connection)
        group.start_soon(self._serve, connection, opened)
        return True

    async def _attach(self, connection: Connection, opening: ClientOpening) -> OpeningResult | None:
        """The answer to ATTACH, or None: then nothing is known of either connection."""
        timeout = self._limits.first_answer_timeout
        reason: TunnelkitError = no_answer(connection.transport, timeout)
        try:
            with anyio.move_on_after(timeout) as self._moving:
                return await attach(self._link, connection, opening)
        except (ConnectionLost, RemoteProtocolError) as error:
            reason = error
        except BaseException:
            connection.abort()
            raise
        finally:
            self._moving = None
        connection.abort()
        self._failure = self._failure or ConnectionLost(f"a move came to nothing: {reason}")
        return None
