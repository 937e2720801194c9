"""A tunnel client of ours at wsp's deployed servers."""

from __future__ import annotations

import hashlib
import json
import ssl
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import DEVNULL
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
import pytest

from tunnelkit import RegistrationRefused, Rule, TunnelClient
from tunnelkit.errors import LocalProtocolError
from tunnelkit.events import Connected, Lost
from tunnelkit.legacy.fragments import FragmentSocket
from tunnelkit.legacy.wsp import PoolSize, WspTransport

from ..e2e.origin import TestOrigin, pattern_digest, serve_origin
from ..e2e.processes import Process
from ..e2e.proxies import PASSWORD, USER, serve_http_proxy
from ..e2e.tunnel import SHORT, TOKEN, until
from .wsp_server_peer import Joined, WspServer

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


def small(idle: int = 2, most: int = 6) -> WspTransport:
    return WspTransport(size=PoolSize(poolidlesize=idle, poolmaxsize=most), limits=SHORT)


@asynccontextmanager
async def joined(**options: Any) -> AsyncIterator[tuple[WspServer, TestOrigin, TunnelClient]]:
    """Theirs, an origin, and a client of ours whose pool is complete."""
    known: dict[str, Any] = {"token": TOKEN, "transport": small(), "limits": SHORT} | options
    async with (
        WspServer.running(known.get("password", "")) as server,
        serve_origin() as origin,
        TunnelClient(server.url, **({"origin": origin.url} | known)) as client,
    ):
        await client.wait_ready(10)
        await server.until(lambda: len(server.idle) >= 2)
        yield server, origin, client


# -- joining -----------------------------------------------------------------------------------


async def test_the_handshake_and_the_greeting_are_theirs() -> None:
    async with joined(password="a secret key", instance="client-A") as (server, _, client):
        assert client.transport == "wsp"
        assert client.url == server.url.replace("ws://", "http://").replace("/register", "/request")
        for handshake in server.handshakes:
            assert handshake["line"] == "GET /register HTTP/1.1"
            assert handshake["x-secret-key"] == "a secret key"
            assert not {"origin", "sec-websocket-protocol", "sec-websocket-extensions"} & handshake.keys()
            assert TOKEN not in str(handshake)
        assert [each.greeting for each in server.joined] == ["client-A_2"] * 2


async def test_without_a_key_the_field_is_empty() -> None:
    async with joined() as (server, _, _):
        assert server.handshakes[0]["x-secret-key"] == ""


@pytest.mark.parametrize(("path", "asked"), [("", "/register"), ("/wsp/in", "/wsp/in")])
async def test_the_path_is_the_urls_own(path: str, asked: str) -> None:
    async with WspServer.running() as server:
        url = server.url.replace("/register", path)
        async with TunnelClient(url, token=TOKEN, origin="http://127.0.0.1:9", transport="wsp") as client:
            await client.wait_ready(10)
            assert server.handshakes[0]["line"] == f"GET {asked} HTTP/1.1"


async def test_a_proxy_in_front_is_shown_the_urls_userinfo() -> None:
    async with WspServer.running() as server:
        url = server.url.replace("ws://", "ws://user:word@")
        async with TunnelClient(url, token=TOKEN, origin="http://127.0.0.1:9", transport="wsp") as client:
            await client.wait_ready(10)
            assert server.handshakes[0]["authorization"] == f"Basic {b64encode(b'user:word').decode()}"
            assert server.handshakes[0]["x-secret-key"] == ""


async def test_a_server_that_does_not_answer_is_dialled_again() -> None:
    limits = replace(SHORT, dial_timeout=0.2)
    async with WspServer.running() as server:
        server.mute = True
        async with TunnelClient(
            server.url, token=TOKEN, origin="http://127.0.0.1:9", transport=small(), limits=limits
        ) as client:
            await server.until(lambda: len(server.handshakes) == 2)
            assert "no answer from" in client._supervisor.trouble
            server.mute = False
            await client.wait_ready(10)


