"""WStunnel's deployed clients at a tunnel server of ours."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tunnelkit import Granted, Refusal, Registration, TunnelServer
from tunnelkit.errors import StreamBroken
from tunnelkit.net.stream import ByteStream

from ..e2e.hosts import HOSTS
from ..e2e.origin import serve_origin
from ..e2e.processes import Process
from ..e2e.test_mount import mounted
from ..e2e.tunnel import TOKEN, Ends, exchange, open_ends, problem_of, until
from .wstunnel_peers import Asked, Refused, WStunnelClient, WStunnelServer, answer

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Ends]:
    async with open_ends(**options) as ends:  # their clients are served by default
        yield ends


async def read_to_the_end(caller: ByteStream) -> None:
    while await caller.receive():
        pass


async def greet(client: WStunnelClient, asked: Asked) -> None:
    await client.reply(asked, answer("200 OK", b"hello " + asked.line.encode(), "Set-Cookie: a=1", "Set-Cookie: b=2"))


async def echo(client: WStunnelClient, asked: Asked) -> None:
    await client.reply(asked, answer("200 OK", asked.body))


async def test_a_page_comes_back_with_its_fields() -> None:
    async with serving() as ends, WStunnelClient.joined(ends.port, greet) as client:
        status, fields, body = await ends.get("/a%2Fb?x=1")
        assert (status, body) == (200, b"hello GET /a%2Fb?x=1 HTTP/1.1")
        assert [value for name, value in fields if name == "Set-Cookie"] == ["a=1", "b=2"]
        (asked,) = client.asked
        assert asked.number == b"0001"
        assert asked.value("Host") == "tunnel.test"
        (session,) = ends.server.sessions()
        assert (session.transport, session.client_version) == ("wstunnel", "wstunnel wstunnel_rshade_b689489")


async def test_the_token_in_a_field_never_reaches_the_origin() -> None:
    async with serving() as ends, WStunnelClient.joined(ends.port, greet) as client:
        status, _, _ = await exchange(ends.port, "GET", "/x", fields={"X-Token": TOKEN})
        assert status == 200
        assert TOKEN.encode() not in client.asked[0].raw


@pytest.mark.parametrize("size", [0, 1, 102_396, 102_400, 1_000_000])
async def test_bodies_go_up_whole_in_one_message(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with serving() as ends, WStunnelClient.joined(ends.port, echo) as client:
        status, _, back = await exchange(ends.port, "POST", ends.path("/up"), body=body)
        assert (status, hashlib.sha256(back).digest()) == (200, hashlib.sha256(body).digest())
        assert client.asked[0].value("Content-Length") == str(size)


async def test_a_response_is_passed_on_fragment_by_fragment() -> None:
    async def slowly(client: WStunnelClient, asked: Asked) -> None:
        await client.begin(asked, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")

    async with serving() as ends, WStunnelClient.joined(ends.port, slowly) as client, ends.caller() as caller:
        await caller.send(f"GET {ends.path('/')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        data = b""
        with anyio.fail_after(10):
            while b"first" not in data:
                data += await caller.receive()
            await client.more(b"later", last=True)
            while b"later" not in data:
                data += await caller.receive()


@pytest.mark.parametrize(
    "message",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
@pytest.mark.parametrize("fragment", [1, 102_400])
async def test_a_response_of_no_known_length_is_whole(message: bytes, fragment: int) -> None:
    async def respond(client: WStunnelClient, asked: Asked) -> None:
        await client.reply(asked, message, fragment=fragment)

    async with serving() as ends, WStunnelClient.joined(ends.port, respond):
        status, fields, body = await ends.get("/")
        assert (status, body) == (200, b"hello")
        assert "X-Hop" not in dict(fields)


async def test_an_empty_last_fragment_ends_a_message() -> None:
    async def oddly(client: WStunnelClient, asked: Asked) -> None:
        await client.begin(asked, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await client.more(b"", last=True)

    async with serving() as ends, WStunnelClient.joined(ends.port, oddly):
        assert [(await ends.get("/"))[2] for _ in range(2)] == [b"ok", b"ok"]


async def test_an_empty_fragment_in_between_ends_nothing() -> None:
    async def oddly(client: WStunnelClient, asked: Asked) -> None:
        await client.begin(asked, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await client.more(b"")
        await client.more(b"k", last=True)

    async with serving() as ends, WStunnelClient.joined(ends.port, oddly):
        assert (await ends.get("/"))[2] == b"ok"


async def test_ids_go_on_and_many_requests_are_answered_in_any_order() -> None:
    async with serving() as ends:
        waiting: list[Asked] = []

        async def backwards(client: WStunnelClient, asked: Asked) -> None:
            waiting.append(asked)
            if len(waiting) == 5:
                for each in reversed(waiting):
                    await client.reply(each, answer("200 OK", each.line.encode()))

        async with WStunnelClient.joined(ends.port, backwards) as client, anyio.create_task_group() as group:
            calls = [ends.call(group, f"/{number}") for number in range(5)]
            bodies = [(await call.answer())[2] for call in calls]
            assert bodies == [f"GET /{number} HTTP/1.1".encode() for number in range(5)]
            assert sorted(asked.number for asked in client.asked) == [b"%04x" % number for number in range(1, 6)]


async def test_requests_of_a_client_that_dies_are_told_truthfully_and_queued_ones_wait() -> None:
    async def never(client: WStunnelClient, asked: Asked) -> None:
        await anyio.sleep_forever()

    async with serving() as ends, anyio.create_task_group() as group:
        async with WStunnelClient.joined(ends.port, never) as client:
            call = ends.call(group, "/", fields={"Accept": "application/json"})
            await client.until(lambda: client.asked)
        problem = problem_of(await call.answer())
        assert (problem["status"], problem["code"]) == (502, "tunnel_lost")
        queued = ends.call(group, "/again")
        await ends.pending(1)
        async with WStunnelClient.joined(ends.port, greet):
            assert await queued.status() == 200


@pytest.mark.parametrize(
    "garbage", [b"0001no http at all\r\n\r\n", b"0001HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"]
)
async def test_a_response_that_is_none_is_a_502_and_the_tunnel_goes_on(garbage: bytes) -> None:
    answered = 0

    async def badly(client: WStunnelClient, asked: Asked) -> None:
        nonlocal answered
        answered += 1
        if answered == 1:
            await client.raw(garbage)
        else:
            await greet(client, asked)

    async with serving() as ends, WStunnelClient.joined(ends.port, badly):
        if b"abc" in garbage:  # its head was good: it is broken off
            with pytest.raises((AssertionError, StreamBroken)):
                await ends.get("/")
        else:
            assert (await ends.get("/"))[0] == 502
        assert (await ends.get("/"))[0] == 200


@pytest.mark.parametrize("garbage", [b"", b"zz", b"00", b"0_01HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_message_without_an_id_costs_its_own_connection(garbage: bytes) -> None:
    async with serving() as ends, WStunnelClient.joined(ends.port, greet) as client:
        await client.raw(garbage)
        await client.until(lambda: client.closed)
        async with WStunnelClient.joined(ends.port, greet):
            assert (await ends.get("/"))[0] == 200


async def test_an_answer_to_nobody_is_passed_over() -> None:
    async with serving() as ends, WStunnelClient.joined(ends.port, greet) as client:
        await client.raw(b"7abcHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await ends.get("/"))[0] == 200


async def test_pings_are_answered() -> None:
    async with serving() as ends, WStunnelClient.joined(ends.port, greet) as client:
        await client.until(lambda: client.pongs == 1)


@pytest.mark.parametrize(("password", "status"), [("the right one", 101), ("a wrong one", 401), (None, 401)])
async def test_passwords_come_by_basic_authentication(password: str | None, status: int) -> None:
    async with serving(passwords={TOKEN: "the right one"}) as ends:
        try:
            async with WStunnelClient.joined(ends.port, greet, password=password):
                assert (await ends.get("/"))[0] == 200
        except* Refused as group:
            (refused,) = group.exceptions
            assert isinstance(refused, Refused)
            assert refused.status == status
            assert ("WWW-Authenticate", 'Basic realm="wstunnel"') in refused.fields
        else:
            assert status == 101


async def test_they_are_judged_by_the_same_rules_as_ours() -> None:
    seen: list[Registration] = []

    async def judge(registration: Registration) -> Granted | Refusal:
        seen.append(registration)
        return Refusal(status=403, code="forbidden", detail="not today")

    async with serving(known_tokens=[TOKEN], known_tokens_only=True, authorise=judge) as ends:
        with pytest.raises(Refused) as caught:
            async with WStunnelClient.joined(ends.port, greet, token="a-token-of-nobody"):
                pass
        assert (caught.value.status, seen) == (401, [])
        with pytest.raises(Refused) as caught:
            async with WStunnelClient.joined(ends.port, greet):
                pass
        assert (caught.value.status, caught.value.body) == (401, b"not today")
        assert [registration.token for registration in seen] == [TOKEN]


async def test_a_token_that_is_too_short_is_told_as_theirs_is() -> None:
    async with serving() as ends:
        with pytest.raises(Refused) as caught:
            async with WStunnelClient.joined(ends.port, greet, token="short"):
                pass
        assert (caught.value.status, caught.value.body) == (400, b"Rendez-vous token is too short (must be 16 chars)")


async def test_without_the_transport_their_clients_are_told_so() -> None:
    async with open_ends(transports=("websocket", "longpoll")) as ends:
        with pytest.raises(Refused) as caught:
            async with WStunnelClient.joined(ends.port, greet):
                pass
        assert caught.value.status == 400
        assert b"WStunnel" in caught.value.body


async def test_our_own_clients_share_the_port_with_theirs() -> None:
    async with serving() as ends, WStunnelClient.joined(ends.port, greet, token="another-token-of-16"):
        status, _, body = await exchange(ends.port, "GET", "/_token/another-token-of-16/x")
        assert (status, body) == (200, b"hello GET /x HTTP/1.1")
        async with ends.join():
            assert (await ends.get("/bytes/10"))[0] == 200


@pytest.mark.parametrize("host", HOSTS)
async def test_they_come_in_by_another_programs_port_too(host: str) -> None:
    body = b"x" * 300_000
    async with mounted(host) as ends, WStunnelClient.joined(ends.port, echo):
        status, _, back = await exchange(ends.port, "POST", ends.path("/up"), body=body)
        assert (status, back) == (200, body)


async def test_the_transport_is_found_by_its_name() -> None:
    server = TunnelServer(("127.0.0.1:0",), transports=("websocket", "wstunnel"))
    async with server, WStunnelClient.joined(int(server.url.rpartition(":")[2]), greet):
        await until(lambda: [session.transport for session in server.sessions()] == ["wstunnel"])


@pytest.mark.programs
async def test_the_command_line_serves_them(anyio_backend_name: str) -> None:
    command = ["examples/tunnel_server.py", "--listen", "127.0.0.1:0", "--backend", anyio_backend_name]
    server = await anyio.to_thread.run_sync(lambda: Process(*command))
    try:
        url = await anyio.to_thread.run_sync(lambda: server.said("listening on "))
        port = int(url.rpartition(":")[2])
        async with WStunnelClient.joined(port, greet):
            assert (await exchange(port, "GET", f"/_token/{TOKEN}/x"))[0] == 200
    finally:
        server.close()


@pytest.mark.programs
async def test_the_command_line_serves_an_origin_through_theirs(anyio_backend_name: str) -> None:
    async with WStunnelServer.running() as server, serve_origin() as origin:
        flags = ["--tunnel", server.url, "--server", origin.url, "--token", TOKEN, "--transport", "wstunnel"]
        client = await anyio.to_thread.run_sync(
            lambda: Process("examples/tunnel_client.py", *flags, "--backend", anyio_backend_name)
        )
        try:
            await anyio.to_thread.run_sync(lambda: client.said("ready "))
            assert (await server.ask(b"GET /bytes/10 HTTP/1.1\r\nHost: a\r\n\r\n")).body == bytes(range(10))
        finally:
            client.close()
