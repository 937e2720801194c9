"""The gateway between the registry, its sessions and its callers: who gets a request, and how often."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import anyio
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.gateway_exchange import TURN, GatewayExchange
from tunnelkit.heads import ResponseHead
from tunnelkit.net.memory import memory_pair
from tunnelkit.origins.base import OriginExchange
from tunnelkit.server_session import ServerSession

from .tunnels import QUICK, TOKEN, Answering, News, Tunnel, eventually, plain, tunnel

pytestmark = pytest.mark.anyio

PATH = f"/_token/{TOKEN}/"


def named(name: bytes) -> Answering:
    async def answer(exchange: OriginExchange) -> None:
        await plain(exchange, name)

    return Answering(answer)


def hold_back(session: ServerSession, monkeypatch: pytest.MonkeyPatch) -> anyio.Event:
    """The session's connection takes nothing any more until the event is set."""
    gate = anyio.Event()
    connection = session.link.connection
    assert connection is not None
    ready = connection.ready

    async def wait() -> int:
        await gate.wait()
        return await ready()

    monkeypatch.setattr(connection, "ready", wait)
    session.link.ring()
    return gate


async def test_what_was_never_sent_goes_elsewhere_when_a_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its method: the truth is that no byte of it was taken."""
    async with tunnel() as there, there.client(named(b"old")) as old:
        await old.wait_ready(10)
        [session] = there.server.sessions()
        hold_back(session, monkeypatch)
        await anyio.wait_all_tasks_blocked()
        first = there.call()
        await first.send("POST", PATH, body=b"x")  # the writer takes this one, as it waited in ``ready`` before
        await eventually(lambda: session.link.streams.by_id)
        async with there.client(named(b"new")) as new:
            await new.wait_ready(10)
            assert new.transport
            old.close()
            assert await first.answer() == (200, b"new")
            await there.clean()


async def test_an_answer_that_overtakes_its_sending_is_not_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The send that carried the request returns after the answer's head came: the clock for the head is off."""
    go = anyio.Event()

    async def slow(exchange: OriginExchange) -> None:
        exchange.send_head(ResponseHead(200, [(b"Content-Length", b"8")], b"OK"))
        exchange.send_body(b"half")
        await go.wait()
        exchange.send_body(b"rest")
        exchange.send_end()

    limits = replace(QUICK, response_head_timeout=0.05)
    async with tunnel(limits=limits) as there, there.client(Answering(slow)) as client:
        await client.wait_ready(10)
        connection = there.server.sessions()[0].link.connection
        assert connection is not None
        send, late = connection.send, anyio.Event()

        async def send_late(message: bytes) -> None:
            await send(message)
            await late.wait()

        monkeypatch.setattr(connection, "send", send_late)
        caller = there.call()
        await caller.send("GET", PATH)
        head = await caller.head()
        late.set()
        await anyio.sleep(0.15)  # three times what a head may take
        go.set()
        caller.read = head + b"\r\n\r\n" + caller.read
        assert await caller.answer() == (200, b"halfrest")
        await there.clean()


async def test_a_head_that_does_not_come_is_timed_out() -> None:
    async def never(exchange: OriginExchange) -> None:
        news = News(exchange)
        while not exchange.gone:
            await news.wait()

    limits = replace(QUICK, response_head_timeout=0.05)
    async with tunnel(limits=limits) as there, there.client(Answering(never)) as client:
        await client.wait_ready(10)
        status, body = await there.get()
        assert status == 504
        assert b"response_timeout" in body
        await there.clean()


async def test_the_time_for_an_answer_does_not_run_while_what_was_refused_waits() -> None:
    limits = replace(QUICK, response_head_timeout=0.5)
    async with tunnel(limits=limits) as there, there.client() as client:
        await client.wait_ready(10)
        client._agent.drain()
        status, body = await there.get("/", "Prefer: wait=1")
        assert status in (503, 504)
        assert b"response_timeout" not in body
        await there.clean()


@pytest.mark.parametrize(("method", "again"), [("GET", True), ("POST", False)])
async def test_what_was_sent_goes_elsewhere_only_where_that_is_safe(method: str, again: bool) -> None:
    began = anyio.Event()

    async def stuck(exchange: OriginExchange) -> None:
        began.set()
        await anyio.sleep_forever()

    async with tunnel() as there, there.client(Answering(stuck)) as old:
        await old.wait_ready(10)
        caller = there.call()
        await caller.send(method, PATH, "Content-Length: 0")
        with anyio.fail_after(10):
            await began.wait()
        async with there.client(named(b"new")) as new:
            await new.wait_ready(10)
            old.close()
            status, body = await caller.answer()
            if again:
                assert (status, body) == (200, b"new")
            else:
                assert status == 502
                assert b"tunnel_lost" in body
            await there.clean()


