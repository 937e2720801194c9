"""Both ends of WStunnel's wire, byte for byte, against what its programs sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from wsproto.utilities import generate_accept_token

from tunnelkit import Limits, TunnelClient, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.heads import Fields, RequestHead, ResponseHead
from tunnelkit.http.parsers import DEFAULT_PARSER
from tunnelkit.legacy.wstunnel_handshake import is_theirs
from tunnelkit.legacy.wstunnel_wire import ResponseReader
from tunnelkit.net.dial import connect_tcp
from tunnelkit.net.listen import Listener
from tunnelkit.net.stream import ByteStream

from ..e2e.origin import TestOrigin, serve_origin
from ..e2e.tunnel import SHORT, exchange, parse_head

pytestmark = pytest.mark.anyio

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "wstunnel.json").read_text(encoding="utf-8")
)
TOKEN: str = VECTORS["token"]


def text(*path: str) -> bytes:
    found: Any = VECTORS
    for name in path:
        found = found[name]
    return str(found).encode("latin-1")


def frame(*path: str) -> bytes:
    return bytes.fromhex(text(*path).decode())


def masked(data: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))


async def read(stream: ByteStream, size: int) -> bytes:
    data = b""
    with anyio.fail_after(10):
        while len(data) < size:
            piece = await stream.receive(size - len(data))
            assert piece, data
            data += piece
    return data


async def read_frame(stream: ByteStream) -> tuple[bytes, bytes]:
    """A frame's head without its mask, and its payload without the masking."""
    head = await read(stream, 2)
    size = head[1] & 0x7F
    if size >= 126:
        more = await read(stream, 2 if size == 126 else 8)
        head, size = head + more, int.from_bytes(more, "big")
    mask = await read(stream, 4) if head[1] & 0x80 else bytes(4)
    return head, masked(await read(stream, size), mask)


