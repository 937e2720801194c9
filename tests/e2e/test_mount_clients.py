"""A tunnel server under real ASGI servers, called by what people call with: curl, httpx and websockets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from fastapi import FastAPI
from fastapi import Request as Asked
from starlette.applications import Starlette
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import Response as Answer
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from tunnelkit import Request, Response, TunnelServer

from .hosts import HOSTS, hosted
from .origin import pattern_digest, serve_origin
from .peers import program
from .test_mount import TRANSPORTS, Mounted, mounted, open_websocket

try:
    from websockets import Subprotocol
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect
except ImportError:
    pytest.skip("websockets, which calls here, is not installed", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("host", HOSTS)]


async def curl(ends: Mounted, target: str, *options: str) -> bytes:
    """What a curl that must succeed prints."""
    url = f"http://127.0.0.1:{ends.port}{ends.path(target)}"
    return (await anyio.run_process([program("curl"), "-sS", "--max-time", "20", *options, url])).stdout


# -- curl --------------------------------------------------------------------------------------


async def test_curl_downloads_and_uploads(host: str, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(bytes(range(256)) * 2000)
    async with mounted(host) as ends, ends.join():
        assert hashlib.sha256(await curl(ends, "/bytes/2000000")).hexdigest() == pattern_digest(2_000_000)
        assert hashlib.sha256(await curl(ends, "/bytes/2000000/chunked")).hexdigest() == pattern_digest(2_000_000)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        for options in ([], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"]):
            assert json.loads(await curl(ends, "/sink", "-T", str(file), *options))["sha256"] == digest
        assert b"ontent-" in await curl(ends, "/bytes/12345", "--head")


async def test_curl_that_offers_http_2_is_served(host: str) -> None:
    """It asks to upgrade to h2c, as Java's client does: no reason for 501."""
    async with mounted(host) as ends, ends.join():
        assert json.loads(await curl(ends, "/echo", "--http2"))["target"] == "/echo"


async def test_curl_by_http_2(host: str) -> None:
    """What ASGI has for HTTP/2 alone comes too: early hints, and trailers for those that want them."""
    if host == "uvicorn":
        pytest.skip("uvicorn speaks no HTTP/2")

    async def app(request: Request) -> Response:
        trailers: list[tuple[str, str]] = []

        async def body() -> AsyncIterator[bytes]:
            size = 0
            async for piece in request:
                size += len(piece)
            yield f"{size} bytes, TE: {request.header('te')}".encode()
            trailers.append(("X-Sum", "7"))

        request.early_hints("</a.css>; rel=preload")
        return Response(200, [("Trailer", "X-Sum")], body(), trailers=trailers)

    http_2 = ("--http2-prior-knowledge", "-i")
    wanted = ("-H", "TE: trailers")  # as Firefox says with every request
    async with mounted(host) as ends, ends.join():
        assert len(await curl(ends, "/bytes/300000", http_2[0], *wanted)) == 300_000
        for path in ("/bytes/10", "/status/204", "/status/304"):
            assert (await curl(ends, path, *http_2, *wanted, "--head")).startswith(b"HTTP/2 ")
    async with mounted(host) as ends, ends.join(origin=app):
        said = await curl(ends, "/", *http_2, *wanted)
        assert said.startswith(b"HTTP/2 103 \r\nlink: </a.css>; rel=preload\r\n")
        assert said.endswith(b"\r\n\r\n0 bytes, TE: trailersx-sum: 7\r\n")
        said = await curl(ends, "/", *http_2, "-d", "x" * 100_000)
        assert said.endswith(b"100000 bytes, TE: None")


# -- httpx -------------------------------------------------------------------------------------


class Turns:
    """One side goes on when the other one has heard it."""

    def __init__(self) -> None:
        self._heard = anyio.Event()

    def heard(self) -> None:
        self._heard.set()

    async def pieces(self) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"piece%d" % number
            with anyio.fail_after(10):
                await self._heard.wait()
            self._heard = anyio.Event()


