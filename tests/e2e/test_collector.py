"""What ends leaves nothing of ours that refers to itself: Python's cycle collector, which stops the program while it
looks, has nothing to do for callers that come and go."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from tunnelkit.net.stream import ByteStream

from .tunnel import Tunnel, open_tunnel, read_head, receive_more, until

pytestmark = [pytest.mark.anyio, pytest.mark.ways("auto")]  # it counts connections, and a websocket is one

Kind: TypeAlias = Callable[[Tunnel, ByteStream], Awaitable[None]]


@pytest.fixture
async def tunnel() -> AsyncIterator[Tunnel]:
    async with open_tunnel() as opened:
        yield opened


def head(tunnel: Tunnel, target: str, *fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} {tunnel.path(target)} HTTP/1.1", "Host: a", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


async def to_the_end(caller: ByteStream) -> None:
    while await caller.receive():
        pass


async def last_request(tunnel: Tunnel, caller: ByteStream) -> None:
    await caller.send(head(tunnel, "/bytes/2", "Connection: close"))
    await to_the_end(caller)


async def kept_connection(tunnel: Tunnel, caller: ByteStream) -> None:
    for _ in range(3):
        await caller.send(head(tunnel, "/bytes/2"))
        _, _, body = await read_head(caller)
        while len(body) < 2:
            body += await receive_more(caller)


async def download(tunnel: Tunnel, caller: ByteStream) -> None:
    await caller.send(head(tunnel, "/bytes/300000/chunked", "Connection: close"))
    await to_the_end(caller)


async def upload(tunnel: Tunnel, caller: ByteStream) -> None:
    await caller.send(head(tunnel, "/sink", "Content-Length: 300000", "Connection: close", method="POST"))
    await caller.send(bytes(300_000))
    await to_the_end(caller)


async def request_left(tunnel: Tunnel, caller: ByteStream) -> None:
    await caller.send(head(tunnel, "/hold/for-ever"))
    await tunnel.origin.arrived("/hold/for-ever")


async def refused_head(tunnel: Tunnel, caller: ByteStream) -> None:
    await caller.send(b"GET  / HTTP/1.1\r\n\r\n")
    await to_the_end(caller)


async def refused_request(tunnel: Tunnel, caller: ByteStream) -> None:
    await caller.send(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    await to_the_end(caller)


async def upgrade(tunnel: Tunnel, caller: ByteStream) -> None:
    await caller.send(head(tunnel, "/upgrade", "Connection: upgrade", "Upgrade: echo"))
    assert (await read_head(caller))[0] == 101
    await caller.send_eof()
    await to_the_end(caller)


async def bad_body(tunnel: Tunnel, caller: ByteStream) -> None:
    await caller.send(head(tunnel, "/sink", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhello\r\n")
    await tunnel.origin.arrived("/sink")
    await caller.send(b"no length\r\n")
    await to_the_end(caller)


KINDS = [
    last_request,
    kept_connection,
    download,
    upload,
    request_left,
    refused_head,
    refused_request,
    upgrade,
    bad_body,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_connection_that_ends_leaves_the_collector_nothing(tunnel: Tunnel, kind: Kind) -> None:
    async def come_and_go() -> None:
        for _ in range(5):
            async with tunnel.caller() as caller:
                await kind(tunnel, caller)
            await quiet(tunnel, connections)

    connections = front_of(tunnel).connections  # the link's
    await come_and_go()
    left = await cycles_of(come_and_go)
    assert not left


def front_of(tunnel: Tunnel) -> Any:
    running = tunnel.server._running
    assert running is not None
    return running.front


async def quiet(tunnel: Tunnel, connections: int) -> None:
    await until(lambda: front_of(tunnel).connections == connections)
    await tunnel.pending(0)


async def cycles_of(work: Callable[[], Awaitable[None]]) -> Counter[str]:
    """Types of ours of which instances were left to the collector by ``work``."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await work()
        gc.collect()
        kinds = [type(each) for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return Counter(kind.__qualname__ for kind in kinds if kind.__module__.startswith("tunnelkit."))