@pytest.mark.parametrize("status", [200, 101])
async def test_an_answer_that_breaks_off_at_once_is_not_asked_for_again(status: int) -> None:
    """Its head and its reset leave together: the head is dropped, and still the answer had begun."""
    served: list[bytes] = []

    async def breaks_off(exchange: OriginExchange) -> None:
        served.append(exchange.head.target)
        if status == 101:
            near, far = memory_pair()
            far.abort()
            await exchange.splice(ResponseHead(101, [(b"Connection", b"Upgrade"), (b"Upgrade", b"x")]), near)
        else:
            exchange.send_head(ResponseHead(200, [(b"Content-Length", b"5")]))
            raise OSError("the origin fell over")

    async with (
        tunnel() as there,
        there.client(Answering(breaks_off)) as one,
        there.client(Answering(breaks_off)) as two,
    ):
        await one.wait_ready(10)
        await two.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH, *(["Connection: Upgrade", "Upgrade: x"] if status == 101 else []))
        with anyio.fail_after(10), pytest.raises(StreamBroken):
            await caller.stream.receive()
        assert len(served) == 1
        await there.clean()


async def test_a_request_waits_for_a_client_and_then_goes() -> None:
    async with tunnel(known_tokens=[TOKEN]) as there:
        caller = there.call()
        await caller.send("GET", PATH)
        await _queued(there, 1)
        async with there.client(named(b"late")) as client:
            assert await caller.answer() == (200, b"late")
            assert client.transport


async def test_the_end_of_the_start_is_the_end_of_waiting_though_others_wait_longer() -> None:
    limits = replace(QUICK, startup_wait=1.0, queue_timeout=30.0)
    async with tunnel(limits=limits) as there:
        async with there.client() as client:
            await client.wait_ready()
        known, unknown = there.call(), there.call()
        await known.send("GET", f"/_token/{TOKEN}/")
        assert there.server._running is not None
        gateway = there.server._running.gateway
        await eventually(lambda: gateway.alarm_is_set)
        await unknown.send("GET", "/_token/another-token-for-the-tests/")
        assert (await unknown.answer())[0] == 404


async def test_a_caller_that_waits_less_than_others_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its request has a place, and another's deadline has set the alarm already."""
    limits = replace(QUICK, queue_timeout=60.0)
    async with tunnel(limits=limits) as there, there.client() as client:
        await client.wait_ready(10)
        hold_back(there.server.sessions()[0], monkeypatch)
        await anyio.wait_all_tasks_blocked()
        patient = there.call()
        await patient.send("GET", PATH)
        assert there.server._running is not None
        gateway = there.server._running.gateway
        await eventually(lambda: gateway.alarm_is_set)
        assert (await there.get("/", "Prefer: wait=1"))[0] in (503, 504)


@pytest.mark.interpreted
async def test_a_request_that_cannot_be_placed_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the client that attaches, and not those that wait behind it."""
    dispatch = GatewayExchange.dispatch

    def fail_once(exchange: GatewayExchange, session: ServerSession) -> None:
        monkeypatch.setattr(GatewayExchange, "dispatch", dispatch)
        dispatch(exchange, session)
        raise ValueError("a bug")

    async with tunnel() as there:
        first, second = there.call(), there.call()
        await first.send("GET", PATH)
        await _queued(there, 1)
        await second.send("GET", PATH)
        await _queued(there, 2)
        monkeypatch.setattr(GatewayExchange, "dispatch", fail_once)
        async with there.client(named(b"fine")):
            assert await second.answer() == (200, b"fine")
            assert (await first.answer())[0] == 500
            assert there.server.sessions()[0].epoch == 1
            await there.clean()


@pytest.mark.interpreted
@pytest.mark.parametrize("method", ["_answered", "_give"])
async def test_an_answer_that_cannot_be_passed_on_costs_its_caller_alone(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its end came with it."""

    def fail(*_: object) -> None:
        raise ValueError("a log that is full, say")

    async def end_at_once(exchange: OriginExchange) -> None:
        if exchange.head.method == b"HEAD":
            exchange.send_head(ResponseHead(200, [(b"Content-Length", b"4")], b"OK"), fin=True)
        else:
            await plain(exchange)

    async with tunnel() as there, there.client(Answering(end_at_once)) as client:
        await client.wait_ready()
        with monkeypatch.context() as patched, anyio.fail_after(10):
            patched.setattr(GatewayExchange, method, fail)
            caller = there.call()
            await caller.send("HEAD" if method == "_answered" else "GET", f"/_token/{TOKEN}/")
            with suppress(StreamBroken):  # or it is told, where no head was passed on
                while (data := await caller.stream.receive()) and b" 502 " not in data:
                    pass
        await there.clean()
        assert await there.get() == (200, b"fine")


