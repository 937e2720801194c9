"""The transport ``wsp``: the wire of wsp's Go programs."""

from __future__ import annotations

from anyio.abc import TaskStatus

from ..config import DEFAULT_LIMITS, Limits
from ..core.routing import normalise_base_path
from ..core.tokens import is_token
from ..errors import ConfigError
from ..handshake import Grant
from ..transports.base import Connection, DialRequest, MountedRequest, Offer, Transport
from .wsp_client import REGISTER, WspClient
from .wsp_client_pool import PoolSize
from .wsp_server import WspServer

__all__ = ["PoolSize", "WspTransport"]


class WspTransport(Transport):
    """Their wire, for both ends of a tunnel.

    ``wsp_token``: at a server, whose requests wsp's clients serve; they show the secret key that this token needs, or
    nothing where it needs none. ``path``: where they register. ``size``: of the pool of connections that a tunnel
    client keeps. Raises ``ConfigError`` for what can be no token or path.
    """

    name = "wsp"

    def __init__(
        self,
        *,
        wsp_token: str | None = None,
        path: str = REGISTER,
        size: PoolSize | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if wsp_token is not None and not is_token(wsp_token):
            raise ConfigError("wsp_token", "can be no token", "give the token whose requests wsp's clients serve")
        self._path = normalise_base_path(path, field="path")
        self.size = size or PoolSize()
        self._client = WspClient(self.size, limits)
        self._server = WspServer(wsp_token, limits)

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
