"""``TunnelClient(origin=...)`` with an ASGI 3 app: its websocket scope, through a whole tunnel."""

from __future__ import annotations

from dataclasses import replace

import anyio
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from tunnelkit import AsgiOrigin
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.origins import asgi_websocket, websocket_pump

from .apps import Message, Receive, Scope, Send, WebSocketSide, respond, serve_app, still_serves
from .by_hand import caller_side
from .tunnel import TOKEN, until

try:
    from websockets import Subprotocol
    from websockets.sync.client import connect
except ImportError:
    pytest.skip("websockets, which calls here, is not installed", allow_module_level=True)

pytestmark = pytest.mark.anyio
EVERY_WAY = pytest.mark.ways("websocket", "longpoll", "streamed")

ACCEPT = {"type": "websocket.accept"}


async def accepted(scope: Scope, receive: Receive, send: Send) -> bool:
    """Accept a websocket; False for the request of ``still_serves``, which is answered."""
    if scope["type"] == "http":
        await respond(send)
        return False
    assert (await receive())["type"] == "websocket.connect"
    await send(ACCEPT)
    return True


def bare(app: object) -> AsgiOrigin:
    return AsgiOrigin(app, lifespan="off")  # type: ignore[arg-type]


@EVERY_WAY
async def test_text_and_bytes_both_ways() -> None:
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol="chat", headers=[(b"x-app", b"yes")])
        assert websocket.headers["x-from"] == "caller"
        async for text in websocket.iter_text():
            await websocket.send_bytes(text.encode() + b" from " + websocket.url.path.encode())

    app = Starlette(routes=[WebSocketRoute("/chat", echo)])
    options = {"subprotocols": ["other", "chat"], "extra_headers": [(b"X-From", b"caller")]}
    async with serve_app(app) as ends, WebSocketSide.open(ends, "/chat?a=1", **options) as caller:
        head = caller.head.lower()
        assert b" 101 " in head
        assert b"\r\nsec-websocket-protocol: chat\r\n" in head
        assert b"\r\nx-app: yes\r\n" in head
        for text in ("gr\u00fc\u00dfe", "", "x" * 200_000):
            await caller.send(TextMessage(text))
            assert await caller.event() == BytesMessage(text.encode() + b" from /chat")
        await caller.send(CloseConnection(1000))
        assert await caller.event() == CloseConnection(1000, "")
        assert await caller.side.rest() == b""  # the server's end is the first to close


@EVERY_WAY
async def test_the_apps_close_reaches_the_caller_and_the_callers_the_app() -> None:
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await accepted(scope, receive, send):
            if scope["path"] == "/app":
                await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
            heard.append(await receive())
            with pytest.raises(OSError, match="closed"):
                await send({"type": "websocket.close"})

    async with serve_app(bare(app)) as ends:
        async with WebSocketSide.open(ends, "/app") as caller:
            assert await caller.event() == CloseConnection(4001, "enough")
            await caller.send(CloseConnection(4001))
            assert await caller.side.rest() == b""
        async with WebSocketSide.open(ends, "/caller") as caller:
            await caller.send(CloseConnection(3999, "bye"))
            assert await caller.event() == CloseConnection(3999, "")
            assert await caller.side.rest() == b""
        assert heard == [
            {"type": "websocket.disconnect", "code": 4001, "reason": "enough"},
            {"type": "websocket.disconnect", "code": 3999, "reason": "bye"},
        ]


@EVERY_WAY
async def test_a_caller_that_vanishes_is_told_to_the_app() -> None:
    heard: list[Message] = []
    told = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await accepted(scope, receive, send):
            heard.append(await receive())
            with pytest.raises(OSError, match="closed"):
                await send({"type": "websocket.send", "text": "to nobody"})
            told.set()

    async with serve_app(bare(app)) as ends:
        async with WebSocketSide.open(ends) as caller:
            caller.side.reset()
            with anyio.fail_after(10):
                await told.wait()
        assert heard == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]
        await still_serves(ends)


async def test_pings_are_answered_while_the_app_is_busy() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accepted(scope, receive, send)
        await anyio.sleep_forever()

    async with serve_app(bare(app)) as ends, WebSocketSide.open(ends) as caller:
        await caller.send(TextMessage("that the app does not take"))
        await caller.send(Ping(b"there?"))
        assert await caller.event() == Pong(b"there?")


@pytest.mark.parametrize("kind", ["close", "response"])
async def test_an_app_may_deny_a_websocket(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await respond(send)
            return
        assert "websocket.http.response" in scope["extensions"]
        if kind == "close":
            await send({"type": "websocket.close"})
            return
        prefix = "websocket.http.response."
        await send({"type": prefix + "start", "status": 401, "headers": [(b"x-why", b"no")]})
        await send({"type": prefix + "body", "body": b"not ", "more_body": True})
        await send({"type": prefix + "body", "body": b"you"})

    async with serve_app(bare(app)) as ends, WebSocketSide.open(ends) as caller:
        if kind == "close":
            assert caller.head.startswith(b"HTTP/1.1 403 ")
        else:
            assert caller.head.startswith(b"HTTP/1.1 401 ")
            assert b"x-why: no" in caller.head
            await caller.side.until(b"you\r\n0\r\n\r\n")
        await still_serves(ends)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["raises", "returns"])
