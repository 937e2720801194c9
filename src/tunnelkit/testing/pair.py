"""A running pair of ends for a test: a server and a client in one event loop, with an app or a URL behind them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ..client import TunnelClient
from ..config import DEFAULT_LIMITS, Limits
from ..server import TunnelServer
from ..transports.memory import MemoryTransport

__all__ = ["TunnelPair", "tunnel_pair"]

READY_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class TunnelPair:
    """Both ends, joined by the memory transport: ``link`` has its faults to switch on (``cut()``, ``stall()``,
    ``resume()``, ``reachable``). ``url`` is where callers reach the origin, by a real port on loopback, without a
    slash at its end."""

    server: TunnelServer
    client: TunnelClient
    link: MemoryTransport
    url: str
    token: str


@asynccontextmanager
async def tunnel_pair(
    origin: Any,
    *,
    limits: Limits = DEFAULT_LIMITS,
    server: dict[str, Any] | None = None,
    client: dict[str, Any] | None = None,
) -> AsyncGenerator[TunnelPair]:
    """A pair that is ready: ``origin`` is what ``TunnelClient`` takes (a URL, an ASGI or WSGI app, a handler);
    ``server`` and ``client`` are further arguments of the two. Raises what their starts raise, and TimeoutError when
    they do not find each other within 10 s."""
    token = secrets.token_urlsafe(24)
    link = MemoryTransport()
    server_arguments: dict[str, Any] = {"limits": limits, "transports": link} | (server or {})
    client_arguments: dict[str, Any] = {"limits": limits, "transport": link, "token": token} | (client or {})
    async with (
        TunnelServer("127.0.0.1:0", **server_arguments) as public,
        TunnelClient(public.url, origin=origin, **client_arguments) as private,
    ):
        await private.wait_ready(READY_TIMEOUT)
        used = client_arguments["token"]
        yield TunnelPair(public, private, link, f"{public.url}/_token/{used}", used)
