"""One connection of wsp's client, from joining the pool to its end."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.core.allowlist import parse_x_host
from tunnelkit.errors import StreamBroken
from tunnelkit.legacy import wsp_server_connection
from tunnelkit.legacy.fragments import FragmentSocket
from tunnelkit.legacy.wsp_server_call import Call
from tunnelkit.legacy.wsp_server_connection import PoolConnection
from tunnelkit.legacy.wsp_server_pool import Place, Pool
from tunnelkit.net.memory import memory_pair

from ..origins.fakes import FakeExchange
from .wsp_client_peer import WspConnection

pytestmark = pytest.mark.anyio

ORIGIN = parse_x_host(b"http://site.test")
SOON = replace(DEFAULT_LIMITS, ping_idle_silence=0.05, ping_idle_timeout=0.05)


class Joined:
    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        near, far = memory_pair()
        self.limits = limits
        self.pool: Pool[PoolConnection] = Pool(1)
        self.connection = PoolConnection(FragmentSocket(near, client=False), self.pool, limits)
        self.client = WspConnection(far, b"", lambda: None)

    async def joined(self) -> None:
        with anyio.fail_after(10):
            while not len(self.pool):
                await checkpoint()

    def call(self) -> Call:
        return Call(FakeExchange(), ORIGIN, self.limits)

    def take(self) -> PoolConnection | None:
        place: Place[PoolConnection] = Place(lambda: None)
        self.pool.stand(place)
        return place.connection


async def test_it_carries_one_request_after_the_other() -> None:
    both = Joined()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.connection.run)
        for number in range(3):
            await both.joined()
            assert both.take() is both.connection
            call = both.call()
            tasks.start_soon(both.connection.ask, call)
            await both.client.asked()
            await both.client.body()
            await both.client.reply(b"%d" % number)
            with anyio.fail_after(10):
                await call.ended.wait()
            assert call.told
        both.connection.close()
    assert both.pool.closed


async def test_a_close_is_said() -> None:
    both = Joined()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.connection.run)
        await both.joined()
        both.connection.close()
        with pytest.raises(StreamBroken, match="goodbye"):
            await both.client.receive()


async def test_who_asks_one_that_ended_meanwhile_does_not_wait() -> None:
    both = Joined()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.connection.run)
        await both.joined()
        assert both.take() is both.connection
        both.client.drop()
    call = both.call()
    with anyio.fail_after(10):
        await both.connection.ask(call)
    assert (call.sent, call.told) == (False, False)


async def test_a_call_whose_connection_is_closed_is_over() -> None:
    both = Joined()
    call = both.call()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.connection.run)
        await both.joined()
        both.take()
        tasks.start_soon(both.connection.ask, call)
        await both.client.asked()
        both.connection.close()
    assert call.ended.is_set()
    assert (call.sent, call.told) == (True, False)


async def test_an_idle_client_that_answers_no_ping_is_lost() -> None:
    both = Joined(SOON)
    with anyio.fail_after(10):
        await both.connection.run()  # nobody reads at the other end
    assert both.pool.closed


async def test_a_client_that_is_silent_in_the_middle_of_a_request_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsp_server_connection, "BUSY_SILENCE", 0.1)
    both = Joined(replace(SOON, ping_idle_timeout=10.0))
    call = both.call()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both.connection.run)
        await both.joined()
        both.take()
        tasks.start_soon(both.connection.ask, call)
        with anyio.fail_after(30):
            await call.ended.wait()
    assert (call.sent, call.told) == (True, False)
