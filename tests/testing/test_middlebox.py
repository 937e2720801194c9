"""The box in the middle: what passes, what is refused, swallowed and held back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import h11
import pytest

from tunnelkit import TunnelClient, TunnelServer
from tunnelkit.errors import StreamBroken
from tunnelkit.events import ClientEvent, Retrying
from tunnelkit.net.stream import ByteStream
from tunnelkit.testing import middlebox
from tunnelkit.testing.middlebox import Middlebox, serve_middlebox

from ..nobodys_port import nobodys_port
from .peers import end_of, near_end, read_exactly, serving

pytestmark = pytest.mark.anyio

UPGRADE = b"GET /up HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 \r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
REFUSAL = b"upgrades are not allowed here\n"


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


@dataclass
class Web:
    """A server that answers ``/size`` with that many bytes, ``/pieces`` with two, the second when it is told to,
    ``/hang`` never, anything else with its body; it echoes what is upgraded."""

    seen: list[bytes] = field(default_factory=list)
    go_on: anyio.Event = field(default_factory=anyio.Event)
    left: anyio.Event = field(default_factory=anyio.Event)

    async def serve(self, stream: ByteStream) -> None:
        try:
            await self._serve(stream)
        finally:
            self.left.set()

    async def _serve(self, stream: ByteStream) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive())
            elif isinstance(event, h11.Request):
                if b"upgrade" in dict(event.headers):
                    await self._echo(stream, http)
                    return
                await self._answer(stream, http, event)
                http.start_next_cycle()
            else:
                return

    async def _body(self, stream: ByteStream, http: h11.Connection) -> bytes:
        body = b""
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive())
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
                self.seen.append(bytes(event.data))
        return body

    async def _answer(self, stream: ByteStream, http: h11.Connection, request: h11.Request) -> None:
        async def send(*events: h11.Event) -> None:
            await stream.send(b"".join(http.send(event) or b"" for event in events))

        path = request.target[1:].decode()
        if path == "pieces":
            await send(h11.Response(status_code=200, headers=[]), h11.Data(data=b"first"))
            await self.go_on.wait()
            await send(h11.Data(data=b"second"), h11.EndOfMessage())
        elif path == "hang":
            assert not await stream.receive()
        else:
            body = bytes(int(path)) if path.isdigit() else await self._body(stream, http)
            fields = [("Content-Length", str(len(body)))]
            await send(h11.Response(status_code=200, headers=fields), h11.Data(data=body), h11.EndOfMessage())
        if path.isdigit():
            await self._body(stream, http)

    async def _echo(self, stream: ByteStream, http: h11.Connection) -> None:
        await stream.send(SWITCHED)
        http.next_event()
        data = http.trailing_data[0] or await stream.receive()
        while data:
            self.seen.append(bytes(data))
            await stream.send(data)
            data = await stream.receive()


@dataclass
class Way:
    box: Middlebox
    web: Web
    near: ByteStream

    async def switch(self, early: bytes = b"") -> None:
        await self.near.send(UPGRADE + early)
        assert await read_exactly(self.near, len(SWITCHED)) == SWITCHED

    async def head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await read_exactly(self.near, 1)
        return head

    async def silent(self) -> None:
        with anyio.move_on_after(0.05) as scope:
            await self.near.receive()
        assert scope.cancelled_caught


@asynccontextmanager
async def way() -> AsyncIterator[Way]:
    web = Web()
    with anyio.fail_after(15):
        async with serving(web.serve) as server, serve_middlebox(server.port) as box, near_end(box.port) as near:
            yield Way(box, web, near)


async def test_requests_pass_one_after_another() -> None:
    async with way() as it:
        for size in (5, 0, 100_000):
            await it.near.send(get(f"/{size}"))
            assert b" 200 " in await it.head()
            await read_exactly(it.near, size)
        await it.near.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody")
        assert b" 200 " in await it.head()
        assert await read_exactly(it.near, 4) == b"body"
        assert it.box.requests == 4
        assert it.box.held == 0
        assert "4 requests" in repr(it.box)


async def test_an_upgrade_passes_with_early_bytes() -> None:
    async with way() as it:
        await it.switch(b"early")
        assert await read_exactly(it.near, 5) == b"early"
        await it.near.send(b"late")
        assert await read_exactly(it.near, 4) == b"late"
        assert [(each.carried, each.swallowed) for each in it.box.upgrades] == [(18, 0)]
        await it.near.send_eof()
        assert await end_of(it.near) == (0, "fin")


async def test_upgrades_are_refused_and_other_requests_pass() -> None:
    async with way() as it:
        it.box.refuse_upgrades = 403
        await it.near.send(UPGRADE)
        assert b" 403 " in await it.head()
        assert await read_exactly(it.near, len(REFUSAL)) == REFUSAL
        await it.box.until(lambda: it.box.refused == 1)
        await it.near.send(get("/3"))
        assert b" 200 " in await it.head()
        await read_exactly(it.near, 3)
        it.box.refuse_upgrades = 0
        await it.switch()
        assert len(it.box.upgrades) == 1


async def test_frames_are_swallowed_after_the_101_and_nobody_is_told() -> None:
    async with way() as it:
        it.box.swallow = True
        await it.switch()
        await it.near.send(b"hello")
        await it.box.until(lambda: it.box.swallowed == 5)
        await it.silent()
        it.box.swallow = False
        await it.near.send(b"again")  # a hole in the middle cannot be mended
        await it.box.until(lambda: it.box.swallowed == 10)
        assert it.web.seen == []
        await it.near.send_eof()
        await it.web.left.wait()


async def test_present_connections_are_swallowed_from_then_on() -> None:
    async with way() as it:
        await it.switch(b"ok")
        assert await read_exactly(it.near, 2) == b"ok"
        it.box.swallow = True
        await it.near.send(b"lost")
        await it.box.until(lambda: it.box.swallowed == 4)
        assert it.web.seen == [b"ok"]


async def test_a_response_is_held_back_until_it_is_complete() -> None:
    async with way() as it:
        it.box.buffer = True
        await it.near.send(get("/pieces"))
        await it.silent()
        it.web.go_on.set()
        assert b" 200 " in await it.head()
        body = await read_exactly(it.near, len(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n"))
        assert body == b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n"
        assert it.box.held == 1


async def test_a_request_is_held_back_until_it_is_complete() -> None:
    async with way() as it:
        it.box.buffer = True
        await it.near.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n")
        assert b" 100 " in await it.head()
        await it.near.send(b"one")
        await it.silent()
        assert it.web.seen == []
        await it.near.send(b"two")
        while b" 100 " in (head := await it.head()):
            pass
        assert b" 200 " in head
        assert await read_exactly(it.near, 6) == b"onetwo"
        assert it.box.held == 2


async def test_a_body_that_is_too_long_to_be_held_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middlebox, "MAX_HELD", 4)
    async with way() as it:
        it.box.buffer = True
        await it.near.send(get("/pieces"))
        assert b" 200 " in await it.head()
        assert await read_exactly(it.near, 10) == b"5\r\nfirst\r\n"


async def test_a_caller_that_leaves_leaves_the_server_too() -> None:
    async with way() as it:
        await it.near.send(get("/hang"))
        await it.box.until(lambda: it.box.requests)
        it.near.abort()
        await it.web.left.wait()


async def test_a_server_that_breaks_off_breaks_the_caller_off() -> None:
    async def half_an_answer(stream: ByteStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")

    with anyio.fail_after(10):
        async with serving(half_an_answer) as server, serve_middlebox(server.port) as box, near_end(box.port) as near:
            await near.send(get("/"))
            with pytest.raises((StreamBroken, AssertionError)):
                await read_exactly(near, 1000)


async def test_without_a_server_it_says_so() -> None:
    with anyio.fail_after(10), nobodys_port() as port:
        async with serve_middlebox(port) as box, near_end(box.port) as near:
            await near.send(get("/"))
            assert (await near.receive()).startswith(b"HTTP/1.1 502 ")


async def test_garbage_costs_its_own_connection() -> None:
    async with way() as it:
        await it.near.send(b"\x00\x01garbage\r\n\r\n")
        assert (await end_of(it.near))[1] == "rst"
        async with near_end(it.box.port) as near:
            await near.send(get("/1"))
            assert (await near.receive()).startswith(b"HTTP/1.1 200")


async def test_the_relay_in_front_concerns_its_connections() -> None:
    async with way() as it:
        await it.switch()
        it.box.relay.cut()
        assert await end_of(it.near) == (0, "rst")
        await it.web.left.wait()


async def test_a_tunnel_client_is_refused_and_then_let_through() -> None:
    with anyio.fail_after(15):
        async with (
            TunnelServer("127.0.0.1:0") as server,
            serve_middlebox(int(server.url.rpartition(":")[2])) as box,
        ):
            box.refuse_upgrades = 403
            url, origin = f"ws://127.0.0.1:{box.port}", "http://127.0.0.1:1"
            async with TunnelClient(url, token="a-token-for-tests", origin=origin, transport="websocket") as client:
                refusals = [event async for event in first(client.events(), Retrying)]
                assert "403" in str(refusals[-1])
                box.refuse_upgrades = 0
                await client.wait_ready(10)
                assert box.upgrades[-1].carried > 0


async def first(events: AsyncIterator[ClientEvent], kind: type[ClientEvent]) -> AsyncIterator[ClientEvent]:
    """What comes, up to the first of that kind."""
    async for event in events:
        yield event
        if isinstance(event, kind):
            return
