"""What peers say goes to logs and events escaped and cut: nobody forges a line, moves a cursor or turns text around.

The records themselves hold no such text, whatever formatter a program gives its handlers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tunnelkit import RegistrationRefused, TunnelClient
from tunnelkit.logs import JsonFormatter, TextFormatter
from tunnelkit.net.dial import connect_tcp

from .scripted import handshake
from .tunnel import QUICK, TOKEN, Ends, open_ends, open_tunnel, until

pytestmark = pytest.mark.anyio

# ANSI, a forged line, a bell, bidirectional controls, a zero-width space, a line separator, C1 controls.
EVIL = "\x1b[2J\x1b]0;title\x07\u202eevil\u2066\u200b\u2028\x9b31m\x85"
ON_THE_WIRE = EVIL.encode()  # in a head: no line ends, or it would be another one
LONG = "x" * 30_000


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def check(log: pytest.LogCaptureFixture, *shown: object) -> None:
    records = [record for record in log.records if record.name.startswith("tunnelkit")]
    for record in records:
        assert record.getMessage().isprintable(), record.getMessage()
        assert len(record.getMessage()) < 8 * 1024
        assert all(line.isprintable() for line in TextFormatter().format(record).splitlines())
        line = JsonFormatter().format(record)
        assert line.isprintable()
        values = [value for value in json.loads(line).values() if isinstance(value, str)]
        assert all(part.isprintable() for value in values for part in value.splitlines())
    assert all(str(text).isprintable() for text in shown), shown


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A server in the tunnel server's place that says this to everybody, and closes."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):  # the client closes when its test is over
                await stream.receive()
                await stream.send(answer)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


def client(port: int, transport: str) -> TunnelClient:
    url = f"ws://127.0.0.1:{port}"
    return TunnelClient(url, token=TOKEN, origin="http://127.0.0.1:1", transport=transport, limits=QUICK)


PAGE = b"<title>%s</title>" % ON_THE_WIRE
ANSWERS = [
    b"HTTP/1.1 502 %s\r\nServer: %s\r\nContent-Length: %d\r\n\r\n%s" % (ON_THE_WIRE, ON_THE_WIRE, len(PAGE), PAGE),
    b"HTTP/1.1 302 Found\r\nLocation: http://a/%s%s\r\nContent-Length: 0\r\n\r\n" % (ON_THE_WIRE, LONG.encode()),
    b"HTTP/1.1 101 Switching\r\nUpgrade: %s\r\nConnection: %s\r\n\r\n" % (ON_THE_WIRE, ON_THE_WIRE),
    b"SSH-2.0-%s\r\n" % ON_THE_WIRE,
]


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
@pytest.mark.parametrize("answer", ANSWERS, ids=["page", "redirect", "upgrade", "ssh"])
async def test_something_else_answers(answer: bytes, transport: str, log: pytest.LogCaptureFixture) -> None:
    async with answering(answer) as port, client(port, transport) as dialling:
        await until(lambda: dialling._supervisor.trouble)
        with pytest.raises(TimeoutError) as caught:
            await dialling.wait_ready(0.01)
    check(log, caught.value)


def refusal(code: str) -> bytes:
    problem = {"type": f"urn:tunnelkit:error:{code}", "code": code, "detail": EVIL + LONG[:2000], "status": 403}
    body = json.dumps(problem).encode()
    fields = b"Content-Type: application/problem+json\r\nContent-Length: %d" % len(body)
    return b"HTTP/1.1 403 No\r\n%s\r\n\r\n%s" % (fields, body)


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
async def test_a_server_refuses_with_a_strange_code(transport: str, log: pytest.LogCaptureFixture) -> None:
    async with answering(refusal(EVIL + LONG[:2000])) as port, client(port, transport) as dialling:
        await until(lambda: dialling._supervisor.trouble)
        with pytest.raises(TimeoutError) as caught:
            await dialling.wait_ready(0.01)
    check(log, caught.value)


async def test_a_server_refuses_in_many_words(log: pytest.LogCaptureFixture) -> None:
    async with answering(refusal("forbidden")) as port:
        with pytest.raises(RegistrationRefused) as caught:
            async with client(port, "websocket"):
                await anyio.sleep_forever()
    assert len(str(caught.value)) < 2000
    check(log, caught.value)


async def talk(ends: Ends, data: bytes) -> None:
    stream = await connect_tcp("127.0.0.1", ends.port, timeout=5)
    try:
        await stream.send(data)
        with anyio.fail_after(10):
            await stream.receive()
    finally:
        stream.abort()


async def test_callers(log: pytest.LogCaptureFixture) -> None:
    """Only a proxy's word on addresses is taken, and only if they are addresses."""
    async with open_tunnel(
        server_options={"trusted_proxies": ["127.0.0.1"]}, client_options={"allow": [".*"]}
    ) as ends:
        path = ends.path("/echo").encode()
        evil = ON_THE_WIRE.replace(b"\x1b", b"").replace(b"\x07", b"")  # controls are refused: what heads may hold
        for field in (b"X-Host: http://%s/", b"User-Agent: %s", b"X-Forwarded-For: %s", b"Forwarded: for=%s"):
            await talk(ends, b"GET %s?%s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % (path, b"%1b[2J", field % evil))
            await talk(ends, b"GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % (path, field % ON_THE_WIRE))
        await talk(ends, b"GET %s/%s HTTP/1.1\r\nHost: a\r\n\r\n" % (path, LONG[:10_000].encode()))
        await talk(ends, b"%s %s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"M" * 30, path))
    check(log)


async def test_a_clients_name_for_itself_forges_no_field(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnelkit.client._USER_AGENT", 'x" token=other session=1')
    async with open_ends() as ends, ends.join(transport="longpoll"):
        [line] = [record.getMessage() for record in log.records if record.getMessage().startswith("registered ")]
    assert 'client="x\\" token=other session=1"' in line


async def test_clients(log: pytest.LogCaptureFixture) -> None:
    async with open_ends() as ends:
        for name in ("Tunnelkit-Client", "Tunnelkit-Instance", "User-Agent", "Tunnelkit-Token"):
            for value in (ON_THE_WIRE, b"%1b%5b2J %e2%80%ae" * 9):
                changes: dict[str, Any] = {name: "QQ"}
                await talk(ends, handshake(**changes).replace(b"QQ", value))
    check(log)
