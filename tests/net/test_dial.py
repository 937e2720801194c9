from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest
import trustme

from tunnelkit.errors import ConfigError, DialError, ProxyError
from tunnelkit.net.dial import Dial
from tunnelkit.net.listen import Listener
from tunnelkit.net.stream import ByteStream

from .pairs import CERTIFICATES, read_exactly

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(
    handler: Callable[[ByteStream], Awaitable[None]], ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server on loopback; its port."""
    listener = Listener.bind("127.0.0.1:0", ssl_context=ssl_context)
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: listener.serve(handler, task_status=task_status))
        yield listener.addresses[0][1]
        tasks.cancel_scope.cancel()


async def echo(stream: ByteStream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def silent(stream: ByteStream) -> None:
    await stream.wait()


async def echoes(stream: ByteStream) -> bool:
    await stream.send(b"hello")
    answer = await read_exactly(stream, 5)
    await stream.aclose()
    return answer == b"hello"


def connect_proxy(
    seen: list[bytes], *, then: Callable[[ByteStream], Awaitable[None]] = echo
) -> Callable[..., Awaitable[None]]:
    """An HTTP proxy that says yes and is the server itself."""

    async def handler(stream: ByteStream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await read_exactly(stream, 1)
        seen.append(head)
        await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await then(stream)

    return handler


async def tls_echo(stream: ByteStream) -> None:
    from tunnelkit.net.tls import TlsStream

    await echo(await TlsStream.server(stream, CERTIFICATES.server))


async def test_direct() -> None:
    async with serving(echo) as port:
        stream = await Dial()("127.0.0.1", port, tls=False)
        assert not stream.tls
        assert await echoes(stream)


async def test_direct_with_tls() -> None:
    async with serving(echo, CERTIFICATES.server) as port:
        for host in ("localhost", "127.0.0.1"):
            stream = await Dial(ssl_context=CERTIFICATES.client)(host, port, tls=True)
            assert stream.tls
            assert await echoes(stream)


async def test_through_a_proxy_with_tls_inside() -> None:
    seen: list[bytes] = []
    async with serving(connect_proxy(seen, then=tls_echo)) as port:
        dial = Dial(ssl_context=CERTIFICATES.client, proxy=f"http://user:pw@127.0.0.1:{port}")
        assert await echoes(await dial("localhost", 4433, tls=True))
    assert seen[0].startswith(b"CONNECT localhost:4433 HTTP/1.1\r\n")


async def test_through_a_proxy_over_tls_with_tls_inside() -> None:
    seen: list[bytes] = []
    async with serving(connect_proxy(seen, then=tls_echo), CERTIFICATES.server) as port:
        dial = Dial(
            ssl_context=CERTIFICATES.client,
            proxy=f"https://localhost:{port}",
            proxy_ssl_context=CERTIFICATES.client,
        )
        assert await echoes(await dial("localhost", 4433, tls=True))
    assert len(seen) == 1


async def test_the_environment_chooses_the_proxy_where_it_counts() -> None:
    seen: list[bytes] = []
    async with serving(connect_proxy(seen)) as port:
        environ = {"HTTP_PROXY": f"http://127.0.0.1:{port}", "NO_PROXY": "direct.example"}
        assert await echoes(await Dial(environ=environ)("b\u00fccher.example", 80, tls=False))
        assert await echoes(await Dial(environ=environ)("2001:db8::1", 80, tls=False))
        assert seen[0].startswith(b"CONNECT xn--bcher-kva.example:80 ")
        assert seen[1].startswith(b"CONNECT [2001:db8::1]:80 ")
        with pytest.raises(DialError) as caught:
            await Dial(environ=environ, proxy="")("127.0.0.1", 1, tls=False)
        assert caught.value.stage == "connect"


async def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match=r"^proxy: "):
        Dial(proxy="gopher://x")
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY: "):
        await Dial(environ={"HTTPS_PROXY": "gopher://x"})("example.com", 443, tls=True)
    with pytest.raises(DialError, match="is no host name") as caught:
        await Dial()("\u00fc" * 100, 80, tls=False)
    assert caught.value.stage == "resolve"


# -- failures of TLS ---------------------------------------------------------------------------


def expired_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    CERTIFICATES.ca.issue_cert(
        "localhost", not_before=yesterday - timedelta(days=1), not_after=yesterday
    ).configure_cert(context)
    return context


def stranger_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("make_context", "hint"),
    [
        (lambda: CERTIFICATES.server_for("other.example"), "for another name"),
        (expired_context, "has expired"),
        (stranger_context, "authority is not trusted"),
    ],
)
async def test_a_certificate_that_does_not_verify(make_context: Callable[[], ssl.SSLContext], hint: str) -> None:
    async with serving(echo, make_context()) as port:
        with pytest.raises(DialError, match=hint) as caught:
            await Dial(ssl_context=CERTIFICATES.client)("localhost", port, tls=True)
        assert caught.value.stage == "tls"
        assert hint in caught.value.hint


async def test_the_default_context_verifies() -> None:
    async with serving(echo, CERTIFICATES.server) as port:
        with pytest.raises(DialError, match="authority is not trusted"):
            await Dial()("localhost", port, tls=True)
        with pytest.raises(ProxyError, match="authority is not trusted"):
            await Dial(proxy=f"https://localhost:{port}")("example.com", 80, tls=False)


async def test_tls_to_a_plain_http_server() -> None:
    async def plain(stream: ByteStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with serving(plain) as port:
        with pytest.raises(DialError, match="does not speak TLS here: use ws:// or http://") as caught:
            await Dial(ssl_context=CERTIFICATES.client)("localhost", port, tls=True)
        assert caught.value.stage == "tls"


async def test_a_server_that_ends_in_the_handshake() -> None:
    async def end(stream: ByteStream) -> None:
        await stream.receive()

    async def cut(stream: ByteStream) -> None:
        await stream.receive()
        stream.abort()

    for handler, text in ((end, "closed the connection"), (cut, "reset by the peer")):
        async with serving(handler) as port:
            with pytest.raises(DialError, match=text) as caught:
                await Dial(ssl_context=CERTIFICATES.client)("localhost", port, tls=True)
            assert caught.value.stage == "tls"
            assert caught.value.hint


async def test_a_server_that_says_nothing_in_the_handshake() -> None:
    async with serving(silent) as port:
        with pytest.raises(DialError, match="did not finish the TLS handshake") as caught:
            await Dial(ssl_context=CERTIFICATES.client, timeout=0.1)("localhost", port, tls=True)
        assert caught.value.stage == "tls"


async def test_a_name_that_no_certificate_can_have() -> None:
    async with serving(connect_proxy([], then=silent)) as port:
        with pytest.raises(DialError, match="is no host name"):
            await Dial(ssl_context=CERTIFICATES.client, proxy=f"http://127.0.0.1:{port}")(".x", 443, tls=True)


# -- failures of proxies -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", [{"proxy": "http://proxy.test:1"}, {"environ": {"HTTP_PROXY": "http://proxy.test:1"}}]
)
def test_addresses_that_are_judged_are_not_left_to_a_proxy(way: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^proxy: .*judged"):
        Dial(permits=lambda address: True, **way)
    Dial(permits=lambda address: True, proxy="")


async def test_a_proxy_that_refuses_connections() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(ProxyError, match=f"no connection to the proxy http://127.0.0.1:{port}: .*refused") as caught:
        await Dial(proxy=f"http://user:hunter2@127.0.0.1:{port}")("example.com", 80, tls=False)
    assert caught.value.stage == "proxy"
    assert "hunter2" not in str(caught.value)


async def test_a_proxy_that_wants_a_password() -> None:
    closed = anyio.Event()

    async def deny(stream: ByteStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
        try:
            assert not await stream.receive()
        finally:
            closed.set()

    async with serving(deny) as port:
        with pytest.raises(ProxyError, match="407") as caught:
            await Dial(proxy=f"http://127.0.0.1:{port}")("example.com", 80, tls=False)
        assert caught.value.status == 407
        await closed.wait()


@pytest.mark.parametrize("scheme", ["http", "socks5h", "socks4a"])
async def test_a_proxy_that_says_nothing(scheme: str) -> None:
    closed = anyio.Event()

    async def say_nothing(stream: ByteStream) -> None:
        try:
            while await stream.receive():
                pass
        finally:
            closed.set()

    async with serving(say_nothing) as port:
        with pytest.raises(ProxyError, match="gave no answer in time"):
            await Dial(proxy=f"{scheme}://127.0.0.1:{port}", timeout=1)("example.com", 80, tls=False)
        await closed.wait()


async def test_cancelled_in_the_middle_it_closes_what_it_opened() -> None:
    reached, closed = anyio.Event(), anyio.Event()

    async def say_nothing(stream: ByteStream) -> None:
        try:
            while await stream.receive():
                reached.set()
        finally:
            closed.set()

    async with serving(say_nothing) as port:
        for proxy in ("", f"http://127.0.0.1:{port}"):
            reached, closed = anyio.Event(), anyio.Event()
            dial = Dial(ssl_context=CERTIFICATES.client, proxy=proxy)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(dial, "127.0.0.1", port, tls=True))
                await reached.wait()
                tasks.cancel_scope.cancel()
            await closed.wait()


# -- requests in absolute form -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy", "environ", "host"),
    [
        ("", {"http_proxy": "http://proxy"}, "example.com"),
        (None, {}, "example.com"),
        (None, {"http_proxy": "http://proxy", "no_proxy": "example.com"}, "a.example.com"),
        (None, {"http_proxy": "http://proxy"}, "127.0.0.1"),
        (None, {"https_proxy": "http://proxy"}, "example.com"),
        ("socks5://proxy", {}, "example.com"),
        ("socks4a://proxy", {}, "example.com"),
    ],
)
def test_no_proxy_takes_plain_requests(proxy: str | None, environ: dict[str, str], host: str) -> None:
    assert Dial(proxy=proxy, environ=environ).forward_proxy(host, 80) is None


def test_a_forward_proxy_is_chosen_as_any_other() -> None:
    for dial in (Dial(proxy="http://proxy"), Dial(environ={"http_proxy": "http://proxy", "no_proxy": "a.example"})):
        chosen = dial.forward_proxy("b\u00fccher.example", 8080)
        assert chosen is not None
        assert chosen.fields == []
        assert repr(chosen) == "<ForwardProxy http://proxy:80>"


def test_a_forward_proxys_credentials_are_a_field_and_no_secret_is_shown() -> None:
    chosen = Dial(proxy="https://user:p%40ss@proxy").forward_proxy("example.com", 80)
    assert chosen is not None
    assert chosen.fields == [(b"Proxy-Authorization", b"Basic dXNlcjpwQHNz")]
    assert "p@ss" not in repr(chosen)
    assert "dXNl" not in repr(chosen)


def test_wrong_settings_show_when_a_forward_proxy_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"^http_proxy: "):
        Dial(environ={"http_proxy": "gopher://x"}).forward_proxy("example.com", 80)
    with pytest.raises(DialError, match="is no host name"):
        Dial(proxy="http://proxy").forward_proxy("\u00fc" * 100, 80)


async def test_a_forward_proxy_is_dialled_itself() -> None:
    for scheme, context in (("http", None), ("https", CERTIFICATES.server)):
        async with serving(echo, context) as port:
            dial = Dial(proxy=f"{scheme}://localhost:{port}", proxy_ssl_context=CERTIFICATES.client)
            chosen = dial.forward_proxy("example.com", 80)
            assert chosen is not None
            stream = await chosen.dial()
            assert stream.tls == (scheme == "https")
            assert await echoes(stream)  # no CONNECT came before


async def test_a_forward_proxy_that_is_not_there() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    chosen = Dial(proxy=f"http://user:hunter2@127.0.0.1:{port}").forward_proxy("example.com", 80)
    assert chosen is not None
    with pytest.raises(ProxyError, match=f"no connection to the proxy http://127.0.0.1:{port}: "):
        await chosen.dial()