async def test_a_caller_that_leaves_leaves_the_queue() -> None:
    async with tunnel(known_tokens=[TOKEN]) as there:
        caller = there.call()
        await caller.send("GET", PATH)
        await _queued(there, 1)
        caller.stream.abort()
        await _queued(there, 0)


async def _queued(there: Tunnel, count: int) -> None:
    running = there.server._running
    assert running is not None
    await eventually(lambda: len(running.gateway.active) == count)


async def test_a_session_with_all_its_streams_in_use() -> None:
    go = anyio.Event()
    at_once = most = 0

    async def counted(exchange: OriginExchange) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await go.wait()
        at_once -= 1
        await plain(exchange)

    limits = replace(QUICK, max_streams=3)
    async with tunnel(limits=limits) as there, there.client(Answering(counted)) as client:
        await client.wait_ready(10)
        answers: list[tuple[int, bytes]] = []

        async def one() -> None:
            answers.append(await there.get())

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(one)
            await eventually(lambda: at_once == 3)
            await _queued(there, 10)
            go.set()
        assert answers == [(200, b"fine")] * 10
        assert most == 3
        await there.clean()


async def test_memory_runs_out_and_comes_back() -> None:
    """Without room for a stream's floor an exchange waits in the queue; nothing is refused for that."""
    go = anyio.Event()
    floor = QUICK.stream_floor + QUICK.frame_payload
    limits = replace(QUICK, max_buffered_bytes=QUICK.replay_floor + 2 * floor + 1000)
    async with tunnel(limits=limits) as there:

        async def hold(exchange: OriginExchange) -> None:
            await go.wait()
            await plain(exchange)

        async with there.client(Answering(hold), limits=QUICK) as client:
            await client.wait_ready(10)
            answers: list[tuple[int, bytes]] = []

            async def one() -> None:
                answers.append(await there.get())

            async with anyio.create_task_group() as group:
                for _ in range(6):
                    group.start_soon(one)
                await _queued(there, 6)
                await eventually(lambda: client._agent.active)
                assert len(client._agent.active) < 3
                go.set()
            assert answers == [(200, b"fine")] * 6
            await there.clean()


async def test_a_server_that_drains() -> None:
    go = anyio.Event()

    async def hold(exchange: OriginExchange) -> None:
        await go.wait()
        await plain(exchange)

    async with tunnel() as there, there.client(Answering(hold)) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH)
        await eventually(lambda: client._agent.active)
        drained = anyio.Event()

        async def drain() -> None:
            await there.server.drain()
            drained.set()

        async with anyio.create_task_group() as group:
            group.start_soon(drain)
            await anyio.wait_all_tasks_blocked()
            assert not drained.is_set()
            there.transport.cut()  # the session may resume, so that what runs can finish
            go.set()
            assert (await caller.answer())[0] == 200
        assert drained.is_set()


async def test_a_caller_that_has_its_answer_is_no_request_any_more() -> None:
    """Though its connection is kept, and the task of it sleeps on until the caller asks again."""
    async with tunnel() as there, there.client(named(b"one")) as client:
        await client.wait_ready(10)
        caller = there.call()
        for _ in range(3):
            await caller.send("GET", PATH)
            assert await caller.answer() == (200, b"one")
            await there.clean()


