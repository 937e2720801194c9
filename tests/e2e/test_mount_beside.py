"""A mounted server beside its own front: two ways in, one table of sessions."""

from __future__ import annotations

import pytest

from tunnelkit import Request, Response, TunnelClient, TunnelServer

from .hosts import HOSTS, hosted
from .tunnel import TOKEN, exchange, until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("host", HOSTS)]


async def hello(request: Request) -> Response:
    return Response(body=f"hello {request.path}")


@pytest.mark.parametrize("by", ["front", "host"])
async def test_callers_and_clients_come_by_the_host_and_by_its_own_front_alike(host: str, by: str) -> None:
    server = TunnelServer("127.0.0.1:0")
    async with hosted(server.asgi_app, host) as port:
        await until(lambda: server.urls)  # the host's lifespan starts it
        own = int(server.url.rpartition(":")[2])
        url = f"http://127.0.0.1:{own if by == 'front' else port}"
        async with TunnelClient(url, token=TOKEN, origin=hello) as client:
            await client.wait_ready(10)
            for way_in in (own, port):
                status, _, body = await exchange(way_in, "GET", f"/_token/{TOKEN}/page")
                assert (status, body) == (200, b"hello /page")
            assert len(server.sessions()) == 1
