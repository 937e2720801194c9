"""A tunnel server under real ASGI servers: callers and tunnel clients come in by another program's port."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tunnelkit import AsgiOrigin, TunnelServer
from tunnelkit.errors import StreamBroken
from tunnelkit.http.websocket import Close, Event, MessageCodec, accept_key, new_key
from tunnelkit.net.stream import ByteStream

from .hosts import HOSTS, hosted
from .origin import pattern_digest, serve_origin
from .tunnel import Ends, exchange, read_head, until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("host", HOSTS)]

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "longpoll"])


class Mounted(Ends):
    """``Ends`` by the host's port."""

    host_port = 0

    @property
    def port(self) -> int:
        return self.host_port


@asynccontextmanager
async def mounted(host: str, **options: Any) -> AsyncIterator[Mounted]:
    server = TunnelServer((), **options)
    async with serve_origin() as origin, hosted(server.asgi_app, host) as port:
        ends = Mounted(origin, server, server.limits)
        ends.host_port = port
        yield ends


@TRANSPORTS
async def test_pages_and_bodies_both_ways(host: str, transport: str) -> None:
    async with mounted(host) as ends, ends.join(transport=transport) as client:
        assert client.transport == transport
        status, fields, body = await ends.get("/bytes/1000000")
        assert (status, hashlib.sha256(body).hexdigest()) == (200, pattern_digest(1_000_000))
        assert ("content-length", "1000000") in [(name.lower(), value) for name, value in fields]
        status, _, body = await ends.get("/bytes/100000/chunked")
        assert (status, hashlib.sha256(body).hexdigest()) == (200, pattern_digest(100_000))
        sent = bytes(range(256)) * 2000
        status, _, body = await exchange(ends.port, "POST", ends.path("/sink"), body=sent)
        assert status == 200
        assert hashlib.sha256(sent).hexdigest() in body.decode()
        assert (await exchange(ends.port, "HEAD", ends.path("/bytes/10")))[0] == 200
        assert (await ends.get("/status/404"))[0] == 404
        assert (await ends.get("/status/304"))[0] == 304


