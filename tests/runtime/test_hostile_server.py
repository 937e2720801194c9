"""A tunnel server that means harm: what it sends is judged again before anything of it reaches an origin."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import anyio
import pytest

from tunnelkit.core.frames import ResetCode, StreamKind, encode_open, encode_reset
from tunnelkit.heads import RequestHead, encode_request
from tunnelkit.link import Link
from tunnelkit.origins.base import OriginExchange
from tunnelkit.tunnel_stream import OpenField

from .links import Silent
from .tunnels import QUICK, Answering, Tunnel, eventually, tunnel

pytestmark = pytest.mark.anyio

HOST = (b"Host", b"a")
GET = encode_request(RequestHead(b"GET", b"/", [HOST]))


def server_link(there: Tunnel) -> Link:
    [session] = there.server.sessions()
    return session.link


def request(
    *fields: tuple[bytes, bytes], method: bytes = b"GET", target: bytes = b"/", version: bytes = b"1.1"
) -> bytes:
    return encode_request(RequestHead(method, target, list(fields), version))


BAD_HEADS = {
    "a carriage return": request(HOST, (b"A", b"b\r\rC: d")),
    "a NUL": request(HOST, (b"A", b"\0")),
    "a name with a colon": request(HOST, (b"A: b", b"c")),
    "an empty name": request(HOST, (b"", b"c")),
    "a space in the target": request(HOST, target=b"/ HTTP/1.1"),
    "a carriage return in the target": request(HOST, target=b"/\rx"),
    "no path": request(HOST, target=b"evil"),
    "an empty target": request(HOST, target=b""),
    "another host's target": request(HOST, target=b"http://evil.test/"),
    "a method with a space": request(HOST, method=b"GET /evil"),
    "CONNECT": request(HOST, method=b"CONNECT", target=b"evil:80"),
    "TRACE": request(HOST, method=b"TRACE"),
    "another version": request(HOST, version=b"2.0"),
    "a version with more in it": request(HOST, version=b"1.1\rX"),
    "no Host": request(),
    "two Hosts": request(HOST, (b"host", b"b")),
    "a bad Host": request((b"Host", b"a/b")),
    "two lengths": request(HOST, (b"Content-Length", b"1"), (b"Content-Length", b"2")),
    "a length with a sign": request(HOST, (b"Content-Length", b"+1")),
    "a transfer coding": request(HOST, (b"Transfer-Encoding", b"chunked")),
    "a length and a transfer coding": request(HOST, (b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")),
    "a length and an end": request(HOST, (b"Content-Length", b"5")),
    "too many fields": request(HOST, *[(b"A", b"b")] * 120),
    "a long line": request(HOST, target=b"/" + b"x" * 17_000),
    "a head too large": request(HOST, (b"A", b"x" * 70_000)),
    "no head": b"",
    "a response": b"\x03200\n\n1.1",
    "trailers": b"\x04\nA\nb",
    "half a field": GET + b"\nA",
}


@pytest.mark.parametrize("name", BAD_HEADS)
async def test_a_bad_head_reaches_no_origin(name: str) -> None:
    origin = Answering()
    async with tunnel() as there, there.client(origin) as client:
        await client.wait_ready(10)
        handler = Silent()
        stream = server_link(there).open_stream(StreamKind.HTTP, handler)
        stream.send_head(BAD_HEADS[name], fin=True)
        await handler.until(lambda: ("reset", ResetCode.PROTOCOL) in handler.heard)
        assert not origin.heads
        assert await there.get() == (200, b"fine")
        await eventually(lambda: not client._agent.active)


BAD_UPGRADES = {
    "no offer": GET,
    "a body promised": request(HOST, (b"Content-Length", b"5"), method=b"POST"),
    "a body promised beside an offer": request(
        HOST, (b"Connection", b"upgrade"), (b"Upgrade", b"x"), (b"Content-Length", b"5")
    ),
    "h2c": request(HOST, (b"Connection", b"upgrade"), (b"Upgrade", b"h2c")),
    "an offer that ends": request(HOST, (b"Connection", b"upgrade"), (b"Upgrade", b"x")),
}


@pytest.mark.parametrize("name", BAD_UPGRADES)
async def test_an_upgrade_that_is_none_reaches_no_origin(name: str) -> None:
    origin = Answering()
    async with tunnel() as there, there.client(origin) as client:
        await client.wait_ready(10)
        handler = Silent()
        server_link(there).open_stream(StreamKind.UPGRADE, handler).send_head(BAD_UPGRADES[name], fin="ends" in name)
        await handler.until(lambda: ("reset", ResetCode.PROTOCOL) in handler.heard)
        assert not origin.heads
        assert not client._agent.active
        assert await there.get() == (200, b"fine")


X_HOSTS = [
    b"",
    b"http://evil.test",
    b"http://good.test@evil.test",
    b"http://good.test/#",
    b"\xff" * 2000,
    b"good.test",
]


@pytest.mark.parametrize("x_host", X_HOSTS, ids=repr)
async def test_an_origin_that_is_not_allowed_is_not_asked(x_host: bytes) -> None:
    """Whatever the server let pass: the allowlist is the client's."""
    origin = Answering()
    async with tunnel() as there, there.client(origin, allow=["http://good[.]test"]) as client:
        await client.wait_ready(10)
        handler = Silent()
        stream = server_link(there).open_stream(StreamKind.HTTP, handler, {OpenField.X_HOST: x_host})
        stream.send_head(GET, fin=True)
        await handler.until(lambda: any(isinstance(item, tuple) and item[0] == "head" for item in handler.heard))
        [block] = [item[1] for item in handler.heard if isinstance(item, tuple) and item[0] == "head"]
        assert block[:4] in (b"\x03400", b"\x03403")
        assert not origin.heads
        stream.forget()


async def test_more_streams_than_permitted_are_refused() -> None:
    limits = replace(QUICK, max_streams=3)
    async with tunnel() as there, there.client(Answering(until_gone), limits=limits) as client:
        await client.wait_ready(10)
        link = server_link(there)
        handlers = [Silent() for _ in range(10)]
        for handler in handlers:
            link.open_stream(StreamKind.HTTP, handler).send_head(GET, fin=True)
        for handler in handlers[3:]:
            await handler.until(partial(refused, handler))
        assert len(client._agent.active) == 3


def refused(handler: Silent) -> bool:
    return ("reset", ResetCode.REFUSED) in handler.heard


async def until_gone(exchange: OriginExchange) -> None:
    gone = anyio.Event()
    exchange.on_news(lambda: gone.set() if exchange.gone else None)
    await gone.wait()


async def test_streams_opened_and_reset_without_end_cost_the_session() -> None:
    """The client is there again with the next."""
    async with tunnel(limits=replace(QUICK, resets_before_answer=20)) as there, there.client() as client:
        await client.wait_ready(10)
        link = server_link(there)
        for number in range(2, 200, 2):
            link.mux._control._resets.append(encode_open(number, 1, 0) + encode_reset(number, 1))
        link.mux._control.waiting = True
        link.ring()
        await eventually(lambda: link.gone)
        await eventually(lambda: there.server.sessions() and server_link(there) is not link)
        assert await there.get() == (200, b"fine")
        assert not client._agent.active