@TRANSPORTS
async def test_httpx_below_fastapi_with_middleware_around(host: str, transport: str) -> None:
    """Bodies stream both ways: no piece is sent before the last one has arrived."""
    up, down, begun = Turns(), Turns(), anyio.Event()
    server = TunnelServer(())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with server:
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/tunnels", server.asgi_app)

    @app.middleware("http")
    async def mark(request: Asked, call_next: RequestResponseEndpoint) -> Answer:
        answer = await call_next(request)
        answer.headers["X-Marked"] = "yes"
        return answer

    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        await begun.wait()  # or the host would answer 500: what broke off before it began is nobody's answer
        raise RuntimeError("no more")

    async def device(request: Request) -> Response:
        if request.path == "/breaks":
            return Response(body=half())
        got = b""
        async for piece in request:
            got += piece
            up.heard()
        return Response(201, [("X-Got", got.decode())], down.pieces())

    async with hosted(app, host) as port, serve_origin() as origin:
        ends = Mounted(origin, server, server.limits)
        ends.host_port = port
        url = f"http://127.0.0.1:{port}/tunnels"
        async with ends.join(url=url, transport=transport, origin=device), httpx.AsyncClient(timeout=20) as caller:
            async with caller.stream("POST", url + ends.path("/"), content=up.pieces()) as answer:
                assert (answer.status_code, answer.headers["x-marked"]) == (201, "yes")
                assert answer.headers["x-got"] == "piece0piece1piece2"
                got = b""
                async for piece in answer.aiter_raw():
                    got += piece
                    down.heard()
            assert got == b"piece0piece1piece2"
            # Such middleware completes what merely ends: what broke off must not come out of it as if it were whole.
            async with caller.stream("GET", url + ends.path("/breaks")) as answer:
                pieces = answer.aiter_raw()
                assert await anext(pieces) == b"half"
                begun.set()
                with pytest.raises(httpx.RemoteProtocolError):
                    await anext(pieces)


# -- websockets --------------------------------------------------------------------------------


@TRANSPORTS
async def test_websockets_talks_and_is_told_why_it_ends(host: str, transport: str) -> None:
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol="chat")
        while (text := await websocket.receive_text()) != "enough":
            await websocket.send_text(text)
            await websocket.send_bytes(text.encode())
        await websocket.close(4000, "as asked")

    def talk() -> None:
        with connect(url + ends.path("/talk"), subprotocols=[Subprotocol("chat")]) as caller:
            assert caller.subprotocol == "chat"
            for text in ("grüße", "", "x" * 300_000):
                caller.send(text)
                assert [caller.recv(10), caller.recv(10)] == [text, text.encode()]
            caller.send("enough")
            with pytest.raises(ConnectionClosed):
                caller.recv(10)
            assert (caller.close_code, caller.close_reason) == (4000, "as asked")
        with pytest.raises(InvalidStatus) as refused:
            connect(url + ends.path("/nothing-here"))
        assert refused.value.response.status_code == 403  # Starlette's for a path without a route

    app = Starlette(routes=[WebSocketRoute("/talk", echo)])
    async with mounted(host) as ends, ends.join(transport=transport, origin=app):
        url = f"ws://127.0.0.1:{ends.port}"
        await anyio.to_thread.run_sync(talk)  # in a thread, whichever the backend is


async def test_a_websocket_whose_caller_vanishes_ends_at_the_app(host: str) -> None:
    ended = anyio.Event()

    async def patient(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol="chat")
        try:
            async for _ in websocket.iter_text():
                pass
        finally:
            ended.set()

    async with mounted(host) as ends, ends.join(origin=Starlette(routes=[WebSocketRoute("/", patient)])):
        async with ends.caller() as caller:
            await open_websocket(ends, caller, "/")
        with anyio.fail_after(10):
            await ended.wait()