@TRANSPORTS
async def test_an_events_first_byte_arrives_before_the_next_is_sent(host: str, transport: str) -> None:
    async with mounted(host) as ends, ends.join(transport=transport), ends.caller() as caller:
        await caller.send(f"GET {ends.path('/sse')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        with anyio.fail_after(10):
            _, _, data = await read_head(caller)
            ends.origin.release("event0")
            while b"data:" not in data:
                data += await caller.receive()


async def test_an_uploads_first_bytes_arrive_before_its_end(host: str) -> None:
    async with mounted(host) as ends, ends.join(), ends.caller() as caller:
        head = f"POST {ends.path('/sink')} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await caller.send(head.encode() + b"5\r\nabcde\r\n")
        request = await ends.origin.arrived("/sink")
        assert not request.body_complete
        await caller.send(b"0\r\n\r\n")
        with anyio.fail_after(10):
            status, _, _ = await read_head(caller)
        assert status == 200


async def test_a_caller_that_leaves_is_noticed_at_the_origin(host: str) -> None:
    async with mounted(host) as ends, ends.join():
        async with ends.caller() as caller:
            await caller.send(f"GET {ends.path('/hold/x')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            request = await ends.origin.arrived("/hold/x")
        await ends.origin.until(lambda: request.gone)


async def test_a_caller_that_leaves_in_the_middle_of_a_large_answer_stops_nobody_else(host: str) -> None:
    """Its host holds as much as it may, and more of the answer waits behind that."""
    async with mounted(host) as ends, ends.join():
        async with ends.caller() as caller:
            await caller.send(f"GET {ends.path('/bytes/20000000')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await read_head(caller)
            await ends.pending(1)
        await ends.pending(0)
        assert (await ends.get("/bytes/10"))[0] == 200


async def test_callers_that_leave_at_any_time_leave_nothing_behind(host: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await echo(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(100):
                await send({"type": "http.response.body", "body": bytes(60_000), "more_body": True})
            await send({"type": "http.response.body"})

    async def call(seconds: float, request: bytes) -> None:
        with suppress(StreamBroken), anyio.move_on_after(seconds):
            async with ends.caller() as caller:
                await caller.send(request)
                while await caller.receive():
                    pass

    async with mounted(host) as ends, ends.join(transport="websocket", origin=AsgiOrigin(app, lifespan="off")):
        target = ends.path("/x")
        upload = f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n".encode() + bytes(500_000)
        requests = (f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), upload, opening(target))
        async with anyio.create_task_group() as group:
            for seconds in (0.001, 0.005, 0.02, 0.05, 0.1):
                for request in requests:
                    group.start_soon(call, seconds, request)
        await ends.pending(0)
        await until(lambda: len(ends.server._need_running().calls) == 2)  # of the tunnel's client
        assert (await exchange(ends.port, "GET", "/_health_check"))[0] == 200


async def test_a_broken_answer_is_seen_to_be_broken(host: str) -> None:
    async with mounted(host) as ends, ends.join():
        ends.origin.release("half")
        with pytest.raises((AssertionError, StreamBroken)):
            await ends.get("/half/100000")


async def test_other_upgrades_are_not_implemented(host: str) -> None:
    async with mounted(host) as ends, ends.join():
        fields = {"Connection": "Upgrade", "Upgrade": "something", "Accept": "application/json"}
        answer = await exchange(ends.port, "GET", ends.path("/upgrade"), fields=fields)
        assert answer[0] == 501
        assert ends.origin.targets() == []


async def test_details_are_for_the_admin_password_alone(host: str) -> None:
    async with mounted(host, admin_password="an admin's password") as ends, ends.join():
        _, _, body = await exchange(ends.port, "GET", "/_stats", host="127.0.0.1")
        assert b"tunnel00_token" not in body
        basic = base64.b64encode(b"admin:an admin's password").decode()
        _, _, body = await exchange(ends.port, "GET", "/_stats", fields={"Authorization": f"Basic {basic}"})
        assert b"tunnel00_token" in body


async def test_unknown_tokens_are_told_as_ever(host: str) -> None:
    async with mounted(host, known_tokens_only=True) as ends:
        answer = await exchange(
            ends.port, "GET", "/_token/nobody-has-this-token/", fields={"Accept": "application/json"}
        )
        assert answer[0] == 404
        assert b"docs" in answer[2] or b"token" in answer[2]


async def test_the_server_ends_with_its_host(host: str) -> None:
    async with mounted(host) as ends, ends.join() as client:
        assert ends.server.sessions()
        client_was = client.transport
    assert client_was
    assert ends.server.sessions() == []


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app behind the tunnel: websockets give back what they are sent."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[0]})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") == "enough":
            await send({"type": "websocket.close", "code": 4000, "reason": "as asked"})
            return
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})


async def open_websocket(ends: Mounted, caller: ByteStream, target: str) -> MessageCodec:
    key = new_key()
    head = (
        f"GET {ends.path(target)} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
    await caller.send(head.encode())
    status, fields, rest = await read_head(caller)
    values = {name.lower(): value for name, value in fields}
    assert (status, rest) == (101, b"")
    assert values["sec-websocket-accept"] == accept_key(key).decode()
    assert values["sec-websocket-protocol"] == "chat"
    return MessageCodec(client=True, max_message=1_000_000)


@TRANSPORTS
async def test_a_callers_websocket_goes_message_by_message(host: str, transport: str) -> None:
    async with mounted(host) as ends, ends.join(transport=transport, origin=echo), ends.caller() as caller:
        with anyio.fail_after(10):
            codec = await open_websocket(ends, caller, "/ws")
            events: list[Event] = []
            large = bytes(range(256)) * 1000
            await caller.send(codec.message("é") + codec.message(large) + codec.message("enough"))
            while len(events) < 3:
                events += codec.receive(await caller.receive())
        assert events == ["é", large, Close(4000, "as asked", by_peer=True)]


def opening(target: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {new_key().decode()}"]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_a_caller_that_leaves_before_its_websocket_is_open_leaves_the_queue(host: str) -> None:
    async with mounted(host) as ends:
        assert (await exchange(ends.port, "GET", "/_health_check"))[0] == 200  # it runs
        async with ends.caller() as caller:
            await caller.send(opening(ends.path("/ws")))
            await ends.pending(1)
        await ends.pending(0)


async def test_a_caller_that_leaves_before_its_websocket_is_open_is_noticed_at_the_origin(host: str) -> None:
    async with mounted(host) as ends, ends.join():
        async with ends.caller() as caller:
            await caller.send(opening(ends.path("/hold/x")))
            request = await ends.origin.arrived("/hold/x")
        await ends.origin.until(lambda: request.gone)


@TRANSPORTS
async def test_nothing_of_callers_and_clients_that_left_is_left_at_the_host(host: str, transport: str) -> None:
    async with mounted(host) as ends:
        async with ends.join(transport=transport, origin=echo), ends.caller() as caller:
            codec = await open_websocket(ends, caller, "/ws")
            await caller.send(codec.message("enough"))
            with anyio.fail_after(10):
                while not any(isinstance(event, Close) for event in codec.receive(await caller.receive())):
                    pass
        await until(lambda: not ends.server._need_running().calls)


async def test_a_websocket_that_the_origin_refuses_is_refused_by_the_host(host: str) -> None:
    async with mounted(host) as ends, ends.join():
        async with ends.caller() as caller:
            await caller.send(opening(ends.path("/status/404")))
            status, _, _ = await read_head(caller)
        assert status in (403, 404)  # 403 where the host knows no other refusal


@TRANSPORTS
async def test_below_another_app(host: str, transport: str) -> None:
    """Who mounts it keeps lifespan to itself, and enters the server in its own."""
    server = TunnelServer(())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with server:
            yield

    async def own(request: Request) -> PlainTextResponse:
        return PlainTextResponse("the host's own page")

    app = Starlette(routes=[Route("/own", own), Mount("/tunnels", app=server.asgi_app)], lifespan=lifespan)
    async with serve_origin() as origin, hosted(app, host) as port:
        ends = Mounted(origin, server, server.limits)
        ends.host_port = port
        async with ends.join(url=f"http://127.0.0.1:{port}/tunnels", transport=transport):
            assert (await exchange(port, "GET", "/own"))[2] == b"the host's own page"
            status, _, body = await exchange(port, "GET", f"/tunnels{ends.path('/bytes/1000?a=b')}")
            assert (status, len(body)) == (200, 1000)
        assert origin.targets() == ["/bytes/1000?a=b"]


async def test_a_server_that_does_not_run_is_told_to_the_hosts_log(host: str) -> None:
    server = TunnelServer(())
    async with hosted(Starlette(routes=[Mount("/tunnels", app=server.asgi_app)]), host) as port:
        assert (await exchange(port, "GET", "/tunnels/_health_check"))[0] == 500
