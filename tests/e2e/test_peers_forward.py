"""Tunnel clients that get out only by a real squid or tinyproxy, with the files that docs/deploying.md shows."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from tunnelkit import TlsFiles, TunnelClient
from tunnelkit.events import Retrying

from .peers import Peer, SecureEnds, carrier, check_events, squid, tinyproxy
from .transfers import Download, Upload
from .tunnel import Ends, gather, open_ends

pytestmark = [pytest.mark.anyio, pytest.mark.programs]

MB = 1_000_000


class Make(Protocol):
    def __call__(self, server_port: int, *, plain: bool = False) -> Peer: ...


MAKES = pytest.mark.parametrize("make", [squid, tinyproxy], ids=["squid", "tinyproxy"])
# By CONNECT to a server that speaks TLS itself, and as plain requests to one that does not.
WAYS = pytest.mark.parametrize(
    ("transport", "scheme"),
    [("websocket", "wss"), ("longpoll", "http"), pytest.param("longpoll", "https", marks=pytest.mark.full)],
)


@asynccontextmanager
async def open_tunnel_by(
    make: Make, transport: str, scheme: str, tls_files: dict[str, Path], context: ssl.SSLContext
) -> AsyncIterator[Ends]:
    """A tunnel whose client comes by the proxy; callers go to the server itself."""
    secure = scheme != "http"
    options: dict[str, Any] = {"tls": TlsFiles(cert=tls_files["cert"], key=tls_files["key"])} if secure else {}
    async with open_ends(**options, transports=["websocket", carrier("longpoll")]) as ends:
        peer = make(ends.port, plain=not secure)
        way: dict[str, Any] = {
            "url": f"{scheme}://localhost:{ends.port}",
            "proxy": f"http://127.0.0.1:{peer.port}",
            "transport": carrier(transport),
            "cafile": tls_files["ca"] if secure else None,
        }
        async with peer.run(), ends.join(**way):
            yield SecureEnds(ends.origin, ends.server, ends.limits, ends.port, context) if secure else ends


@MAKES
@WAYS
async def test_bodies_and_events(
    make: Make, transport: str, scheme: str, tls_files: dict[str, Path], client_ssl_context: ssl.SSLContext
) -> None:
    async with open_tunnel_by(make, transport, scheme, tls_files, client_ssl_context) as ends:
        with anyio.fail_after(30):
            await gather(Download(ends, 5 * MB).run, Upload(ends, 5 * MB).run)
        async with ends.caller() as stream:
            await check_events(ends, stream)


@pytest.mark.full
@pytest.mark.timeout(300)
@MAKES
@WAYS
async def test_long_bodies(
    make: Make, transport: str, scheme: str, tls_files: dict[str, Path], client_ssl_context: ssl.SSLContext
) -> None:
    async with open_tunnel_by(make, transport, scheme, tls_files, client_ssl_context) as ends:
        await Download(ends, 100 * MB).run()
        await Upload(ends, 100 * MB).run()


@MAKES
async def test_no_other_host_is_reached(make: Make, tls_files: dict[str, Path]) -> None:
    async with open_ends(tls=TlsFiles(cert=tls_files["cert"], key=tls_files["key"])) as ends:
        peer = make(ends.port)
        way: dict[str, Any] = {"proxy": f"http://127.0.0.1:{peer.port}", "cafile": tls_files["ca"]}
        async with peer.run(), ends.join(url=f"wss://127.0.0.1:{ends.port}", ready=False, **way) as client:
            reason = await complaint(client)
        assert "the proxy" in reason
        assert "403" in reason


async def complaint(client: TunnelClient) -> str:
    with anyio.fail_after(10):
        async for event in client.events():
            if isinstance(event, Retrying):
                return event.reason
    raise AssertionError("the client is over")
