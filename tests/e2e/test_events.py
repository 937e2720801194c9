"""Events at both ends of a whole tunnel: what happens to sessions, and what becomes of each request."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from tunnelkit import RegistrationRefused, TunnelClient, server_events
from tunnelkit import events as client_events
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import StreamBroken
from tunnelkit.event_stream import EventStream, Missed, TunnelEvent
from tunnelkit.request_events import RequestFinished, RequestStarted
from tunnelkit.testing import serve_middlebox

from .tunnel import SHORT, TOKEN, exchange, open_ends, open_tunnel, read_head, receive_more

pytestmark = pytest.mark.anyio

PASSWORD = "a registration secret"


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


async def test_connected_and_closed_are_told_at_the_client() -> None:
    async with open_ends() as ends:
        client = TunnelClient(ends.server.url, token=TOKEN, origin=ends.origin.url)
        events = client.events()
        async with client:
            assert await anext(events) == client_events.Connected(transport="websocket")
        assert [event async for event in events] == [client_events.Closed(reason="closed")]


async def test_retrying_is_told_at_the_client() -> None:
    async with open_ends() as ends:
        url = ends.server.url
    client = TunnelClient(url, token=TOKEN, origin="http://127.0.0.1:1")
    events = client.events()
    async with client:
        event = await anext(events)
        assert isinstance(event, client_events.Retrying)
        assert event.delay >= 0
        assert "refused" in event.reason


@pytest.mark.ways("auto")
async def test_moved_is_told_at_both_ends() -> None:
    """A middlebox lets no websocket through, and then does."""
    limits = replace(DEFAULT_LIMITS, probe_first=0.05, probe_cap=0.1)
    async with open_ends(limits=limits) as ends, serve_middlebox(ends.port) as box:
        box.refuse_upgrades = 403
        async with ends.join(via=box.relay) as client:
            assert client.transport == "longpoll"
            at_server, at_client = ends.server.events(), client.events()
            (session,) = ends.server.sessions()
            box.refuse_upgrades = 0
            event = await expect(at_server, server_events.Moved)
            assert isinstance(event, server_events.Moved)
            assert (event.transport, event.before, event.session) == ("websocket", "longpoll", session.public_id)
            moved = await expect(at_client, client_events.Moved)
            assert isinstance(moved, client_events.Moved)
            assert moved.transport == "websocket"
            assert moved.reason
            assert (await ends.get("/echo"))[0] == 200


async def test_superseded_is_told_at_both_ends() -> None:
    async with open_ends(policy="replace", passwords={TOKEN: PASSWORD}) as ends:
        at_server = ends.server.events()
        at_client: list[EventStream] = []

        async def join_twice() -> None:
            async with ends.join(password=PASSWORD) as first:
                at_client.append(first.events())
                async with ends.join(password=PASSWORD):
                    await anyio.sleep_forever()  # until the first client's end cancels it

        with pytest.raises(RegistrationRefused):
            await join_twice()
        assert await expect(at_server, server_events.Superseded)
        assert await expect(at_client[0], client_events.Superseded) == client_events.Superseded(code="superseded")
        closed = await anext(at_client[0])
        assert isinstance(closed, client_events.Closed)
        assert "superseded" in closed.reason
        assert [event async for event in at_client[0]] == []


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


async def test_a_request_that_is_never_sent_is_told_so_at_the_server() -> None:
    async with open_ends() as ends:
        async with ends.join():
            pass
        events = ends.server.events(requests=True)
        assert (await ends.get("/echo", Prefer="wait=0"))[0] == 503
        event = await finished(events)
        assert (event.status, event.outcome, event.received) == (503, "never_sent", 0)


async def test_an_answer_that_breaks_off_is_told_at_both_ends() -> None:
    async with open_tunnel() as tunnel:
        ends = [tunnel.server.events(requests=True), tunnel.client.events(requests=True)]
        async with tunnel.caller() as caller:
            await caller.send(f"GET {tunnel.path('/half/1000')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            _, _, body = await read_head(caller)
            while len(body) < 500:
                body += await receive_more(caller)
            tunnel.origin.release("half")
            with pytest.raises((AssertionError, StreamBroken)):
                await receive_more(caller)
        for events in ends:
            event = await finished(events)
            assert (event.status, event.outcome, event.sent) == (200, "partly", 500)


async def test_nothing_is_made_of_requests_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_tunnel() as tunnel:
        events = tunnel.server.events(), tunnel.client.events()  # to sessions alone
        for module in ("gateway", "agent_events"):
            for name in ("RequestStarted", "RequestFinished"):
                monkeypatch.setattr(f"tunnelkit.{module}.{name}", None)
        assert (await tunnel.get("/echo"))[0] == 200
        assert len(events) == 2


@pytest.mark.parametrize("end", ["server", "client"])
async def test_a_listener_that_lags_is_told_how_many_it_missed(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.event_stream.REQUEST_EVENTS_KEPT", 4)
    async with open_tunnel() as tunnel:
        events = (tunnel.server if end == "server" else tunnel.client).events(requests=True)
        ended = (tunnel.server if end == "server" else tunnel.client).events(requests=True)
        for _ in range(4):
            await tunnel.get("/")
            await finished(ended)
        missed = await anext(events)
        assert missed == Missed(count=4)
        assert [type(await anext(events)) for _ in range(4)] == [RequestStarted, RequestFinished] * 2


async def test_listeners_to_lives_hear_nothing_of_requests() -> None:
    async with open_tunnel() as tunnel:
        events = tunnel.client.events()
        await tunnel.get("/")
        tunnel.client.close()
        assert not [event async for event in events if isinstance(event, (RequestStarted, RequestFinished))]
