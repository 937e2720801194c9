"""A client's events: every listener gets all from its beginning on, bounded, up to the last one."""

from __future__ import annotations

import anyio
import pytest

from tunnelkit.event_stream import EVENTS_KEPT, Events
from tunnelkit.events import Closed, Connected, Lost, Missed, RequestFinished

pytestmark = pytest.mark.anyio


async def test_a_listener_gets_what_comes_after_it() -> None:
    events = Events()
    events.tell(Connected(transport="websocket"))
    listener = events.listen()
    events.tell(Lost(reason="cut"))
    events.tell(Closed(reason="done"))
    events.tell(Lost(reason="never seen: Closed is the last"))
    assert [event async for event in listener] == [Lost(reason="cut"), Closed(reason="done")]
    assert [event async for event in listener] == []


async def test_a_late_listener_gets_the_end_alone() -> None:
    events = Events()
    events.tell(Closed(reason="done"))
    assert [event async for event in events.listen()] == [Closed(reason="done")]


async def test_waiting_and_cancelling_lose_nothing() -> None:
    events = Events()
    listener = events.listen()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anext(listener)
    async with anyio.create_task_group() as group:
        seen: list[object] = []

        async def listen() -> None:
            seen.append(await anext(listener))

        group.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        events.tell(Lost(reason="cut"))
    assert seen == [Lost(reason="cut")]


async def test_two_tasks_may_share_a_listener() -> None:
    """Each event goes to one of them, and the end to both."""
    events = Events()
    listener = events.listen()
    seen: list[object] = []

    async def listen() -> None:
        seen.extend([event async for event in listener])

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            group.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            for event in (Lost(reason="one"), Lost(reason="two"), Closed(reason="done")):
                events.tell(event)
                await anyio.wait_all_tasks_blocked()
    assert len(seen) == 3


async def test_a_listener_that_lags_loses_the_oldest() -> None:
    events = Events()
    listener = events.listen()
    for number in range(EVENTS_KEPT + 5):
        events.tell(Lost(reason=str(number)))
    assert await anext(listener) == Missed(count=5)
    assert await anext(listener) == Lost(reason="5")


async def test_requests_are_told_to_those_who_asked() -> None:
    events = Events()
    lives, requests = events.listen(), events.listen(requests=True)
    assert events.of_requests
    finished = RequestFinished(
        number=1, method="GET", target="/", outcome="answered", received=0, sent=1, at=1.0, seconds=0.1
    )
    events.tell_request(finished)
    events.tell(Closed(reason="done"))
    assert [event async for event in requests] == [finished, Closed(reason="done")]
    assert [event async for event in lives] == [Closed(reason="done")]
    del requests
    heard = [events.of_requests]
    events.tell_request(finished)  # which nobody hears, and so it is the last
    heard.append(events.of_requests)
    events.listen(requests=True)
    heard.append(events.of_requests)
    assert heard == [True, False, True]


async def test_listeners_that_nobody_holds_cost_nothing() -> None:
    events = Events()
    listener = events.listen()
    assert len(events._listeners) == 1
    del listener
    events.tell(Lost(reason="cut"))
    assert len(events._listeners) == 0
