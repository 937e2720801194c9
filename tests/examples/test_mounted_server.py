"""The example of a server inside another app, under real ASGI servers."""

from __future__ import annotations

import json

import pytest

import mounted_server
from tunnelkit import TunnelClient

from ..e2e.hosts import HOSTS, hosted
from ..e2e.origin import serve_origin
from ..e2e.tunnel import TOKEN, exchange

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("host", HOSTS)
async def test_it_serves_its_own_pages_and_the_tunnels(host: str) -> None:
    async with serve_origin() as origin, hosted(mounted_server.app, host) as port:
        url = f"http://127.0.0.1:{port}/tunnels"
        async with TunnelClient(url, token=TOKEN, origin=origin.url) as client:
            await client.wait_ready(10)
            assert client.url == f"{url}/_token/{TOKEN}/"
            status, _, body = await exchange(port, "GET", f"/tunnels/_token/{TOKEN}/bytes/10")
            assert (status, len(body)) == (200, 10)
            (session,) = json.loads((await exchange(port, "GET", "/sessions"))[2])
            assert session["by"] == "websocket"
