"""The client's supervisor against a transport that follows a script: what it dials, when, and with what in hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import anyio
import pytest

from tunnelkit import TunnelClient
from tunnelkit.config import DEFAULT_LIMITS, MIB, Limits
from tunnelkit.core.message import Kind, build, encode_bye
from tunnelkit.core.opening import ServerOpening
from tunnelkit.errors import AnsweredByOther, ConfigError, DialError, LocalProtocolError, RegistrationRefused
from tunnelkit.events import Lost, Retrying
from tunnelkit.handshake import Grant
from tunnelkit.proof import attach_tag
from tunnelkit.transports.base import Connection, DialRequest, Transport
from tunnelkit.transports.memory import MemoryConnection, memory_pair

from .tunnels import TOKEN, Answering

pytestmark = pytest.mark.anyio

KEY = bytes(range(32))
FAST = replace(DEFAULT_LIMITS, retry_first=0.01, retry_cap=0.04, retry_cap_resumable=0.02)

Step: TypeAlias = "Callable[[Script, DialRequest], Awaitable[tuple[Connection, Grant]]] | Exception"


class Script(Transport):
    """One step a dial; after the last, dials hang. ``requests`` are the dials, ``times`` when they were made."""

    name = "script"

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.requests: list[DialRequest] = []
        self.times: list[float] = []
        self.servers: list[MemoryConnection] = []
        self.sessions = 0
        self._news = anyio.Event()

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        self.requests.append(request)
        self.times.append(anyio.current_time())
        self._news.set()
        if not self.steps:
            await anyio.sleep_forever()
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return await step(self, request)

    async def dialled(self, count: int) -> DialRequest:
        """Wait for the ``count``-th dial."""
        with anyio.fail_after(10):
            while len(self.requests) < count:
                self._news = anyio.Event()
                await self._news.wait()
        return self.requests[count - 1]

    def grant(self, request: DialRequest) -> Grant:
        resume = request.handshake.resume
        if resume is None:
            self.sessions += 1
        limits = DEFAULT_LIMITS
        return Grant(
            session_id=resume.session_id if resume else f"n0-{self.sessions}",
            resume_key=None if resume else KEY,
            replay_window=limits.replay_limit,
            stream_floor=limits.stream_floor,
            max_streams=limits.max_streams,
            grace=limits.grace,
        )


async def granted(script: Script, request: DialRequest) -> tuple[Connection, Grant]:
    """Granted, and attached when the client asks for it."""
    client, server = memory_pair()
    grant = script.grant(request)
    script.servers.append(server)
    epoch = request.handshake.resume.epoch if request.handshake.resume else 1
    opening = ServerOpening(epoch, attach_tag(KEY, grant.session_id, epoch), DEFAULT_LIMITS)

    class Attaching(type(client)):  # type: ignore[misc]
        async def send(self, message: bytes) -> None:
            if opening.state.name == "OPENING":
                opening.receive_message(message)
                await server.send(opening.attach_message(0))
            else:
                await super().send(message)

    client.__class__ = Attaching
    return client, grant


async def silent(script: Script, request: DialRequest) -> tuple[Connection, Grant]:
    """Granted, and then nothing but a loss."""
    client, server = memory_pair()
    server.abort()
    return client, script.grant(request)


def client_of(script: Script, limits: Limits = FAST) -> TunnelClient:
    return TunnelClient("ws://x.test", token=TOKEN, origin=Answering(), transport=script, limits=limits)


NO_WAY = DialError("connect", "refused")


async def test_failed_dials_follow_each_other_with_growing_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    script = Script(*[NO_WAY] * 4)
    async with client_of(script):
        await script.dialled(5)
    gaps = [later - earlier for earlier, later in zip(script.times, script.times[1:], strict=False)]
    for gap, least in zip(gaps, [0.01, 0.02, 0.04, 0.04], strict=True):
        assert gap >= least * 0.99


async def test_a_server_that_says_when_to_come_back_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)
    script = Script(RegistrationRefused(503, "overloaded", "full", retry_after=0.1))
    async with client_of(script):
        await script.dialled(2)
    assert script.times[1] - script.times[0] >= 0.099


async def test_a_lost_connection_is_resumed_with_a_new_epoch_each_time() -> None:
    script = Script(granted, NO_WAY, granted)
    async with client_of(script) as client:
        await client.wait_ready(10)
        script.servers[0].abort()
        first, second = await script.dialled(2), await script.dialled(3)
        for number, request in enumerate((first, second), start=2):
            assert request.handshake.resume is not None
            assert request.handshake.resume.session_id == "n0-1"
            assert request.handshake.resume.epoch == number


async def test_an_unanswered_attach_is_resumed() -> None:
    """The server may serve the session already."""
    script = Script(silent, granted)
    async with client_of(script) as client:
        request = await script.dialled(2)
        assert request.handshake.resume is not None
        await client.wait_ready(10)


async def test_an_unknown_session_is_replaced_and_not_given_up() -> None:
    script = Script(granted, RegistrationRefused(410, "unknown_session", "gone"), granted)
    async with client_of(script) as client:
        await client.wait_ready(10)
        script.servers[0].abort()
        request = await script.dialled(3)
        assert request.handshake.resume is None
        assert request.handshake.gives_up is None


async def test_a_session_that_cannot_be_resumed_in_time_is_given_up() -> None:
    async def short(script: Script, request: DialRequest) -> tuple[Connection, Grant]:
        connection, grant = await granted(script, request)
        return connection, replace(grant, grace=0.05)

    script = Script(short, *[NO_WAY] * 100)
    limits = replace(FAST, retry_first=0.02)
    async with client_of(script, limits) as client:
        await client.wait_ready(10)
        script.servers[0].abort()
        with anyio.fail_after(10):
            count = 2
            while (await script.dialled(count)).handshake.resume is not None:
                count += 1
        farewell = script.requests[count - 1].handshake.gives_up
        assert farewell is not None
        assert farewell.session_id == "n0-1"
        assert client._supervisor._session is None


async def test_the_servers_bye_opens_a_fresh_session() -> None:
    script = Script(granted, granted)
    async with client_of(script) as client:
        await client.wait_ready(10)
        await script.servers[0].send(build(Kind.BYE, 1, 0, 0, (encode_bye("server_closing"),)))
        request = await script.dialled(2)
        assert request.handshake.resume is None
        assert request.handshake.gives_up is None


@pytest.mark.parametrize("code", ["superseded", "forbidden"])
async def test_a_final_bye_ends_the_client(code: str) -> None:
    script = Script(granted)
    client = client_of(script)

    async def body() -> None:
        async with client:
            await client.wait_ready(10)
            await script.servers[0].send(build(Kind.BYE, 1, 0, 0, (encode_bye(code),)))
            await anyio.sleep_forever()

    with pytest.raises(RegistrationRefused) as refusal, anyio.fail_after(10):
        await body()
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "error",
    [
        NO_WAY,
        DialError("tls", "handshake failure"),
        AnsweredByOther(404, "not a tunnel server"),
        RegistrationRefused(429, "too_many_clients", "full"),
    ],
)
async def test_everything_else_is_tried_again(error: Exception) -> None:
    script = Script(error, granted)
    client = client_of(script, replace(FAST, retry_tls=0.01))
    events = client.events()
    async with client:
        await client.wait_ready(10)
        with anyio.fail_after(10):
            event = await anext(events)
    assert isinstance(event, Retrying)
    assert str(error) in event.reason


@pytest.mark.parametrize("flaw", ["key", "window"])
async def test_a_grant_that_cannot_be(flaw: str) -> None:
    async def wrong(script: Script, request: DialRequest) -> tuple[Connection, Grant]:
        client, _ = memory_pair()
        grant = script.grant(request)
        return client, replace(grant, resume_key=None) if flaw == "key" else replace(grant, replay_window=1)

    script = Script(wrong, granted)
    async with client_of(script) as client:
        await client.wait_ready(10)
        assert len(script.requests) == 2


async def test_a_server_that_breaks_the_protocol_costs_the_session() -> None:
    script = Script(granted, granted)
    client = client_of(script)
    events = client.events()
    async with client:
        await client.wait_ready(10)
        await script.servers[0].send(b"nonsense" * 3)
        request = await script.dialled(2)
        assert request.handshake.resume is None
    lost = [event async for event in events if isinstance(event, Lost)]
    assert len(lost) == 1


async def test_closing_in_the_moment_of_attaching() -> None:
    async def closing(script: Script, request: DialRequest) -> tuple[Connection, Grant]:
        connection, grant = await granted(script, request)
        receive = connection.receive

        async def then_close() -> bytes:
            message = await receive()
            client.close()
            return message

        connection.receive = then_close  # type: ignore[method-assign]
        return connection, grant

    script = Script(closing)
    client = client_of(script)
    with anyio.fail_after(15):
        await client.run()
    assert script.servers[0]._in._late == []


@pytest.mark.parametrize(
    "lie",
    [
        {"stream_floor": 0},
        {"stream_floor": 2**40},  # would have us grant without end
        {"replay_window": 0},
        {"grace": float("inf")},
        {"grace": float("nan")},
        {"resume_key": b"short"},
        {"max_streams": 0},
    ],
    ids=str,
)
async def test_a_grant_that_cannot_be_is_a_failed_dial(lie: dict[str, Any]) -> None:
    async def lying(script: Script, request: DialRequest) -> tuple[Connection, Grant]:
        connection, grant = await granted(script, request)
        return connection, replace(grant, **lie)

    script = Script(lying, granted)
    async with client_of(script) as client:
        await client.wait_ready(10)  # by the second dial
        assert len(script.requests) == 2


async def test_an_absurd_number_of_streams_bounds_what_we_owe_all_the_same() -> None:
    async def generous(script: Script, request: DialRequest) -> tuple[Connection, Grant]:
        connection, grant = await granted(script, request)
        return connection, replace(grant, max_streams=10**9 - 1)

    async with client_of(Script(generous)) as client:
        await client.wait_ready(10)
        session = client._supervisor._session
        assert session is not None
        assert session.link.mux._receiver._may_owe < 200_000


async def test_a_higher_floor_than_ours_permits_fewer_streams() -> None:
    """The server's floor is law, the budget is ours: what gives way is how many streams there may be."""

    async def generous(script: Script, request: DialRequest) -> tuple[Connection, Grant]:
        connection, grant = await granted(script, request)
        return connection, replace(grant, stream_floor=MIB)

    script = Script(generous)
    async with client_of(script) as client:
        await client.wait_ready(10)
        assert len(script.requests) == 1


async def test_a_bug_in_a_transport_costs_a_dial_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Only the server's word ends a client. The traceback may be somebody else's, and is needed."""
    script = Script(
        ZeroDivisionError("what only the log tells"), ZeroDivisionError("again"), OSError("and new"), granted
    )
    client = client_of(script, replace(FAST, retry_tls=0.01))
    events = client.events()
    async with client:
        await client.wait_ready(10)
        with anyio.fail_after(10):
            event = await anext(events)
    assert isinstance(event, Retrying)
    assert event.reason == "the transport 'script' failed: ZeroDivisionError"
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [str(record.exc_info[1]) for record in told if record.exc_info] == ["what only the log tells", "and new"]
    assert len(told) == 2


@pytest.mark.parametrize("error", [ConfigError("url", "is none"), LocalProtocolError("a field that cannot be sent")])
async def test_a_mistake_of_the_user_ends_the_client(error: Exception) -> None:
    with pytest.raises(type(error)), anyio.fail_after(10):
        await client_of(Script(error)).run()
