"""What a hostile WStunnel client, or a caller of an honest one, can do at a server: nothing to anybody else."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import Any

import anyio
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.net.dial import connect_tcp

from ..e2e.tunnel import SHORT, TOKEN, Ends, ask, exchange, open_ends, parse_head, problem_of, until
from .test_wstunnel_clients import echo, greet
from .wstunnel_peers import Asked, WStunnelClient, answer

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
OTHER = "another-token-of-16"


@asynccontextmanager
async def answered_with(message: bytes, **options: Any) -> AsyncIterator[tuple[Ends, WStunnelClient]]:
    """A client that answers the first request with ``message`` and all others well."""

    async def respond(client: WStunnelClient, asked: Asked) -> None:
        if len(client.asked) == 1:
            await client.reply(asked, message)
        else:
            await greet(client, asked)

    async with open_ends(**options) as ends, WStunnelClient.joined(ends.port, respond) as client:
        yield ends, client


# -- responses ---------------------------------------------------------------------------------


NO_RESPONSES: list[bytes] = [
    b"",
    b"\r\n\r\n",
    b'{"status": 200}',
    OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    OK + b"Content-Length: -1\r\n\r\n",
    OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    OK + b"Bad Name: x\r\n\r\n",
    OK + b"X: a\x00b\r\n\r\n",
    OK + b"X: a\rb\r\n\r\n",
    OK + b"X: " + b"x" * 70_000 + b"\r\n\r\n",
    OK + b"X: y\r\n" * 200 + b"\r\n",
    OK + b"Content-Length: 5",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 999 Huge\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
]


async def test_a_response_that_is_none_is_a_502_of_its_own() -> None:
    async def respond(client: WStunnelClient, asked: Asked) -> None:
        number = asked.line.removeprefix("GET /").partition(" ")[0]
        await client.reply(asked, NO_RESPONSES[int(number)] if number else answer("200 OK", b""))

    async with open_ends() as ends, WStunnelClient.joined(ends.port, respond) as client:
        for number, message in enumerate(NO_RESPONSES):
            assert problem_of(await ask(ends.port, ends.path(f"/{number}")))["status"] == 502, message
            assert (await ends.get("/"))[0] == 200, message
        assert client.closed is None


@pytest.mark.parametrize(
    "message",
    [
        OK + b"Content-Length: 50\r\n\r\nabc",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
    ],
)
async def test_a_response_that_breaks_off_is_no_whole_answer(message: bytes) -> None:
    async with answered_with(message) as (ends, client):
        status = 502
        with suppress(AssertionError, StreamBroken):  # where its head was written already
            status = (await ends.get("/"))[0]
        assert status == 502
        assert (await ends.get("/"))[0] == 200
        assert client.closed is None


async def test_what_follows_a_response_in_its_message_is_nobodys() -> None:
    smuggled = OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 8\r\n\r\nsmuggled"
    async with answered_with(smuggled) as (ends, _):
        assert (await ends.get("/"))[2] == b"ok"
        assert (await ends.get("/"))[2] == b"hello GET / HTTP/1.1"


async def test_a_flood_of_interim_responses_is_passed_over() -> None:
    flood = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" * 5000
    async with answered_with(flood + OK + b"Content-Length: 2\r\n\r\nok") as (ends, _):
        assert (await ends.get("/"))[2] == b"ok"


async def test_ids_of_others_and_answers_twice_or_too_early_are_passed_over() -> None:
    async def twice(client: WStunnelClient, asked: Asked) -> None:
        await client.raw(b"7fff" + OK + b"Content-Length: 4\r\n\r\nnone")
        await client.raw(b"ffff" + OK + b"Content-Length: 4\r\n\r\nnone")
        ahead = b"%04x" % (int(asked.number, 16) + 1)
        await client.raw(ahead + OK + b"Content-Length: 5\r\n\r\nearly")
        await client.reply(asked, answer("200 OK", b"first"))
        await client.reply(asked, answer("200 OK", b"again"))

    async with open_ends() as ends, WStunnelClient.joined(ends.port, twice):
        assert [(await ends.get("/"))[2] for _ in range(3)] == [b"first"] * 3


async def test_thousands_of_tiny_fragments_are_a_response_like_any_other() -> None:
    size = 10_000
    tiny = b"\x00\x81\x00\x00\x00\x00"

    async def drip(client: WStunnelClient, asked: Asked) -> None:
        if "/drip" not in asked.line:
            await greet(client, asked)
            return
        await client.begin(asked, OK + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(20):
            await client.wire((tiny + b"x") * (size // 20))
        await client.more(b"", last=True)

    async with (
        open_ends() as ends,
        WStunnelClient.joined(ends.port, drip),
        ends.join(token=OTHER),
        anyio.create_task_group() as group,
    ):
        call = ends.call(group, "/drip")
        status, _, _ = await exchange(ends.port, "GET", f"/_token/{OTHER}/bytes/10")
        assert status == 200
        assert (await call.answer())[2] == b"x" * size


# -- frames ------------------------------------------------------------------------------------

MASK = bytes(4)


NO_FRAMES: list[bytes] = [
    b"\x81\x85" + MASK + b"0001a",  # text
    b"\x82\x05" + b"0001a",  # not masked
    b"\xc2\x85" + MASK + b"0001a",  # a reserved bit
    b"\x83\x85" + MASK + b"0001a",  # a reserved opcode
    b"\x80\x85" + MASK + b"0001a",  # a continuation of nothing
    b"\x09\x80" + MASK,  # a ping in fragments
    b"\x89\xfe\x00\x7e" + MASK + b"x" * 126,  # a ping that is too long
    b"\x02\x84" + MASK + b"0001" + b"\x82\x84" + MASK + b"0002",  # a message within a message
    b"\x82\xff" + b"\xff" * 8 + MASK,  # a length beyond 63 bits
    b"\x88\x82" + MASK + b"\x03\xe8",  # a close
    b"\x88\x81" + MASK + b"x",  # a close with half a code
    bytes(range(1, 200)),
]


async def test_frames_that_they_never_send_cost_their_own_connection() -> None:
    async with open_ends() as ends, WStunnelClient.joined(ends.port, greet, token=OTHER) as other:
        for frames in NO_FRAMES:
            async with WStunnelClient.joined(ends.port, greet) as client:
                await client.wire(frames)
                await client.ended()
            async with WStunnelClient.joined(ends.port, greet):
                assert (await ends.get("/"))[0] == 200, frames
        assert (await exchange(ends.port, "GET", f"/_token/{OTHER}/"))[0] == 200
        assert other.closed is None


async def test_a_frame_of_any_announced_size_takes_no_memory() -> None:
    async with open_ends() as ends, WStunnelClient.joined(ends.port, greet) as client:
        await client.wire(b"\x82\xff" + (2**62).to_bytes(8, "big") + MASK + b"7abc" + b"x" * 1000)
        await until(lambda: len(ends.server.sessions()) == 1)
        async with WStunnelClient.joined(ends.port, greet, token=OTHER):
            assert (await exchange(ends.port, "GET", f"/_token/{OTHER}/"))[0] == 200


# A client is asked soon, and has some time to answer.
CURIOUS = replace(SHORT, ping_idle_silence=0.1, ping_idle_timeout=1.0)


async def test_a_client_that_falls_silent_is_given_up() -> None:
    async with open_ends(limits=CURIOUS) as ends, WStunnelClient.joined(ends.port, greet) as client:
        await until(lambda: ends.server.sessions())
        client.mute()
        await until(lambda: not ends.server.sessions())


async def test_a_client_that_answers_pings_is_kept() -> None:
    async with open_ends(limits=CURIOUS) as ends, WStunnelClient.joined(ends.port, greet) as client:
        await until(lambda: ends.server.sessions())
        await client.until(lambda: client.pinged == 2)  # it was asked twice, and answered
        assert (await ends.get("/"))[0] == 200
        assert client.closed is None


async def test_a_client_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.fragments.WRITE_TIMEOUT", 0.3)
    async with open_ends() as ends, WStunnelClient.joined(ends.port, greet) as client:
        client.stop_reading()
        status, _, body = await exchange(ends.port, "POST", ends.path("/"), body=b"x" * 20_000_000)
        assert (status, b"tunnel_lost" in body) == (502, True)
        assert not ends.server.sessions()


# -- handshakes --------------------------------------------------------------------------------


NO_HANDSHAKES: list[tuple[dict[str, str], int]] = [
    ({"Origin": ""}, 400),
    ({"Origin": "a b c d e f g h i j"}, 400),
    ({"Origin": "x" * 257}, 400),
    ({"Origin": "sixteen:and:more:"}, 400),
    ({"Origin": "caf\xe9-caf\xe9-caf\xe9-caf\xe9"}, 400),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": f"{TOKEN}\r\nOrigin: {TOKEN}"}, 400),
    ({"Sec-WebSocket-Version": "8"}, 426),
    ({"Sec-WebSocket-Key": "short"}, 400),
    ({"X-Client-Version": "caf\xe9 \t \\x1b[31m" * 9}, 101),
    ({"Authorization": "Basic \xff\xfe"}, 101),
]


async def test_handshakes_that_nobody_sends() -> None:
    usual = {
        "Host": "127.0.0.1",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Origin": TOKEN,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    }
    async with open_ends() as ends:
        for change, status in NO_HANDSHAKES:
            lines = [f"{name}: {value}" for name, value in (usual | change).items()]
            stream = await connect_tcp("127.0.0.1", ends.port, timeout=5)
            with anyio.fail_after(10):
                await stream.send("\r\n".join(["GET /_tunnel HTTP/1.1", *lines, "", ""]).encode("latin-1"))
                told = await stream.receive()
            assert parse_head(told.partition(b"\r\n\r\n")[0])[0] == status, change
            stream.abort()


# -- callers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/%zz", "/a%", "/a%2", "/%g0?x=%zz"])
async def test_a_path_that_would_cost_their_client_its_tunnel_is_refused(target: str) -> None:
    async with open_ends() as ends, WStunnelClient.joined(ends.port, greet) as client:
        problem = problem_of(await ask(ends.port, ends.path(target)))
        assert (problem["status"], problem["code"]) == (400, "bad_target")
        assert (await ends.get("/a%2Fb?x=%zz"))[0] == 200  # Go reads no query
        assert len(client.asked) == 1


async def test_requests_with_all_that_http_has_become_plain_ones() -> None:
    async with open_ends() as ends, WStunnelClient.joined(ends.port, echo) as client:
        stream = await connect_tcp("127.0.0.1", ends.port, timeout=5)
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        with anyio.fail_after(10):
            await stream.send(f"GET {ends.path('/up')} HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n".encode())
            told = await stream.receive()
        stream.abort()
        assert told.startswith(b"HTTP/1.1 200")
        assert client.asked[0].value("Upgrade") is None
        status, _, body = await exchange(
            ends.port, "POST", ends.path("/c"), fields={"Expect": "100-continue"}, body=b"hello"
        )
        assert (status, body) == (200, b"hello")
        assert client.asked[1].value("Expect") is None
        assert client.asked[1].value("Connection") is None
        stream = await connect_tcp("127.0.0.1", ends.port, timeout=5)
        chunked = f"POST {ends.path('/d')} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        with anyio.fail_after(10):
            await stream.send(chunked.encode() + b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n")
            await client.until(lambda: len(client.asked) == 3)
        stream.abort()
        assert (client.asked[2].body, client.asked[2].value("Content-Length")) == (b"abcde", "5")
        assert client.asked[2].value("Transfer-Encoding") is None


async def test_an_x_host_is_the_far_ends_to_judge() -> None:
    async with open_ends() as ends, WStunnelClient.joined(ends.port, greet) as client:
        assert (await ends.get("/", X_Host="http://other:81"))[0] == 200
        assert client.asked[0].value("X-Host") == "http://other:81"


async def test_a_body_that_their_client_would_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wstunnel_server.BODY_LIMIT", 100_000)
    async with open_ends() as ends, WStunnelClient.joined(ends.port, echo) as client:
        assert (await exchange(ends.port, "POST", ends.path("/"), body=b"x" * 100_001))[0] == 413
        assert (await exchange(ends.port, "POST", ends.path("/"), body=b"x" * 100_000))[0] == 200
        assert len(client.asked) == 1


async def test_without_room_to_hold_a_body_its_caller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.holding.BODIES_LIMIT", 100_000)
    async with open_ends() as ends, WStunnelClient.joined(ends.port, greet):
        for _ in range(3):
            assert (await exchange(ends.port, "POST", ends.path("/"), body=b"x" * 150_000))[0] == 503
            assert (await exchange(ends.port, "POST", ends.path("/"), body=b"x" * 90_000))[0] == 200


async def test_a_full_disk_is_told_to_whom_it_concerns(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SpooledTemporaryFile, "rollover", full)
    async with open_ends() as ends, WStunnelClient.joined(ends.port, greet):
        assert (await exchange(ends.port, "POST", ends.path("/"), body=b"x" * 300_000))[0] == 503
        assert (await exchange(ends.port, "POST", ends.path("/"), body=b"x" * 200_000))[0] == 200


async def test_callers_who_leave_while_their_requests_are_held_leave_nothing_behind() -> None:
    async with open_ends() as ends, WStunnelClient.joined(ends.port, greet) as client:
        for _ in range(5):
            stream = await connect_tcp("127.0.0.1", ends.port, timeout=5)
            await stream.send(f"POST {ends.path('/')} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc".encode())
            await ends.pending(1)
            stream.abort()
            await ends.pending(0)
        assert (await ends.get("/"))[0] == 200
        assert [asked.line for asked in client.asked] == ["GET / HTTP/1.1"]
