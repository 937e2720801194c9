"""``TunnelClient(origin=...)`` with an ASGI 3 app: its http and lifespan scopes, through a whole tunnel."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tunnelkit import AsgiOrigin, TunnelClient
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import AppError

from .apps import Message, Receive, Scope, Send, respond, serve_app, still_serves
from .by_hand import caller_side
from .tunnel import TOKEN, ask, exchange, open_ends, problem_of, until

pytestmark = pytest.mark.anyio
EVERY_WAY = pytest.mark.ways("websocket", "longpoll", "streamed")

START = {"type": "http.response.start", "status": 200, "headers": []}


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} /_token/{TOKEN}{path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


# -- what apps see and say ---------------------------------------------------------------------


async def show(request: Request) -> Response:
    body = await request.body()
    assert request.client is not None
    seen = {
        "method": request.method,
        "url": str(request.url),
        "raw": request.scope["raw_path"].decode(),
        "client": request.client.host,
        "many": request.headers.getlist("x-many"),
        "body": body.decode(),
    }
    return JSONResponse(seen, headers={"x-app": "yes"})


@EVERY_WAY
async def test_a_starlette_app_is_served_without_a_port() -> None:
    app = Starlette(routes=[Route("/{path:path}", show, methods=["PUT"])])
    async with serve_app(app) as ends:
        fields = {"X-Many": "1", "x_many": "2"}
        status, answer, body = await exchange(
            ends.port, "PUT", ends.path("/a%20b/c?d=%20"), fields=fields, body=b"hello"
        )
        assert status == 200
        assert ("x-app", "yes") in answer
        assert JSONResponse({
            "method": "PUT", "url": "http://tunnel.test/a b/c?d=%20", "raw": "/a%20b/c", "client": "127.0.0.1",
            "many": ["1", "2"], "body": "hello",
        }).body == body  # fmt: skip


async def test_scheme_host_and_caller_are_those_that_a_trusted_proxy_tells() -> None:
    app = Starlette(routes=[Route("/{path:path}", show)])
    async with open_ends(trusted_proxies=["127.0.0.0/8"]) as ends, ends.join(origin=app):
        answer = await ask(
            ends.port,
            ends.path("/a"),
            X_Forwarded_Proto="https",
            X_Forwarded_Host="app.example.com",
            X_Forwarded_For="192.0.2.66, 198.51.100.7, 127.0.0.2",
        )
        assert b'"url":"https://app.example.com/a"' in answer[2]
        assert b'"client":"198.51.100.7"' in answer[2]


async def test_what_anybody_else_tells_does_not_count() -> None:
    app = Starlette(routes=[Route("/{path:path}", show)])
    async with serve_app(app) as ends:
        answer = await ask(ends.port, ends.path("/a"), X_Forwarded_Proto="https", X_Forwarded_For="192.0.2.66")
        assert b'"url":"http://tunnel.test/a"' in answer[2]
        assert b'"client":"127.0.0.1"' in answer[2]


# -- streaming ---------------------------------------------------------------------------------


@EVERY_WAY
async def test_a_response_arrives_as_the_app_sends_it() -> None:
    go = anyio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        await go.wait()
        yield b"last"

    async def stream(request: Request) -> Response:
        return StreamingResponse(pieces())

    app = Starlette(routes=[Route("/", stream)])
    async with serve_app(app) as ends, caller_side(ends) as caller:
        await caller.send(get("/"))
        await caller.until(b"first")
        go.set()
        await caller.until(b"last\r\n0\r\n\r\n")


@EVERY_WAY
async def test_a_request_reaches_the_app_as_the_caller_sends_it() -> None:
    """Both ways at once: each piece is answered before the next one is sent."""

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    async with serve_app(AsgiOrigin(echo, lifespan="off")) as ends, caller_side(ends) as caller:
        await caller.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        for number in range(3):
            await caller.send(b"6\r\npiece%d\r\n" % number)
            await caller.until(b"piece%d\r\n" % number)
        await caller.send(b"0\r\n\r\n")
        await caller.until(b"0\r\n\r\n")


async def test_an_app_that_asks_for_the_body_lets_the_caller_send_it() -> None:
    async def length(request: Request) -> Response:
        return PlainTextResponse(f"{len(await request.body())} bytes")

    app = Starlette(routes=[Route("/", length, methods=["POST"])])
    async with serve_app(app) as ends, caller_side(ends) as caller:
        await caller.send(get("/", "Content-Length: 5", "Expect: 100-continue", method="POST"))
        assert b" 100 " in await caller.head()
        await caller.send(b"hello")
        await caller.until(b"5 bytes")


async def test_a_caller_that_takes_nothing_stops_the_app_and_nobody_else() -> None:
    sent = 0

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        if scope["path"] == "/fine":
            await respond(send)
            return
        await send(START)
        while True:
            await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})
            sent += 65_536

    limits = replace(DEFAULT_LIMITS, stream_max_window=DEFAULT_LIMITS.stream_first_window)
    async with serve_app(AsgiOrigin(flood, lifespan="off"), limits=limits) as ends, caller_side(ends) as caller:
        await caller.send(get("/"))
        await caller.head()
        held = -1
        while sent != held:  # until everything on the way is full
            held = sent
            await anyio.sleep(0.1)  # no event tells that nothing moves any more
        assert sent < 16_000_000
        await still_serves(ends)


# -- callers that leave ------------------------------------------------------------------------


@EVERY_WAY
async def test_a_caller_that_leaves_is_told_to_the_app() -> None:
    heard: list[Message] = []
    began, told = anyio.Event(), anyio.Event()

    async def patient(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await respond(send)
            return
        heard.append(await receive())
        began.set()
        heard.append(await receive())
        with pytest.raises(OSError, match="left"):
            await respond(send)
        told.set()

    async with serve_app(AsgiOrigin(patient, lifespan="off")) as ends, caller_side(ends) as caller:
        with anyio.fail_after(10):
            await caller.send(get("/"))
            await began.wait()
            caller.reset()
            await told.wait()
        assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]
        await still_serves(ends)


async def test_a_starlette_stream_that_waits_ends_with_its_caller() -> None:
    """It sends nothing by which it would notice."""
    ended = anyio.Event()

    async def events() -> AsyncIterator[bytes]:
        yield b"data: first\n\n"
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def stream(request: Request) -> Response:
        return StreamingResponse(events(), media_type="text/event-stream")

    app = AsgiOrigin(Starlette(routes=[Route("/", stream)]))
    async with serve_app(app) as ends, caller_side(ends) as caller:
        await caller.send(get("/"))
        await caller.until(b"first")
        caller.reset()
        with anyio.fail_after(10):
            await ended.wait()
        await until(lambda: not app._running)


async def test_apps_that_ignore_who_left_are_counted_and_end_with_the_client() -> None:
    ended = 0
    limits = replace(DEFAULT_LIMITS, app_calls=2)

    async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal ended
        if scope["path"] == "/fine":
            await respond(send)
            return
        try:
            await receive()
            await receive()
            with pytest.raises(OSError, match="left"):
                await send(START)
            await anyio.sleep_forever()
        finally:
            ended += 1

    app = AsgiOrigin(deaf, lifespan="off", limits=limits)
    async with serve_app(app) as ends, caller_side(ends) as one, caller_side(ends) as other:
        await one.send(get("/"))
        await until(lambda: app._running == 1)
        one.reset()
        await still_serves(ends)
        await other.send(get("/"))
        await until(lambda: app._running == 2)
        other.reset()
        problem = problem_of(await ask(ends.port, ends.path("/fine")))
        assert (problem["status"], problem["code"]) == (503, "overloaded")
    assert ended == 2


# -- extensions --------------------------------------------------------------------------------


@EVERY_WAY
async def test_trailers() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.trailers" in scope["extensions"]
        await send({**START, "trailers": True, "headers": [(b"trailer", b"x-sum")]})
        await send({"type": "http.response.body", "body": b"body"})
        more = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": True}
        await send(more)
        await send({"type": "http.response.trailers", "headers": [(b"x-more", b"2")]})

    async with serve_app(AsgiOrigin(app, lifespan="off")) as ends, caller_side(ends) as caller:
        await caller.send(get("/", "TE: trailers", "Connection: TE"))
        assert b"\r\ntrailer: x-sum\r\n" in await caller.head()
        assert await caller.until(b"\r\n\r\n") == b"4\r\nbody\r\n0\r\nx-sum: 1\r\nx-more: 2\r\n\r\n"


@EVERY_WAY
async def test_early_hints() -> None:
    go = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.early_hint" in scope["extensions"]
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]})
        await go.wait()
        await respond(send)

    async with serve_app(AsgiOrigin(app, lifespan="off")) as ends, caller_side(ends) as caller:
        await caller.send(get("/"))
        head = await caller.head()
        assert b" 103 " in head
        assert b"Link: </a.css>; rel=preload\r\nLink: </b.js>; rel=preload\r\n" in head
        go.set()
        await caller.until(b"fine")


# -- lifespan ----------------------------------------------------------------------------------


async def test_lifespan_is_around_the_registration_and_its_state_in_every_scope() -> None:
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        order.append(f"up with {len(ends.server.sessions())}")
        yield {"number": 7}
        await until(lambda: not ends.server.sessions())
        order.append("down")

    async def number(request: Request) -> Response:
        request.state.added = True  # to this request's copy
        return PlainTextResponse(f"{request.state.number} {len(request.scope['state'])}")

    app = Starlette(routes=[Route("/", number)], lifespan=lifespan)
    async with open_ends() as ends, ends.join(origin=app):
        order.append(f"ready with {len(ends.server.sessions())}")
        assert (await ends.get("/"))[2] == b"7 2"
        assert (await ends.get("/"))[2] == b"7 2"
    assert order == ["up with 0", "ready with 1", "down"]


async def test_an_app_that_does_not_start_is_never_registered() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if app:
            raise ValueError("no database")
        yield

    async with open_ends() as ends:
        with pytest.raises(AppError, match="no database"):
            async with ends.join(origin=Starlette(lifespan=lifespan)):
                raise AssertionError("it started")
        assert not ends.server.sessions()
        client = TunnelClient(ends.server.url, token=TOKEN, origin=Starlette(lifespan=lifespan))
        async with anyio.create_task_group() as group:
            with pytest.raises(AppError, match="no database"):
                await group.start(client.run)
        with pytest.raises(AppError, match="no database"):
            await client.wait_ready(5)


# -- apps that do wrong ------------------------------------------------------------------------


async def wrong(scope: Scope, receive: Receive, send: Send) -> None:
    """Does what its path says."""
    path = scope["path"]
    if path == "/fine":
        await respond(send)
        return
    if path == "/raises-before":
        raise RuntimeError("a secret of the app")
    if path == "/exits-before":
        sys.exit(3)
    if path == "/returns-before":
        return
    if path == "/body-first":
        await send({"type": "http.response.body"})
    headers = [(b"content-length", b"10")] if "content-length" in path else []
    await send({**START, "headers": headers})
    if path == "/raises-after-start":
        raise RuntimeError("a secret of the app")
    if path == "/returns-after-start":
        return
    body = b"x" * (11 if path == "/too-much-content-length" else 9)
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if path == "/raises-after-body":
        raise RuntimeError("a secret of the app")
    if path == "/too-much-content-length-later":
        await send({"type": "http.response.body", "body": b"xx"})
    if path == "/too-little-content-length":
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("path", [
    "/raises-before", "/exits-before", "/raises-after-start", "/returns-before", "/returns-after-start",
    "/body-first", "/too-much-content-length",
])  # fmt: skip
async def test_a_failure_before_the_response_began_is_told(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serve_app(AsgiOrigin(wrong, lifespan="off")) as ends:
        answer = await ask(ends.port, ends.path(path))
        problem = problem_of(answer)
        assert (problem["status"], problem["code"]) == (502, "origin_failed")
        assert b"secret" not in answer[2]
        assert any("an app failed" in record.message for record in caplog.records if record.levelno == logging.ERROR)
        await still_serves(ends)


@pytest.mark.parametrize("path", [
    "/raises-after-body", "/returns-after-body", "/too-much-content-length-later", "/too-little-content-length",
])  # fmt: skip
async def test_a_failure_after_the_response_began_breaks_it_off(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serve_app(AsgiOrigin(wrong, lifespan="off")) as ends:
        async with caller_side(ends) as caller:
            await caller.send(get(path))
            assert not (await caller.broken()).endswith(b"0\r\n\r\n")
        assert any("an app failed" in record.message for record in caplog.records if record.levelno == logging.ERROR)
        await still_serves(ends)


@EVERY_WAY
async def test_an_app_that_fails_in_the_middle_is_seen_to_by_every_way() -> None:
    async with serve_app(AsgiOrigin(wrong, lifespan="off")) as ends:
        async with caller_side(ends) as caller:
            await caller.send(get("/raises-after-body"))
            part = await caller.broken()
            assert not part or b" 200 OK" in part  # a reset destroys what was not read yet
        await still_serves(ends)


async def test_responses_that_have_no_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        status = int(scope["path"][1:])
        await send({**START, "status": status, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"body"})

    async with serve_app(AsgiOrigin(app, lifespan="off")) as ends, caller_side(ends) as caller:
        for method, path in [("HEAD", "/200"), ("GET", "/204"), ("GET", "/304")]:
            await caller.send(get(path, method=method))
            head = (await caller.head()).lower()
            assert (b"content-length: 4" in head) == (path != "/204")
        await caller.send(get("/200"))
        await caller.until(b"\r\n\r\nbody")


async def test_an_upgrade_that_no_app_speaks() -> None:
    async with serve_app(AsgiOrigin(wrong, lifespan="off")) as ends, caller_side(ends) as caller:
        await caller.send(get("/", "Connection: Upgrade", "Upgrade: echo"))
        assert b" 501 " in await caller.head()
        await caller.until(b"upgrade_not_implemented")
        await still_serves(ends)
