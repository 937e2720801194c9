from __future__ import annotations

import struct
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.errors import DialError, ProxyError
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.proxy import Proxy
from tunnelkit.net.proxy_handshake import ConnectHandshake, connect_through
from tunnelkit.net.stream import ByteStream

from .pairs import read_exactly

HTTP = Proxy.parse("http://proxy:3128")
HTTP_WITH_PASSWORD = Proxy.parse("http://us%20er:hunter2@proxy:3128")


# -- CONNECT, sans-IO --------------------------------------------------------------------------


def test_the_request() -> None:
    request = ConnectHandshake(HTTP, "example.com", 443).request
    assert request == b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nUser-Agent: tunnelkit\r\n\r\n"


def test_the_request_for_an_ipv6_address() -> None:
    assert ConnectHandshake(HTTP, "::1", 443).request.startswith(b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n")


def test_the_request_with_a_password() -> None:
    assert (
        b"Proxy-Authorization: Basic dXMgZXI6aHVudGVyMg==\r\n" in ConnectHandshake(HTTP_WITH_PASSWORD, "h", 1).request
    )


@pytest.mark.parametrize(
    ("reply", "early"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\nVia: x\r\n\r\nearly \x00bytes", b"early \x00bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly", b"early"),  # RFC 9110 9.3.6: no body, whatever it says
        (b"HTTP/1.1 204 Fine\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n", b"5\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hm\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx", b"x"),
    ],
)
def test_a_yes_whole_and_byte_by_byte(reply: bytes, early: bytes) -> None:
    assert ConnectHandshake(HTTP, "h", 1).receive_data(reply) == early
    handshake = ConnectHandshake(HTTP, "h", 1)
    head = len(reply) - len(early)
    for position in range(head - 1):
        assert handshake.receive_data(reply[position : position + 1]) is None
    assert handshake.receive_data(reply[head - 1 :]) == early


@given(st.binary(max_size=100), st.lists(st.integers(min_value=1, max_value=20)))
def test_no_split_loses_early_bytes(early: bytes, sizes: list[int]) -> None:
    rest = b"HTTP/1.1 200 OK\r\nProxy-Agent: x/1\r\n\r\n" + early
    handshake = ConnectHandshake(HTTP, "h", 1)
    got = None
    for size in [*sizes, len(rest)]:
        if got is None:
            got = handshake.receive_data(rest[:size])
        else:
            got += rest[:size]
        rest = rest[size:]
        if not rest:
            break
    assert got == early


@pytest.mark.parametrize(
    ("proxy", "reply", "status", "text"),
    [
        (HTTP, b"HTTP/1.1 407 Auth\r\n\r\n", 407, "wants a user name and password"),
        (HTTP_WITH_PASSWORD, b"HTTP/1.1 407 Auth\r\n\r\n", 407, "did not take the user name"),
        (HTTP, b"HTTP/1.1 403 No\r\n\r\n", 403, "rules forbid"),
        (HTTP, b"HTTP/1.1 502 Bad\r\n\r\n", 502, "could not reach"),
        (HTTP, b"HTTP/1.1 302 Login\r\nLocation: http://portal/\r\n\r\n", 302, "302"),
        (HTTP, b"SSH-2.0-OpenSSH\r\n\r\n", None, "not HTTP"),
        (HTTP, b"\x15\x03\x01\x00\x02\x02\x50\r\n\r\n", None, "not HTTP"),
        (HTTP, b"HTTP/1.1 200 OK\r\nA: " + b"x" * 20_000, None, "not HTTP"),
        (HTTP, b"HTTP/1.1 100 Continue\r\n\r\n" * 11, None, "without end"),
        (HTTP, b"", None, "without an answer"),
    ],
)
def test_a_no(proxy: Proxy, reply: bytes, status: int | None, text: str) -> None:
    with pytest.raises(ProxyError, match=text) as caught:
        ConnectHandshake(proxy, "h", 1).receive_data(reply)
    assert caught.value.status == status
    assert caught.value.stage == "proxy"
    assert "hunter2" not in str(caught.value)


def test_an_end_in_the_middle_of_the_reply() -> None:
    handshake = ConnectHandshake(HTTP, "h", 1)
    assert handshake.receive_data(b"HTTP/1.1 200 OK\r\nA: b") is None
    with pytest.raises(ProxyError, match="without an answer"):
        handshake.receive_data(b"")


# -- over a stream -----------------------------------------------------------------------------

Script = Callable[[MemoryStream], Coroutine[Any, Any, None]]


async def through(proxy: Proxy, script: Script, host: str = "example.com", port: int = 443) -> ByteStream:
    """``connect_through`` against a proxy that does as ``script`` says."""
    ours, theirs = memory_pair()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(script, theirs)
        try:
            return await connect_through(ours, proxy, host, port)
        except DialError as exc:
            failure = exc  # out of the task group, which would wrap it
            tasks.cancel_scope.cancel()
    raise failure


def replies(expected: bytes, answer: bytes, *more: bytes) -> Script:
    """Expect and answer in turn; every answer goes byte by byte."""

    async def script(stream: MemoryStream) -> None:
        turns = (expected, answer, *more)
        for wanted, reply in zip(turns[::2], turns[1::2], strict=True):
            assert await read_exactly(stream, len(wanted)) == wanted
            for position in range(len(reply)):
                await stream.send(reply[position : position + 1])
                await anyio.lowlevel.checkpoint()

    return script


@pytest.mark.anyio
async def test_connect_byte_by_byte_with_early_bytes() -> None:
    request = ConnectHandshake(HTTP, "example.com", 443).request
    stream = await through(HTTP, replies(request, b"HTTP/1.1 200 OK\r\n\r\nearly"))
    assert await read_exactly(stream, 5) == b"early"
    assert stream.receive_nowait() is None


@pytest.mark.anyio
async def test_early_bytes_in_the_same_piece() -> None:
    async def script(stream: MemoryStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 200 OK\r\n\r\nearly")

    stream = await through(HTTP, script)
    assert await stream.receive(2) == b"ea"
    await stream.wait(readable=True)
    assert await stream.receive() == b"rly"
    stream.abort()


@pytest.mark.anyio
async def test_a_proxy_that_breaks_off() -> None:
    async def script(stream: MemoryStream) -> None:
        await stream.receive()
        stream.abort()

    for url in ("http://proxy", "socks5h://proxy", "socks4a://proxy"):
        with pytest.raises(ProxyError, match="connection to the proxy broke"):
            await through(Proxy.parse(url), script)


@pytest.mark.anyio
async def test_a_proxy_that_says_nothing_and_ends() -> None:
    async def script(stream: MemoryStream) -> None:
        await stream.receive()
        await stream.send_eof()

    for url in ("http://proxy", "socks5h://proxy", "socks4a://proxy"):
        with pytest.raises(ProxyError, match="closed the connection"):
            await through(Proxy.parse(url), script)


# -- SOCKS -------------------------------------------------------------------------------------

NAME = b"\x05\x01\x00\x03\x0bexample.com" + struct.pack("!H", 443)
GRANTED = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38"


@pytest.mark.anyio
async def test_socks5_lets_the_proxy_resolve_and_leaves_what_follows() -> None:
    stream = await through(
        Proxy.parse("socks5h://proxy"), replies(b"\x05\x01\x00", b"\x05\x00", NAME, GRANTED + b"early")
    )
    assert await read_exactly(stream, 5) == b"early"


@pytest.mark.anyio
async def test_socks5_with_a_password() -> None:
    stream = await through(
        Proxy.parse("socks5h://user:hunter2@proxy"),
        replies(b"\x05\x02\x00\x02", b"\x05\x02", b"\x01\x04user\x07hunter2", b"\x01\x00", NAME, GRANTED),
    )
    assert stream.receive_nowait() is None


@pytest.mark.anyio
async def test_socks5_resolves_here() -> None:
    address = b"\x05\x01\x00\x01\x7f\x00\x00\x01" + struct.pack("!H", 443)
    await through(
        Proxy.parse("socks5://proxy"), replies(b"\x05\x01\x00", b"\x05\x00", address, GRANTED), host="127.0.0.1"
    )


@pytest.mark.anyio
async def test_socks5_a_name_that_is_not_found_here() -> None:
    with pytest.raises(DialError) as caught:
        await through(Proxy.parse("socks5://proxy"), replies(b"\x05\x01\x00", b"\x05\x00"), host="no-such.invalid")
    assert caught.value.stage == "resolve"
    assert "socks5h" in caught.value.hint


@pytest.mark.anyio
async def test_socks4() -> None:
    granted = b"\x00\x5a\x00\x00\x00\x00\x00\x00"
    request = b"\x04\x01\x01\xbb\x7f\x00\x00\x01me\x00"
    await through(Proxy.parse("socks4://me@proxy"), replies(request, granted), host="127.0.0.1")
    request = b"\x04\x01\x01\xbb\x00\x00\x00\x01\x00example.com\x00"
    await through(Proxy.parse("socks4a://proxy"), replies(request, granted))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "turns", "text"),
    [
        ("socks5h://proxy", (b"\x05\x01\x00", b"\x05\x00", NAME, b"\x05\x05\x00"), "refused by destination"),
        ("socks5h://proxy", (b"\x05\x01\x00", b"\x05\x00", NAME, b"\x05\x02\x00"), "not allowed"),
        ("socks5h://proxy", (b"\x05\x01\x00", b"\x05\xff"), "wants a user name and password"),
        ("socks5h://u:hunter2@proxy", (b"\x05\x02\x00\x02", b"\x05\xff"), "did not take"),
        (
            "socks5h://u:hunter2@proxy",
            (b"\x05\x02\x00\x02", b"\x05\x02", b"\x01\x01u\x07hunter2", b"\x01\x01"),
            "did not take",
        ),
        ("socks5h://proxy", (b"\x05\x01\x00", b"HTTP/1.1 400 Bad"), "refused"),
        (
            "socks4a://proxy",
            (b"\x04\x01\x01\xbb\x00\x00\x00\x01\x00example.com\x00", b"\x00\x5b" + bytes(6)),
            "refused",
        ),
    ],
)
async def test_socks_refusals(url: str, turns: tuple[bytes, bytes], text: str) -> None:
    with pytest.raises(ProxyError, match=text) as caught:
        await through(Proxy.parse(url), replies(*turns))
    assert caught.value.status is None
    assert "hunter2" not in str(caught.value)


@pytest.mark.anyio
async def test_what_does_not_fit_into_socks_is_an_error_without_secrets() -> None:
    async def script(stream: MemoryStream) -> None:
        await stream.receive()
        await stream.send(b"\x05\x02")
        await stream.receive()

    with pytest.raises(ProxyError, match="does not fit") as caught:
        await through(Proxy.parse(f"socks5h://user:{'hunter2' * 50}@proxy"), script)
    assert caught.value.__cause__ is None
    with pytest.raises(ProxyError, match="does not fit"):
        await through(Proxy.parse("socks4a://proxy"), script, host="x" * 100)
    with pytest.raises(ProxyError, match="does not fit"):
        await through(Proxy.parse("socks4://us%C3%A9r@proxy"), script, host="127.0.0.1")


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["http://proxy", "socks5h://proxy"])
async def test_a_silent_proxy_is_waited_for_until_cancelled(url: str) -> None:
    ours, theirs = memory_pair()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect_through, ours, Proxy.parse(url), "example.com", 443)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert theirs.receive_nowait()
    await theirs.send(b"still there")
    assert ours.receive_nowait() == b"still there"
