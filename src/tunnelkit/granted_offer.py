"""An offer that was granted, until its connection attaches."""

from __future__ import annotations

import logging
from typing import Protocol

from .config import Limits
from .core.opening import OpeningResult, ServerOpening
from .errors import ConnectionLost, RemoteProtocolError
from .handshake import Grant
from .net.timers import Timer
from .proof import Prover, attach_tag
from .server_session import ServerSession
from .transports.base import Connection

__all__ = ["GrantedOffer", "Table"]

logger = logging.getLogger("tunnelkit.server")


class Table(Protocol):
    """What it tells of itself to whoever made it."""

    limits: Limits

    def closed(self, opening: GrantedOffer) -> None:
        """It came to nothing."""
        ...

    async def attach(self, opening: GrantedOffer, connection: Connection, opened: OpeningResult) -> None:
        """The client's ATTACH arrived on ``connection``."""
        ...


class GrantedOffer:
    """See the module; it is what the transport is given (``transports.base.Accepted``). ``is_new``: no resume."""

    def __init__(self, table: Table, session: ServerSession, grant: Grant, epoch: int, *, is_new: bool) -> None:
        self.session = session
        self.grant = grant
        self.prover = Prover(session.resume_key, session.id, epoch)
        self.is_new = is_new
        self.expiry: Timer | None = None
        self._table = table
        self._machine = ServerOpening(epoch, attach_tag(session.resume_key, session.id, epoch), table.limits)
        self._connection: Connection | None = None

    def withdraw(self) -> None:
        """It may not attach any more (its time is over, say), whether the connection has come about yet or not."""
        if self._connection is not None:
            self._connection.abort()
        self.abandon()

    def abandon(self) -> None:
        if self.expiry is not None:
            self.expiry.cancel()
        self._table.closed(self)

    async def serve(self, connection: Connection) -> None:
        self._connection = connection
        try:
            opened = await self._await_attach(connection)
        except (ConnectionLost, RemoteProtocolError) as error:
            logger.info("an opening never attached: %s addr=%s", error, self.session.peer.address)
            self._break_off(connection)
            return
        except BaseException:
            self._break_off(connection)
            raise
        if self.expiry is not None:
            self.expiry.cancel()
        await self._table.attach(self, connection, opened)

    def _break_off(self, connection: Connection) -> None:
        connection.abort()
        self.abandon()

    def greeting(self) -> bytes:
        """The answer to ATTACH. Taken after the old connection was fenced: it tells what was received."""
        return self._machine.attach_message(self.session.link.session.received)

    async def _await_attach(self, connection: Connection) -> OpeningResult:
        if self.expiry is not None and not self.expiry.active:
            raise ConnectionLost("it came too late")
        while True:
            result = self._machine.receive_message(await connection.receive())
            if result.attached is not None:
                return result
            if result.reply is not None:
                await connection.ready()
                await connection.send(result.reply)
