"""Callers and tunnel clients behind real nginx and HAProxy, with the files that docs/deploying.md shows."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest

from tunnelkit.net.stream import ByteStream

from .origin import EARLY
from .peers import Peer, SecureEnds, carrier, check_events, haproxy, nginx, nginx_with_its_defaults, receive_until
from .transfers import Download, Upload
from .tunnel import TOKEN, Ends, gather, open_ends, read_head, until

pytestmark = [pytest.mark.anyio, pytest.mark.programs]

MB = 1_000_000
Make: TypeAlias = "Callable[[int, Mapping[str, Path]], Peer]"


@dataclass
class Front(SecureEnds):
    """A tunnel whose callers, and whose client, come by the reverse proxy in front of the server."""

    folder: Path = field(default_factory=Path)  # the proxy's files and logs
    url: str = ""  # that the client shows

    async def read(self, target: str, **fields: str) -> bytes:
        """The body of one GET's answer, which says its length."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in ({"Host": "tunnel.test"} | fields).items()]
        async with self.caller() as stream:
            await stream.send("\r\n".join([f"GET {target} HTTP/1.1", *lines, "", ""]).encode())
            status, answered, body = await read_head(stream)
            assert status == 200, body
            length = next(int(value) for name, value in answered if name.lower() == "content-length")
            while len(body) < length:
                piece = await stream.receive()
                assert piece, "the connection ended early"
                body += piece
            return body


@asynccontextmanager
async def open_front(
    make: Make,
    tls_files: dict[str, Path],
    context: ssl.SSLContext,
    transport: str = "websocket",
    *,
    base_domain: str | None = None,
    name: str | None = None,
) -> AsyncIterator[Front]:
    transports = ["websocket", carrier("longpoll")]
    async with open_ends(trusted_proxies=["127.0.0.1"], transports=transports, base_domain=base_domain) as ends:
        peer = make(ends.port, tls_files)
        options: dict[str, Any] = {"url": f"wss://localhost:{peer.port}", "cafile": tls_files["ca"], "name": name}
        async with peer.run() as folder, ends.join(**options, transport=carrier(transport)) as client:
            yield Front(ends.origin, ends.server, ends.limits, peer.port, context, folder, client.url)


def each(*makes: Make) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", makes, ids=lambda make: make.__name__)


# Where nginx gathers what it can, long-poll's strict mode must be enough.
WAYS = pytest.mark.parametrize(
    ("make", "transport"),
    [
        pytest.param(nginx, "websocket", id="nginx-websocket"),
        pytest.param(nginx, "longpoll", id="nginx-longpoll"),
        pytest.param(nginx_with_its_defaults, "websocket", id="nginx_with_its_defaults-websocket"),
        pytest.param(nginx_with_its_defaults, "longpoll:strict", id="nginx_with_its_defaults-longpoll"),
        pytest.param(haproxy, "websocket", id="haproxy-websocket"),
        pytest.param(haproxy, "longpoll", id="haproxy-longpoll"),
    ],
)


async def check_upgrade(front: Front, stream: ByteStream) -> None:
    fields = "Host: tunnel.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n"
    await stream.send(f"GET {front.path('/upgrade')} HTTP/1.1\r\n{fields}\r\n".encode())
    status, _, data = await read_head(stream)
    assert status == 101
    await receive_until(stream, EARLY, data)
    await stream.send(b"there and back")
    await receive_until(stream, b"there and back")


@WAYS
async def test_bodies_events_and_upgrades(
    make: Make, transport: str, tls_files: dict[str, Path], client_ssl_context: ssl.SSLContext
) -> None:
    async with open_front(make, tls_files, client_ssl_context, transport) as front:
        with anyio.fail_after(30):
            await gather(Download(front, 5 * MB).run, Upload(front, 5 * MB).run)
        # What nginx holds back from a caller of its own no tunnel can mend; a link that it buffers does no harm.
        direct = make is nginx_with_its_defaults
        async with Ends.caller(front) if direct else front.caller() as stream:
            await check_events(front, stream)
        async with front.caller() as stream:
            await check_upgrade(front, stream)


@pytest.mark.full
@pytest.mark.timeout(300)
@WAYS
async def test_long_bodies(
    make: Make, transport: str, tls_files: dict[str, Path], client_ssl_context: ssl.SSLContext
) -> None:
    async with open_front(make, tls_files, client_ssl_context, transport) as front:
        await Download(front, 100 * MB).run()
        await Upload(front, 100 * MB).run()


@each(nginx, haproxy)
async def test_names(make: Make, tls_files: dict[str, Path], client_ssl_context: ssl.SSLContext) -> None:
    names = {"base_domain": "tunnel.example.com", "name": "myapp"}
    async with open_front(make, tls_files, client_ssl_context, **names) as front:
        assert front.url == "https://myapp.tunnel.example.com/"
        for target in ("/echo?a=b", "/_tunnel/x", "/_stats"):
            echo = json.loads(await front.read(target, Host="myapp.tunnel.example.com"))
            assert echo["target"] == target
            fields = [value for name, value in echo["fields"] if name.lower() == "x-forwarded-host"]
            assert fields == ["myapp.tunnel.example.com"]


@each(nginx, haproxy)
async def test_the_origin_hears_of_the_caller_and_not_of_its_inventions(
    make: Make, tls_files: dict[str, Path], client_ssl_context: ssl.SSLContext
) -> None:
    async with open_front(make, tls_files, client_ssl_context) as front:
        told = {"X_Forwarded_For": "192.0.2.9", "X_Forwarded_Host": "evil.test", "X_Forwarded_Proto": "http"}
        body = await front.read(front.path("/echo"), **told, Forwarded="for=192.0.2.9", X_Real_IP="192.0.2.9")
        fields: dict[str, list[str]] = {}
        for name, value in json.loads(body)["fields"]:
            fields.setdefault(name.lower(), []).append(value)
    # What the caller claims, the caller, the proxy: whoever counts from the right does not come to the claim.
    assert fields["x-forwarded-for"] == ["192.0.2.9, 127.0.0.1, 127.0.0.1"]
    assert fields["x-forwarded-proto"] == ["https"]
    assert fields["x-forwarded-host"] == ["tunnel.test"]
    assert fields["x-forwarded-port"] == [str(front.tls_port)]
    assert fields["x-real-ip"] == ["127.0.0.1"]
    assert "forwarded" not in fields


@each(nginx, haproxy)
async def test_neither_statistics_nor_logs_tell_of_tokens(
    make: Make, tls_files: dict[str, Path], client_ssl_context: ssl.SSLContext
) -> None:
    async with open_front(make, tls_files, client_ssl_context) as front:
        statistics = await front.read("/_stats", Host="localhost")
        assert b"tunnels=1\n" in statistics
        assert b"tunnel00" not in statistics
        await front.read(front.path("/page?x=1"))
        log = front.folder / ("output" if make is haproxy else "access.log")
        await until(lambda: b" /_token/.../page?x=1" in log.read_bytes())
        assert TOKEN.encode() not in log.read_bytes()
        assert b"/_tunnel" not in log.read_bytes()
