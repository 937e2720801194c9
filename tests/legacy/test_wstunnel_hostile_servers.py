"""What a hostile WStunnel server can do to a tunnel client: nothing but lose it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from tempfile import SpooledTemporaryFile

import anyio
import pytest
from wsproto.utilities import generate_accept_token

from tunnelkit import TunnelClient
from tunnelkit.errors import StreamBroken
from tunnelkit.net.listen import Listener
from tunnelkit.net.stream import ByteStream

from ..e2e.tunnel import SHORT, TOKEN, until
from .test_wstunnel_servers import PATIENT, get, joined, post
from .wstunnel_peers import WStunnelServer

pytestmark = pytest.mark.anyio


async def answers_the_next(server: WStunnelServer) -> None:
    assert (await server.ask(get("/bytes/1"))).status == 200
    assert server.closed == 0


NO_REQUESTS: list[tuple[bytes, int]] = [
    (b"\r\n\r\n", 400),
    (b"GET\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a", 400),
    (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"GET / HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX-Host: http://b\r\nX-Host: http://c\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX-Host: http://b/c?d\r\n\r\n", 400),
]


async def test_requests_that_are_none_are_told_and_reach_no_origin() -> None:
    async with joined() as (server, origin, _):
        for request, status in NO_REQUESTS:
            assert (await server.ask(request)).status == status, request
        assert origin.targets() == []
        await answers_the_next(server)


async def test_a_body_that_breaks_off_is_told_and_the_origin_sees_no_whole_request() -> None:
    async with joined() as (server, origin, _):
        answered = await server.ask(b"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nabc")
        assert answered.status == 400
        chunked = b"POST /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"
        assert (await server.ask(chunked)).status == 400
        assert not any(request.body_complete for request in origin.requests)
        await answers_the_next(server)


async def test_what_follows_a_request_in_its_message_is_never_served() -> None:
    async with joined() as (server, origin, _):
        for smuggler in (get("/bytes/2"), post("/sink", b"abc")):
            assert (await server.ask(smuggler + get("/smuggled"))).status == 200
        assert "/smuggled" not in origin.targets()
        await answers_the_next(server)


async def test_an_id_twice_is_answered_twice() -> None:
    async with joined() as (server, origin, _):
        await server.raw(b"0007" + get("/hold/a"))
        await server.raw(b"0007" + get("/hold/b"))
        await origin.arrived("/hold/b")
        origin.release("a")
        assert (await server.answered(b"0007")).body == b"held a"
        origin.release("b")
        assert (await server.answered(b"0007")).body == b"held b"


async def test_a_request_above_the_limit_is_told_and_costs_no_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wstunnel_client.MESSAGE_LIMIT", 100_000)
    async with joined() as (server, origin, _):
        assert (await server.ask(post("/sink", b"x" * 300_000))).status == 413
        assert origin.targets() == []
        await answers_the_next(server)


async def test_an_answer_above_the_limit_is_told_and_costs_no_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wstunnel_call.BODY_LIMIT", 100_000)
    async with joined() as (server, _, _):
        assert (await server.ask(get("/bytes/300000"))).status == 502
        await answers_the_next(server)


async def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SpooledTemporaryFile, "rollover", full)
    async with joined() as (server, _, _):
        assert (await server.ask(post("/sink", b"x" * 300_000))).status == 503
        assert (await server.ask(get("/bytes/300000"))).status == 503
        await answers_the_next(server)


async def test_an_origin_that_never_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wstunnel_client.ANSWER_TIME", 0.1)
    async with joined() as (server, origin, _):
        assert (await server.ask(get("/hold/x"))).status == 504
        monkeypatch.undo()
        await origin.until(lambda: origin.requests[0].gone)
        await answers_the_next(server)


async def test_more_requests_than_there_may_be_are_told() -> None:
    async with joined(limits=replace(PATIENT, max_streams=3)) as (server, origin, _):
        held = [await server.send(get(f"/hold/{name}")) for name in "abc"]
        await origin.until(lambda: len(origin.requests) == 3)
        assert [(await server.ask(get("/bytes/1"))).status for _ in range(5)] == [503] * 5
        origin.release("a")
        assert (await server.answered(held[0])).status == 200
        await answers_the_next(server)


async def test_thousands_of_tiny_fragments_are_a_request_like_any_other() -> None:
    async with joined() as (server, _, _):
        size = 2000
        head = b"0001POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
        await server.wire(b"\x02" + bytes([len(head)]) + head)
        await server.wire(b"\x00\x01x\x00\x00" * size + b"\x80\x00")
        assert json.loads((await server.answered(b"0001")).body)["size"] == size


NO_FRAMES: list[bytes] = [
    b"\x81\x050001a",  # text
    b"\x82\x85\x00\x00\x00\x000001a",  # masked
    b"\xc2\x050001a",  # a reserved bit
    b"\x80\x050001a",  # a continuation of nothing
    b"\x89\x7e\x00\x7e" + b"x" * 126,  # a ping that is too long
    b"\x88\x00",  # a close
    b"\x82\x7f" + b"\xff" * 8,
]


async def test_frames_that_they_never_send_cost_the_connection_and_the_client_comes_again() -> None:
    async with joined() as (server, _, _):
        for number, frames in enumerate(NO_FRAMES, 2):
            await server.wire(frames)
            await server.dialled(number)
            assert (await server.ask(get("/bytes/1"))).status == 200, frames


async def test_half_a_message_is_forgotten_with_its_connection() -> None:
    async with joined() as (server, origin, _):
        await server.wire(b"\x02\x0b0001GET /ha")
        server.drop()
        await server.until(lambda: len(server.handshakes) == 2)
        assert (await server.ask(get("/bytes/1"))).status == 200
        assert origin.targets() == ["/bytes/1"]


async def test_a_server_that_answers_no_ping_is_left_and_dialled_again() -> None:
    async with joined(limits=SHORT) as (server, _, _):
        server.muted = True
        await server.until(lambda: len(server.handshakes) >= 2)
        server.muted = False
        assert (await server.ask(get("/bytes/1"))).status == 200


@pytest.mark.parametrize("fault", ["accept", "subprotocol", "extension", "no answer", "no http"])
async def test_answers_to_the_handshake_that_are_no_switch_are_tried_again(fault: str) -> None:
    dials = 0

    async def serve(stream: ByteStream) -> None:
        nonlocal dials
        dials += 1
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.receive()
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        accept = generate_accept_token(b"wrong" if fault == "accept" else key).decode()
        more = {"subprotocol": "Sec-WebSocket-Protocol: x\r\n", "extension": "Sec-WebSocket-Extensions: x\r\n"}
        if fault not in ("no answer", "no http"):
            await stream.send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept}\r\n{more.get(fault, '')}\r\n".encode()
            )
        elif fault == "no http":
            await stream.send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n")
        stream.abort()

    listener = Listener.bind("127.0.0.1:0")
    async with anyio.create_task_group() as group:
        await group.start(listener.serve, serve)
        url = f"ws://127.0.0.1:{listener.addresses[0][1]}"
        async with TunnelClient(
            url, token=TOKEN, origin="http://127.0.0.1:9", transport="wstunnel", limits=SHORT
        ) as client:
            await until(lambda: dials >= 2)
            assert client.transport is None
        group.cancel_scope.cancel()


async def test_what_is_no_message_right_behind_the_switch_leaves_no_connection_over() -> None:
    """It comes before the client has attached to the session inside."""
    ended = 0

    async def serve(stream: ByteStream) -> None:
        nonlocal ended
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.receive()
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        await stream.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + generate_accept_token(key) + b"\r\n\r\n\x82\x02xx"
        )
        with suppress(StreamBroken):
            while (data := await stream.receive()) and b"\x88\x82" not in data:  # a close, behind pings
                pass
        ended += 1
        stream.abort()

    listener = Listener.bind("127.0.0.1:0")
    async with anyio.create_task_group() as group:
        await group.start(listener.serve, serve)
        url = f"ws://127.0.0.1:{listener.addresses[0][1]}"
        async with TunnelClient(url, token=TOKEN, origin="http://127.0.0.1:9", transport="wstunnel", limits=SHORT):
            await until(lambda: ended >= 1)
        group.cancel_scope.cancel()