async def read_until(stream: ByteStream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += await read(stream, 1)
    return data


# -- their client at our server ----------------------------------------------------------------


@asynccontextmanager
async def their_client(port: int, handshake: bytes) -> AsyncIterator[ByteStream]:
    stream = await connect_tcp("127.0.0.1", port, timeout=5)
    try:
        await stream.send(handshake)
        assert await read(stream, len(text("handshake", "response"))) == text("handshake", "response")
        yield stream
    finally:
        stream.abort()


@pytest.mark.parametrize("handshake", [text("handshake", "request"), text("older_handshake")])
async def test_a_conversation_with_their_client(handshake: bytes) -> None:
    answers: list[tuple[int, list[tuple[str, str]], bytes]] = []

    async def call() -> None:
        fields = {"User-Agent": "curl/7.88.1", "Accept": "*/*"}
        answers.append(
            await exchange(port, "GET", f"/_token/{TOKEN}/hello?x=1", host="127.0.0.1:18080", fields=fields)
        )

    async with TunnelServer("127.0.0.1:0") as server:
        port = int(server.url.rpartition(":")[2])
        async with their_client(port, handshake) as theirs, anyio.create_task_group() as group:
            await theirs.send(frame("ping", "by_client"))
            assert await read(theirs, 2) == frame("ping", "pong")
            group.start_soon(call)
            head, message = await read_frame(theirs)
            assert message == text("get", "ours_message")
            assert head == b"\x82\x7e" + len(message).to_bytes(2, "big")
            mask = frame("response", "mask")
            response = masked(text("response", "message").replace(b"0003", b"0001", 1), mask)
            await theirs.send(frame("response", "head") + mask + response)
    ((status, fields_, body),) = answers
    assert (status, body) == (VECTORS["response"]["status"], text("response", "body"))
    assert [list(field) for field in fields_ if field[0] in ("Set-Cookie", "Date", "Server")] == [
        field for field in VECTORS["response"]["fields"] if field[0] in ("Set-Cookie", "Date", "Server")
    ]


def test_the_captured_response_is_masked_as_it_was() -> None:
    message = text("response", "message")
    assert masked(message, frame("response", "mask")).startswith(frame("response", "masked"))
    assert len(message) == int.from_bytes(frame("response", "head")[2:4], "big")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_captured_response_is_read_in_pieces_of_any_size(size: int) -> None:
    message = text("response", "message")[4:]
    reader = ResponseReader(RequestHead(b"GET", b"/hello?x=1", []), DEFAULT_PARSER, DEFAULT_LIMITS)
    parts: list[Any] = []
    for start in range(0, len(message), size):
        parts += reader.feed(message[start : start + size], last=start + size >= len(message))
    head, *body, _ = parts
    assert isinstance(head, ResponseHead)
    assert (head.status, [[name.decode(), value.decode()] for name, value in head.fields]) == (
        VECTORS["response"]["status"],
        VECTORS["response"]["fields"],
    )
    assert b"".join(body) == text("response", "body")


def test_the_captured_answer_to_head_is_whole() -> None:
    reader = ResponseReader(RequestHead(b"HEAD", b"/h", []), DEFAULT_PARSER, DEFAULT_LIMITS)
    head, whole = reader.feed(text("head", "response")[4:], last=True)
    assert isinstance(head, ResponseHead)
    assert (b"Content-Length", b"112") in head.fields
    assert type(whole).__name__ == "Whole"


async def refusal(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    stream = await connect_tcp("127.0.0.1", port, timeout=5)
    try:
        await stream.send(request)
        status, fields = parse_head((await read_until(stream, b"\r\n\r\n"))[:-4])
        told = {name.lower(): value for name, value in fields}
        return status, told, await read(stream, int(told["content-length"]))
    finally:
        stream.abort()


@pytest.mark.parametrize("case", VECTORS["refusals"], ids=lambda case: case["when"])
async def test_refusals_are_theirs(case: dict[str, Any]) -> None:
    request = text("handshake", "request").replace(TOKEN.encode(), case["origin"].encode())
    if case["authorization"] is not None:
        request = request.replace(b"\r\n\r\n", f"\r\nAuthorization: {case['authorization']}\r\n\r\n".encode())
    async with TunnelServer("127.0.0.1:0", passwords={TOKEN: "right"}) as server:
        status, fields, body = await refusal(int(server.url.rpartition(":")[2]), request)
    assert (status, body.decode()) == (case["status"], case["body"])
    assert fields["content-type"] == "text/plain; charset=utf-8"
    assert fields["x-content-type-options"] == "nosniff"
    assert fields.get("www-authenticate") == ('Basic realm="wstunnel"' if status == 401 else None)


async def test_a_server_for_their_wire_alone_is_known_as_one_of_theirs() -> None:
    without = text("handshake", "request").replace(b"Origin: " + TOKEN.encode() + b"\r\n", b"")
    async with TunnelServer("127.0.0.1:0", transports="wstunnel") as server:
        status, fields, body = await refusal(int(server.url.rpartition(":")[2]), without)
    assert is_theirs(status, [(name.encode(), value.encode()) for name, value in fields.items()], body)


async def test_a_full_token_is_told_as_theirs_tells_it() -> None:
    async with TunnelServer("127.0.0.1:0", limits=Limits(max_clients_per_token=1)) as server:
        port = int(server.url.rpartition(":")[2])
        async with their_client(port, text("handshake", "request")):
            status, _, body = await refusal(port, text("handshake", "request"))
    assert (status, body) == (VECTORS["full"]["status"], text("full", "body"))


# -- our client at their server ----------------------------------------------------------------


@asynccontextmanager
async def their_server() -> AsyncIterator[tuple[ByteStream, TestOrigin]]:
    """Right after the 101, with our client's handshake compared to the letter."""
    arrived: list[ByteStream] = []
    there, over = anyio.Event(), anyio.Event()

    async def serve(stream: ByteStream) -> None:
        if not arrived:
            arrived.append(stream)
            there.set()
            await over.wait()

    listener = Listener.bind("127.0.0.1:0")
    host = f"127.0.0.1:{listener.addresses[0][1]}"
    async with serve_origin() as origin, anyio.create_task_group() as group:
        await group.start(listener.serve, serve)
        client = TunnelClient(
            f"ws://{host}", token=TOKEN, origin=origin.url, transport="wstunnel", limits=SHORT, host="preserve"
        )
        async with client:
            with anyio.fail_after(10):
                await there.wait()
            (stream,) = arrived
            request = (await read_until(stream, b"\r\n\r\n")).decode()
            values = dict(line.split(": ", 1) for line in request.split("\r\n")[1:-2])
            expected = VECTORS["handshake"]["ours_request"].format(
                host=host, agent=values["User-Agent"], key=values["Sec-WebSocket-Key"]
            )
            assert request == expected
            await stream.send(_switched(values["Sec-WebSocket-Key"].encode()))
            yield stream, origin
            over.set()
        group.cancel_scope.cancel()


def _switched(key: bytes) -> bytes:
    fixed = text("handshake", "response")
    start = fixed.index(b"Accept: ") + len(b"Accept: ")
    return fixed[:start] + generate_accept_token(key) + b"\r\n\r\n"


async def next_message(stream: ByteStream) -> tuple[list[bytes], bytes]:
    """The heads of a message's frames, and the message, past pings."""
    heads: list[bytes] = []
    message = b""
    while not heads or not heads[-1][0] & 0x80:
        head, payload = await read_frame(stream)
        if head[0] != 0x89:
            heads.append(head)
            message += payload
    return heads, message


async def test_a_conversation_with_their_server() -> None:
    async with their_server() as (stream, origin):
        assert await read_frame(stream) == (frame("ping", "by_client")[:2], b"")  # at once, as theirs
        await stream.send(frame("ping", "pong"))
        await stream.send(frame("get", "head") + text("get", "message"))
        heads, message = await next_message(stream)
        assert message.startswith(b"0003HTTP/1.1 200 ")
        assert heads == [b"\x82\xfe" + len(message).to_bytes(2, "big")]
        await stream.send(frame("post", "head") + text("post", "message"))
        _, message = await next_message(stream)
        assert message.startswith(b"0004HTTP/1.1 200 ")
        get, post = origin.requests
        assert (get.method, get.target, get.values("Host")) == ("GET", "/hello?x=1", ["127.0.0.1:18080"])
        assert (post.method, post.target, post.body_size, post.values("X-Token")) == ("POST", "/post", 7, [])


async def test_their_fragments_and_ours() -> None:
    size = VECTORS["fragments"]["by_server_size"]
    first, last = (bytes.fromhex(head) for head in VECTORS["fragments"]["by_server"])
    start = b"0001POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: "
    body = b"x" * (size - len(start) - len("250000\r\n\r\n"))
    message = start + str(len(body)).encode() + b"\r\n\r\n" + body
    assert len(message) == size
    async with their_server() as (stream, _):
        await stream.send(first + message + last)
        _, answer = await next_message(stream)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["size"] == len(body)
        await stream.send(b"\x82\x35" + b"0002GET /bytes/300000 HTTP/1.1\r\nHost: public.test\r\n\r\n")
        heads, answer = await next_message(stream)
        assert [head.hex() for head in heads[:2]] == VECTORS["fragments"]["by_client"]
        assert heads[2][:2] == b"\x80\xff"
        assert len(answer.partition(b"\r\n\r\n")[2]) == 300_000


@pytest.mark.parametrize("make", ["rshade", "rightscale"])
def test_their_answer_without_a_token_is_known(make: str) -> None:
    head, _, body = text("without_origin", make).partition(b"\r\n\r\n")
    status, told = parse_head(head)
    fields: Fields = [(name.encode(), value.encode()) for name, value in told]
    assert is_theirs(status, fields, body)
    assert not is_theirs(status, fields, body + b" ")
    assert not is_theirs(status, fields, body.upper())
    assert not is_theirs(403, fields, body)
    for name in (b"Content-Type", b"X-Content-Type-Options"):
        assert not is_theirs(status, [field for field in fields if field[0] != name], body)
        assert not is_theirs(status, [*fields, (name, b"other")], body)
