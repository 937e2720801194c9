"""The transport ``wsp``: the wire of wsp's Go programs."""

from __future__ import annotations

from ..config import DEFAULT_LIMITS, Limits
from ..handshake import Grant
from ..transports.base import Connection, DialRequest, Transport
from .wsp_client import WspClient
from .wsp_client_pool import PoolSize

__all__ = ["PoolSize", "WspTransport"]


class WspTransport(Transport):
    """Their wire. ``size``: of the pool of connections that a tunnel client keeps."""

    name = "wsp"

    def __init__(self, *, size: PoolSize | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        self._client = WspClient(size or PoolSize(), limits)

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        return await self._client.dial(request)
