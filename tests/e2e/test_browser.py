"""A real browser at a Starlette app without a port: a page, its cookie, server-sent events and a websocket, by each
transport, through the server's own front and through servers of others that it is mounted in.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from subprocess import DEVNULL
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from tunnelkit import TunnelClient, TunnelServer

from .hosts import HOSTS, hosted
from .peers import program
from .tunnel import exchange

pytestmark = [pytest.mark.anyio, pytest.mark.programs]

# It says what it heard of each event: the next one is sent only then. In the end it goes where it is told.
PAGE = """<!doctype html><meta charset="utf-8"><title>a page behind a tunnel</title><script>
const at = (path) => new URL(path, location.href);
const post = (path, body) => fetch(at(path), { method: "POST", body: JSON.stringify(body) });
const events = [];
const source = new EventSource(at("events"));
source.onmessage = async (event) => {
  events.push(event.data);
  await post("heard", events);
  if (events.length === 3) { source.close(); talk(); }
};
function talk() {
  const url = at("socket");
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url, "chat");
  socket.onopen = () => socket.send("hello");
  socket.onmessage = (message) => { source.said = message.data; socket.close(4001, "enough"); };
  socket.onclose = async (close) => {
    const closed = [close.code, close.wasClean, socket.protocol];
    const answer = await post("report", { said: source.said, closed, cookie: document.cookie });
    location.href = (await answer.json()).next;
  };
}
</script>"""


class Site:
    """The app of one tunnel. ``following`` is where the browser goes next."""

    def __init__(self) -> None:
        self.following = ""
        self.heard: list[str] = []
        self.report: dict[str, Any] = {}
        self.reported = anyio.Event()
        self.left = anyio.Event()  # the page closed its events
        self.closed = 0  # the websocket, with this code
        self._news = anyio.Event()
        self.app = Starlette(
            routes=[
                Route("/", self.page),
                Route("/events", self.events),
                Route("/heard", self.hear, methods=["POST"]),
                Route("/report", self.take_report, methods=["POST"]),
                WebSocketRoute("/socket", self.talk),
            ]
        )

    async def page(self, request: Request) -> Response:
        return HTMLResponse(PAGE, headers={"Set-Cookie": "visit=1"})

    async def events(self, request: Request) -> Response:
        return StreamingResponse(self._send_events(), media_type="text/event-stream")

    async def _send_events(self) -> AsyncIterator[str]:
        try:
            for number in range(3):
                yield f"data: {number}\n\n"
                while len(self.heard) <= number:
                    await self._news.wait()
            await anyio.sleep_forever()
        finally:
            self.left.set()

    async def hear(self, request: Request) -> Response:
        self.heard = await request.json()
        self._news.set()
        self._news = anyio.Event()
        return Response(status_code=204)

    async def talk(self, websocket: WebSocket) -> None:
        await websocket.accept(subprotocol="chat")
        await websocket.send_text(f"echo of {await websocket.receive_text()}")
        self.closed = (await websocket.receive())["code"]

    async def take_report(self, request: Request) -> Response:
        self.report = await request.json()
        self.reported.set()
        return JSONResponse({"next": self.following})


def test_the_page_needs_no_other_server() -> None:
    assert "//" not in PAGE


@pytest.mark.parametrize("host", HOSTS)
async def test_chromium_loads_a_starlette_page_with_events_and_a_websocket_by_each_transport(host: str) -> None:
    """One browser goes from site to site: by name at the own front and below a path of the host, each of them by a
    tunnel client that came there by websocket, and by one that came by long-poll."""
    sites: dict[str, Site] = {}
    async with AsyncExitStack() as stack:
        server = TunnelServer("127.0.0.1:0", base_domain="localhost")
        port = await stack.enter_async_context(hosted(_around(server), host))
        assert (await exchange(port, "GET", "/tunnels/_health_check"))[0] == 200
        for url in (server.url, f"http://127.0.0.1:{port}/tunnels"):
            for transport in ("websocket", "longpoll"):
                site = Site()
                known: dict[str, Any] = {"token": f"a-token-of-{len(sites)}-for-tests", "transport": transport}
                if url == server.url:
                    known["name"] = transport
                client = await stack.enter_async_context(TunnelClient(url, origin=site.app, **known))
                await client.wait_ready(10)
                assert client.transport == transport
                sites[client.url if "name" in known else f"{url}/_token/{known['token']}/"] = site
        urls = list(sites)
        for here, following in zip(urls, [*urls[1:], "about:blank"], strict=True):
            sites[here].following = following
        async with chromium(urls[0]):
            for url, site in sites.items():
                with anyio.fail_after(60):
                    await site.reported.wait()
                    await site.left.wait()
                assert site.heard == ["0", "1", "2"], url
                said = {"said": "echo of hello", "closed": [4001, True, "chat"], "cookie": "visit=1"}
                assert site.report == said, url
                assert site.closed == (1005 if "/tunnels/" in url and host == "hypercorn" else 4001), url


def _around(server: TunnelServer) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with server:
            yield

    return Starlette(routes=[Mount("/tunnels", app=server.asgi_app)], lifespan=lifespan)


FLAGS = (
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    "--no-sandbox",  # which root cannot have; the only page is the test's own
)


@asynccontextmanager
async def chromium(url: str) -> AsyncIterator[None]:
    """A browser without a window, at ``url``. It takes any name below localhost for this machine (RFC 6761 6.3)."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        environment = {**os.environ, "HOME": folder, "TMPDIR": folder}
        command = [program("chromium"), *FLAGS, f"--user-data-dir={folder}/profile", url]
        process = await anyio.open_process(
            command, stdout=DEVNULL, stderr=DEVNULL, env=environment, start_new_session=True
        )
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                os.killpg(process.pid, signal.SIGKILL)  # it is many processes
                await process.wait()
