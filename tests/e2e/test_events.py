"""Events at both ends of a whole tunnel: what happens to sessions, and what becomes of each request."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from tunnelkit import RegistrationRefused, server_events
from tunnelkit import events as client_events
from tunnelkit.event_stream import EventStream, TunnelEvent
from tunnelkit.request_events import RequestFinished, RequestStarted

from .tunnel import SHORT, TOKEN, exchange, open_ends, open_tunnel

pytestmark = pytest.mark.anyio

PASSWORD = "a registration secret"


@pytest.fixture(autouse=True)
async def within_time() -> AsyncIterator[None]:
    with anyio.fail_after(20):
        yield


async def expect(events: EventStream, *kinds: type[TunnelEvent]) -> TunnelEvent:
    """The first of ``kinds``, whatever came before."""
    async for event in events:
        if isinstance(event, kinds):
            return event
    raise AssertionError("the events ended")


async def finished(events: EventStream) -> RequestFinished:
    event = await expect(events, RequestFinished)
    assert isinstance(event, RequestFinished)
    return event


async def test_registered_and_ended_are_told_at_the_server() -> None:
    async with open_ends() as ends:
        events = ends.server.events()
        async with ends.join() as client:
            event = await anext(events)
            assert isinstance(event, server_events.Registered)
            assert event.session == ends.server.sessions()[0].public_id
            assert event.transport == client.transport
            assert event.address.startswith("127.0.0.1")
            assert TOKEN not in repr(event)
        assert isinstance(await expect(events, server_events.Ended), server_events.Ended)
    assert isinstance(await expect(events, server_events.Stopped), server_events.Stopped)
    assert [event async for event in events] == []


@pytest.mark.ways("websocket", "streamed")  # where a cut is a loss
async def test_lost_and_resumed_are_told_at_both_ends() -> None:
    async with open_tunnel(relay=True, limits=SHORT) as tunnel:
        at_server, at_client = tunnel.server.events(), tunnel.client.events()
        assert tunnel.relay is not None
        tunnel.relay.cut()
        for events, module in ((at_server, server_events), (at_client, client_events)):
            assert await expect(events, module.Lost)
            resumed = await expect(events, module.Resumed)
            assert isinstance(resumed, (server_events.Resumed, client_events.Resumed))
            assert resumed.transport
            assert resumed.away >= 0


async def test_superseded_is_told_at_the_server() -> None:
    async with open_ends(policy="replace", passwords={TOKEN: PASSWORD}) as ends:
        events = ends.server.events()

        async def join_twice() -> None:
            async with ends.join(password=PASSWORD), ends.join(password=PASSWORD):
                await anyio.sleep_forever()  # until the first client's end cancels it

        with pytest.raises(RegistrationRefused):
            await join_twice()
        assert await expect(events, server_events.Superseded)


async def test_requests_are_told_at_both_ends_with_bytes_times_and_outcome() -> None:
    async with open_tunnel() as tunnel:
        ends = [tunnel.server.events(requests=True), tunnel.client.events(requests=True)]
        status, _, body = await exchange(tunnel.port, "POST", tunnel.path("/echo"), body=b"12345")
        assert status == 200
        for events in ends:
            started = await expect(events, RequestStarted)
            assert isinstance(started, RequestStarted)
            assert (started.method, started.target) == ("POST", "/echo")
            event = await finished(events)
            assert (event.number, event.status, event.outcome) == (started.number, 200, "answered")
            assert (event.received, event.sent) == (5, len(body))
            assert event.at >= started.at
            assert 0 <= event.seconds < 20
            assert TOKEN not in repr(started) + repr(event)


async def test_a_request_whose_caller_leaves_is_told_so() -> None:
    async with open_tunnel() as tunnel:
        events = tunnel.server.events(requests=True)
        async with anyio.create_task_group() as group:
            call = tunnel.call(group, "/hold/x")
            await expect(events, RequestStarted)
            call.leave()
            event = await finished(events)
        assert (event.status, event.outcome) == (None, "caller_gone")


async def test_nothing_is_made_of_requests_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_tunnel() as tunnel:
        events = tunnel.server.events(), tunnel.client.events()  # to sessions alone
        for module in ("gateway", "agent_events"):
            for name in ("RequestStarted", "RequestFinished"):
                monkeypatch.setattr(f"tunnelkit.{module}.{name}", None)
        assert (await tunnel.get("/echo"))[0] == 200
        assert len(events) == 2


async def test_listeners_to_lives_hear_nothing_of_requests() -> None:
    async with open_tunnel() as tunnel:
        events = tunnel.client.events()
        await tunnel.get("/")
        tunnel.client.close()
        assert not [event async for event in events if isinstance(event, (RequestStarted, RequestFinished))]
