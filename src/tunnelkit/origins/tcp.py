"""What answers streams of bytes: connections to the ``tcp://`` destinations that the client allows."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..config import Limits
from ..errors import DialError
from ..heads import ResponseHead
from ..net.dial import Dial
from .base import Origin, OriginExchange

__all__ = ["TcpOrigin"]

logger = logging.getLogger("tunnelkit.client")

_SWITCHED = ResponseHead(101, [(b"Connection", b"Upgrade"), (b"Upgrade", b"tcp")], b"Switching Protocols")
_FAILURES = {
    "address": (403, "x_host_refused", "this destination leads to an address that the client does not go to")
}
_UNREACHABLE = (502, "origin_unreachable", "the destination cannot be reached")


class TcpOrigin(Origin):
    """Joins each exchange with a connection of its own, to ``exchange.x_host``, which was judged before. ``permits``
    judges the addresses that its name resolves to."""

    def __init__(self, *, limits: Limits, permits: Callable[[str], bool] | None = None) -> None:
        # No proxy, whatever the environment says: it is for the way out, not for what stands next door.
        self._dial = Dial(proxy="", timeout=limits.dial_timeout, permits=permits)

    async def serve(self, exchange: OriginExchange) -> None:
        destination = exchange.x_host
        assert destination is not None
        try:
            peer = await self._dial(destination.host, destination.port, tls=False)
        except DialError as error:
            logger.warning("a tcp:// destination is not reached: %s", error)
            exchange.fail(*_FAILURES.get(error.stage, _UNREACHABLE))
            return
        try:
            await exchange.splice(_SWITCHED, peer)
        finally:
            peer.abort()

    async def aclose(self) -> None:
        """There are no kept connections."""
