"""A real browser through a name: a page, its cookie, server-sent events and a websocket, from a client's own app."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from subprocess import DEVNULL
from typing import Any, TypeAlias

import anyio
import pytest

from .peers import program
from .tunnel import open_ends

pytestmark = pytest.mark.anyio

Message: TypeAlias = dict[str, Any]

PAGE = """<!doctype html><meta charset="utf-8"><title>a page behind a tunnel</title><script>
const events = [];
const source = new EventSource("/events");
source.onmessage = (event) => { events.push(event.data); if (events.length === 3) { source.close(); talk(); } };
function talk() {
  const socket = new WebSocket("ws://" + location.host + "/socket");
  socket.onopen = () => socket.send("hello");
  socket.onmessage = (message) => fetch("/report", {
    method: "POST",
    body: JSON.stringify({ host: location.host, events, socket: message.data, cookie: document.cookie }),
  });
}
</script>"""


class App:
    """What the page needs, as an ASGI app. ``report`` is what the page says in the end."""

    def __init__(self) -> None:
        self.report: Message = {}
        self.reported = anyio.Event()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "websocket":
            await self._echo(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope["path"], receive, send)

    async def _echo(
        self, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"echo of {message['text']}"})

    async def _answer(
        self, path: str, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if path == "/":
            fields = [(b"content-type", b"text/html; charset=utf-8"), (b"set-cookie", b"visit=1; Path=/")]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await send({"type": "http.response.body", "body": PAGE.encode()})
        elif path == "/events":
            fields = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            for number in range(3):
                await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
            while (await receive())["type"] != "http.disconnect":  # the page has enough: it closes the stream
                pass
        elif path == "/report":
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            self.report = json.loads(body)
            self.reported.set()
        else:  # /favicon.ico
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})


async def test_chromium_loads_a_page_with_events_and_a_websocket_through_a_name() -> None:
    await visit()


@pytest.mark.full
@pytest.mark.ways("longpoll", "streamed")
async def test_chromium_over_long_poll() -> None:
    await visit()


async def visit() -> None:
    app = App()
    async with open_ends(base_domain="localhost") as ends, ends.join(name="myapp", origin=app) as client:
        async with chromium(client.url):
            with anyio.fail_after(60):
                await app.reported.wait()
        assert app.report == {
            "host": f"myapp.localhost:{ends.port}",
            "events": ["0", "1", "2"],
            "socket": "echo of hello",
            "cookie": "visit=1",
        }


FLAGS = (
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    "--no-sandbox",  # which root cannot have; the only page is the test's own
)


@asynccontextmanager
async def chromium(url: str) -> AsyncIterator[None]:
    """A browser without a window, at ``url``. It takes any name below localhost for this machine (RFC 6761 6.3)."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        environment = {**os.environ, "HOME": folder}
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
