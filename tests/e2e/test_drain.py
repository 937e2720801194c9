"""Ending in order: what runs finishes, nothing new begins (design, sections 9 and 10)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import anyio
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.gateway_exchange import GatewayExchange
from tunnelkit.net.dial import connect_tcp

from .origin import EARLY
from .tunnel import SHORT, Tunnel, ask, exchange, open_ends, open_tunnel, problem_of, read_head, receive_more, until

pytestmark = pytest.mark.anyio


async def test_a_draining_server_finishes_what_runs_and_takes_nothing_new() -> None:
    async with open_tunnel() as tunnel, anyio.create_task_group() as group:
        held = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        done = anyio.Event()

        async def drain() -> None:
            await tunnel.server.drain()
            done.set()

        group.start_soon(drain)
        await anyio.wait_all_tasks_blocked()
        answer = await ask(tunnel.port, tunnel.path("/echo"))
        problem = problem_of(answer)
        assert (problem["status"], problem["code"]) == (503, "draining")
        assert any(name == "Retry-After" for name, _ in answer[1])
        assert (await exchange(tunnel.port, "GET", "/_health_check"))[0] == 503
        assert not done.is_set()
        tunnel.origin.release("x")
        status, fields, _ = await held.answer()
        assert status == 200
        assert ("Connection", "close") in fields
        with anyio.fail_after(15):
            await done.wait()


async def test_a_draining_server_keeps_a_connection_without_request_no_longer() -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as stream:
        await stream.send(f"GET {tunnel.path('/echo')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await read_head(stream)
        await tunnel.server.drain()
        with anyio.fail_after(15):
            while await stream.receive():
                pass


async def test_a_slow_caller_gets_all_of_its_answer_before_a_drained_server_closes() -> None:
    size = 20_000_000
    received = 0
    async with anyio.create_task_group() as group, open_tunnel() as tunnel:
        stream = await anyio.connect_tcp("127.0.0.1", tunnel.port)
        await stream.send(f"GET {tunnel.path(f'/bytes/{size}')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await tunnel.origin.arrived(f"/bytes/{size}")
        while tunnel.server.snapshot().req_pending:  # up to where only buffers hold the rest
            received += len(await stream.receive(4096))

        async def read_slowly() -> None:
            nonlocal received
            async with stream:
                async for piece in stream:
                    received += len(piece)
                    await anyio.wait_all_tasks_blocked()

        group.start_soon(read_slowly)
        await tunnel.server.drain()
    assert received > size


async def test_a_drain_that_takes_too_long_returns() -> None:
    async with open_tunnel() as tunnel, anyio.create_task_group() as group:
        held = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        start = anyio.current_time()
        await tunnel.server.drain(0.3)
        assert anyio.current_time() - start >= 0.29  # uvloop's clock counts whole milliseconds
        assert not held.ended
        held.leave()


async def test_queued_requests_of_a_draining_server_wait_for_their_client() -> None:
    """They were taken before; but no client may register any more, so they end with their own clock."""
    async with open_ends(limits=replace(SHORT, queue_timeout=0.5)) as ends, anyio.create_task_group() as group:
        call = ends.call(group, "/echo")
        await ends.pending(1)
        with anyio.fail_after(15):
            await ends.server.drain()
        assert await call.status() in (503, 504)


async def test_a_draining_server_registers_nobody_and_clients_try_on() -> None:
    async with open_ends(limits=SHORT) as ends, anyio.create_task_group() as group, ends.join():
        held = ends.call(group, "/hold/x")
        await ends.origin.arrived("/hold/x")
        group.start_soon(ends.server.drain)
        async with ends.join(ready=False) as late:
            with pytest.raises(TimeoutError):
                await late.wait_ready(0.5)
        ends.origin.release("x")
        assert await held.status() == 200


async def test_closing_a_server_breaks_off_what_runs() -> None:
    async with open_tunnel() as tunnel:
        stream = await connect_tcp("127.0.0.1", tunnel.port, timeout=5)
        await stream.send(f"GET {tunnel.path('/half/100000')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        _, _, data = await read_head(stream)
    received = len(data)
    with anyio.fail_after(15), suppress(StreamBroken):
        while piece := await stream.receive():
            received += len(piece)
    stream.abort()
    assert received <= 50_000


async def test_a_drained_client_ends_its_session() -> None:
    async with open_tunnel() as tunnel:
        await tunnel.client.drain()
        await until(lambda: not tunnel.server.sessions())


async def test_a_drain_of_a_client_that_takes_too_long_returns() -> None:
    async with open_tunnel() as tunnel, anyio.create_task_group() as group:
        call = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        start = anyio.current_time()
        await tunnel.client.drain(0.3)
        assert anyio.current_time() - start >= 0.29  # uvloop's clock counts whole milliseconds
        assert await call.status() == 502


@pytest.mark.parametrize("size", [100_000, 20_000_000])
async def test_a_drained_client_delivers_whole_answers_to_slow_callers(size: int) -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as stream, anyio.create_task_group() as group:
        target = f"/bytes/{size}"
        await stream.send(f"GET {tunnel.path(target)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        _, _, data = await read_head(stream)
        group.start_soon(tunnel.client.drain)
        received = len(data)
        with anyio.fail_after(20):
            while received < size:
                piece = await stream.receive()
                assert piece
                received += len(piece)
                await anyio.lowlevel.checkpoint()


async def test_an_answer_that_came_whole_is_delivered_though_its_client_is_gone() -> None:
    size = 1_000_000  # above what sockets hold of it, and below what the tunnel does
    async with open_tunnel() as tunnel, tunnel.caller() as stream:
        await stream.send(f"GET {tunnel.path(f'/bytes/{size}')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await until(lambda: [each for each in exchanges(tunnel) if each._answer_ended])
        tunnel.client.close()
        await until(lambda: not tunnel.server.sessions())
        with anyio.fail_after(10):
            _, _, data = await read_head(stream)
            while len(data) < size:
                data += await receive_more(stream)


def exchanges(tunnel: Tunnel) -> list[GatewayExchange]:
    running = tunnel.server._running
    assert running is not None
    return list(running.gateway.active)


async def test_an_upgraded_connection_is_waited_for_and_then_cut() -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as stream:
        head = f"GET {tunnel.path('/upgrade')} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        await stream.send(head.encode())
        status, _, data = await read_head(stream)
        assert status == 101
        async with anyio.create_task_group() as group:
            group.start_soon(tunnel.server.drain, 1.5)
            await stream.send(b"still there")
            with anyio.fail_after(15):
                while data != EARLY + b"still there":
                    data += await receive_more(stream)


async def test_a_caller_that_sends_its_body_is_waited_for() -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as stream, anyio.create_task_group() as group:
        head = f"PUT {tunnel.path('/sink')} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"
        await stream.send(head.encode())
        await tunnel.origin.arrived("/sink")
        group.start_soon(tunnel.server.drain)
        await anyio.wait_all_tasks_blocked()
        await stream.send(b"world")
        with anyio.fail_after(15):
            assert (await read_head(stream))[0] == 200
