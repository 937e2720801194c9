from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from tunnelkit import AsgiOrigin
from tunnelkit.heads import ResponseHead

from .fakes import FakeExchange, request

pytestmark = pytest.mark.anyio

WEBSOCKET = [
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", b"AAAAAAAAAAAAAAAAAAAAAA=="),
]


async def test_an_app_that_goes_on_behind_its_end_is_cancelled() -> None:
    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body"})

    exchange = FakeExchange()
    with anyio.fail_after(10):
        await AsgiOrigin(deaf).serve(exchange)
    assert exchange.sent[1:] == ["end"]


@pytest.mark.parametrize("does", ["receives", "sends"])
async def test_an_app_that_will_not_hear_who_left_is_cancelled(does: str) -> None:
    calls = 0

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        while True:
            calls += 1
            if does == "receives":
                await receive()
            else:
                with pytest.raises(OSError, match="left"):
                    await send({"type": "http.response.start", "status": 200})

    exchange = FakeExchange()
    exchange.leave()
    with anyio.fail_after(10):
        await AsgiOrigin(deaf).serve(exchange)
    assert 1000 < calls < 1010
    assert not exchange.sent


async def test_a_failure_behind_the_callers_leave_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        raise ValueError("no more to read")

    exchange = FakeExchange()
    async with anyio.create_task_group() as group:
        group.start_soon(AsgiOrigin(app).serve, exchange)
        await anyio.wait_all_tasks_blocked()
        exchange.leave()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_failure_behind_the_end_of_a_websocket_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["code"] == 1006
        raise ValueError("no more to read")

    exchange = FakeExchange(request(b"GET", b"/", *WEBSOCKET))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(AsgiOrigin(app).serve, exchange)
            await anyio.wait_all_tasks_blocked()
            exchange.leave()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_caller_that_leaves_before_its_websocket_is_accepted() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        assert await receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        with pytest.raises(OSError, match="left"):
            await send({"type": "websocket.accept"})

    exchange = FakeExchange(request(b"GET", b"/", *WEBSOCKET))
    async with anyio.create_task_group() as group:
        group.start_soon(AsgiOrigin(app).serve, exchange)
        await anyio.wait_all_tasks_blocked()
        exchange.leave()
    assert not exchange.sent


async def test_a_websocket_is_opened_by_get() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was called")

    exchange = FakeExchange(request(b"POST", b"/", *WEBSOCKET))
    await AsgiOrigin(app).serve(exchange)
    assert exchange.sent == [
        ResponseHead(405, [(b"Allow", b"GET"), (b"Content-Length", b"0")], b"Method Not Allowed"),
        "end",
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.accept", "subprotocol": "other"},
        {"type": "websocket.accept", "headers": [(b"sec-websocket-protocol", b"other")]},
        {"type": "websocket.accept", "headers": [(b"x", b"a\nb")]},
        {"type": "websocket.send", "text": "too early"},
        {"type": "websocket.close.now"},
    ],
    ids=str,
)
async def test_what_may_not_open_a_websocket(message: dict[str, Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(message)

    exchange = FakeExchange(request(b"GET", b"/", *WEBSOCKET))
    await AsgiOrigin(app).serve(exchange)
    assert exchange.sent == [(502, "origin_failed")]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.accept"},
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": "a", "bytes": b"b"},
        {"type": "websocket.send", "text": b"a"},
        {"type": "websocket.close", "code": 1006},
        {"type": "websocket.close", "code": "1000"},
        {"type": "websocket.http.response.start", "status": 200},
    ],
    ids=str,
)
async def test_what_may_not_be_sent_on_a_websocket(message: dict[str, Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send(message)

    exchange = FakeExchange(request(b"GET", b"/", *WEBSOCKET))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(AsgiOrigin(app).serve, exchange)
            while exchange.spliced is None:
                await anyio.lowlevel.checkpoint()
            assert await exchange.spliced.receive() == b"\x88\x02\x03\xf3"  # 1011
            exchange.leave()
    assert isinstance(exchange.sent[0], ResponseHead)


async def test_a_denial_that_is_not_finished_is_broken_off() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        prefix = "websocket.http.response."
        await send({"type": prefix + "start", "status": 401})
        await send({"type": prefix + "body", "body": b"half", "more_body": True})

    exchange = FakeExchange(request(b"GET", b"/", *WEBSOCKET))
    await AsgiOrigin(app).serve(exchange)
    assert exchange.gone
    assert exchange.body == b"half"
