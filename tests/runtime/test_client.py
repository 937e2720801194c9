"""The client's public face: what comes out of it, and that nothing stays behind."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tunnelkit import TunnelClient
from tunnelkit.errors import ConfigError, RegistrationRefused, SessionGone
from tunnelkit.events import EventStream, Retrying
from tunnelkit.handshake import Grant
from tunnelkit.origins.base import OriginExchange
from tunnelkit.transports.base import Connection, DialRequest, Transport
from tunnelkit.transports.memory import MemoryTransport

from .tunnels import QUICK, TOKEN, Answering, eventually, plain, tunnel

pytestmark = pytest.mark.anyio

OTHER = "another-token-for-tests"


async def test_requests_come_through_and_leave_nothing() -> None:
    async with tunnel() as there:
        origin = Answering()
        before = len(anyio.get_running_tasks())
        async with there.client(origin) as client:
            await client.wait_ready(10)
            assert client.transport == "memory"
            for number in range(3):
                assert await there.get(f"/{number}") == (200, b"fine")
            assert origin.heads == [b"/0", b"/1", b"/2"]
            await there.clean()
            await eventually(lambda: client._supervisor._budget.used == 0)  # the last ack may be under way
        assert origin.closed == 1
        await eventually(lambda: not there.server.sessions())
        assert there.budget.used == 0
        await eventually(lambda: len(anyio.get_running_tasks()) == before)


@asynccontextmanager
async def refusing() -> AsyncIterator[TunnelClient]:
    async with tunnel(known_tokens=[OTHER], known_tokens_only=True) as there:
        yield there.client()


async def test_a_final_refusal_cancels_the_body_and_comes_out_plain() -> None:
    async with refusing() as client:

        async def body() -> None:
            async with client:
                await anyio.sleep_forever()

        with pytest.raises(RegistrationRefused) as refusal, anyio.fail_after(10):
            await body()
        assert refusal.value.code == "forbidden"


async def test_wait_ready_raises_the_refusal() -> None:
    async with refusing() as client, anyio.create_task_group() as group:
        caught: list[RegistrationRefused] = []

        async def run() -> None:
            with pytest.raises(RegistrationRefused) as refusal:
                await client.run()
            caught.append(refusal.value)

        group.start_soon(run)
        with pytest.raises(RegistrationRefused) as refusal:
            await client.wait_ready(10)
        await eventually(lambda: caught)
        assert caught == [refusal.value]


async def test_wait_ready_keeps_its_time() -> None:
    transport = MemoryTransport()
    async with TunnelClient("ws://nowhere.test", token=TOKEN, origin=Answering(), transport=transport) as client:
        with pytest.raises(TimeoutError, match=r"the tunnel was not ready within 0\.01 s: \w+"):
            await client.wait_ready(0.01)


async def test_wait_ready_of_a_client_that_was_closed() -> None:
    client = TunnelClient("ws://x.test", token=TOKEN, origin=Answering(), transport=MemoryTransport())
    async with client, anyio.create_task_group() as group:
        group.start_soon(_expect_gone, client)
        await anyio.wait_all_tasks_blocked()
        client.close()


async def _expect_gone(client: TunnelClient) -> None:
    with pytest.raises(SessionGone):
        await client.wait_ready(10)


@pytest.mark.parametrize("error", [ValueError("the body's"), SystemExit(3), ExceptionGroup("own", [OSError()])])
async def test_what_the_body_raises_comes_out_as_it_is(error: BaseException) -> None:
    async with tunnel() as there:

        async def body() -> None:
            async with there.client() as client:
                await client.wait_ready(10)
                raise error

        with pytest.raises(type(error)) as raised:
            await body()
        assert raised.value is error


async def test_a_bug_comes_out_as_it_is_and_cancels_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    origin = Answering()
    client = TunnelClient("ws://x.test", token=TOKEN, origin=origin, transport=MemoryTransport())
    monkeypatch.setattr(client._supervisor, "run", broken)

    async def body() -> None:
        async with client:
            await anyio.sleep_forever()

    with pytest.raises(ZeroDivisionError), anyio.fail_after(10):
        await body()
    assert origin.closed


async def test_a_client_serves_once() -> None:
    async with tunnel() as there:
        client = there.client()
        async with client:
            with pytest.raises(RuntimeError, match="make another"):
                await client.run()
            await client.wait_ready(10)
        with pytest.raises(RuntimeError, match="make another"):
            async with client:
                pass


async def test_cancelled_before_it_began() -> None:
    async with tunnel() as there:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await there.client().run()


# -- the end -----------------------------------------------------------------------------------


class Stuck(Transport):
    """Its dials hang."""

    name = "stuck"

    def __init__(self) -> None:
        self.dialling = anyio.Event()

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        self.dialling.set()
        await anyio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("how", ["close", "drain"])
async def test_the_end_interrupts_a_dial(how: str) -> None:
    transport = Stuck()
    client = TunnelClient("ws://x.test", token=TOKEN, origin=Answering(), transport=transport)
    with anyio.fail_after(15):
        async with anyio.create_task_group() as group:
            await group.start(client.run)
            await transport.dialling.wait()
            if how == "close":
                client.close()
            else:
                await client.drain()


async def test_the_end_interrupts_a_backoff() -> None:
    slow = replace(QUICK, retry_first=3600.0, retry_cap=3600.0)
    client = TunnelClient("ws://x.test", token=TOKEN, origin=Answering(), transport=MemoryTransport(), limits=slow)
    with anyio.fail_after(15):
        async with anyio.create_task_group() as group:
            await group.start(client.run)
            await anyio.wait_all_tasks_blocked()
            client.close()


@pytest.mark.parametrize("how", ["close", "cancel", "leave"])
async def test_a_client_that_ends_leaves_no_session_behind(how: str) -> None:
    """It says BYE: no grace, nobody waits."""
    async with tunnel() as there:
        with anyio.CancelScope() as scope:
            async with there.client() as client:
                await client.wait_ready(10)
                assert len(there.server.sessions()) == 1
                if how == "close":
                    client.close()
                    await eventually(lambda: not there.server.sessions())
                elif how == "cancel":
                    scope.cancel()
                    await anyio.sleep_forever()
        await eventually(lambda: not there.server.sessions())
        assert there.budget.used == 0


async def test_the_end_comes_though_the_server_is_silent() -> None:
    async with tunnel() as there:
        with anyio.fail_after(15):
            async with there.client() as client:
                await client.wait_ready(10)
                there.transport.stall()


async def test_draining_delivers_what_runs_and_takes_nothing_new() -> None:
    go = anyio.Event()

    async def slowly(exchange: OriginExchange) -> None:
        await go.wait()
        await plain(exchange, b"x" * 50_000)

    async with tunnel() as there, there.client(Answering(slowly)) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", f"/_token/{TOKEN}/")
        await eventually(lambda: client._agent.active)
        async with anyio.create_task_group() as group:
            group.start_soon(client.drain)
            await anyio.wait_all_tasks_blocked()
            late = await there.get("/", "Prefer: wait=0")
            assert late[0] == 503
            go.set()
            assert await caller.answer() == (200, b"x" * 50_000)
        await eventually(lambda: not there.server.sessions())


# -- what it tells -----------------------------------------------------------------------------


async def _until_closed(events: EventStream) -> list[object]:
    with anyio.fail_after(10):
        return [event async for event in events]


async def test_events_tell_the_whole_story() -> None:
    async with tunnel() as there:
        client = there.client()
        events = client.events()
        async with client:
            await client.wait_ready(10)
            there.transport.cut()
            await eventually(lambda: client.transport is None or there.server.sessions()[0].epoch == 2)
            await eventually(lambda: client.transport)
        story = [type(event).__name__ for event in await _until_closed(events)]
        assert story == ["Connected", "Lost", "Resumed", "Closed"]


async def test_a_failed_dial_is_told_with_its_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    limits = replace(QUICK, retry_first=1000.0, retry_cap=1000.0)
    client = TunnelClient("ws://x.test", token=TOKEN, origin=Answering(), transport=MemoryTransport(), limits=limits)
    events = client.events()
    async with client:
        with anyio.fail_after(15):
            event = await anext(events)
    assert isinstance(event, Retrying)
    assert 990 < event.delay <= 1000
    assert "no server" in event.reason


async def test_a_client_that_is_superseded_gives_up() -> None:
    async with tunnel() as there:
        old = there.client(instance="one-and-the-same")
        events = old.events()

        async def body() -> None:
            async with old:
                await old.wait_ready(10)
                async with there.client(instance="one-and-the-same") as new:
                    await new.wait_ready(10)
                    await anyio.sleep_forever()

        with pytest.raises(RegistrationRefused) as refusal, anyio.fail_after(10):
            await body()
        assert refusal.value.code == "superseded"
        story = [type(event).__name__ for event in await _until_closed(events)]
        assert story == ["Connected", "Lost", "Superseded", "Closed"]


async def test_a_session_that_the_server_forgot_is_replaced() -> None:
    async with tunnel() as there:
        client = there.client()
        events = client.events()
        async with client:
            await client.wait_ready(10)
            there.transport.reachable = False
            there.transport.cut()
            await eventually(lambda: not there.server.sessions()[0].attached)
            [session] = there.server.sessions()
            assert there.server._running is not None
            there.server._running.table.end(session, "for_the_test")
            there.transport.reachable = True
            await eventually(lambda: there.server.sessions() and there.server.sessions()[0].attached)
            assert await there.get() == (200, b"fine")
        story = [type(event).__name__ for event in await _until_closed(events)]
        assert [name for name in story if name != "Retrying"] == ["Connected", "Lost", "Connected", "Closed"]


# -- several -----------------------------------------------------------------------------------


async def test_two_clients_in_one_task_group() -> None:
    async with tunnel() as there, anyio.create_task_group() as group:
        clients = [there.client(), there.client(token=OTHER)]
        for client in clients:
            await group.start(client.run)
        for client in clients:
            await client.wait_ready(10)
        assert len(there.server.sessions()) == 2
        group.cancel_scope.cancel()


def test_without_files_no_tls_context_is_made_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> None:
        raise AssertionError("it takes longer than all the rest")

    monkeypatch.setattr(ssl, "create_default_context", make)
    TunnelClient("wss://x", token=TOKEN, origin=Answering())


class Asked(Exception):
    pass


class Own(Transport):
    """Dials by itself."""

    name = "own"

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        self.context = request.ssl_context
        raise Asked


async def test_a_transport_that_dials_by_itself_gets_the_context() -> None:
    own, context = Own(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = TunnelClient("wss://x", token=TOKEN, origin=Answering(), transport=own, ssl_context=context)
    events = client.events()
    async with anyio.create_task_group() as group:
        group.start_soon(client.run)
        with anyio.fail_after(10):
            await anext(events)
        group.cancel_scope.cancel()
    assert own.context is context


def test_mistakes_in_the_arguments() -> None:
    with pytest.raises(ConfigError, match="url"):
        TunnelClient("ftp://x", token=TOKEN, origin=Answering())
    with pytest.raises(ConfigError, match="origin"):
        TunnelClient("ws://x", token=TOKEN)
    for transports in ([], ["websocket", "websocket"], "nothing"):
        with pytest.raises(ConfigError, match="transport"):
            TunnelClient("ws://x", token=TOKEN, origin=Answering(), transport=transports)
    with pytest.raises(ConfigError, match="port"):
        TunnelClient("ws://x:99999", token=TOKEN, origin=Answering())


@pytest.mark.parametrize(
    ("argument", "value"),
    [("instance", "a b"), ("instance", "x" * 65), ("password", "x" * 2049)],
)
def test_what_no_handshake_can_carry_shows_at_once(argument: str, value: str) -> None:
    options: dict[str, Any] = {argument: value}
    with pytest.raises(ConfigError, match=rf"^{argument}: must be ") as error:
        TunnelClient("ws://x", token=TOKEN, origin=Answering(), **options)
    assert value not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "ws://user:s3cret@[::1",
        "ws://user:s3cret@a\u2100.test",
        "ws://user:s3cret@a.test:x",
        "ftp://user:s3cret@a.test",
        "ws://user:s3cret@a.test\n",
        "ws://user:s3cret@a.test\\b",
        "ws://user:s3cret@a.test/%20/s3cret",
        "ws://user:s3cret@a.test/?s3cret",
        "s3cret",
    ],
)
def test_a_secret_in_a_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url: ") as error:
        TunnelClient(url, token=TOKEN, origin=Answering())
    assert "s3cret" not in str(error.value)
