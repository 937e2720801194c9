"""Exchanges at both ends at once: whatever happens to them, nothing of any stream stays, and memory is given back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest

from tunnelkit import TunnelClient
from tunnelkit.agent_exchange import AgentExchange
from tunnelkit.agent_workers import WORKERS_KEPT, Served, Workers
from tunnelkit.config import KIB
from tunnelkit.core.frames import DATA, ResetCode, StreamKind, pack_header
from tunnelkit.core.known_heads import KnownResponse
from tunnelkit.errors import HeadError, StreamBroken
from tunnelkit.heads import RequestHead, ResponseHead, encode_request
from tunnelkit.link import Link
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.stream import Taker
from tunnelkit.origins.base import Begun, Origin, OriginExchange, Perch

from .links import Silent
from .tunnels import QUICK, TOKEN, Answering, News, Tunnel, eventually, plain, tunnel

pytestmark = pytest.mark.anyio

PATH = f"/_token/{TOKEN}/"
REQUEST = encode_request(RequestHead(b"POST", b"/", [(b"Host", b"caller.test")]))


def server_link(there: Tunnel) -> Link:
    [session] = there.server.sessions()
    return session.link


async def both_clean(there: Tunnel, client: TunnelClient) -> None:
    await there.clean()
    await eventually(lambda: not client._agent.active)
    session = client._supervisor._session
    assert session is not None
    await eventually(lambda: not session.link.mux.active_streams)
    await eventually(lambda: client._supervisor._budget.used == 0)


async def read_all(exchange: OriginExchange) -> bytes:
    news = News(exchange)
    body = b""
    while (piece := exchange.body_waiting) != b"":
        if exchange.gone:
            return body
        if piece is None:
            await news.wait()
        else:
            body += piece
            exchange.body_taken()
    return body


async def test_a_body_is_read_and_answered() -> None:
    async def echo(exchange: OriginExchange) -> None:
        await plain(exchange, await read_all(exchange))

    async with tunnel() as there, there.client(Answering(echo)) as client:
        await client.wait_ready(10)
        caller = there.call()
        for size in (0, 1, 40_000):
            await caller.send("POST", PATH, body=b"x" * size)
            assert await caller.answer() == (200, b"x" * size)
        await both_clean(there, client)


async def test_an_answer_before_the_request_has_come() -> None:
    """The rest of the request is still on its way when the answer is complete."""
    async with tunnel() as there, there.client(Answering(plain)) as client:
        await client.wait_ready(10)
        for _ in range(3):
            caller = there.call()
            await caller.send("POST", PATH, "Content-Length: 100000", body=b"")
            assert (await caller.answer())[0] == 200
            caller.stream.abort()
            caller = there.call()
            await caller.send("POST", PATH, body=b"y" * 30_000)
            assert (await caller.answer())[0] == 200
        await both_clean(there, client)


@pytest.mark.interpreted
async def test_a_body_in_tiny_pieces_takes_little_more_than_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept as they came, pieces of two bytes would take 30 times what credit says."""
    began, over = anyio.Event(), anyio.Event()

    async def patient(exchange: OriginExchange) -> None:
        began.set()
        await over.wait()

    async with tunnel() as there, there.client(Answering(patient)) as client:
        await client.wait_ready(10)
        link = server_link(there)
        stream = link.open_stream(StreamKind.HTTP, Silent())
        stream.send_head(REQUEST)
        with anyio.fail_after(10):
            await began.wait()
        [exchange] = client._agent.active
        pieces = [pack_header(DATA, 2, stream.id) + b"xy"] * 6000
        with monkeypatch.context() as patch:
            patch.setattr(link.mux, "frames_to_send", lambda limit, _: [pieces.pop() for _ in pieces[: limit // 14]])
            stream.send_data(b"something")
            await eventually(lambda: sum(map(len, exchange._inbox)) == 12_000)
        assert len(exchange._inbox) < 60
        stream.reset(ResetCode.CANCEL)
        over.set()
        await both_clean(there, client)


async def test_what_comes_behind_the_answer_is_consumed() -> None:
    async with tunnel() as there, there.client(Answering(plain)) as client:
        await client.wait_ready(10)
        link = server_link(there)
        handler = Silent()
        stream = link.open_stream(StreamKind.HTTP, handler)
        stream.send_head(REQUEST)
        await handler.until(lambda: any(isinstance(item, tuple) and item[-1] is True for item in handler.heard))
        for _ in range(20):  # more than any window that was not given back
            await eventually(lambda: stream.room)
            stream.send_data(bytes(min(stream.room, 16 * KIB)))
        stream.send_fin()
        stream.forget()
        for item in handler.heard:
            if isinstance(item, tuple) and item[0] == "data":
                link.mux.consume(stream.id, len(item[1]))
        await both_clean(there, client)


@pytest.mark.parametrize("after", ["open", "head", "answer"])
async def test_a_caller_that_leaves(after: str) -> None:
    """Whenever it does, the origin learns of it, and the agent forgets the exchange."""
    began = anyio.Event()
    told = anyio.Event()

    async def patient(exchange: OriginExchange) -> None:
        news = News(exchange)
        if after == "answer":
            exchange.send_head(ResponseHead(200, [], b"OK"))
            exchange.send_body(b"some")
        began.set()
        while not exchange.gone:
            await news.wait()
        told.set()

    async with tunnel() as there, there.client(Answering(patient)) as client:
        await client.wait_ready(10)
        if after == "open":
            stream = server_link(there).open_stream(StreamKind.HTTP, Silent())
            await eventually(lambda: client._agent.active)
            stream.reset(ResetCode.CANCEL)
        else:
            caller = there.call()
            await caller.send("GET", PATH)
            with anyio.fail_after(10):
                await began.wait()
                caller.stream.abort()
                await told.wait()
        await both_clean(there, client)


async def test_the_agent_drains_though_a_stream_never_got_its_head() -> None:
    async with tunnel() as there, there.client() as client:
        await client.wait_ready(10)
        server_link(there).open_stream(StreamKind.HTTP, Silent())
        await eventually(lambda: client._agent.active)
        there.transport.reachable = False
        assert client._supervisor._session is not None
        client._supervisor._session.link.end("for_the_test")
        client._agent.drain()
        with anyio.fail_after(15):
            await client._agent.idle.wait()


@pytest.mark.parametrize("body", [b"", b"some"])
async def test_an_origin_that_cannot_even_begin(body: bytes) -> None:
    class Mistaken(Answering):
        def begin(self, exchange: OriginExchange) -> Begun:
            raise ValueError("a bug")

    async with tunnel() as there, there.client(Mistaken()) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("POST", PATH, body=body)
        assert (await caller.answer())[0] == 502
        await both_clean(there, client)


@pytest.mark.parametrize("error", [ValueError("a bug"), StreamBroken("broke"), HeadError(502, "bad", "bad")])
@pytest.mark.parametrize("begun", [False, True])
async def test_an_origin_that_fails(begun: bool, error: Exception) -> None:
    seen = anyio.Event()

    async def fails(exchange: OriginExchange) -> None:
        if begun:
            exchange.send_head(ResponseHead(200, [(b"Content-Length", b"100")], b"OK"))
            exchange.send_body(b"some")
            await seen.wait()
        raise error

    async with tunnel() as there, there.client(Answering(fails)) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH)
        if begun:
            assert b"200 OK" in await caller.head()
            seen.set()
            with pytest.raises((AssertionError, StreamBroken)):  # broken off, never completed
                await caller.answer()
        else:
            status, body = await caller.answer()
            assert status == 502
            assert b"origin_failed" in body
        await both_clean(there, client)


def send_head(exchange: OriginExchange, head: ResponseHead) -> None:
    exchange.send_head(head)


def send_known(exchange: OriginExchange, head: ResponseHead) -> None:
    exchange.send_known(KnownResponse.outgoing(head))


@pytest.mark.parametrize("send", [send_head, send_known])
@pytest.mark.parametrize(("begun", "code"), [(False, ResetCode.INTERNAL), (True, ResetCode.BROKEN_OFF)])
async def test_a_fault_of_ours_says_whether_an_answer_had_begun(
    begun: bool,
    code: ResetCode,
    send: Callable[[OriginExchange, ResponseHead], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head may be dropped with all else that waits: without a word the request would count as unanswered."""
    taken = anyio.Event()

    async def begins(exchange: OriginExchange) -> None:
        if begun:
            send(exchange, ResponseHead(200, []))
        else:
            exchange.send_head(ResponseHead(103, []))
        news = News(exchange)
        taken.set()
        while not exchange.gone:
            await news.wait()

    def faulty(exchange: AgentExchange, data: bytes, fin: bool) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(AgentExchange, "on_data", faulty)
    async with tunnel() as there, there.client(Answering(begins)) as client:
        await client.wait_ready(10)
        opener = Silent()
        stream = server_link(there).open_stream(StreamKind.HTTP, opener)
        stream.send_head(REQUEST)
        await taken.wait()
        stream.send_data(b"a body")
        await opener.until(lambda: ("reset", code) in opener.heard)
        await both_clean(there, client)


@pytest.mark.parametrize(
    ("sent", "begun", "code"),
    [
        (False, False, ResetCode.REFUSED),
        (True, False, ResetCode.SESSION_GONE),
        (True, True, ResetCode.BROKEN_OFF),
    ],
)
async def test_an_origin_may_end_an_exchange_without_an_answer(sent: bool, begun: bool, code: ResetCode) -> None:
    async def withdraws(exchange: OriginExchange) -> None:
        if begun:
            exchange.send_head(ResponseHead(200, []))
        exchange.withdraw(sent=sent)
        assert exchange.gone
        exchange.withdraw(sent=not sent)  # said once

    async with tunnel() as there, there.client(Answering(withdraws)) as client:
        await client.wait_ready(10)
        opener = Silent()
        server_link(there).open_stream(StreamKind.HTTP, opener).send_head(REQUEST)
        await opener.until(lambda: ("reset", code) in opener.heard)
        await both_clean(there, client)


@pytest.mark.parametrize("answer", ["nothing", "head", "half"])
async def test_an_origin_that_returns_too_early(answer: str) -> None:
    seen = anyio.Event()

    async def half(exchange: OriginExchange) -> None:
        if answer != "nothing":
            exchange.send_head(ResponseHead(200, [(b"Content-Length", b"100")], b"OK"))
            await seen.wait()
        if answer == "half":
            exchange.send_body(b"some")

    async with tunnel() as there, there.client(Answering(half)) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH)
        if answer == "nothing":
            assert (await caller.answer())[0] == 502
        else:
            assert b"200 OK" in await caller.head()
            seen.set()
            with pytest.raises((AssertionError, StreamBroken)):
                await caller.answer()
        await both_clean(there, client)


async def test_workers_are_used_again() -> None:
    async with tunnel() as there, there.client() as client:
        await client.wait_ready(10)
        for _ in range(5):
            assert (await there.get())[0] == 200
        await eventually(lambda: len(client._agent._workers.parked) == 1)
        assert client._agent.answered == 5


async def test_workers_that_wait_are_few() -> None:
    go = anyio.Event()
    arrived: list[OriginExchange] = []

    async def hold(exchange: OriginExchange) -> None:
        arrived.append(exchange)
        await go.wait()
        await plain(exchange)

    count = WORKERS_KEPT + 3
    async with tunnel() as there, there.client(Answering(hold)) as client:
        await client.wait_ready(10)
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(there.get)
            await eventually(lambda: len(arrived) == count)
            go.set()
        await eventually(lambda: not client._agent.active)
        assert len(client._agent._workers.parked) == WORKERS_KEPT


@pytest.mark.interpreted
async def test_an_exchange_that_is_gone_before_a_worker_sees_it() -> None:
    origin = Answering()
    async with tunnel() as there, there.client(origin) as client:
        await client.wait_ready(10)
        assert (await there.get())[0] == 200
        agent = client._agent
        await eventually(lambda: len(agent._workers.parked) == 1)
        give = Workers.give

        def give_and_reset(workers: Workers, exchange: Served, begun: Begun) -> None:
            give(workers, exchange, begun)
            assert isinstance(exchange, AgentExchange)
            exchange.on_reset(ResetCode.CANCEL)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Workers, "give", give_and_reset)
            caller = there.call()
            await caller.send("GET", PATH)
            await eventually(lambda: not agent.active and agent.answered == 2)
        caller.stream.abort()
        assert len(origin.heads) == 1
        assert (await there.get())[0] == 200
        await both_clean(there, client)


async def test_a_draining_agent_refuses() -> None:
    origin = Answering()
    async with tunnel() as there, there.client(origin) as client:
        await client.wait_ready(10)
        client._agent.drain()
        handler = Silent()
        server_link(there).open_stream(StreamKind.HTTP, handler).send_head(b"x")
        await handler.until(lambda: ("reset", ResetCode.REFUSED) in handler.heard)
        # A client that refuses for ever is not asked without a pause.
        began = anyio.current_time()
        status, _ = await there.get("/", "Prefer: wait=1")
        assert status in (503, 504)
        assert anyio.current_time() - began < 10
        assert there.server._running is not None
        assert origin.heads == []
        await both_clean(there, client)


# -- backpressure ------------------------------------------------------------------------------


async def test_a_caller_that_takes_nothing_stops_the_origin() -> None:
    sent = 0
    gone = anyio.Event()

    async def flood(exchange: OriginExchange) -> None:
        nonlocal sent
        news = News(exchange)
        exchange.send_head(ResponseHead(200, [], b"OK"))
        while not exchange.gone:
            if room := exchange.room:
                exchange.send_body(bytes(min(room, 16 * KIB)))
                sent += min(room, 16 * KIB)
            else:
                await news.wait()
        gone.set()

    limits = replace(QUICK, stream_first_window=64 * KIB, stream_max_window=128 * KIB)
    async with tunnel(limits=limits) as there, there.client(Answering(flood)) as client:
        await client.wait_ready(10)
        caller = there.call(capacity=4 * KIB)
        await caller.send("GET", PATH)
        await caller.head()
        await eventually(lambda: sent)
        await anyio.wait_all_tasks_blocked()
        held = sent
        await anyio.wait_all_tasks_blocked()
        assert sent == held < 600 * KIB
        with anyio.fail_after(10):
            while sent == held:  # reading lets it go on
                await caller.stream.receive()
        caller.stream.abort()
        with anyio.fail_after(10):
            await gone.wait()
        await both_clean(there, client)


async def test_an_origin_that_takes_nothing_stops_the_caller() -> None:
    go = anyio.Event()

    async def wait(exchange: OriginExchange) -> None:
        await go.wait()
        await plain(exchange, b"%d" % len(await read_all(exchange)))

    async with tunnel() as there, there.client(Answering(wait)) as client:
        await client.wait_ready(10)
        caller = there.call()
        size = 2_000_000
        sent = 0

        async def upload() -> None:
            nonlocal sent
            while sent < size:
                await caller.stream.send(bytes(10_000))
                sent += 10_000

        async with anyio.create_task_group() as group:
            await caller.send("PUT", PATH, f"Content-Length: {size}")
            group.start_soon(upload)
            await eventually(lambda: sent > 100_000)
            await anyio.wait_all_tasks_blocked()
            held = sent
            await anyio.wait_all_tasks_blocked()
            assert sent == held < 600_000
            go.set()
            assert await caller.answer() == (200, b"%d" % size)
        await both_clean(there, client)


# -- upgrades ----------------------------------------------------------------------------------


def switching(far: MemoryStream) -> Answering:
    async def switch(exchange: OriginExchange) -> None:
        fields = [(b"Connection", b"Upgrade"), (b"Upgrade", b"echo")]
        await exchange.splice(ResponseHead(101, fields, b"Switching Protocols"), far)

    return Answering(switch)


async def test_an_upgrade_is_spliced_and_each_half_closes_for_itself() -> None:
    near, far = memory_pair()
    async with tunnel() as there, there.client(switching(far)) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH, "Connection: Upgrade", "Upgrade: echo")
        assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
        with anyio.fail_after(10):
            await caller.stream.send(b"up")
            assert await near.receive() == b"up"
            await caller.stream.send_eof()
            assert await near.receive() == b""
            await near.send(b"down, after the end of up")
            assert await caller.stream.receive() == b"down, after the end of up"
            await near.send_eof()
            assert await caller.stream.receive() == b""
        await both_clean(there, client)


@pytest.mark.parametrize("side", ["caller", "origin", "session"])
async def test_an_upgrade_that_breaks_breaks_at_both_ends(side: str) -> None:
    near, far = memory_pair()
    async with tunnel() as there, there.client(switching(far)) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH, "Connection: Upgrade", "Upgrade: echo")
        await caller.head()
        if side == "session":
            server_link(there).end("for_the_test")
        else:
            (caller.stream if side == "caller" else near).abort()
        with anyio.fail_after(10):
            for end in (caller.stream, near):
                with pytest.raises(StreamBroken):
                    await end.receive()
        await eventually(lambda: not client._agent.active)


async def test_an_upgrade_with_a_peer_that_takes_nothing() -> None:
    near, far = memory_pair(1024)
    async with tunnel() as there, there.client(switching(far)) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH, "Connection: Upgrade", "Upgrade: echo")
        await caller.head()
        with anyio.fail_after(10):
            await caller.stream.send(bytes(50_000))
            await near.send(b"the other way goes on")
            assert await caller.stream.receive() == b"the other way goes on"
            got = 0
            while got < 50_000:
                got += len(await near.receive())
            caller.stream.abort()
            near.abort()
        await both_clean(there, client)


async def test_an_upgrade_that_is_refused() -> None:
    async with tunnel() as there, there.client(Answering(plain)) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH, "Connection: Upgrade", "Upgrade: echo")
        assert await caller.answer() == (200, b"fine")
        await caller.send("GET", PATH)
        assert await caller.answer() == (200, b"fine")
        await both_clean(there, client)


# -- workers that wait where the next exchange goes out ----------------------------------------


class Place:
    """A perch that a test makes something come to."""

    def __init__(self) -> None:
        self.came = anyio.Event()
        self.waiting = 0

    async def wait(self, *, readable: bool = False, writable: bool = False, taker: Taker | None = None) -> None:
        assert readable
        assert taker is not None
        self.waiting += 1
        try:
            await self.came.wait()
        finally:
            self.waiting -= 1
            self.came = anyio.Event()


class Placed(Origin):
    """Every exchange goes out on ``place``, and its answer comes there."""

    def __init__(self) -> None:
        self.place: Place | None = Place()
        self.tasks: list[int] = []
        self.begun: list[OriginExchange] = []
        self.dropped = 0

    async def serve(self, exchange: OriginExchange) -> None:
        raise NotImplementedError

    def begin(self, exchange: OriginExchange) -> Begun:
        self.begun.append(exchange)
        return PlacedExchange(self, exchange)

    async def aclose(self) -> None: ...


class PlacedExchange(Begun):
    def __init__(self, origin: Placed, exchange: OriginExchange) -> None:
        self.origin = origin
        self.exchange = exchange
        self.place = origin.place

    @property
    def perch(self) -> Perch | None:
        return self.place

    async def finish(self) -> Perch | None:
        self.origin.tasks.append(anyio.get_current_task().id)
        await plain(self.exchange)
        return self.place

    def drop(self) -> None:
        self.origin.dropped += 1


async def test_what_goes_out_where_a_worker_waits_is_begun_at_once_and_finished_there() -> None:
    origin = Placed()
    place = origin.place
    assert place is not None
    async with tunnel() as there, there.client(origin) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH)
        assert await caller.answer() == (200, b"fine")
        await eventually(lambda: place.waiting)
        await caller.send("GET", PATH)
        await eventually(lambda: len(origin.begun) == 2)
        await anyio.wait_all_tasks_blocked()
        assert len(origin.tasks) == 1  # nobody is woken until something comes
        place.came.set()
        assert await caller.answer() == (200, b"fine")
        assert origin.tasks[0] == origin.tasks[1]
        await both_clean(there, client)


async def test_a_worker_leaves_where_it_waits_when_that_ends_and_serves_on() -> None:
    origin = Placed()
    place = origin.place
    assert place is not None
    async with tunnel() as there, there.client(origin) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH)
        assert await caller.answer() == (200, b"fine")
        await eventually(lambda: place.waiting)
        origin.place = None
        place.came.set()
        await eventually(lambda: not client._agent._workers.perched)
        await caller.send("GET", PATH)
        assert await caller.answer() == (200, b"fine")
        assert origin.tasks[0] == origin.tasks[1]
        await both_clean(there, client)


async def test_what_was_begun_and_never_finished_is_dropped() -> None:
    origin = Placed()
    async with tunnel() as there:
        async with there.client(origin) as client:
            await client.wait_ready(10)
            caller = there.call()
            await caller.send("GET", PATH)
            assert await caller.answer() == (200, b"fine")
            place = origin.place
            assert place is not None
            await eventually(lambda: place.waiting)
            await caller.send("GET", PATH)
            await eventually(lambda: len(origin.begun) == 2)
            before = origin.dropped
        assert origin.dropped - before == 1
        assert len(origin.tasks) == 1


# -- everything at once ------------------------------------------------------------------------


async def test_many_mixed_exchanges_under_cuts_leave_nothing() -> None:
    async def any_answer(exchange: OriginExchange) -> None:
        kind = exchange.head.target[-1:]
        if kind == b"1":
            raise ValueError("an origin's mistake")
        if kind == b"2":
            await plain(exchange)
        else:
            await plain(exchange, await read_all(exchange))

    async with tunnel() as there, there.client(Answering(any_answer)) as client:
        await client.wait_ready(10)
        done = 0

        async def one(number: int) -> None:
            nonlocal done
            caller = there.call()
            try:
                await caller.send("POST", f"{PATH}{number % 4}", body=b"z" * (number * 1000))
                if number % 5 == 4:
                    caller.stream.abort()
                else:
                    await caller.answer()
            except StreamBroken:
                assert number % 4 in (1, 2)  # answered before the request had come
            finally:
                done += 1
                caller.stream.abort()

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(one, number)
            while done < 40:
                there.transport.cut()
                await eventually(lambda: client.transport)
                await anyio.sleep(0.03)
        await both_clean(there, client)
