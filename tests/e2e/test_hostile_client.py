"""A tunnel client that means harm: it costs its own session or its own callers, and nobody else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

import anyio
import anyio.abc
import pytest

from tunnelkit.config import DEFAULT_LIMITS, KIB, MIB, Limits
from tunnelkit.core.frames import (
    HEAD,
    HEAD_FIN,
    HEAD_MORE,
    ResetCode,
    encode_credit,
    encode_goaway,
    encode_open,
    encode_reset,
    pack_header,
)
from tunnelkit.core.message import Kind, build, split_header
from tunnelkit.errors import ConnectionLost
from tunnelkit.gateway_exchange import GatewayExchange
from tunnelkit.handshake import Resume
from tunnelkit.heads import encode_trailers
from tunnelkit.net.stream import ByteStream
from tunnelkit.splice import Splice
from tunnelkit.transports.websocket.connection import WebSocketConnection

from .scripted import ScriptedClient, data, handshake, head, scripted_client
from .tunnel import Call, Ends, open_ends, read_head, until

pytestmark = pytest.mark.anyio

EVIL = "a-token-of-bad-clients"


def pack(code: int, stream_id: int, payload: bytes) -> bytes:
    return pack_header(code, len(payload), stream_id) + payload


def trailers(count: int, size: int) -> bytes:
    return encode_trailers([(b"X-%d" % n, b"t" * size) for n in range(count)])


class Scene:
    """A server with a good client and its origin, and a bad client on a token of its own."""

    def __init__(self, ends: Ends, bad: ScriptedClient, group: anyio.abc.TaskGroup) -> None:
        self.ends = ends
        self.bad = bad
        self.group = group

    def call(self, *, method: str = "GET", fields: dict[str, str] | None = None, body: bytes = b"") -> Call:
        """A request for the bad client."""
        call = Call()
        self.group.start_soon(call.run, self.ends.port, method, f"/_token/{EVIL}/", fields, body)
        return call

    @property
    def exchange(self) -> GatewayExchange:
        """The one that runs at the server."""
        running = self.ends.server._running
        assert running is not None
        [exchange] = running.gateway.active
        return exchange

    async def others_are_served(self) -> None:
        with anyio.fail_after(10):
            for _ in range(20):
                assert (await self.ends.get("/echo"))[0] == 200


@asynccontextmanager
async def scene(caplog: pytest.LogCaptureFixture, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[Scene]:
    """At the end of it nothing of any exchange is left, and nothing was taken for a fault of the server."""
    async with open_ends(limits=limits) as ends, ends.join(), anyio.create_task_group() as group:
        async with scripted_client(group, ends.port, EVIL) as bad:
            yield Scene(ends, bad, group)
            await Scene(ends, bad, group).others_are_served()
        group.cancel_scope.cancel()
        running = ends.server._running
        assert running is not None
        await until(lambda: not running.gateway.active)
        for session in ends.server.sessions():
            session.link.end("end_of_test")
        assert running.table._budget.used == len(running.table) * ends.limits.replay_floor
    assert [record.getMessage() for record in caplog.records if record.levelno >= 40] == []


# -- answers -----------------------------------------------------------------------------------


LENGTH = [(b"Content-Length", b"5")]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param([data(2, b"x")], 502, id="a body without a head"),
        pytest.param([data(2, fin=True)], 502, id="an end without a head"),
        pytest.param([head(2, 101)], 502, id="a switch that nobody asked for"),
        pytest.param([head(2, 600, fin=True)], 502, id="a status that is none"),
        pytest.param([head(2, 200, [(b"A", b"b\rc")], fin=True)], 502, id="a carriage return"),
        pytest.param([head(2, 200, [(b"A", b"b\0c")], fin=True)], 502, id="a NUL"),
        pytest.param([head(2, 200, [(b"A b", b"c")], fin=True)], 502, id="a name with a space"),
        pytest.param([head(2, 200, [(b"Transfer-Encoding", b"chunked")], fin=True)], 502, id="a transfer coding"),
        pytest.param([head(2, 200, LENGTH + LENGTH)], 502, id="two lengths"),
        pytest.param([head(2, 200, [(b"Content-Length", b"9" * 5000)])], 502, id="an absurd length"),
        pytest.param([head(2, 200, LENGTH, fin=True)], 0, id="a body shorter than told, at once"),
        pytest.param([head(2, 200, LENGTH), data(2, b"123456")], 0, id="a body longer than told"),
        pytest.param([head(2, 200, LENGTH), data(2, b"1234", fin=True)], 0, id="a body shorter than told"),
        pytest.param([head(2, 204), data(2, b"x", fin=True)], 0, id="a body of 204"),
        pytest.param([head(2, 304), data(2, b"x", fin=True)], 0, id="a body of 304"),
        pytest.param([head(2, 200), head(2, 200, fin=True)], 0, id="two answers"),
        pytest.param([head(2, 200), head(2, 100, fin=True)], 0, id="an interim answer behind the final one"),
        pytest.param([pack(HEAD, 2, b"\x63\n"), data(2)], 502, id="a block of no type"),
        pytest.param([pack(HEAD, 2, b"\x011\n2\n3")], 502, id="a request for an answer"),
        pytest.param([pack(HEAD, 2, b"\x04\nA\nb")], 502, id="trailers for an answer"),
        pytest.param([head(2, 200), pack(HEAD_FIN, 2, trailers(101, 10))], 0, id="too many trailers"),
        pytest.param([pack(HEAD_MORE, 2, bytes(40 * KIB))] * 3, 502, id="a head beyond every limit"),
        pytest.param([encode_reset(2, 99)], 502, id="a reset of no known code"),
    ],
)
async def test_a_bad_answer_costs_its_exchange(
    answer: list[bytes], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Status 0: the answer had begun, so that the caller sees its connection break off."""
    async with scene(caplog) as there:
        call = there.call()
        assert await there.bad.asked() == [2]
        await there.bad.say(*answer)
        if status:
            assert await call.status() == status
        else:
            await call.broken_off()
        call = there.call()
        assert await there.bad.asked(2) == [2, 4]
        await there.bad.say(head(4, 200, LENGTH), data(4, b"12345", fin=True))
        assert await call.status() == 200


