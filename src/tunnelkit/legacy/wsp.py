"""The transport ``wsp``: the wire of wsp's Go programs."""

from __future__ import annotations

from typing import Final

from anyio.abc import TaskStatus

from ..config import DEFAULT_LIMITS, Limits
from ..core.routing import normalise_base_path
from ..core.tokens import check_token
from ..handshake import Grant
from ..transports.base import Connection, DialRequest, MountedRequest, Offer, Transport
from .wsp_client import WspClient
from .wsp_client_pool import PoolSize
from .wsp_server import WspServer

__all__ = ["PoolSize", "WspTransport"]


REGISTER: Final = "/register"  # where their clients come, unless they are configured otherwise


class WspTransport(Transport):
    """Their wire, for both ends of a tunnel.

    ``token``: at a server, whose requests wsp's clients serve; they show the secret key that this token needs, or
    nothing where it needs none. ``path``: where they register. ``size``: of the pool of connections that a tunnel
    client keeps. Raises ``ConfigError`` for what can be no token or path.
    """

    name = "wsp"

    def __init__(
        self,
        *,
        token: str | None = None,
        path: str = REGISTER,
        size: PoolSize | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if token is not None:
            check_token(token)
        self._path = normalise_base_path(path, field="path")
        self._client = WspClient(size or PoolSize(), limits)
        self._server = WspServer(token, limits)

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        return await self._client.dial(request)

    def mount_path(self) -> str:
        return "/wsp"

    def own_path(self) -> str:
        return self._path

    async def mounted(self, request: MountedRequest, offer: Offer) -> None:
        await self._server.mounted(request, offer)

    async def listen(self, offer: Offer, *, task_status: TaskStatus[None]) -> None:
        await self._server.listen(offer, task_status=task_status)
