"""A real browser that a test drives: Chromium without a window, by the DevTools protocol over a websocket."""

from __future__ import annotations

import itertools
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio

from tunnelkit.heads import RequestHead
from tunnelkit.http.client import simple_request
from tunnelkit.http.websocket import MessageCodec, new_key
from tunnelkit.net.dial import connect_tcp
from tunnelkit.net.stream import ByteStream

from .peers import program
from .test_browser import FLAGS

__all__ = ["Page", "open_browser"]

MAX_MESSAGE = 4 * 1024 * 1024


class Page:
    """The browser's page."""

    def __init__(self, stream: ByteStream, codec: MessageCodec) -> None:
        self._stream = stream
        self._codec = codec
        self._numbers = itertools.count(1)

    async def evaluate(self, expression: str) -> Any:
        """The value of a piece of JavaScript in the page."""
        answer = await self._ask(expression)
        assert "result" in answer, answer
        return answer["result"]["result"].get("value")

    async def _ask(self, expression: str) -> dict[str, Any]:
        number = next(self._numbers)
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        message = json.dumps({"id": number, "method": "Runtime.evaluate", "params": asked})
        await self._stream.send(self._codec.message(message))
        while True:
            for event in self._codec.receive(await self._stream.receive()):
                assert isinstance(event, str), event
                answer: dict[str, Any] = json.loads(event)
                if answer.get("id") == number:
                    assert "exceptionDetails" not in answer.get("result", {}), answer
                    return answer

    async def until(self, condition: str) -> None:
        """Wait until a condition holds in the page: looked at whenever its document changes. A page that is only
        being loaded answers with an error, and is asked again."""
        expression = (
            f"new Promise((done) => {{ const look = () => {{ if ({condition}) {{ watch.disconnect(); done(1); }} }};"
            " const watch = new MutationObserver(look);"
            " watch.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});"
            " look(); })"
        )
        while "result" not in await self._ask(expression):
            pass


@asynccontextmanager
async def open_browser(url: str) -> AsyncIterator[Page]:
    """A browser without a window, at ``url``."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        profile = Path(folder, "profile")
        flags = (*FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}")
        process = await anyio.open_process(
            [program("chromium"), *flags, url],
            stdout=DEVNULL,
            stderr=DEVNULL,
            env={**os.environ, "HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            with anyio.fail_after(60):
                port = await _debugging_port(profile / "DevToolsActivePort")
                path = await _target(port, url)
                stream, codec = await _connect(port, path)
            try:
                yield Page(stream, codec)
            finally:
                stream.abort()
        finally:
            with anyio.CancelScope(shield=True):
                os.killpg(process.pid, signal.SIGKILL)  # it is many processes
                await process.wait()


async def _debugging_port(file: Path) -> int:
    """The browser writes it into its profile."""
    written = anyio.Path(file)
    while True:
        if await written.exists() and (lines := (await written.read_text()).splitlines()):
            return int(lines[0])
        await anyio.sleep(0.05)  # another program tells by a file


async def _target(port: int, url: str) -> str:
    """The path of the websocket of the page at ``url``, once it is there."""
    while True:
        stream = await connect_tcp("127.0.0.1", port, timeout=10)
        fields = [(b"Host", b"127.0.0.1:%d" % port), (b"Connection", b"close")]
        _, body = await simple_request(stream, RequestHead(b"GET", b"/json/list", fields))
        stream.abort()
        for target in json.loads(body):
            if target["type"] == "page" and target["url"].startswith(url):
                return "/" + str(target["webSocketDebuggerUrl"]).split("/", 3)[3]
        await anyio.sleep(0.05)  # another program tells when it is asked


async def _connect(port: int, path: str) -> tuple[ByteStream, MessageCodec]:
    stream = await connect_tcp("127.0.0.1", port, timeout=10)
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {new_key().decode()}", "", ""]
    await stream.send("\r\n".join(lines).encode("ascii"))
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await stream.receive()
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return stream, MessageCodec(client=True, max_message=MAX_MESSAGE)
