"""The front on real sockets: what memory cannot show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import anyio
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.heads import RequestHead, ResponseHead
from tunnelkit.http.caller import FrontRequest
from tunnelkit.http.client import OriginConnection, simple_request
from tunnelkit.http.codec import Body, End
from tunnelkit.http.front import Front, Handler
from tunnelkit.net.listen import Listener
from tunnelkit.net.peer import Peer
from tunnelkit.net.stream import ByteStream
from tunnelkit.net.tcp import connect_tcp
from tunnelkit.net.timers import Timers

pytestmark = pytest.mark.anyio

POST = RequestHead(b"POST", b"/", [(b"Host", b"a")])


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[tuple[str, int]]:
    timers = Timers()
    front = Front(handler, timers=timers)

    async def serve(stream: ByteStream) -> None:
        address, port = stream.peer_address
        await front.serve_connection(stream, Peer(address=address, port=port))

    listener = Listener.bind("127.0.0.1:0")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(timers.run)
            await group.start(listener.serve, serve)
            yield listener.addresses[0]
            group.cancel_scope.cancel()


async def echo(request: FrontRequest) -> None:
    request.send_head(ResponseHead(200, [], b"OK"))
    while (data := request.receive_body_nowait()) != b"":
        if data is None:
            request.flush()
            await request.wait(readable=True)
        while data and not request.try_send_body(data):
            await request.wait(writable=True)
    request.send_end()


async def test_a_large_body_both_ways_at_once() -> None:
    body = bytes(range(256)) * 20_000
    async with listening(echo) as address:
        stream = await connect_tcp(*address)
        head, answer = await simple_request(stream, POST, body, max_body=len(body))
        assert head.status == 200
        assert sha256(answer).digest() == sha256(body).digest()
        await stream.aclose()


async def test_a_connection_serves_many_requests() -> None:
    async with listening(echo) as address:
        connection = OriginConnection(await connect_tcp(*address))
        for number in range(50):
            body = b"%d" % number
            connection.send_request(
                RequestHead(b"POST", b"/", [(b"Host", b"a"), (b"Content-Length", b"%d" % len(body))])
            )
            connection.try_send_body(body)
            connection.send_end()
            answer = b""
            while not isinstance(event := connection.next_event_nowait(), End):
                if event is None:
                    await connection.wait(readable=True)
                elif isinstance(event, Body):
                    answer += event.data
            assert answer == body
            assert connection.reusable
        await connection.aclose()


async def test_an_early_answer_reaches_a_caller_that_is_still_sending() -> None:
    async def refuse(request: FrontRequest) -> None:
        request.send_head(ResponseHead(413, [(b"Content-Length", b"5")], b"Content Too Large"))
        request.try_send_body(b"large")
        request.send_end()

    async with listening(refuse) as address:
        stream = await connect_tcp(*address)
        await stream.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
        sent = stream.try_send(b"x" * 60_000)
        assert sent
        answer = b""
        while data := await stream.receive():  # to the end: no reset takes it away
            answer += data
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b"large")
        await stream.aclose()


@pytest.mark.parametrize("way", ["abort", "send_eof", "aclose"])
async def test_a_caller_that_leaves_is_noticed(way: str) -> None:
    waiting, left = anyio.Event(), anyio.Event()

    async def handler(request: FrontRequest) -> None:
        waiting.set()
        while not request.gone:
            await request.wait(readable=True)
        left.set()

    async with listening(handler) as address:
        stream = await connect_tcp(*address)
        await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await waiting.wait()
        if way == "abort":
            stream.abort()
        else:
            await (stream.send_eof() if way == "send_eof" else stream.aclose())
        await left.wait()
        stream.abort()


async def test_a_partial_answer_is_reset() -> None:
    async def fail(request: FrontRequest) -> None:
        request.send_head(ResponseHead(200, [], b"OK"))
        request.try_send_body(b"x" * 20_000)

    async with listening(fail) as address:
        stream = await connect_tcp(*address)
        await stream.send(b"GET / HTTP/1.0\r\n\r\n")  # until close: only the reset tells
        with pytest.raises(StreamBroken):
            await read_to_the_end(stream)
        stream.abort()


async def read_to_the_end(stream: ByteStream) -> None:
    while await stream.receive():
        pass
