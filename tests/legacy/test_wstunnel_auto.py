"""A tunnel client that may register with a WStunnel server, and is not told whether there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from tunnelkit import TunnelClient, TunnelServer
from tunnelkit.errors import AnsweredByOther, RegistrationRefused
from tunnelkit.handshake import Handshake, Resume
from tunnelkit.legacy.wstunnel import WStunnelTransport
from tunnelkit.net.dial import Dial

from ..e2e.origin import TestOrigin, serve_origin
from ..e2e.tunnel import SHORT, TOKEN, until
from ..transports.stubs import dial_request
from .wstunnel_peers import WStunnelServer

pytestmark = pytest.mark.anyio

GET = b"GET /bytes/3 HTTP/1.1\r\nHost: public.example\r\n\r\n"


@asynccontextmanager
async def tunnel(server: WStunnelServer, *, allow_legacy: bool) -> AsyncIterator[TunnelClient]:
    async with serve_origin() as origin, of(server, origin, allow_legacy=allow_legacy) as client:
        yield client


def of(server: WStunnelServer, origin: TestOrigin, *, allow_legacy: bool) -> TunnelClient:
    return TunnelClient(server.url, token=TOKEN, origin=origin.url, limits=SHORT, allow_legacy=allow_legacy)


async def test_where_it_is_allowed_and_the_server_answers_as_theirs_its_wire_is_spoken() -> None:
    async with WStunnelServer.running() as server, tunnel(server, allow_legacy=True) as client:
        await client.wait_ready(10)
        assert client.transport == "wstunnel"
        assert (await server.ask(GET)).body == bytes(range(3))
        asked = server.others[-1]  # right before the token was shown
        assert asked["line"] == "GET /_tunnel HTTP/1.1"
        assert TOKEN not in str(asked)
        assert not {"origin", "authorization", "sec-websocket-protocol"} & asked.keys()
        assert [handshake["origin"] for handshake in server.handshakes] == [TOKEN]


async def test_the_older_makes_answer_ends_with_a_line_feed() -> None:
    async with WStunnelServer.running() as server:
        server.without_origin = server.without_origin.replace(b"Length: 45", b"Length: 46") + b"\n"
        async with tunnel(server, allow_legacy=True) as client:
            await client.wait_ready(10)
            assert client.transport == "wstunnel"


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        lambda answer: b"HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\nOrigin header with rendez-vous token required",
    ],
    ids=["switched", "captive portal"],
)
async def test_any_other_answer_never_learns_the_token_and_it_keeps_trying(change: Callable[[bytes], bytes]) -> None:
    async with WStunnelServer.running() as server:
        right = server.without_origin
        server.without_origin = change(right)
        async with tunnel(server, allow_legacy=True) as client:
            await server.until(lambda: any("tunnelkit-token" not in one for one in server.others))
            assert not server.handshakes
            server.without_origin = right
            await client.wait_ready(10)
            assert client.transport == "wstunnel"


async def test_where_it_is_not_allowed_it_is_never_tried() -> None:
    async with WStunnelServer.running() as server, tunnel(server, allow_legacy=False):
        await server.until(lambda: len(server.others) >= 6)
        assert not server.handshakes
        assert all("tunnelkit-token" in asked for asked in server.others)


async def test_it_is_not_probed_for_what_cannot_take_its_session() -> None:
    async with WStunnelServer.running() as server, tunnel(server, allow_legacy=True) as client:
        await client.wait_ready(10)
        seen = len(server.others)
        assert client._supervisor._choice.next_probe(0.0) is None
        assert (await server.ask(GET)).status == 200
        assert len(server.others) == seen


async def test_with_the_server_replaced_the_next_connection_is_tunnelkits() -> None:
    async with serve_origin() as origin, anyio.create_task_group() as group:
        async with WStunnelServer.running() as old:
            client = of(old, origin, allow_legacy=True)
            await group.start(client.run)
            await client.wait_ready(10)
            assert client.transport == "wstunnel"
        async with TunnelServer(f"127.0.0.1:{old.port}") as new:
            await until(lambda: client.transport == "websocket")
            assert [session.transport for session in new.sessions()] == ["websocket"]
            client.close()


async def test_with_the_old_server_back_the_client_follows_again() -> None:
    async with serve_origin() as origin, anyio.create_task_group() as group:
        async with TunnelServer("127.0.0.1:0") as new:
            port = int(new.url.rpartition(":")[2])
            client = TunnelClient(new.url, token=TOKEN, origin=origin.url, limits=SHORT, allow_legacy=True)
            await group.start(client.run)
            await client.wait_ready(10)
        async with WStunnelServer.running(port) as old:
            await old.until(lambda: old.handshakes)
            assert (await old.ask(GET)).status == 200
            client.close()


@pytest.mark.parametrize("theirs", [True, False])
async def test_a_session_that_lives_is_given_up_for_a_wstunnel_server_alone(theirs: bool) -> None:
    resume = Resume(session_id="a" * 32, epoch=2, proof=b"p" * 32)
    dialler = Dial(proxy="", timeout=5)
    async with WStunnelServer.running() as server:
        if not theirs:
            server.without_origin = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
        handshake = Handshake(token=TOKEN, resume=resume)
        request = dial_request(handshake, dialler, url=f"http://127.0.0.1:{server.port}")
        with pytest.raises(RegistrationRefused if theirs else AnsweredByOther) as caught:
            await WStunnelTransport().dial(request)
        assert not server.handshakes
        if isinstance(caught.value, RegistrationRefused):
            assert caught.value.code == "unknown_session"
