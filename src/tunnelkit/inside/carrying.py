"""How a request of the server's own program is carried: beside the program's task, in the server's."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, nullcontext
from typing import Any, Protocol

from ..core.routing import ToName, ToTunnel
from ..errors import HeadError, StreamBroken
from ..http.own_answers import refuse
from ..http.request import CallerRequest
from .request import InsideRequest

__all__ = ["Running", "WrongLength", "carry", "upload"]

logger = logging.getLogger("tunnelkit.server")


class Running(Protocol):
    """What a server that runs has for its own program."""

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``work`` in a task of the server's, which ends with it."""

    async def to_tunnel(self, request: CallerRequest, where: ToTunnel | ToName) -> None: ...


async def carry(running: Running, request: InsideRequest, where: ToTunnel | ToName) -> None:
    """To the tunnel and back. Never raises: what fails is answered, or breaks the answer off."""
    try:
        with request.scope:
            await running.to_tunnel(request, where)
    except HeadError as error:
        refuse(request, error.status, error.code, error.detail)
    except StreamBroken:
        request.abort()
    except Exception:
        logger.exception("a request of the server's own program failed")
        request.abort()
    finally:
        request.end()


class WrongLength(Exception):
    """A body that is not as long as its Content-Length says."""


async def upload(request: InsideRequest, body: AsyncIterable[bytes], length: int | None) -> None:
    """Send ``body`` for as long as it is wanted: then it is cancelled. ``length`` is what Content-Length promises.
    Never raises: whoever waits for the answer gets what ``body`` raises, or WrongLength."""
    pieces = aiter(body)
    try:
        with request.uploading:
            async with aclosing(pieces) if isinstance(pieces, AsyncGenerator) else nullcontext():
                if await _put_all(request, pieces, length):
                    request.end_body()
    except Exception as error:
        request.fail_body(error)


async def _put_all(request: InsideRequest, pieces: AsyncIterator[bytes], length: int | None) -> bool:
    """False: the rest is not wanted."""
    sent = 0
    async for piece in pieces:
        sent += len(piece)
        if length is not None and sent > length:
            raise WrongLength("the body is longer than its Content-Length")
        try:
            await request.put(bytes(piece))
        except StreamBroken:
            return False
    if length is not None and sent < length:
        raise WrongLength("the body is shorter than its Content-Length")
    return True
