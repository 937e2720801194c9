"""The transport ``wstunnel``: the wire of WStunnel's Go programs."""

from __future__ import annotations

from ..config import DEFAULT_LIMITS, Limits
from ..transports.base import MountedRequest, Offer, Transport
from .wstunnel_server import WStunnelServer
from .wstunnel_wire import is_handshake

__all__ = ["WStunnelTransport"]


class WStunnelTransport(Transport):
    """Their wire, for both ends of a tunnel."""

    name = "wstunnel"

    def __init__(self, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._server = WStunnelServer(limits)

    def mount_path(self) -> str:
        return ""

    def claims(self, request: MountedRequest) -> bool:
        return is_handshake(request.fields)

    async def mounted(self, request: MountedRequest, offer: Offer) -> None:
        await self._server.mounted(request, offer)
