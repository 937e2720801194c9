"""A tunnel client of ours at WStunnel's deployed servers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tunnelkit import RegistrationRefused, TunnelClient

from ..e2e.origin import TestOrigin, pattern_digest, serve_origin
from ..e2e.tunnel import SHORT, TOKEN, until
from .wstunnel_peers import WStunnelServer

pytestmark = pytest.mark.anyio

# Quick to dial again, and slow to take a server on a busy machine for dead.
PATIENT = replace(SHORT, ping_idle_timeout=5.0, dial_timeout=5.0, grace=7.0)


@asynccontextmanager
async def joined(**options: Any) -> AsyncIterator[tuple[WStunnelServer, TestOrigin, TunnelClient]]:
    async with WStunnelServer.running() as server, serve_origin() as origin:
        known: dict[str, Any] = {"token": TOKEN, "origin": origin.url, "transport": "wstunnel", "limits": PATIENT}
        async with TunnelClient(server.url, **(known | options)) as client:
            await client.wait_ready(10)
            yield server, origin, client


def get(target: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: public.example", *fields, "", ""]).encode()


def post(target: str, body: bytes, *fields: str) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: public.example", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


async def test_the_handshake_is_theirs() -> None:
    async with joined(token=f"{TOKEN}", password="secret word") as (server, _, client):
        assert client.transport == "wstunnel"
        (handshake,) = server.handshakes
        assert handshake["line"] == "GET /_tunnel HTTP/1.1"
        assert handshake["origin"] == TOKEN
        assert handshake["authorization"].startswith("Basic ")
        assert "sec-websocket-protocol" not in handshake
        assert not [name for name in handshake if name.startswith("tunnelkit-")]
        await server.until(lambda: server.pings)


async def test_a_request_is_answered_with_its_id() -> None:
    async with joined() as (server, origin, _):
        answered = await server.ask(get("/echo?a=%2F", "X-Token: " + TOKEN, "Connection: X-Foo", "X-Foo: 1"))
        assert answered.status == 200
        echo = json.loads(answered.body)
        assert echo["target"] == "/echo?a=%2F"
        names = [name.lower() for name, _ in echo["fields"]]
        assert "x-token" not in names
        assert "x-foo" not in names
        assert answered.value("Content-Length") == str(len(answered.body))
        assert origin.targets() == ["/echo?a=%2F"]


@pytest.mark.parametrize("size", [0, 1, 102_396, 300_000, 3_000_000])
async def test_bodies_go_both_ways(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with joined() as (server, _, _):
        answered = await server.ask(post("/sink", body))
        assert json.loads(answered.body) == {"size": size, "sha256": hashlib.sha256(body).hexdigest()}
        answered = await server.ask(get(f"/bytes/{size}"))
        assert hashlib.sha256(answered.body).hexdigest() == pattern_digest(size)
        assert all(length <= 102_400 for length in answered.fragments)


async def test_chunked_requests_and_answers_pass() -> None:
    async with joined() as (server, _, _):
        chunked = b"POST /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        assert json.loads((await server.ask(chunked)).body)["size"] == 5
        answered = await server.ask(get("/bytes/1000/chunked"))
        assert (len(answered.body), answered.value("Transfer-Encoding")) == (1000, None)


@pytest.mark.parametrize(("method", "target", "status"), [("HEAD", "/bytes/10", 200), ("GET", "/status/304", 304)])
async def test_answers_without_a_body(method: str, target: str, status: int) -> None:
    async with joined() as (server, _, _):
        answered = await server.ask(get(target).replace(b"GET", method.encode(), 1))
        assert (answered.status, answered.body) == (status, b"")


async def test_a_slow_answer_stops_nobody() -> None:
    async with joined() as (server, origin, _), anyio.create_task_group() as group:
        slow: list[int] = []

        async def ask_slowly() -> None:
            slow.append((await server.ask(get("/hold/x"))).status)

        group.start_soon(ask_slowly)
        await origin.arrived("/hold/x")
        statuses = [(await server.ask(get(f"/bytes/{number}"))).status for number in range(20)]
        assert statuses == [200] * 20
        assert not slow
        origin.release("x")


async def test_redirects_are_passed_on() -> None:
    async with joined() as (server, _, _):
        answered = await server.ask(get("/status/302"))
        assert (answered.status, answered.value("Location")) == (302, "http://elsewhere.example/")


async def test_an_origin_that_breaks_off_is_told_as_such() -> None:
    async with joined() as (server, origin, _):
        origin.release("half")
        assert (await server.ask(get("/half/1000"))).status == 502


async def test_an_x_host_needs_the_allowlist() -> None:
    async with joined() as (server, origin, _):
        answered = await server.ask(get("/bytes/1", f"X-Host: {origin.url}"))
        assert answered.status == 403
        assert origin.targets() == []


@pytest.mark.parametrize("request_", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b""])
async def test_a_message_that_holds_no_request_is_told_and_the_tunnel_goes_on(request_: bytes) -> None:
    async with joined() as (server, _, _):
        assert (await server.ask(request_)).status == 400
        assert (await server.ask(get("/bytes/1"))).status == 200
        assert server.closed == 0


@pytest.mark.parametrize("garbage", [b"", b"xyz", b"  1 GET / HTTP/1.1\r\n\r\n"])
async def test_a_message_without_an_id_costs_the_connection_and_the_client_comes_again(garbage: bytes) -> None:
    async with joined() as (server, _, _):
        await server.raw(garbage)
        await server.until(lambda: len(server.handshakes) == 2)
        assert (await server.ask(get("/bytes/1"))).status == 200


async def test_a_lost_connection_is_dialled_again() -> None:
    async with joined() as (server, _, _):
        server.drop()
        await server.until(lambda: len(server.handshakes) == 2)
        assert (await server.ask(get("/bytes/1"))).status == 200


async def test_a_client_that_drains_gives_the_answers_that_it_owes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wstunnel_client.FAREWELL", 10.0)
    async with joined() as (server, origin, client), anyio.create_task_group() as group:
        held, long = await server.send(get("/hold/x")), await server.send(get("/bytes/12000000"))
        await origin.arrived("/bytes/12000000")
        server.stop_reading()
        group.start_soon(client.drain)
        origin.release("x")
        await until(lambda: client.transport is None)  # its session is over, and the answers are not all sent
        server.read_on()
        assert (await server.answered(held)).status == 200
        assert len((await server.answered(long)).body) == 12_000_000
        await server.until(lambda: server.closed)


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_client_that_ends_says_so_to_whom_it_owes_answers(leaves: bool) -> None:
    async with WStunnelServer.running() as server, serve_origin() as origin:
        async with TunnelClient(server.url, token=TOKEN, origin=origin.url, transport="wstunnel") as client:
            await client.wait_ready(10)
            number = await server.send(get("/hold/x"))
            await origin.arrived("/hold/x")
            if not leaves:
                client.close()
                assert (await server.answered(number)).status == 502
        assert leaves is False or (await server.answered(number)).status == 502
        await server.until(lambda: server.closed)


async def test_a_refused_password_ends_the_client() -> None:
    body = b"Invalid token or password"
    refusal = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="wstunnel"\r\nContent-Length: %d\r\n\r\n'
    async with WStunnelServer.running() as server:
        server.refuse = refusal % len(body) + body
        with pytest.raises(RegistrationRefused, match="Invalid token or password"):
            async with TunnelClient(server.url, token=TOKEN, origin="http://127.0.0.1:9", transport="wstunnel"):
                await anyio.sleep_forever()


async def test_a_full_server_is_asked_again() -> None:
    body = b"Maximum number of clients (1) reached for this token"
    async with WStunnelServer.running() as server, serve_origin() as origin:
        server.refuse = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        options: dict[str, Any] = {"token": TOKEN, "origin": origin.url, "transport": "wstunnel", "limits": SHORT}
        async with TunnelClient(server.url, **options) as client:
            await server.until(lambda: server.handshakes)
            server.refuse = None
            await client.wait_ready(10)
            assert (await server.ask(get("/bytes/1"))).status == 200
