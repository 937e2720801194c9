"""One request on one connection, without a tunnel: a test plays the caller and wsp's client."""

from __future__ import annotations

import json

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.core.allowlist import parse_x_host
from tunnelkit.errors import ConnectionLost, HeadError, RemoteProtocolError
from tunnelkit.heads import ResponseHead
from tunnelkit.legacy.fragments import FragmentSocket
from tunnelkit.legacy.wsp_server_call import Call
from tunnelkit.net.memory import memory_pair

from ..origins.fakes import FakeExchange, request
from .wsp_client_peer import WspConnection

pytestmark = pytest.mark.anyio

ORIGIN = parse_x_host(b"http://site.test")


class Both:
    """A call under way, and the client that answers it."""

    def __init__(self, exchange: FakeExchange) -> None:
        near, self.far = memory_pair()
        self.socket = FragmentSocket(near, client=False)
        self.client = WspConnection(self.far, b"", lambda: None)
        self.exchange = exchange
        self.call = Call(exchange, ORIGIN, DEFAULT_LIMITS)
        self.fit: bool | None = None

    async def carry(self) -> None:
        self.fit = await self.call.carry(self.socket)


async def test_an_answer_passes_as_there_is_room() -> None:
    both = Both(FakeExchange(room=4))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.carry)
        asked = await both.client.asked()
        assert asked.url == "http://site.test/"
        assert await both.client.body() == b""
        await both.client.reply(b"abcdefg", header={"A": ["b"]})
        with anyio.fail_after(10):
            while both.exchange.body != b"abcd":
                await anyio.wait_all_tasks_blocked()
        both.exchange.make_room(100)
    assert both.exchange.sent[0] == ResponseHead(200, [(b"A", b"b"), (b"Content-Length", b"7")], b"OK")
    assert (both.exchange.body, both.exchange.sent[-1]) == (b"abcdefg", "end")
    assert (both.fit, both.call.told, both.call.sent, both.call.failure) == (True, True, True, None)


async def test_a_body_goes_out_as_it_comes() -> None:
    both = Both(FakeExchange(request(b"POST"), has_body=True))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.carry)
        assert (await both.client.asked()).length == -1
        both.exchange.give(b"one")
        assert await both.client.receive() == (b"one", False)
        both.exchange.give(b"two", end=True)
        assert await both.client.receive() == (b"two", False)
        assert await both.client.receive() == (b"", True)
        await both.client.reply()
    assert both.fit


@pytest.mark.parametrize("early", [False, True])
async def test_an_expectation_is_met_unless_there_is_an_answer_already(early: bool) -> None:
    expecting = request(b"POST", b"/", (b"Expect", b"100-continue"))
    both = Both(FakeExchange(expecting, has_body=True))
    if early:
        await both.client.reply(status=417)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.carry)
        await both.client.asked()
        if not early:
            await both.client.reply()
    statuses = [head.status for head in both.exchange.sent if isinstance(head, ResponseHead)]
    assert statuses == ([417] if early else [100, 200])


async def test_for_a_caller_that_left_before_nothing_is_sent() -> None:
    both = Both(FakeExchange())
    both.exchange.leave()
    await both.carry()
    assert (both.fit, both.call.sent, both.call.told) == (True, False, True)
    assert both.far.receive_nowait() is None


async def test_a_caller_that_leaves_costs_the_connection() -> None:
    both = Both(FakeExchange())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.carry)
        await both.client.asked()
        both.exchange.leave()
    assert (both.fit, both.call.sent, both.call.told) == (False, True, True)


async def test_a_connection_that_takes_nothing_was_sent_nothing() -> None:
    both = Both(FakeExchange())
    both.far.abort()
    await both.carry()
    assert (both.fit, both.call.sent, both.call.told) == (False, False, False)
    assert isinstance(both.call.failure, ConnectionLost)


async def test_a_connection_that_is_lost_before_the_answer() -> None:
    both = Both(FakeExchange(request(b"POST"), has_body=True))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.carry)
        await both.client.asked()
        both.client.drop()
    assert (both.fit, both.call.sent, both.call.told) == (False, True, False)
    assert isinstance(both.call.failure, ConnectionLost)


async def test_an_answer_before_the_body_has_come_spoils_the_connection() -> None:
    both = Both(FakeExchange(request(b"POST"), has_body=True))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.carry)
        await both.client.asked()
        await both.client.reply(status=413)
    assert (both.fit, both.call.told) == (False, True)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("nonsense", RemoteProtocolError),
        (json.dumps({"StatusCode": 99, "Header": None, "ContentLength": 0}), HeadError),
    ],
)
async def test_what_is_no_answer(text: str, failure: type[Exception]) -> None:
    both = Both(FakeExchange())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.carry)
        await both.client.asked()
        await both.client.text(text)
    assert (both.fit, both.call.told) == (False, False)
    assert isinstance(both.call.failure, failure)


async def test_the_clients_own_words_become_a_problem() -> None:
    both = Both(FakeExchange())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.carry)
        await both.client.asked()
        await both.client.reply(b"Destination is forbidden", status=527)
    assert both.exchange.sent == [(403, "destination_refused")]
    assert both.fit


async def test_a_request_that_no_url_names() -> None:
    with pytest.raises(HeadError):
        Both(FakeExchange(request(b"OPTIONS", b"*")))
