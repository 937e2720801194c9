"""``server.httpx_transport(token)``: requests of the server's own program through a whole tunnel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import httpcore
import httpx
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import Message, TextMessage
from wsproto.events import Request as Opening

from tunnelkit import AsgiOrigin, ConfigError, TunnelServer
from tunnelkit import Request as Asked
from tunnelkit import Response as Answer
from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import StreamBroken

from .apps import Receive, Scope, Send, serve_app
from .by_hand import open_by_hand
from .tunnel import TOKEN, Ends, open_ends, until

pytestmark = pytest.mark.anyio
EVERY_WAY = pytest.mark.ways("websocket", "longpoll", "streamed")


@asynccontextmanager
async def calling(ends: Ends, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    known: dict[str, Any] = {"base_url": "http://device.test", "timeout": 10} | options
    async with httpx.AsyncClient(transport=ends.server.httpx_transport(TOKEN), **known) as client:
        yield client


@asynccontextmanager
async def serve(app: object, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[tuple[httpx.AsyncClient, Ends]]:
    async with serve_app(app, limits=limits) as ends, calling(ends) as client:
        yield client, ends


@EVERY_WAY
async def test_a_request_and_its_answer() -> None:
    seen: list[Asked] = []

    async def app(request: Asked) -> Answer:
        seen.append(request)
        return Answer(201, [("X-Many", "1"), ("X-Many", "2")], await request.read() + b"!")

    async with serve(app) as (client, _):
        answer = await client.post("/a%20b?c=%20", content=b"x" * 300_000, headers={"X-From": "here"})
        assert (answer.status_code, answer.http_version) == (201, "HTTP/1.1")
        assert answer.content == b"x" * 300_000 + b"!"
        assert answer.headers.get_list("x-many") == ["1", "2"]
        assert TOKEN not in repr(client._transport)
    [request] = seen
    assert (request.target, request.host, request.scheme) == ("/a%20b?c=%20", "device.test", "http")
    assert request.header("x-from") == "here"
    assert request.caller == ""  # it came by no socket


@EVERY_WAY
async def test_both_bodies_stream_at_once() -> None:
    """Each piece is answered before the next one is sent."""
    answered = anyio.Event()

    async def echo(request: Asked) -> Answer:
        return Answer(body=request)

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal answered
        for number in range(3):
            yield b"piece%d" % number
            with anyio.fail_after(10):
                await answered.wait()
            answered = anyio.Event()

    async with serve(echo) as (client, _), client.stream("POST", "/", content=pieces()) as answer:
        got = []
        async for piece in answer.aiter_raw():
            got.append(piece)
            answered.set()
        assert got == [b"piece0", b"piece1", b"piece2"]


async def test_who_does_not_read_stops_who_sends() -> None:
    sent = given = 0
    go = anyio.Event()
    limits = replace(DEFAULT_LIMITS, stream_max_window=DEFAULT_LIMITS.stream_first_window)

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            yield bytes(10_000)
            sent += 10_000

    async def upload() -> AsyncIterator[bytes]:
        nonlocal given
        while not go.is_set():
            yield bytes(10_000)
            given += 10_000

    async def app(request: Asked) -> Answer:
        if request.method == "GET":
            return Answer(body=body())
        await go.wait()
        return Answer(body=str(len(await request.read())))

    async def stand_still(count: Callable[[], int]) -> None:
        held = -1
        while held != count():
            held = count()
            await anyio.sleep(0.1)  # no event tells that nothing moves any more
        assert 0 < held < 16_000_000

    async with serve(app, limits) as (client, _), anyio.create_task_group() as group:
        async with client.stream("GET", "/"):
            await stand_still(lambda: sent)
        group.start_soon(lambda: client.post("/", content=upload()))
        await stand_still(lambda: given)
        go.set()


@pytest.mark.parametrize("how", ["closes", "is cancelled"])
async def test_a_request_that_is_given_up_is_taken_back(how: str) -> None:
    began, ended = anyio.Event(), anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def app(request: Asked) -> Answer:
        if how == "closes":
            return Answer(body=body())
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        return Answer()

    async with serve(app) as (client, ends):
        with anyio.fail_after(10):
            if how == "closes":
                async with client.stream("GET", "/") as answer:
                    assert answer.status_code == 200
            else:
                async with anyio.create_task_group() as group:
                    group.start_soon(client.get, "/")
                    await began.wait()
                    group.cancel_scope.cancel()
            await ended.wait()
        await ends.pending(0)


async def test_a_body_that_cannot_be_had() -> None:
    ended = anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise ValueError("the disk is gone")

    async def app(request: Asked) -> Answer:
        try:
            return Answer(body=await request.read())
        finally:
            ended.set()

    async with serve(app) as (client, _):
        with pytest.raises(ValueError, match="the disk is gone"):
            await client.post("/", content=body())
        with anyio.fail_after(10):
            await ended.wait()


@pytest.mark.parametrize("when", ["it is cancelled", "the answer is there"])
async def test_a_body_that_waits_ends_with_its_request(when: str) -> None:
    began, ended = anyio.Event(), anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def app(request: Asked) -> Answer:
        await anext(request)
        began.set()
        if when == "it is cancelled":
            await anyio.sleep_forever()
        return Answer(413)

    async with serve(app) as (client, _):
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: client.post("/", content=body()))
                await began.wait()
                if when == "it is cancelled":
                    group.cancel_scope.cancel()
            await ended.wait()


@pytest.mark.parametrize("error", [TimeoutError("the disk is slow"), StreamBroken("the pipe is")])
async def test_what_a_body_raises_comes_out_as_it_is(error: Exception) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise error

    async def app(request: Asked) -> Answer:
        return Answer(body=await request.read())

    async with serve(app) as (client, _):
        with anyio.fail_after(10), pytest.raises((type(error), httpx.ReadError), match=str(error)):
            await client.post("/", content=body())


@pytest.mark.parametrize(("sent", "told"), [(15, "longer"), (5, "shorter")])
async def test_a_body_of_another_length_than_it_says_is_an_error_of_the_programs(sent: int, told: str) -> None:
    closed = anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"x" * sent
        finally:
            closed.set()

    async def app(request: Asked) -> Answer:
        return Answer(body=await request.read())

    content = body()  # held, so that nothing but a close ends it
    async with serve(app) as (client, ends):
        with anyio.fail_after(10):
            with pytest.raises(httpx.LocalProtocolError, match=told):
                await client.post("/", content=content, headers={"Content-Length": "10"})
            await closed.wait()
        await ends.pending(0)


async def test_answers_that_nobody_closed_end_with_their_client() -> None:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 10_000

    async def app(request: Asked) -> Answer:
        return Answer(body=body())

    async with serve_app(app) as ends:
        async with calling(ends) as client:
            answer = await client.send(client.build_request("GET", "/"), stream=True)
        await ends.pending(0)
        for _ in range(2):
            await answer.aclose()


async def test_many_at_once() -> None:
    async def app(request: Asked) -> Answer:
        return Answer(body=await request.read())

    async with serve(app) as (client, ends):

        async def ask(number: int) -> None:
            assert (await client.post("/", content=b"%d" % number)).text == str(number)

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(ask, number)
        await ends.pending(0)


async def test_an_answer_before_the_body_has_come_ends_the_body() -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            yield bytes(10_000)
            sent += 10_000

    async def app(request: Asked) -> Answer:
        return Answer(413, body="too large")

    async with serve(app) as (client, _):
        answer = await client.post("/", content=body())
        assert (answer.status_code, answer.text) == (413, "too large")
        held = -1
        while held != sent:
            held = sent
            await anyio.sleep(0.02)  # no event tells that nothing moves any more


async def test_failures() -> None:
    async def app(request: Asked) -> Answer:
        if request.path == "/broken":
            return Answer(200, [("Content-Length", "100")], half())
        if request.path == "/late":
            await anyio.sleep_forever()
        raise RuntimeError("no")

    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("no")

    async with serve(app) as (client, ends):
        answer = await client.get("/", headers={"Accept": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (502, "origin_failed")
        with pytest.raises(httpx.ReadError, match="broke off"):
            await client.get("/broken")
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/late", timeout=0.1)
        await ends.pending(0)
        with pytest.raises(httpx.LocalProtocolError):
            await client.get("/", headers=[("X-Host", "http://a"), ("X-Host", "http://b")])
        with pytest.raises(httpx.LocalProtocolError):
            await client.get("/", headers={"X-Long": "x" * 100_000})
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("ftp://device.test/")


async def test_no_client_and_no_server() -> None:
    async with open_ends() as ends, calling(ends) as client:
        answer = await client.get("/", headers={"Prefer": "wait=0"})
        assert answer.status_code == 503
    with pytest.raises(httpx.ConnectError, match="does not run"):
        await httpx.AsyncClient(transport=ends.server.httpx_transport(TOKEN)).get("http://device.test/")
    with pytest.raises(ConfigError):
        ends.server.httpx_transport("short")


async def test_an_upload_waits_for_a_client() -> None:
    async def app(request: Asked) -> Answer:
        return Answer(body=str(len(await request.read())))

    async with open_ends() as ends, calling(ends) as client, anyio.create_task_group() as group:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await client.post("/", content=bytes(300_000), timeout=30))

        group.start_soon(ask)
        await ends.pending(1)
        async with ends.join(origin=app):
            await until(lambda: answers)
        assert answers[0].text == "300000"


async def test_a_server_that_ends_meanwhile() -> None:
    async def ask(server: TunnelServer) -> None:
        with pytest.raises(httpx.ReadError):
            await httpx.AsyncClient(transport=server.httpx_transport(TOKEN), timeout=10).get("http://device.test/")

    async with anyio.create_task_group() as group, open_ends() as ends:
        group.start_soon(ask, ends.server)
        await ends.pending(1)


async def test_another_origin_by_x_host() -> None:
    async with (
        open_ends() as ends,
        ends.join(origin=None, allow=[r"http://127\.0\.0\.1:\d+"]),
        calling(ends) as client,
    ):
        assert (await client.get("/echo", headers={"X-Host": ends.origin.url})).status_code == 200
        assert (await client.get("/echo", headers={"X-Host": "http://other.test"})).status_code == 403


async def test_trailers() -> None:
    async def body(trailers: list[tuple[str, str]]) -> AsyncIterator[bytes]:
        yield b"body"
        trailers.append(("X-Sum", "1"))

    async def app(request: Asked) -> Answer:
        trailers: list[tuple[str, str]] = []
        return Answer(headers=[("Trailer", "X-Sum")], body=body(trailers), trailers=trailers)

    async with serve(app) as (client, _):
        answer = await client.get("/", headers={"TE": "trailers", "Connection": "TE"})
        assert answer.content == b"body"
        assert answer.extensions["trailers"] == [(b"X-Sum", b"1")]


async def test_a_websocket_behind_an_upgrade() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"] + "!"})

    opening = WSConnection(ConnectionType.CLIENT).send(Opening(host="device.test", target="/"))
    fields = dict(line.split(": ", 1) for line in opening.decode().split("\r\n")[1:] if line)
    frames = Connection(ConnectionType.CLIENT)
    origin = AsgiOrigin(echo, lifespan="off")
    async with serve(origin) as (client, _):
        async with client.stream("GET", "/", headers=fields) as answer:
            assert (answer.status_code, answer.extensions["reason_phrase"]) == (101, b"Switching Protocols")
            stream = answer.extensions["network_stream"]
            assert stream.get_extra_info("socket") is None
            for text in ("hello", "x" * 200_000):
                async with anyio.create_task_group() as group:
                    group.start_soon(stream.write, frames.send(TextMessage(text)))
                    assert await _message(frames, stream) == text + "!"
            with pytest.raises(httpcore.ReadTimeout):
                await stream.read(1, timeout=0.01)
        await until(lambda: not origin._running)
        with pytest.raises(httpcore.ReadError):
            await stream.read(1)
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"x")


async def _message(frames: Connection, stream: httpcore.AsyncNetworkStream) -> str:
    text = ""
    while True:
        for event in frames.events():
            assert isinstance(event, Message)
            text += str(event.data)
            if event.message_finished:
                return text
        frames.receive_data(await stream.read(65_536, timeout=10))


async def test_an_origin_behind_a_url() -> None:
    async with open_by_hand() as (ends, origin), calling(ends) as client, anyio.create_task_group() as group:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await client.put("/a", content=b"body"))

        group.start_soon(ask)
        peer = await origin.accept()
        assert (await peer.head()).startswith(b"PUT /a HTTP/1.1\r\n")
        await peer.until(b"body")
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
        await until(lambda: answers)
        assert answers[0].text == "fine"