async def refuse(bad: ScriptedClient) -> None:
    refused = 0
    while True:
        asked = await bad.asked(refused + 1)
        await bad.say(*[encode_reset(stream_id, ResetCode.REFUSED) for stream_id in asked[refused:]])
        refused = len(asked)


async def test_who_refuses_everything_is_asked_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    """Of 20 requests that wait for a second, each goes out at 0, 0.1, 0.3 and 0.7 s."""
    async with scene(caplog, replace(DEFAULT_LIMITS, queue_timeout=1.0)) as there:
        calls = [there.call() for _ in range(20)]
        there.group.start_soon(refuse, there.bad)
        assert {await call.status() for call in calls} == {504}
        assert len(await there.bad.asked()) <= 20 * 4


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([head(2, 103)] * 500 + [head(2, 200, LENGTH), data(2, b"12345", fin=True)], id="interim heads"),
        pytest.param(
            [pack(HEAD_MORE, 2, b"")] * 3000
            + [pack(HEAD_MORE, 2, bytes([byte])) for byte in b"\x03200\n\n1.1\nContent-Length\n"]
            + [pack(HEAD, 2, b"5")]
            + [data(2)] * 3000
            + [data(2, b"%d" % n) for n in range(5)]
            + [data(2, fin=True)],
            id="pieces",
        ),
        pytest.param(
            [head(2, 200), data(2, b"12345"), pack(HEAD_FIN, 2, trailers(60, 1000))], id="60 KB of trailers"
        ),
        pytest.param(
            [encode_credit(2, (1 << 64) - 1), encode_credit(2, 0), head(2, 200), data(2, b"12345", fin=True)],
            id="absurd credit",
        ),
    ],
)
async def test_an_odd_answer_is_an_answer(answer: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    async with scene(caplog) as there:
        call = there.call()
        await there.bad.asked()
        await there.bad.say(*answer)
        status, _, body = await call.answer()
        assert (status, len(body)) == (200, 5)


async def test_an_answer_to_head_with_a_body_is_none(caplog: pytest.LogCaptureFixture) -> None:
    async with scene(caplog) as there:
        call = there.call(method="HEAD")
        await there.bad.asked()
        await there.bad.say(head(2, 200, LENGTH), data(2, b"12345", fin=True))
        await call.broken_off()


async def test_an_answer_before_the_request_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    async with scene(caplog) as there:
        call = there.call(method="POST", body=bytes(200_000))
        await there.bad.asked()
        await there.bad.say(head(2, 200, LENGTH), data(2, b"12345", fin=True))
        assert await call.status() == 200
        await there.bad.was_reset(2)
        await there.bad.flood(encode_credit(2, MIB), data(2), head(2, 200), encode_reset(2, 1))  # it is over: ignored


# -- floods ------------------------------------------------------------------------------------


async def pings(bad: ScriptedClient) -> None:
    for _ in range(3000):
        await bad.message(Kind.PING, bytes(128))


async def acks(bad: ScriptedClient) -> None:
    for _ in range(3000):
        await bad.message(Kind.ACK)


async def odd_messages(bad: ScriptedClient) -> None:
    for _ in range(300):
        await bad.connection.ready()
        await bad.connection.send(b"\x63\x80" + os.urandom(60_000))


async def ignorable_frames(bad: ScriptedClient) -> None:
    await bad.say(*[pack(0x6380, 0, bytes(65_535))] * 200)


async def goaways(bad: ScriptedClient) -> None:
    await bad.say(*[encode_goaway(0, 1)] * 50_000)


async def streams_of_its_own(bad: ScriptedClient) -> None:
    for k in range(100):
        await bad.say(*[encode_open(k * 200 + n, 1, 1 << 63) for n in range(1, 200, 2)])


async def rapid_resets(bad: ScriptedClient) -> None:
    await bad.say(*[encode_open(n, 1, 0) + encode_reset(n, 1) for n in range(1, 100_000, 2)])


async def unread_refusals(bad: ScriptedClient) -> None:
    bad.acks = False
    await bad.say(*[encode_open(n, 1, 0) for n in range(1, 200_000, 2)])


FLOODS = [pings, acks, odd_messages, ignorable_frames, goaways, streams_of_its_own, rapid_resets, unread_refusals]


@pytest.mark.parametrize("flood", FLOODS)
async def test_others_are_served_beside_a_flood(
    flood: Callable[[ScriptedClient], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async with scene(caplog) as there, anyio.create_task_group() as group:

        async def run() -> None:
            with suppress(ConnectionLost):
                await flood(there.bad)

        group.start_soon(run)
        await there.others_are_served()
        group.cancel_scope.cancel()


# -- resumes -----------------------------------------------------------------------------------


async def offered(there: Scene, resume: Resume | None, stack: AsyncExitStack) -> ByteStream:
    """A connection whose handshake was granted, and that has not attached."""
    stream = await stack.enter_async_context(there.ends.caller())
    await stream.send(handshake(EVIL, resume=resume))
    assert (await read_head(stream))[0] == 101
    return stream


async def attach(stream: ByteStream, resume: Resume) -> WebSocketConnection:
    connection = WebSocketConnection(stream, client=True)
    await connection.ready()
    await connection.send(build(Kind.ATTACH, resume.epoch, 0, 0, (resume.proof,)))
    return connection


async def test_resumes_without_end_cost_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async with scene(caplog) as there, AsyncExitStack() as stack:
        running = there.ends.server._running
        assert running is not None
        for epoch in range(2, 40):
            resume = there.bad.resume(epoch * 1000)
            connection = await attach(await offered(there, resume, stack), resume)
            assert split_header(await connection.receive())[0] == Kind.ATTACH
        await there.others_are_served()
        await until(lambda: running.front.connections == 2)  # those that are attached: of each client one
        assert [session.epoch for session in there.ends.server.sessions()] == [1, 39_000]


async def test_of_two_connections_with_one_epoch_the_first_is_attached(caplog: pytest.LogCaptureFixture) -> None:
    async with scene(caplog) as there, AsyncExitStack() as stack:
        resume = there.bad.resume(2**32 - 1)
        streams = [await offered(there, resume, stack) for _ in range(2)]
        first = await attach(streams[0], resume)
        assert split_header(await first.receive())[0] == Kind.ATTACH
        second = await attach(streams[1], resume)
        with pytest.raises(ConnectionLost):
            await second.receive()
        await first.send(build(Kind.PING, resume.epoch, 0, 0))
        assert split_header(await first.receive())[0] == Kind.PONG


async def test_offers_that_are_never_taken_are_let_go(caplog: pytest.LogCaptureFixture) -> None:
    limits = replace(DEFAULT_LIMITS, opening_timeout=0.2)
    async with scene(caplog, limits) as there, AsyncExitStack() as stack:
        running = there.ends.server._running
        assert running is not None
        for number in range(50):
            await offered(there, there.bad.resume(2) if number % 2 else None, stack)
        await there.others_are_served()
        await until(lambda: running.front.connections == 2)
        assert not running.table._openings
        assert len(there.ends.server.sessions()) == 2


# -- tiny pieces -------------------------------------------------------------------------------


PIECES = 20_000


@pytest.mark.interpreted
async def test_an_answer_in_tiny_pieces_takes_little_more_than_its_bytes(caplog: pytest.LogCaptureFixture) -> None:
    """Kept as they came, pieces of two bytes would take 30 times what credit says."""
    async with scene(caplog) as there, there.ends.caller() as caller:
        await caller.send(f"GET /_token/{EVIL}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await there.bad.asked()
        exchange = there.exchange
        exchange.request.try_send_body = lambda data: False  # type: ignore[method-assign]
        await there.bad.say(head(2, 200), *[data(2, b"xy")] * PIECES)
        await until(lambda: sum(map(len, exchange._inbox)) == 2 * PIECES)
        assert len(exchange._inbox) < PIECES // 100


async def test_upgraded_bytes_in_tiny_pieces_take_little_more_than_they_are(caplog: pytest.LogCaptureFixture) -> None:
    async with scene(caplog) as there, there.ends.caller() as caller:
        await caller.send(
            f"GET /_token/{EVIL}/ HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".encode()
        )
        await there.bad.asked()
        exchange = there.exchange
        await there.bad.say(head(2, 101, [(b"Connection", b"upgrade"), (b"Upgrade", b"x")]), data(2, b"early"))
        await until(lambda: exchange._done)
        assert not exchange._inbox  # they are the splice's
        assert exchange._stream is not None
        splice = exchange._stream.handler
        assert isinstance(splice, Splice)
        splice._pump_down = lambda: None  # type: ignore[method-assign]
        await there.bad.say(*[data(2, b"xy")] * PIECES)
        await until(lambda: sum(map(len, splice._inbox)) >= 2 * PIECES)
        assert len(splice._inbox) < PIECES // 100
