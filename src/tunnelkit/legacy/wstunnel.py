"""The transport ``wstunnel``: the wire of WStunnel's Go programs."""

from __future__ import annotations

from ..config import DEFAULT_LIMITS, Limits
from ..handshake import Grant
from ..transports.base import Connection, DialRequest, MountedRequest, Offer, Transport
from .wstunnel_client import WStunnelClient
from .wstunnel_handshake import is_handshake
from .wstunnel_server import WStunnelServer

__all__ = ["WStunnelTransport"]


class WStunnelTransport(Transport):
    """Their wire, for both ends of a tunnel."""

    name = "wstunnel"

    def __init__(self, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._server = WStunnelServer(limits)
        self._client = WStunnelClient(limits)

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        return await self._client.dial(request)

    def mount_path(self) -> str:
        return ""

    def claims(self, request: MountedRequest) -> bool:
        return is_handshake(request.fields)

    async def mounted(self, request: MountedRequest, offer: Offer) -> None:
        await self._server.mounted(request, offer)
