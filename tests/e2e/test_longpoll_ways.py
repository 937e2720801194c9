"""Long-poll by every kind of proxy: requests in absolute form, CONNECT with TLS inside, SOCKS."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest

from tunnelkit import TlsFiles
from tunnelkit.events import Retrying
from tunnelkit.net.dial import Dial
from tunnelkit.transports.longpoll import LongPollTransport

from .proxies import PASSWORD, USER, serve_forward_proxy, serve_http_proxy, serve_socks_proxy
from .tunnel import Ends, open_ends, read_head

pytestmark = pytest.mark.anyio

LOGIN = f"{quote(USER)}:{quote(PASSWORD)}"
MODES = pytest.mark.parametrize("mode", ["strict", "streamed"])


def transports() -> list[LongPollTransport]:
    return [LongPollTransport()]


async def moves_bytes(ends: Ends) -> bool:
    status, _, body = await ends.get("/bytes/300000")
    return (status, len(body)) == (200, 300_000)


@MODES
async def test_a_forward_proxy_carries_plain_requests(mode: str) -> None:
    async with open_ends(transports=transports()) as ends, serve_forward_proxy(ends.port) as proxy:
        way = f"http://{LOGIN}@127.0.0.1:{proxy.port}"
        async with ends.join(url="http://tunnel.example.com:8080", proxy=way, transport=LongPollTransport(mode=mode)):
            assert await moves_bytes(ends)
        assert set(proxy.asked) == {"tunnel.example.com:8080"}
        assert not proxy.refused


async def test_a_wrong_login_is_told_as_the_proxys() -> None:
    async with open_ends(transports=transports()) as ends, serve_forward_proxy(ends.port) as proxy:
        way = f"http://{USER}:sesame@127.0.0.1:{proxy.port}"
        async with ends.join(
            url="http://tunnel.example.com", proxy=way, ready=False, transport=LongPollTransport()
        ) as client:
            with anyio.fail_after(10):
                async for event in client.events():
                    if isinstance(event, Retrying):
                        assert "the proxy answered, with status 407" in event.reason
                        assert "sesame" not in event.reason
                        return
        raise AssertionError("the client is over")


async def test_the_environment_names_the_forward_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_ends(transports=transports()) as ends, serve_forward_proxy(ends.port) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{LOGIN}@127.0.0.1:{proxy.port}")
        async with ends.join(url="http://tunnel.example.invalid", transport=LongPollTransport()):
            assert await moves_bytes(ends)
        assert set(proxy.asked) == {"tunnel.example.invalid"}


@MODES
async def test_a_socks_proxy_carries_the_connections(mode: str) -> None:
    async with open_ends(transports=transports()) as ends, serve_socks_proxy(ends.port) as proxy:
        way = f"socks5h://{LOGIN}@127.0.0.1:{proxy.port}"
        async with ends.join(url="http://tunnel.example.com:8080", proxy=way, transport=LongPollTransport(mode=mode)):
            assert await moves_bytes(ends)
        assert set(proxy.asked) == {"tunnel.example.com:8080"}


@MODES
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_tls_goes_inside_what_a_proxy_carries(
    mode: str, scheme: str, tls_files: dict[str, Path], client_ssl_context: ssl.SSLContext
) -> None:
    tls = TlsFiles(cert=tls_files["cert"], key=tls_files["key"])
    serve = serve_http_proxy if scheme == "http" else serve_socks_proxy
    async with open_ends(tls=tls, transports=transports()) as ends, serve(ends.port) as proxy:
        way = f"{scheme}://{LOGIN}@127.0.0.1:{proxy.port}"
        transport = LongPollTransport(mode=mode)
        async with ends.join(url="https://localhost:8443", proxy=way, cafile=tls_files["ca"], transport=transport):
            assert await secure_status(ends, client_ssl_context) == 200
        assert set(proxy.asked) == {"localhost:8443"}


async def secure_status(ends: Ends, context: ssl.SSLContext) -> int:
    stream = await Dial(ssl_context=context)("127.0.0.1", ends.port, tls=True)
    try:
        await stream.send(f"GET {ends.path('/echo')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return (await read_head(stream))[0]
    finally:
        stream.abort()