async def test_a_wrong_key_ends_the_client() -> None:
    async with WspServer.running("right") as server:
        with pytest.raises(RegistrationRefused, match="key") as caught:
            async with TunnelClient(
                server.url, token=TOKEN, password="wrong", origin="http://127.0.0.1:9", transport="wsp"
            ):
                await anyio.sleep_forever()
        assert (caught.value.status, caught.value.code) == (526, "unauthorized")
        assert "wrong" not in str(caught.value)


async def test_the_way_there_is_that_of_all_transports(
    server_ssl_context: ssl.SSLContext, tls_files: dict[str, Path]
) -> None:
    async with (
        WspServer.running(tls=server_ssl_context) as server,
        serve_origin() as origin,
        serve_http_proxy(server.port) as proxy,
    ):
        options: dict[str, Any] = {"token": TOKEN, "transport": small(), "cafile": tls_files["ca"]}
        way = f"http://{USER}:{quote(PASSWORD)}@127.0.0.1:{proxy.port}"
        async with TunnelClient(server.url, origin=origin.url, proxy=way, **options):
            assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200
            await server.until(lambda: len(server.joined) >= 2)
            assert set(proxy.asked) == {f"127.0.0.1:{server.port}"}


async def test_an_id_that_theirs_cannot_read_is_the_users_mistake() -> None:
    async with WspServer.running() as server:
        with pytest.raises(LocalProtocolError, match="id"):
            async with TunnelClient(
                server.url, token=TOKEN, origin="http://127.0.0.1:9", transport="wsp", instance="client_A"
            ):
                await anyio.sleep_forever()
        assert not server.joined


@pytest.mark.parametrize("allow_legacy", [False, True])
async def test_they_are_never_guessed(allow_legacy: bool) -> None:
    async with WspServer.running() as server:
        server.refuse = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        options: dict[str, Any] = {"token": TOKEN, "origin": "http://127.0.0.1:9", "limits": SHORT}
        async with TunnelClient(server.url, **options, allow_legacy=allow_legacy):
            await server.until(lambda: len(server.handshakes) >= 5)
        assert not [each for each in server.handshakes if "x-secret-key" in each]
        assert not [each for each in server.handshakes if each["line"].startswith("GET /register HTTP")]


# -- requests ----------------------------------------------------------------------------------


async def test_a_request_goes_to_the_url_that_it_names() -> None:
    async with joined() as (server, origin, _):
        header = {
            "Accept": ["*/*"],
            "Cookie": ["a=1", "b=2"],
            "X-Proxy-Destination": [f"{origin.url}/echo"],
            "X-Forwarded-For": ["192.0.2.1"],
            "X-Token": [TOKEN],
            "Connection": ["X-Foo"],
            "X-Foo": ["1"],
        }
        answer = await server.ask("GET", f"{origin.url}/echo?a=%2F", header=header)
        assert (answer.status, answer.length) == (200, len(answer.body))
        echo = json.loads(answer.body)
        assert (echo["method"], echo["target"]) == ("GET", "/echo?a=%2F")
        fields = [(name.lower(), value) for name, value in echo["fields"]]
        assert [value for name, value in fields if name == "cookie"] == ["a=1", "b=2"]
        assert ("host", origin.url.removeprefix("http://")) in fields
        assert ("x-forwarded-for", "192.0.2.1") in fields
        assert not {"x-proxy-destination", "x-token", "connection"} & {name for name, _ in fields}


