"""What a client says on a connection before, and instead of, a session's messages (design, section 4)."""

from __future__ import annotations

import random

from .config import Limits
from .core.message import HEADER_SIZE, Kind, build, encode_bye
from .core.opening import ClientOpening, OpeningResult
from .link import Link
from .transports.base import Connection

__all__ = ["attach", "part", "prove"]


async def attach(link: Link, connection: Connection, opening: ClientOpening) -> OpeningResult:
    """Send ATTACH, and return the server's answer: from then on the session is on ``connection``.

    The connection that the link serves meanwhile, if there is one, is sent nothing more: the server ends it.
    Raises ``ConnectionLost`` and ``RemoteProtocolError``; whether the session moved is unknown then.
    """
    await connection.ready()
    link.hold()  # from here on ``received`` may grow, but the server does not hear of it before the next epoch
    await connection.send(opening.attach_message(link.session.received))
    while True:
        result = opening.receive_message(await connection.receive())
        if result.attached is not None:
            return result


async def prove(connection: Connection, opening: ClientOpening, limits: Limits) -> None:
    """Have as much as a PING may hold go there and back, so that a way that swallows messages, or lets only small
    ones pass, never takes a healthy session. Raises ``ConnectionLost`` and ``RemoteProtocolError``."""
    room = await connection.ready()
    # Random, or something in between might make it small.
    payload = random.randbytes(min(limits.ping_payload_limit, room - HEADER_SIZE))
    await connection.send(opening.ping_message(payload))
    while not opening.receive_message(await connection.receive()).verified:
        pass


async def part(connection: Connection, epoch: int, received: int, code: str) -> None:
    """Say BYE, with ``code``, on a connection that was attached when its session had ended already, and close it.
    Raises ``ConnectionLost``."""
    await connection.ready()
    await connection.send(build(Kind.BYE, epoch, 0, received, (encode_bye(code),)))
    await connection.aclose()