async def test_an_answer_is_written_before_the_books_are_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that share a message are all written first: nobody waits for the log lines of another."""
    caplog.set_level("INFO", "tunnelkit.access")
    seen: list[tuple[bytes, int, int]] = []  # what the caller has of the answer's end, and the log lines around
    finish = GatewayExchange.on_written

    def lines() -> int:
        return sum("HTTP RET" in record.message for record in caplog.records)

    def note(exchange: GatewayExchange) -> None:
        written, before = caller.stream.receive_nowait() or b"", lines()
        exchange._fail(500, "internal_error", "too late to matter")
        finish(exchange)
        finish(exchange)  # to be told again, by another message, changes nothing
        seen.append((written[-4:], before, lines()))

    async with tunnel() as there, there.client(named(b"fine")) as client:
        await client.wait_ready(10)
        caller = there.call()
        monkeypatch.setattr(GatewayExchange, "on_written", note)
        for count in range(3):
            await caller.send("GET", PATH)
            await eventually(lambda: len(seen) > count)  # noqa: B023 - called before it changes
            assert seen[count:] == [(b"fine", count, count + 1)]
        await there.clean()


async def send_all(exchange: OriginExchange, body: bytes) -> None:
    """An origin's answer, as fast as the tunnel takes it."""
    news = News(exchange)
    exchange.send_head(ResponseHead(200, [(b"Content-Length", b"%d" % len(body))], b"OK"))
    rest = memoryview(body)
    while rest:
        while not (room := exchange.room):
            await news.wait()
        exchange.send_body(rest[:room])
        rest = rest[room:]
    exchange.send_end()


BULK = bytes(range(256)) * 16 * 1024  # 4 MiB: more than the tunnel carries for a caller that takes nothing


@pytest.mark.interpreted
async def test_a_caller_that_takes_no_more_is_not_offered_every_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task comes back when there is room. Until then what comes is kept, and that is all."""
    seen: list[str] = []
    on_data, give = GatewayExchange.on_data, GatewayExchange._give

    def note_data(exchange: GatewayExchange, data: bytes, fin: bool) -> None:
        seen.append("message")
        on_data(exchange, data, fin)

    def note_given(exchange: GatewayExchange, data: bytes) -> bool:
        given = give(exchange, data)
        seen.append("taken" if given else "refused")
        return given

    monkeypatch.setattr(GatewayExchange, "on_data", note_data)
    monkeypatch.setattr(GatewayExchange, "_give", note_given)
    async with tunnel() as there, there.client(Answering(lambda exchange: send_all(exchange, BULK))) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH)
        await eventually(lambda: "refused" in seen and seen[seen.index("refused") :].count("message") > 10)
        await anyio.wait_all_tasks_blocked()  # nothing more is carried while the caller takes nothing
        behind = seen[seen.index("refused") :]
        assert "taken" not in behind
        assert behind.count("refused") < 6  # when it was found full, by the link and by the task
        assert await caller.answer() == (200, BULK)
        await there.clean()


@pytest.mark.interpreted
async def test_a_caller_that_takes_all_at_once_leaves_the_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []  # bytes given in each
    takes = False
    give, pump = GatewayExchange._give, GatewayExchange._pump_down

    def give_or_not(exchange: GatewayExchange, data: bytes) -> bool:
        return takes and give(exchange, data)

    def note(exchange: GatewayExchange) -> None:
        before = exchange._sent_bytes
        pump(exchange)
        turns.append(exchange._sent_bytes - before)

    monkeypatch.setattr(GatewayExchange, "_give", give_or_not)
    monkeypatch.setattr(GatewayExchange, "_pump_down", note)
    wide = replace(QUICK, stream_first_window=1024 * 1024)
    async with (
        tunnel(limits=wide) as there,
        there.client(Answering(lambda exchange: send_all(exchange, BULK))) as client,
    ):
        await client.wait_ready(10)
        caller = there.call(2 * len(BULK))
        await caller.send("GET", PATH)
        [session] = there.server.sessions()
        await eventually(lambda: session.link.streams.by_id)
        exchange = next(iter(session.link.streams.by_id.values())).handler
        assert isinstance(exchange, GatewayExchange)
        await eventually(lambda: sum(map(len, exchange._inbox)) > 2 * TURN)
        takes = True
        assert await caller.answer() == (200, BULK)
        assert sum(turns) > 2 * TURN  # and the rest as it came
        assert TURN <= max(turns) < TURN + 64 * 1024  # the piece that goes beyond is one of the tunnel's frames
        await there.clean()


async def test_a_token_that_is_written_in_two_ways_is_looked_up_for_each_request() -> None:
    """Which of the two is meant may change while the same head comes again and again."""
    asked = "/_token/" + TOKEN.replace("-", "%2D") + "/"
    async with tunnel(limits=replace(QUICK, startup_wait=0.0)) as there:
        caller = there.call()
        for _ in range(3):
            await caller.send("GET", asked)
            assert (await caller.answer())[0] == 404
        async with there.client() as client:
            await client.wait_ready(10)
            await caller.send("GET", asked)
            assert await caller.answer() == (200, b"fine")