@pytest.mark.parametrize("size", [0, 1, 4081, 4082, 1_000_000, pytest.param(10_000_000, marks=pytest.mark.full)])
async def test_bodies_go_both_ways(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with joined() as (server, origin, _):
        for length in (size, -1):
            answer = await server.ask("POST", f"{origin.url}/sink", body, length=length)
            assert json.loads(answer.body) == {"size": size, "sha256": hashlib.sha256(body).hexdigest()}
        for path, told in (("", size), ("/chunked", -1)):
            answer = await server.ask("GET", f"{origin.url}/bytes/{size}{path}")
            assert (answer.status, answer.length) == (200, told)
            assert hashlib.sha256(answer.body).hexdigest() == pattern_digest(size)


@pytest.mark.parametrize(("method", "target", "status"), [("HEAD", "/bytes/10", 200), ("GET", "/status/304", 304)])
async def test_answers_without_a_body(method: str, target: str, status: int) -> None:
    async with joined() as (server, origin, _):
        answer = await server.ask(method, origin.url + target)
        assert (answer.status, answer.body, answer.fragments) == (status, b"", [0])


async def test_redirects_are_passed_on() -> None:
    async with joined() as (server, origin, _):
        answer = await server.ask("GET", f"{origin.url}/status/302")
        assert (answer.status, answer.values("Location")) == (302, ["http://elsewhere.example/"])


async def test_interim_responses_and_trailers_are_not_in_their_wire() -> None:
    async with joined() as (server, origin, _):
        assert (await server.ask("GET", f"{origin.url}/info")).body == b"after"
        answer = await server.ask("GET", f"{origin.url}/trailers")
        assert (answer.length, answer.body, answer.values("Trailer")) == (-1, b"hello", [])


async def test_an_upgrade_becomes_a_plain_request() -> None:
    async with joined() as (server, origin, _):
        header = {"Connection": ["Upgrade"], "Upgrade": ["websocket"]}
        answer = await server.ask("GET", f"{origin.url}/echo", header=header)
        assert "Upgrade" not in dict(json.loads(answer.body)["fields"])


async def test_an_answer_is_passed_on_as_it_comes() -> None:
    async with joined() as (server, origin, _):
        connection = await server.take()
        await connection.request("GET", f"{origin.url}/sse")
        await connection.body(b"")
        for number in range(5):
            origin.release(f"event{number}")
            event = b"data: %d\n\n" % number
            await server.until(partial(connection.answer.received.endswith, event))
        await server.until(lambda: connection.answer.complete)
        assert connection.answer.length == -1


async def test_an_answer_before_the_body_ends_leaves_the_connection_as_it_was() -> None:
    async with joined() as (server, origin, _):
        connection = await server.take()
        await connection.request("POST", f"{origin.url}/early/413", length=3_000_000)
        await connection.body(bytes(3_000_000))
        await server.until(lambda: connection.answer.complete)
        assert connection.answer.status == 413
        while await server.take() is not connection:
            pass
        await connection.request("GET", f"{origin.url}/bytes/3")
        await connection.body(b"")
        await server.until(lambda: connection.answer.complete)
        assert connection.answer.body == bytes(range(3))


async def test_a_caller_that_stops_reading_stops_nobody_else() -> None:
    async with joined() as (server, origin, _):
        stalled = await server.take()
        stalled.stall()
        await stalled.request("GET", f"{origin.url}/bytes/20000000")
        await stalled.body(b"")
        await origin.arrived("/bytes/20000000")
        assert [(await server.ask("GET", f"{origin.url}/bytes/{size}")).status for size in range(20)] == [200] * 20
        assert not stalled.answer.complete


async def test_a_caller_that_leaves_ends_its_request() -> None:
    async with joined() as (server, origin, _):
        connection = await server.take()
        await connection.request("POST", f"{origin.url}/sink", length=10)
        await connection.fragment(b"12345", last=False)
        arrived = await origin.arrived("/sink")
        await connection.close()
        await origin.until(lambda: arrived.gone)
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200


# -- failures ----------------------------------------------------------------------------------


async def test_an_origin_that_is_down_is_told_without_its_address() -> None:
    async with joined(origin="http://127.0.0.1:9") as (server, _, _):
        answer = await server.ask("GET", "http://127.0.0.1:9/")
        assert (answer.status, answer.members["Header"], answer.length) == (527, {}, len(answer.body))
        assert answer.body == b"Unable to execute request : dial tcp: the origin cannot be reached\n"


@pytest.mark.parametrize("length", [0, 100_000])
async def test_a_destination_that_is_not_allowed_is_refused(length: int) -> None:
    async with joined() as (server, origin, _):
        answer = await server.ask("POST", "http://127.0.0.1:9/", bytes(length))
        assert (answer.status, answer.body) == (527, b"Destination is not allowed\n")
        assert origin.targets() == []
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200
        assert len(server.joined) == len(server.standing)


async def test_what_the_patterns_allow_is_reached() -> None:
    async with joined(origin=None, allow=("http://127[.]0[.]0[.]1:[0-9]+",)) as (server, origin, _):
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200


async def test_rules_judge_the_url_that_is_requested() -> None:
    rules = {"whitelist": [Rule(url="http://.*")], "blacklist": [Rule(url=".*/forbidden")]}
    async with joined(origin=None, **rules) as (server, origin, _):
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200
        for target in ("/forbidden", "/x/../%66orbidden"):
            answer = await server.ask("GET", origin.url + target)
            assert (answer.status, answer.body) == (527, b"Destination is not allowed\n")
        assert origin.targets() == ["/bytes/1"]


async def test_an_origin_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wsp_client_call.ANSWER_TIME", 0.1)
    async with joined() as (server, origin, _):
        answer = await server.ask("GET", f"{origin.url}/hold/x")
        assert (answer.status, answer.body) == (527, b"Unable to execute request : no answer came in time\n")


async def test_more_requests_than_the_client_has_room_for_are_told() -> None:
    limits = replace(SHORT, max_streams=1)
    async with joined(transport=WspTransport(size=PoolSize(poolidlesize=2), limits=limits)) as (server, origin, _):
        (held,) = await hold(server, origin, 1)
        answer = await server.ask("GET", f"{origin.url}/bytes/1")
        assert answer.body == b"Unable to execute request : the tunnel client is busy, or ends\n"
        origin.release("x")
        await server.until(lambda: held.answer.complete)
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200


@pytest.mark.parametrize(
    ("method", "url"),
    [("GET", "ftp://a/"), ("GET", "http://u:p@a/"), ("GET", "/x"), ("CONNECT", "http://a/"), ("G T", "http://a/")],
)
async def test_a_request_that_cannot_be_made_is_told(method: str, url: str) -> None:
    async with joined() as (server, origin, _):
        answer = await server.ask(method, url)
        assert answer.status == 527
        assert answer.body.startswith(b"Unable to execute request : ")
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200


async def test_an_answer_that_breaks_off_costs_its_connection() -> None:
    async with joined() as (server, origin, client):
        connection = await server.take()
        await connection.request("GET", f"{origin.url}/half/1000")
        await connection.body(b"")
        origin.release("half")
        await server.until(lambda: connection.closed)
        assert (connection.answer.status, connection.answer.complete) == (200, False)
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200
        await server.until(lambda: len(server.idle) >= 2)
        assert client.transport == "wsp"


async def send_nothing_of_a_websocket(connection: Joined, url: str) -> None:
    await connection.raw(b"\xff" * 100)


async def send_a_body_first(connection: Joined, url: str) -> None:
    await connection.fragment(b"{}", last=True)


async def send_no_json(connection: Joined, url: str) -> None:
    await connection.text("none")


async def send_an_endless_request(connection: Joined, url: str) -> None:
    for _ in range(5):
        await connection.text("x" * 65536, last=False)


async def send_a_text_for_a_body(connection: Joined, url: str) -> None:
    await connection.request("POST", f"{url}/sink", length=5)
    await connection.text("hello")


async def send_too_much(connection: Joined, url: str) -> None:
    await connection.request("POST", f"{url}/sink", length=5)
    await connection.body(b"more than that")


async def send_too_little(connection: Joined, url: str) -> None:
    await connection.request("POST", f"{url}/sink", length=50)
    await connection.body(b"less than that")


async def send_a_body_to_a_get(connection: Joined, url: str) -> None:
    await connection.request("GET", f"{url}/bytes/1000")
    await connection.body(b"unannounced")


async def send_the_next_too_early(connection: Joined, url: str) -> None:
    for _ in range(2):
        await connection.request("GET", f"{url}/hold/x")
        await connection.body(b"")


@pytest.mark.parametrize(
    "send",
    [
        send_nothing_of_a_websocket,
        send_a_body_first,
        send_no_json,
        send_an_endless_request,
        send_a_text_for_a_body,
        send_too_much,
        send_too_little,
        send_a_body_to_a_get,
        send_the_next_too_early,
    ],
)
async def test_garbage_costs_its_own_connection(send: Any) -> None:
    async with joined() as (server, origin, client), anyio.create_task_group() as tasks:
        listener = client.events()
        victim = await server.take()
        tasks.start_soon(send, victim, origin.url)
        await server.until(lambda: victim.closed)
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200
        await server.until(lambda: len(server.idle) >= 2)
        client.close()
        assert [event async for event in listener if isinstance(event, Lost | Connected)] == []


# -- the pool ----------------------------------------------------------------------------------


async def hold(server: WspServer, origin: TestOrigin, count: int) -> list[Joined]:
    held = []
    for number in range(count):
        connection = await server.take()
        await connection.request("GET", f"{origin.url}/hold/x?{number}")
        await connection.body(b"")
        held.append(connection)
    for number in range(count):
        await origin.arrived(f"/hold/x?{number}")
    return held


async def test_the_pool_grows_with_requests_to_its_bound() -> None:
    async with joined(transport=small(idle=2, most=5)) as (server, origin, _):
        held = await hold(server, origin, 1)
        await server.until(lambda: len(server.idle) == 2)
        held += await hold(server, origin, 4)
        assert (len(server.standing), len(server.idle)) == (5, 0)
        origin.release("x")
        await server.until(lambda: len(server.idle) == 5)
        assert [connection.answer.body for connection in held] == [b"held x"] * 5
        assert len(server.joined) == 5


async def test_a_hundred_requests_at_a_time() -> None:
    async with joined(transport=WspTransport(limits=SHORT)) as (server, origin, _):
        held = await hold(server, origin, 100)
        assert len(server.standing) == 100
        origin.release("x")
        await server.until(lambda: all(connection.answer.complete for connection in held))
        assert {connection.answer.status for connection in held} == {200}


async def test_connections_that_the_server_closes_are_replaced_and_nothing_is_lost() -> None:
    async with joined() as (server, origin, client):
        listener = client.events()
        for _ in range(3):
            (first, *_) = server.idle
            await first.close()
            await server.until(lambda: len(server.standing) == len(server.idle) == 2)
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200
        client.close()
        assert [event async for event in listener if isinstance(event, Lost)] == []


async def test_a_server_that_restarts_is_joined_again() -> None:
    async with joined() as (server, origin, client):
        listener = client.events()
        server.stop()
        assert isinstance(await anext(listener), Lost)
        assert client.transport is None
        await server.start()
        async for event in listener:
            if isinstance(event, Connected):
                break
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200
        await server.until(lambda: len(server.idle) >= 2)


async def test_a_server_that_takes_no_more_keeps_what_it_has() -> None:
    async with joined() as (server, origin, client):
        server.refuse = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        (first, _) = server.idle
        await first.close()
        await server.until(lambda: len(server.handshakes) >= 4)
        assert (await server.ask("GET", f"{origin.url}/bytes/1")).status == 200
        server.refuse = None
        await server.until(lambda: len(server.idle) >= 2)
        assert client.transport == "wsp"


async def test_a_server_that_drops_what_it_takes_is_joined_when_it_does_so_no_more() -> None:
    async with WspServer.running() as server:
        server.drops = True
        options: dict[str, Any] = {"token": TOKEN, "origin": "http://127.0.0.1:9", "transport": small()}
        async with TunnelClient(server.url, **options, limits=SHORT):
            await server.until(lambda: len(server.joined) >= 5)
            server.drops = False
            await server.until(lambda: len(server.idle) >= 2)


async def test_a_server_that_sends_garbage_at_once_is_one_that_failed() -> None:
    transport = small()
    async with WspServer.running() as server:
        server.blurts = "none"
        options: dict[str, Any] = {"token": TOKEN, "origin": "http://127.0.0.1:9", "transport": transport}
        async with TunnelClient(server.url, **options, limits=SHORT):
            await server.until(lambda: len(server.joined) >= 3 and not server.standing)
            (backoff,) = transport._client._backoffs.values()
            assert backoff.failing
            server.blurts = ""
            await server.until(lambda: len(server.idle) >= 2)


async def test_pings_go_out_and_a_silent_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wsp_client_connection.STEADY", 0.01)
    monkeypatch.setattr("tunnelkit.legacy.wsp_client_connection.PING_INTERVAL", 0.32)
    monkeypatch.setattr("tunnelkit.legacy.wsp_client_connection.PONG_TIME", 0.3)
    async with joined() as (server, _, _):
        silent, other = server.idle
        silent.pongs = False
        await server.until(lambda: silent.closed and other.pings >= 2)
        assert silent.pings


async def test_draining_closes_what_is_idle_and_finishes_what_runs() -> None:
    async with joined() as (server, origin, client), anyio.create_task_group() as tasks:
        (held,) = await hold(server, origin, 1)
        tasks.start_soon(client.drain, 10)
        await server.until(lambda: server.standing == [held])
        origin.release("x")
        await server.until(lambda: held.closed)
        assert held.answer.body == b"held x"
        await until(lambda: client.transport is None)
    assert len(server.joined) == len(server.handshakes) <= 4


async def test_draining_writes_out_what_was_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    may_go, send = anyio.Event(), FragmentSocket.send_fragment

    async def slowly(self: FragmentSocket, data: bytes, *, last: bool) -> None:
        await may_go.wait()
        await send(self, data, last=last)

    monkeypatch.setattr(FragmentSocket, "send_fragment", slowly)
    async with joined() as (server, origin, client), anyio.create_task_group() as tasks:
        connection = await server.take()
        await connection.request("GET", f"{origin.url}/bytes/1000")
        await connection.body(b"")
        await until(lambda: client.requests_served == 1)
        tasks.start_soon(client.drain, 10)
        await until(lambda: client.transport is None)
        may_go.set()
        await server.until(lambda: connection.answer.complete)
        assert len(connection.answer.body) == 1000


async def test_a_client_that_ends_says_so_to_those_who_wait() -> None:
    async with joined() as (server, origin, client):
        (held,) = await hold(server, origin, 1)
        client.close()
        await server.until(lambda: held.closed)
        assert held.answer.complete
        assert held.answer.body == b"Unable to execute request : the tunnel client ends\n"


# -- as a program ------------------------------------------------------------------------------


@pytest.mark.programs
async def test_the_command_line_serves_an_origin_through_theirs_and_needs_no_token(anyio_backend_name: str) -> None:
    async with WspServer.running("a secret key") as server, serve_origin() as origin:
        flags = ["--tunnel", server.url, "--server", origin.url, "--transport", "wsp", "--poolidlesize", "3"]
        flags += ["--secretkey", "a secret key", "--backend", anyio_backend_name]
        client = await anyio.to_thread.run_sync(lambda: Process("examples/tunnel_client.py", *flags))
        try:
            told = await anyio.to_thread.run_sync(lambda: client.said("ready "))
            assert told == f"http://127.0.0.1:{server.port}/request"
            assert (await server.ask("GET", f"{origin.url}/bytes/10")).body == bytes(range(10))
            assert server.joined[0].greeting.endswith("_3")
        finally:
            client.close()


async def test_the_command_line_ends_with_a_wrong_key() -> None:
    async with WspServer.running("right") as server:
        flags = [
            "--tunnel",
            server.url,
            "--transport",
            "wsp",
            "--server",
            "http://127.0.0.1:9",
            "--secretkey",
            "wrong",
        ]
        with anyio.fail_after(30):
            ended = await anyio.run_process(
                [sys.executable, ROOT / "examples" / "tunnel_client.py", *flags], check=False, stdout=DEVNULL
            )
        assert ended.returncode == 1
        assert b"the wsp server's secret key is another" in ended.stderr
        assert b"wrong" not in ended.stderr
