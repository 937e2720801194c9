"""Peers that speak garbage, another version, too much or not enough: each costs only its own connection."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.core.message import Kind, build
from tunnelkit.errors import StreamBroken
from tunnelkit.handshake import Handshake, to_fields
from tunnelkit.net.dial import connect_tcp
from tunnelkit.net.stream import ByteStream
from tunnelkit.proof import attach_tag

from .tunnel import SHORT, TOKEN, Ends, Tunnel, open_ends, open_tunnel, parse_head, read_head, receive_more

pytestmark = pytest.mark.anyio

UPGRADE = (
    "GET /_tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tunnelkit.v1\r\n"
)
LIMITS = replace(DEFAULT_LIMITS, head_timeout=0.5, opening_timeout=0.5)


@asynccontextmanager
async def untouched() -> AsyncIterator[Tunnel]:
    """A tunnel whose session and whose running download survive what happens in the context."""
    async with open_tunnel(limits=LIMITS) as tunnel, tunnel.caller() as caller:
        await caller.send(f"GET {tunnel.path('/sse')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        _, _, data = await read_head(caller)
        sessions = tunnel.server.sessions()
        yield tunnel
        assert tunnel.server.sessions() == sessions
        assert sessions[0].epoch == 1
        for number in range(5):
            tunnel.origin.release(f"event{number}")
        with anyio.fail_after(10):
            while not data.endswith(b"0\r\n\r\n"):
                data += await receive_more(caller)
        assert data.count(b"data: ") == 5
        assert (await tunnel.get("/echo"))[0] == 200


async def say(ends: Ends, data: bytes) -> bytes:
    """Send ``data``, and read until the server ends the connection."""
    stream = await connect_tcp("127.0.0.1", ends.port, timeout=5)
    try:
        with suppress(StreamBroken):
            await stream.send(data)
        return await read_to_the_end(stream)
    finally:
        stream.abort()


async def read_to_the_end(stream: ByteStream) -> bytes:
    answer = b""
    with anyio.fail_after(10), suppress(StreamBroken):
        while piece := await stream.receive():
            answer += piece
    return answer


def handshake(token: str = TOKEN, **changes: str) -> bytes:
    fields = {name.decode(): value.decode() for name, value in to_fields(Handshake(token=token))} | changes
    return (UPGRADE + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n").encode()


# -- before a connection exists ----------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(bytes(range(256)) * 20, id="bytes"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500, id="tls"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", id="ssh"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="http2"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 10_000, id="many-fields"),
        pytest.param(b"A" * 1_000_000, id="a-long-line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a", id="half-a-head"),
        pytest.param(b"", id="nothing"),
        pytest.param(UPGRADE.encode(), id="half-a-handshake"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad-chunk"),
    ],
)
async def test_garbage_costs_its_own_connection(garbage: bytes) -> None:
    async with untouched() as tunnel:
        answer = await say(tunnel, garbage)
        assert not answer or parse_head(answer.partition(b"\r\n\r\n")[0])[0] >= 400


async def test_random_garbage_costs_its_own_connection() -> None:
    async with untouched() as tunnel:
        for _ in range(20):
            await say(tunnel, os.urandom(300) + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        pytest.param({"Tunnelkit-Version": "7-9"}, 400, "version", id="a-later-version"),
        pytest.param({"Tunnelkit-Version": "x"}, 400, "bad_request", id="no-version"),
        pytest.param({"Tunnelkit-Token": "short"}, 400, "bad_request", id="a-short-token"),
        pytest.param({"Tunnelkit-Token": "x" * 300}, 400, "bad_request", id="a-long-token"),
        pytest.param({"Tunnelkit-Session": "n0-" + "0" * 32}, 400, "bad_request", id="half-a-resume"),
        pytest.param({"Origin": "https://evil.example"}, 403, "forbidden", id="a-browser"),
        pytest.param({"Sec-WebSocket-Protocol": "chat"}, 0, "", id="two-subprotocols"),
    ],
)
async def test_a_handshake_that_is_wrong_is_told_so(changes: dict[str, str], status: int, code: str) -> None:
    async with untouched() as tunnel:
        stream = await connect_tcp("127.0.0.1", tunnel.port, timeout=5)
        await stream.send(handshake(**changes))
        with anyio.fail_after(15):
            got, _, body = await read_head(stream)
        stream.abort()
        if status:
            assert got == status
            assert f'"{code}"'.encode() in body


# -- websocket frames --------------------------------------------------------------------------


def frame(
    payload: bytes, *, opcode: int = 2, masked: bool = True, fin: bool = True, length: int | None = None
) -> bytes:
    """One frame of a client; ``length``: what the header says, whatever there is."""
    size = len(payload) if length is None else length
    first, mask = (0x80 if fin else 0) | opcode, 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (bytes(4) if masked else b"") + payload


@asynccontextmanager
async def granted(ends: Ends) -> AsyncIterator[tuple[ByteStream, dict[str, str]]]:
    stream = await connect_tcp("127.0.0.1", ends.port, timeout=5)
    try:
        await stream.send(handshake())
        status, fields, _ = await read_head(stream)
        assert status == 101
        yield stream, {name.lower(): value for name, value in fields}
    finally:
        stream.abort()


BAD_FRAMES = [
    pytest.param(frame(b"", length=10**12), id="oversized"),
    pytest.param(frame(b"x" * 10, length=2_000_000), id="beyond-the-largest-message"),
    pytest.param(frame(b"x" * 100, masked=False), id="unmasked"),
    pytest.param(frame(b"text", opcode=1), id="text"),
    pytest.param(frame(b"x", opcode=11), id="unknown-opcode"),
    pytest.param(frame(b"x" * 100), id="a-message-too-short"),
    pytest.param(frame(b"\xff" * 100), id="unknown-kind"),
    pytest.param(b"\xff" * 200, id="garbage"),
    pytest.param(frame(build(Kind.DATA, 1, 0, 0, (b"x" * 20,))), id="data-before-attach"),
    pytest.param(frame(build(Kind.ATTACH, 1, 0, 0, (b"x" * 32,))), id="a-made-up-proof"),
    pytest.param(frame(build(Kind.PING, 0, 0, 0, (b"x" * 20_000,))), id="a-long-ping"),
]


@pytest.mark.parametrize("data", BAD_FRAMES)
async def test_a_bad_message_before_attach_costs_its_own_connection(data: bytes) -> None:
    async with untouched() as tunnel, granted(tunnel) as (stream, _):
        await stream.send(data)
        await read_to_the_end(stream)


async def attach(stream: ByteStream, fields: dict[str, str]) -> None:
    """By hand: ATTACH with the proof that the grant allows."""
    session_id, key = fields["tunnelkit-session"], bytes.fromhex(fields["tunnelkit-resume-key"])
    await stream.send(frame(build(Kind.ATTACH, 1, 0, 0, (attach_tag(key, session_id, 1),))))
    data = b""
    while len(data) < 2 + 24:
        data += await receive_more(stream)


@pytest.mark.parametrize(
    "data",
    [
        *BAD_FRAMES[:5],
        pytest.param(frame(build(Kind.DATA, 1, 10**9, 0, (b"x" * 20,))), id="beyond-the-window"),
        pytest.param(frame(build(Kind.ACK, 1, 0, 10**9)), id="an-ack-of-what-was-never-sent"),
        pytest.param(frame(build(Kind.DATA, 1, 0, 0, (b"\x77" * 20,))), id="an-unknown-frame"),
        pytest.param(frame(build(Kind.DATA, 2, 0, 0, (b"x" * 20,))), id="another-epoch"),
        pytest.param(frame(build(Kind.ATTACH, 1, 0, 0)), id="a-second-attach"),
        pytest.param(frame(build(Kind.DATA, 1, 0, 0, (b"x" * 20,)))[:-5], id="half-a-frame"),
    ],
)
async def test_a_bad_message_of_an_attached_client_costs_its_own_session(data: bytes) -> None:
    other = "a-token-of-bad-clients"
    limits = replace(SHORT, ping_idle_silence=0.4, ping_idle_timeout=0.3)
    async with open_ends(limits=limits) as ends, ends.join():
        good = ends.server.sessions()
        stream = await connect_tcp("127.0.0.1", ends.port, timeout=5)
        await stream.send(handshake(other))
        _, fields, _ = await read_head(stream)
        await attach(stream, {name.lower(): value for name, value in fields})
        assert len(ends.server.sessions()) == 2
        await stream.send(data)
        await read_to_the_end(stream)
        stream.abort()
        assert ends.server.sessions()[:1] == good
        assert good[0].epoch == 1
        assert (await ends.get("/echo"))[0] == 200