async def test_an_app_that_ends(when: str, how: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await respond(send)
            return
        if when == "after":
            await accepted(scope, receive, send)
        if how == "raises":
            raise RuntimeError("a secret of the app")

    async with serve_app(bare(app)) as ends, WebSocketSide.open(ends) as caller:
        if when == "before":
            assert caller.head.startswith(b"HTTP/1.1 502 ")
            assert b"secret" not in await caller.side.until(b"origin_failed")
        else:
            assert await caller.event() == CloseConnection(1011 if how == "raises" else 1000, "")
        await still_serves(ends)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        pytest.param(b"\x81\x05hello", 1002, id="not masked"),
        pytest.param(b"\x81\x81\0\0\0\0\xff", 1007, id="not UTF-8"),
        pytest.param(b"\x82\xff\0\0\0\0\x00\x10\0\x01\0\0\0\0" + bytes(1_048_577), 1009, id="too big"),
    ],
)
async def test_a_caller_that_breaks_the_protocol(wrong: bytes, code: int) -> None:
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await accepted(scope, receive, send):
            heard.append(await receive())

    async with serve_app(bare(app)) as ends:
        async with WebSocketSide.open(ends) as caller:
            await caller.side.send(wrong)
            closed = await caller.event()
            assert isinstance(closed, CloseConnection)
            assert closed.code == code
        await until(lambda: heard)
        assert heard[0]["code"] == code
        await still_serves(ends)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Sec-WebSocket-Version: 12", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="], b"426"),
        (["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"], b"400"),
    ],
)
async def test_a_handshake_that_is_none(lines: list[str], status: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it was called")

    async with serve_app(bare(app)) as ends, caller_side(ends) as caller:
        head = [f"GET /_token/{TOKEN}/ HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", *lines]
        await caller.send("\r\n".join([*head, "", ""]).encode())
        answer = await caller.head()
        assert answer.startswith(b"HTTP/1.1 %b " % status)
        assert (b"\r\nSec-WebSocket-Version: 13\r\n" in answer) == (status == b"426")


async def test_who_takes_nothing_stops_who_sends() -> None:
    """The app that takes no messages its caller, and the caller the app; neither stops anybody else."""
    sent = 0
    go = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        if not await accepted(scope, receive, send):
            return
        if scope["path"] == "/takes":
            await go.wait()
            return
        while True:
            await send({"type": "websocket.send", "bytes": bytes(65_536)})
            sent += 65_536

    limits = replace(DEFAULT_LIMITS, stream_max_window=DEFAULT_LIMITS.stream_first_window)
    async with serve_app(bare(app), limits=limits) as ends:
        async with WebSocketSide.open(ends, "/takes") as caller:
            message = BytesMessage(bytes(65_536))
            with anyio.move_on_after(0.3) as stuck:
                for _ in range(1000):
                    await caller.send(message)
            assert stuck.cancelled_caught
            await still_serves(ends)
            go.set()
        async with WebSocketSide.open(ends, "/sends"):
            held = -1
            while sent != held:
                held = sent
                await anyio.sleep(0.1)  # no event tells that nothing moves any more
            assert sent < 16_000_000
            await still_serves(ends)


@pytest.mark.parametrize("who", ["keeps the websocket", "keeps the connection"])
async def test_a_caller_that_does_not_close_is_cut(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_pump, "CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(asgi_websocket, "CLOSE_TIMEOUT", 0.1)
    origin = bare(accepted)
    async with serve_app(origin) as ends, WebSocketSide.open(ends) as caller:
        assert isinstance(await caller.event(), CloseConnection)
        if who == "keeps the connection":
            await caller.send(CloseConnection(1000))
        await until(lambda: not origin._running)
        await still_serves(ends)


async def test_a_real_client_that_offers_compression() -> None:
    """websockets', in a thread."""

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol="chat")
        async for text in websocket.iter_text():
            await websocket.send_text(text)
        await websocket.close(4000, "bye")

    def talk() -> None:
        with connect(url, subprotocols=[Subprotocol("chat")]) as caller:
            assert caller.subprotocol == "chat"
            assert not caller.protocol.extensions
            for text in ("gr\u00fc\u00dfe", "x" * 300_000):
                caller.send(text)
                assert caller.recv(10) == text
            assert caller.ping().wait(10)
        assert (caller.close_code, caller.close_reason) == (1000, "")

    app = Starlette(routes=[WebSocketRoute("/echo", echo)])
    async with serve_app(app) as ends:
        url = ends.server.url.replace("http", "ws") + ends.path("/echo")
        await anyio.to_thread.run_sync(talk)
