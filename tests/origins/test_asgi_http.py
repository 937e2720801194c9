from __future__ import annotations

from typing import Any

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import AppError, CallerGone
from tunnelkit.heads import RequestHead, ResponseHead
from tunnelkit.origins.asgi_http import HttpCycle
from tunnelkit.origins.asgi_types import http_scope, websocket_scope
from tunnelkit.origins.conversation import Conversation
from tunnelkit.origins.facts import request_facts

from .fakes import FakeExchange, request

pytestmark = pytest.mark.anyio

PREFIX = "http.response."
START: dict[str, Any] = {"type": PREFIX + "start", "status": 200}
BODY: dict[str, Any] = {"type": PREFIX + "body"}
TRAILERS: dict[str, Any] = {"type": PREFIX + "trailers"}
HINT: dict[str, Any] = {"type": PREFIX + "early_hint", "links": []}


def cycle(exchange: FakeExchange) -> HttpCycle:
    return HttpCycle(Conversation(exchange), limits=DEFAULT_LIMITS)


async def test_the_http_scope() -> None:
    head = request(b"post", b"/a%20b%C3%BC?c=%20", (b"X-Many", b"1"), (b"x-many", b"2"))
    state = {"a": 1}
    scope = http_scope(head, request_facts(head), "/base", state)
    scope["state"]["b"] = 2
    assert state == {"a": 1}
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/base/a b\u00fc",
        "raw_path": b"/base/a%20b%C3%BC",
        "query_string": b"c=%20",
        "root_path": "/base",
        "headers": [(b"host", b"app.test"), (b"x-many", b"1"), (b"x-many", b"2")],
        "client": None,
        "server": ("app.test", 80),
        "state": {"a": 1, "b": 2},
        "extensions": {"http.response.early_hint": {}, "http.response.trailers": {}},
    }


async def test_the_websocket_scope() -> None:
    fields = [
        (b"Sec-WebSocket-Protocol", b"a, B"),
        (b"sec-websocket-protocol", b"c,"),
        (b"X-Forwarded-Proto", b"https"),
    ]
    head = RequestHead(b"GET", b"/", fields, b"1.0")
    scope = websocket_scope(head, request_facts(head), "", {})
    assert (scope["type"], scope["scheme"], scope["http_version"]) == ("websocket", "wss", "1.0")
    assert scope["subprotocols"] == ["a", "B", "c"]
    assert (scope["server"], scope["extensions"]) == (None, {"websocket.http.response": {}})
    assert "method" not in scope


async def test_a_body_then_the_disconnect() -> None:
    exchange = FakeExchange(has_body=True)
    app = cycle(exchange)
    exchange.give(b"a")
    assert await app.receive() == {"type": "http.request", "body": b"a", "more_body": True}
    exchange.give(b"b", end=True)
    assert await app.receive() == {"type": "http.request", "body": b"b", "more_body": False}
    with anyio.move_on_after(0.01) as waiting:
        await app.receive()
    assert waiting.cancelled_caught
    exchange.leave()
    assert await app.receive() == {"type": "http.disconnect"}
    with pytest.raises(CallerGone):
        await app.send(START)


async def test_no_body_and_a_complete_response() -> None:
    app = cycle(FakeExchange())
    assert await app.receive() == {"type": "http.request", "body": b"", "more_body": False}
    async with anyio.create_task_group() as group:
        group.start_soon(app.receive)  # returns with the response
        await anyio.wait_all_tasks_blocked()
        await app.send(START)
        await app.send(BODY)
    assert app.complete
    assert await app.receive() == {"type": "http.disconnect"}


async def test_a_caller_that_leaves_in_the_middle_of_its_body() -> None:
    exchange = FakeExchange(has_body=True)
    app = cycle(exchange)
    async with anyio.create_task_group() as group:
        group.start_soon(_leave, exchange)
        assert await app.receive() == {"type": "http.disconnect"}


async def _leave(exchange: FakeExchange) -> None:
    await anyio.wait_all_tasks_blocked()
    exchange.leave()


@pytest.mark.parametrize(
    "messages",
    [
        [BODY],
        [TRAILERS],
        [START, START],
        [START, TRAILERS],
        [START, {**BODY, "more_body": True}, START],
        [{**START, "trailers": True}, BODY, BODY],
        [{**START, "trailers": True}, BODY, HINT],
        [{"type": "http.response.push"}],
        [{"type": "websocket.send"}],
        [{**START, "headers": [b"x"]}],
        [{**START, "headers": [("x", "y")]}],
        [{**START, "status": None}],
        [START, {**BODY, "body": "text"}],
        [START, {**BODY, "body": None}],
        [START, {**BODY, "body": 3}],
    ],
    ids=str,
)
async def test_messages_out_of_turn(messages: list[dict[str, Any]]) -> None:
    app = cycle(FakeExchange())
    for message in messages[:-1]:
        await app.send(message)
    with pytest.raises(AppError):
        await app.send(messages[-1])
    assert not app.complete


async def test_all_that_may_come_and_what_comes_behind_the_end() -> None:
    exchange = FakeExchange()
    app = cycle(exchange)
    buffer = bytearray(b"ab")
    for message in [
        HINT,
        {**START, "trailers": True},
        HINT,
        {**BODY, "body": buffer, "more_body": True},
        HINT,
        {**BODY, "body": memoryview(b"c")},
        {**TRAILERS, "headers": [(b"x", b"1")], "more_trailers": True},
        {**TRAILERS, "headers": [[b"y", b"2"]]},
        BODY,
        START,
    ]:
        await app.send(message)
    buffer[:] = b"zz"
    statuses = [head.status for head in exchange.sent if isinstance(head, ResponseHead)]
    assert statuses == [103, 103, 200]
    assert exchange.body == b"abc"
    assert exchange.sent[-1] == [(b"x", b"1"), (b"y", b"2")]
