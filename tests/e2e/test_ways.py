"""The ways to a tunnel server: TLS, proxies, base paths, and what stands in between (design, sections 4 and 9)."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute, SocketStream

from tunnelkit import ClientCertificate, TlsFiles
from tunnelkit.events import Retrying
from tunnelkit.net.dial import Dial

from .proxies import PASSWORD, USER, TestProxy, serve_http_proxy, serve_socks_proxy
from .tunnel import SHORT, TOKEN, Ends, exchange, open_ends, read_head

pytestmark = pytest.mark.anyio


async def served(ends: Ends) -> bool:
    """The tunnel carries a request (over plain HTTP or TLS, as the server has it)."""
    path = f"{ends.server.url.split('/', 3)[3] if ends.server.url.count('/') > 2 else ''}"
    status, _, _ = await exchange(ends.port, "GET", f"{'/' + path if path else ''}{ends.path('/echo')}")
    return status == 200


async def complaint(ends: Ends, url: str = "", **options: Any) -> Retrying:
    """What the client tells of its first failure; it tries on."""
    async with ends.join(url=url, ready=False, **options) as client:
        with anyio.fail_after(10):
            async for event in client.events():
                if isinstance(event, Retrying):
                    return event
    raise AssertionError("the client is over")


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture
def tls(tls_files: dict[str, Path]) -> TlsFiles:
    return TlsFiles(cert=tls_files["cert"], key=tls_files["key"])


async def secure_get(ends: Ends, context: ssl.SSLContext) -> int:
    stream = await Dial(ssl_context=context)("127.0.0.1", ends.port, tls=True)
    try:
        await stream.send(f"GET {ends.path('/echo')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return (await read_head(stream))[0]
    finally:
        stream.abort()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_wss_with_an_authority_of_ones_own(
    host: str, tls: TlsFiles, tls_files: dict[str, Path], client_ssl_context: ssl.SSLContext
) -> None:
    async with open_ends(tls=tls) as ends:
        url = f"wss://{host}:{ends.port}"
        async with ends.join(url=url, cafile=tls_files["ca"]) as client:
            assert await secure_get(ends, client_ssl_context) == 200
            assert client.url.startswith("https://")


async def test_wss_without_verification_where_it_is_asked_for(
    tls: TlsFiles, client_ssl_context: ssl.SSLContext
) -> None:
    async with open_ends(tls=tls) as ends, ends.join(url=f"wss://127.0.0.1:{ends.port}", insecure=True):
        assert await secure_get(ends, client_ssl_context) == 200


async def test_client_certificates(tls_files: dict[str, Path], certificate_authority: trustme.CA) -> None:
    tls = TlsFiles(cert=tls_files["cert"], key=tls_files["key"], client_ca=tls_files["ca"])
    async with open_ends(tls=tls) as ends:
        mine = ClientCertificate(cert=tls_files["client"])
        url = f"wss://127.0.0.1:{ends.port}"
        async with ends.join(url=url, cafile=tls_files["ca"], client_certificate=mine):
            context = ssl.create_default_context(cafile=tls_files["ca"])
            context.load_cert_chain(tls_files["client"])
            assert await secure_get(ends, context) == 200
        event = await complaint(ends, url, cafile=tls_files["ca"])
        assert "client certificate" in event.reason
        assert event.delay > 5


@pytest.fixture
def misnamed(tmp_path: Path, certificate_authority: trustme.CA) -> TlsFiles:
    path = tmp_path / "other.pem"
    certificate_authority.issue_cert("other.example.com").private_key_and_cert_chain_pem.write_to_path(path)
    return TlsFiles(cert=path)


async def test_a_certificate_of_another_name_is_tried_again_slowly(
    misnamed: TlsFiles, tls_files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    async with open_ends(tls=misnamed) as ends:
        event = await complaint(ends, f"wss://127.0.0.1:{ends.port}", cafile=tls_files["ca"])
        assert "the certificate is for another name" in event.reason
        assert 30 <= event.delay <= 60
    assert any(record.levelname == "ERROR" and "certificate" in record.getMessage() for record in caplog.records)


async def test_a_certificate_of_an_unknown_authority_is_tried_again_slowly(tls: TlsFiles) -> None:
    async with open_ends(tls=tls) as ends:
        event = await complaint(ends, f"wss://127.0.0.1:{ends.port}")
        assert "authority is not trusted" in event.reason
        assert 30 <= event.delay <= 60


async def test_ws_to_a_port_for_tls(tls: TlsFiles) -> None:
    async with open_ends(tls=tls) as ends:
        assert "use wss://" in (await complaint(ends, f"ws://127.0.0.1:{ends.port}")).reason


async def test_wss_to_a_plain_port() -> None:
    async with open_ends() as ends:
        assert "use ws://" in (await complaint(ends, f"wss://127.0.0.1:{ends.port}")).reason


# -- proxies -----------------------------------------------------------------------------------

ServeProxy = Callable[[int], AbstractAsyncContextManager[TestProxy]]
PROXIES = pytest.mark.parametrize(
    ("serve", "scheme"),
    [
        pytest.param(serve_http_proxy, "http", id="connect"),
        pytest.param(serve_socks_proxy, "socks5h", id="socks5"),
    ],
)
LOGIN = f"{quote(USER)}:{quote(PASSWORD)}"


@PROXIES
async def test_through_a_proxy_with_a_login(serve: ServeProxy, scheme: str) -> None:
    async with open_ends() as ends, serve(ends.port) as proxy:
        way = f"{scheme}://{LOGIN}@127.0.0.1:{proxy.port}"
        async with ends.join(url="ws://tunnel.example.com:8080", proxy=way):
            assert await served(ends)
        assert proxy.asked == ["tunnel.example.com:8080"]


@PROXIES
async def test_tls_through_a_proxy(
    serve: ServeProxy, scheme: str, tls: TlsFiles, tls_files: dict[str, Path], client_ssl_context: ssl.SSLContext
) -> None:
    async with open_ends(tls=tls) as ends, serve(ends.port) as proxy:
        way = f"{scheme}://{LOGIN}@127.0.0.1:{proxy.port}"
        async with ends.join(url="wss://localhost:8443", proxy=way, cafile=tls_files["ca"]):
            assert await secure_get(ends, client_ssl_context) == 200
        assert proxy.asked == ["localhost:8443"]


@PROXIES
async def test_a_wrong_login_is_told_as_the_proxys(serve: ServeProxy, scheme: str) -> None:
    async with open_ends() as ends, serve(ends.port) as proxy:
        way = f"{scheme}://{USER}:sesame@127.0.0.1:{proxy.port}"
        event = await complaint(ends, "ws://tunnel.example.com", proxy=way)
        assert "proxy" in event.reason
        assert "sesame" not in event.reason
        assert scheme != "http" or "407" in event.reason
        assert not proxy.asked


async def test_the_environment_names_the_proxy_and_its_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_ends() as ends, serve_http_proxy(ends.port) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{LOGIN}@127.0.0.1:{proxy.port}")
        async with ends.join(url="ws://tunnel.example.invalid"):
            assert await served(ends)
        assert proxy.asked == ["tunnel.example.invalid:80"]
        monkeypatch.setenv("NO_PROXY", "other.example,.example.invalid")
        event = await complaint(ends, "ws://tunnel.example.invalid", limits=SHORT)
        assert "proxy" not in event.reason
        assert proxy.asked == ["tunnel.example.invalid:80"]


async def test_a_proxy_that_is_down() -> None:
    async with open_ends() as ends:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        await listener.aclose()
        event = await complaint(ends, proxy=f"http://{LOGIN}@127.0.0.1:{port}")
        assert "no connection to the proxy" in event.reason
        assert USER not in event.reason


# -- paths -------------------------------------------------------------------------------------


async def test_a_base_path_at_both_ends() -> None:
    async with open_ends(base_path="/tun/nels") as ends:
        port = int(ends.server.url.removesuffix("/tun/nels").rpartition(":")[2])
        base = f"ws://127.0.0.1:{port}/tun/nels/"
        async with ends.join(url=base) as client:
            assert client.url == f"http://127.0.0.1:{port}/tun/nels/_token/{TOKEN}/"
            assert (await exchange(port, "GET", f"/tun/nels/_token/{TOKEN}/echo"))[0] == 200
            assert (await exchange(port, "GET", f"/_token/{TOKEN}/echo"))[0] == 404
            assert (await exchange(port, "GET", f"/tun/nelson/_token/{TOKEN}/echo"))[0] == 404
            assert (await exchange(port, "GET", "/tun/nels/_health_check"))[0] == 200
        event = await complaint(ends, f"ws://127.0.0.1:{port}")
        assert "404" in event.reason
        assert "base path" in event.reason


# -- what is no tunnel server ------------------------------------------------------------------


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that gives the same answer to everything."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def handle(stream: SocketStream) -> None:
        # A client may think better of it before it has said a word.
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            async with stream:
                await stream.receive()
                await stream.send(answer)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        try:
            yield f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        finally:
            group.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ["200", "captive portal"], id="captive-portal"
        ),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: https://a/\r\nContent-Length: 0\r\n\r\n", ["wss://"], id="tls"
        ),
        pytest.param(b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n", ["502", "reverse proxy"], id="nginx"),
        pytest.param(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", ["403"], id="no-code"),
        pytest.param(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", ["401"], id="authentication-in-between"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", ["not HTTP"], id="ssh"),
        pytest.param(b"", ["without an answer"], id="nothing"),
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: bm90IHRoZSByaWdodCBvbmU=\r\n\r\n",
            [],
            id="bad-accept",
        ),
    ],
)
async def test_an_answer_of_something_in_between_ends_no_client(answer: bytes, told: list[str]) -> None:
    async with open_ends() as ends, answering(answer) as url:
        event = await complaint(ends, url)
        for text in told:
            assert text in event.reason
