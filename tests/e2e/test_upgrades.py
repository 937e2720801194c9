"""Upgraded connections through the running tunnel, seen from both ends."""

from __future__ import annotations

import anyio
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Request

from tunnelkit.config import Limits

from .by_hand import Side, caller_side, open_by_hand
from .tunnel import TOKEN, ask

pytestmark = [pytest.mark.anyio, pytest.mark.ways("websocket", "longpoll")]

PATH = f"/_token/{TOKEN}".encode()
ASK = b"GET " + PATH + b"/a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def switch(caller: Side, peer: Side, protocol: bytes = b"echo") -> None:
    assert b"\r\nConnection: Upgrade\r\nUpgrade: %b\r\n" % protocol in await peer.head()
    await peer.send(SWITCHED % protocol)
    assert await caller.head() == SWITCHED % protocol


@pytest.mark.parametrize("protocol", [b"echo", b"tls/1.2, other"])
async def test_any_protocol_both_ways(protocol: bytes) -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(ASK % protocol)
        peer = await origin.accept()
        await switch(caller, peer, protocol)
        for number in range(3):
            await caller.send(b"ping %d\0\r\n" % number)
            await peer.until(b"ping %d\0\r\n" % number)
            await peer.send(b"HTTP/1.1 %d\r\n\r\n" % number)  # is not read as an answer
            await caller.until(b"HTTP/1.1 %d\r\n\r\n" % number)


async def test_early_bytes_wait_for_the_origins_101() -> None:
    """Sent before, they would be requests to an origin that knows no upgrade."""
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(ASK % b"echo" + b"GET /smuggled HTTP/1.1\r\n\r\n")
        peer = await origin.accept()
        await peer.head()
        await caller.send(b"and later")
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await caller.head()  # what was to come with the head has come by now
        assert not peer.data
        await peer.send(SWITCHED % b"echo" + b"early too")
        assert await peer.until(b"and later") == b"GET /smuggled HTTP/1.1\r\n\r\nand later"
        assert await caller.until(b"early too") == SWITCHED % b"echo" + b"early too"


async def test_a_refused_upgrade_leaves_the_connection_to_http() -> None:
    """What the caller sent behind its request is its next request, and nothing else."""
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(ASK % b"echo" + b"GET " + PATH + b"/next HTTP/1.1\r\nHost: a\r\n\r\n")
        peer = await origin.accept()
        await peer.head()
        assert not peer.data
        fields = b"Upgrade: other\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"
        await peer.send(b"HTTP/1.1 426 Upgrade Required\r\n" + fields)
        answer = await caller.head()
        assert answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert b"\r\nConnection: Upgrade\r\nUpgrade: other\r\n" in answer
        assert (await peer.head()).startswith(b"GET /next ")
        await peer.send(OK)
        await caller.until(b"hello")


@pytest.mark.parametrize("fields", [b"Connection: Upgrade\r\nUpgrade: other\r\n", b"Connection: Upgrade\r\n"])
async def test_a_switch_to_what_was_not_offered(fields: bytes) -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(ASK % b"echo, more/2")
        peer = await origin.accept()
        await peer.head()
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\nraw")
        assert (await caller.head()).startswith(b"HTTP/1.1 502 ")
        await peer.broken()


@pytest.mark.parametrize("head", [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    b"Upgrade: echo\r\n",
    b"Connection: keep-alive\r\nUpgrade: echo\r\n",
])  # fmt: skip
async def test_no_upgrade_is_offered(head: bytes) -> None:
    """An origin that switches all the same is refused: its raw bytes would be unseen requests."""
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(b"GET " + PATH + b"/a HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n")
        peer = await origin.accept()
        seen = (await peer.head()).lower()
        assert b"upgrade" not in seen
        assert b"settings" not in seen
        await peer.send(SWITCHED % b"h2c" + b"raw")
        assert (await caller.head()).startswith(b"HTTP/1.1 502 ")
        await peer.broken()


@pytest.mark.parametrize("first", ["caller", "origin"])
async def test_half_a_close_leaves_the_other_half(first: str) -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(ASK % b"echo")
        peer = await origin.accept()
        await switch(caller, peer)
        near, far = (caller, peer) if first == "caller" else (peer, caller)
        await near.send(b"the last word")
        await near.end()
        assert await far.rest() == b"the last word"
        for _ in range(3):
            await far.send(b"still here")
            await near.until(b"still here")
        await far.end()
        assert await near.rest() == b""


@pytest.mark.parametrize("first", ["caller", "origin"])
async def test_a_break_is_told_to_the_other_end(first: str) -> None:
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(ASK % b"echo")
        peer = await origin.accept()
        await switch(caller, peer)
        near, far = (caller, peer) if first == "caller" else (peer, caller)
        near.reset()
        await far.broken()


async def test_an_upgraded_connection_that_nobody_reads_stops_nobody_else() -> None:
    """Backpressure reaches the sender, and only the sender."""
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(ASK % b"echo")
        peer = await origin.accept()
        await switch(caller, peer)
        assert await peer.fill(64 * 1024 * 1024), "64 MiB went nowhere"

        async def other() -> None:
            side = await origin.accept()
            await side.head()
            await side.send(OK)

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            assert (await ask(ends.port, ends.path("/b")))[2] == b"hello"


async def test_no_clock_runs_for_upgraded_connections() -> None:
    limits = Limits(
        keep_alive_idle=0.1, body_idle_timeout=0.1, write_timeout=0.1, min_rate_period=0.1, origin_idle=0.1
    )
    async with open_by_hand(limits=limits) as (ends, origin), caller_side(ends) as caller:
        await caller.send(ASK % b"echo")
        peer = await origin.accept()
        await switch(caller, peer)
        await anyio.sleep(0.25)  # every clock would have struck
        await caller.send(b"ping")
        await peer.until(b"ping")
        await peer.send(b"pong")
        await caller.until(b"pong")


async def test_websockets() -> None:
    """Both ends by wsproto, which masks, fragments and closes as they do."""
    caller_end, origin_end = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    target = PATH.decode() + "/chat?x=%2F"
    async with open_by_hand() as (ends, origin), caller_side(ends) as caller:
        await caller.send(caller_end.send(Request(host="a", target=target, subprotocols=["chat"])))
        peer = await origin.accept()
        head = await peer.head()
        assert head.startswith(b"GET /chat?x=%2F HTTP/1.1\r\n")
        origin_end.receive_data(head)
        assert isinstance(next(origin_end.events()), Request)
        await peer.send(origin_end.send(AcceptConnection(subprotocol="chat")))
        caller_end.receive_data(await caller.head())
        assert isinstance(next(caller_end.events()), AcceptConnection)
        await caller.send(caller_end.send(BytesMessage(b"x" * 70_000)))
        assert await received(origin_end, peer, BytesMessage) == b"x" * 70_000
        await peer.send(origin_end.send(BytesMessage(b"y" * 70_000)))
        assert await received(caller_end, caller, BytesMessage) == b"y" * 70_000
        await caller.send(caller_end.send(CloseConnection(code=1000, reason="done")))
        assert await received(origin_end, peer, CloseConnection) == b"done"


async def received(connection: WSConnection, side: Side, kind: type[Event]) -> bytes:
    """The next message or close frame."""
    data = b""
    while True:
        for event in connection.events():
            if isinstance(event, BytesMessage):
                data += event.data
            if isinstance(event, CloseConnection):
                return (event.reason or "").encode()
            if isinstance(event, kind) and isinstance(event, BytesMessage) and event.message_finished:
                return data
        connection.receive_data(await side.more())
