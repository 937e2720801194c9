from __future__ import annotations

import anyio
import pytest

from tunnelkit.errors import CallerGone
from tunnelkit.heads import ResponseHead
from tunnelkit.origins.conversation import Conversation

from .fakes import FakeExchange, request

pytestmark = pytest.mark.anyio

OK = ResponseHead(200, [], b"OK")


async def test_the_body_piece_by_piece() -> None:
    exchange = FakeExchange(has_body=True)
    conversation = Conversation(exchange)
    exchange.give(b"a")
    assert await conversation.receive() == b"a"
    async with anyio.create_task_group() as group:
        group.start_soon(_give, exchange)
        assert await conversation.receive() == b"b"
    assert conversation.body_ended  # it came with the end
    assert await conversation.receive() == b""
    assert await conversation.receive() == b""


async def _give(exchange: FakeExchange) -> None:
    await anyio.wait_all_tasks_blocked()
    exchange.give(b"b", end=True)


async def test_the_end_alone() -> None:
    exchange = FakeExchange(has_body=True)
    conversation = Conversation(exchange)
    async with anyio.create_task_group() as group:
        group.start_soon(_end, exchange)
        assert await conversation.receive() == b""


async def _end(exchange: FakeExchange) -> None:
    await anyio.wait_all_tasks_blocked()
    exchange.give(end=True)


async def test_a_cancelled_receive_loses_nothing() -> None:
    exchange = FakeExchange(has_body=True)
    conversation = Conversation(exchange)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await conversation.receive()
    exchange.give(b"a")
    assert await conversation.receive() == b"a"


@pytest.mark.parametrize("has_body", [False, True])
async def test_continue_is_sent_when_somebody_waits_for_the_body(has_body: bool) -> None:
    exchange = FakeExchange(request(b"POST", b"/", (b"Expect", b"100-Continue")), has_body=has_body)
    conversation = Conversation(exchange)
    with anyio.move_on_after(0.01):
        await conversation.receive()
    with anyio.move_on_after(0.01):
        await conversation.receive()
    assert exchange.sent == ([ResponseHead(100, [], b"Continue")] if has_body else [])


async def test_no_continue_behind_the_final_head() -> None:
    exchange = FakeExchange(request(b"POST", b"/", (b"Expect", b"100-continue")), has_body=True)
    conversation = Conversation(exchange)
    conversation.send_head(OK)
    with anyio.move_on_after(0.01):
        await conversation.receive()
    assert exchange.sent == [OK]


async def test_what_is_sent_waits_for_room() -> None:
    exchange = FakeExchange(room=3)
    conversation = Conversation(exchange)
    conversation.send_head(OK)
    async with anyio.create_task_group() as group:
        group.start_soon(conversation.send, b"abcdefgh")
        await anyio.wait_all_tasks_blocked()
        assert exchange.body == b"abc"
        exchange.make_room(2)
        await anyio.wait_all_tasks_blocked()
        assert exchange.body == b"abcde"
        exchange.make_room(100)
    assert exchange.body == b"abcdefgh"
    conversation.send_end()
    assert exchange.sent[-1] == "end"
    assert conversation.over
    assert not conversation.gone


@pytest.mark.parametrize("how", ["leaves", "closes"])
async def test_whoever_waits_learns_that_nobody_is_there(how: str) -> None:
    exchange = FakeExchange(has_body=True, room=0)
    conversation = Conversation(exchange)
    conversation.send_head(OK)
    raised = 0

    async def fails(call: str) -> None:
        nonlocal raised
        with pytest.raises(CallerGone):
            await (conversation.receive() if call == "receive" else conversation.send(b"x"))
        raised += 1

    async with anyio.create_task_group() as group:
        for call in ("receive", "receive", "send"):
            group.start_soon(fails, call)
        group.start_soon(conversation.until_over)
        await anyio.wait_all_tasks_blocked()
        exchange.leave() if how == "leaves" else conversation.close()
    assert raised == 3
    with pytest.raises(CallerGone):
        conversation.send_head(OK)
    with pytest.raises(CallerGone):
        conversation.send_end()


async def test_on_gone_is_called_once_and_not_after_a_complete_answer() -> None:
    told: list[str] = []
    exchange = FakeExchange(has_body=True)
    Conversation(exchange, on_gone=lambda: told.append("gone"))
    exchange.give(b"a")
    assert told == []
    exchange.leave()
    exchange.leave()
    assert told == ["gone"]

    exchange = FakeExchange()
    conversation = Conversation(exchange, on_gone=lambda: told.append("gone"))
    conversation.send_head(OK)
    conversation.send_end()
    exchange.leave()
    conversation.close()
    assert told == ["gone"]
