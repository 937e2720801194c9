"""What became of a request that failed: told truthfully, repeated only where that is safe (design, section 8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

import anyio
import pytest
from anyio.abc import TaskGroup

from tunnelkit import TunnelClient
from tunnelkit.errors import StreamBroken
from tunnelkit.net.stream import ByteStream
from tunnelkit.testing.relay import Relay, serve_relay

from ..nobodys_port import nobodys_port
from .origin import BLOCK
from .tunnel import (
    QUICK,
    SHORT,
    Call,
    Ends,
    ask,
    gather,
    open_ends,
    open_tunnel,
    problem_of,
    read_head,
    receive_more,
    until,
)

pytestmark = pytest.mark.anyio

JSON = {"Accept": "application/json"}


def kill(relay: Relay) -> None:
    """For the server, the client behind ``relay`` is dead from now on, and never comes back."""
    relay.refusing = True
    relay.cut()


async def ended(ends: Ends) -> None:
    """Wait for the end of grace."""
    await until(lambda: not ends.server.sessions())


# -- a client that is killed -------------------------------------------------------------------


async def test_an_unanswered_get_gets_502_at_the_end_of_grace() -> None:
    async with open_tunnel(relay=True, limits=QUICK) as tunnel, anyio.create_task_group() as group:
        assert tunnel.relay is not None
        call = tunnel.call(group, "/hold/x", fields=JSON)
        await tunnel.origin.arrived("/hold/x")
        start = anyio.current_time()
        kill(tunnel.relay)
        await tunnel.detached()
        problem = problem_of(await call.answer())
        assert anyio.current_time() - start > 0.9 * QUICK.grace
        assert (problem["status"], problem["code"], problem["outcome"]) == (502, "tunnel_lost", "sent")


async def test_the_outcome_stands_in_a_problem_of_plain_text_too() -> None:
    async with open_tunnel(relay=True, limits=QUICK) as tunnel, anyio.create_task_group() as group:
        assert tunnel.relay is not None
        call = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        kill(tunnel.relay)
        status, fields, body = await call.answer()
        assert status == 502
        assert ("Content-Type", "text/plain; charset=utf-8") in fields
        assert b"outcome: sent\n" in body
        assert ("Proxy-Status", 'tunnelkit; error=connection_terminated; details="tunnel_lost"') in fields


@pytest.mark.parametrize("target", ["/half/1000000", "/sse"])
async def test_a_partly_answered_request_is_broken_off(target: str) -> None:
    async with open_tunnel(relay=True, limits=QUICK) as tunnel, tunnel.caller() as stream:
        assert tunnel.relay is not None
        tunnel.origin.release("event0")
        await stream.send(f"GET {tunnel.path(target)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        _, _, data = await read_head(stream)
        while len(data) < 10:
            data += await receive_more(stream)
        kill(tunnel.relay)
        with anyio.fail_after(10):
            data += await receive_to_the_end(stream)
        assert len(data) <= 500_000
        assert b"0\r\n\r\n" not in data
        assert b"tunnel_lost" not in data


async def receive_to_the_end(stream: ByteStream) -> bytes:
    data = b""
    with suppress(StreamBroken):
        while piece := await stream.receive():
            data += piece
    return data


async def test_queued_requests_survive_the_end_of_grace_and_a_new_client_serves_them() -> None:
    async with open_tunnel(relay=True, limits=QUICK) as tunnel, anyio.create_task_group() as group:
        assert tunnel.relay is not None
        kill(tunnel.relay)
        await tunnel.detached()
        calls = [tunnel.call(group, f"/echo/{number}", method="POST", body=b"kept") for number in range(3)]
        await tunnel.pending(3)
        await ended(tunnel)
        assert not any(call.ended for call in calls)
        async with tunnel.join():
            for call in calls:
                assert await call.status() == 200
        assert sorted(tunnel.origin.targets()) == ["/echo/0", "/echo/1", "/echo/2"]


async def test_unsent_requests_move_to_a_new_client_before_the_end_of_grace() -> None:
    async with open_tunnel(relay=True, limits=SHORT) as tunnel, anyio.create_task_group() as group:
        assert tunnel.relay is not None
        kill(tunnel.relay)
        await tunnel.detached()
        call = tunnel.call(group, "/echo/a", method="DELETE")
        await tunnel.pending(1)
        async with tunnel.join():
            assert await call.status() == 200
        assert tunnel.origin.targets() == ["/echo/a"]


async def test_the_outcome_of_a_request_that_was_never_sent() -> None:
    async with open_tunnel(relay=True, limits=replace(QUICK, queue_timeout=0.3)) as tunnel:
        assert tunnel.relay is not None
        kill(tunnel.relay)
        await tunnel.detached()
        problem = problem_of(await ask(tunnel.port, tunnel.path("/echo")))
        assert (problem["status"], problem["outcome"]) == (504, "never_sent")
    assert tunnel.origin.targets() == []


# -- sent again --------------------------------------------------------------------------------


async def test_a_sent_get_is_repeated_once_on_another_session() -> None:
    async with AsyncExitStack() as stack:
        ends = await stack.enter_async_context(open_ends(limits=QUICK))
        relays = [await stack.enter_async_context(serve_relay(ends.port)) for _ in range(2)]
        group = await stack.enter_async_context(anyio.create_task_group())
        await stack.enter_async_context(ends.join(via=relays[0]))
        call = ends.call(group, "/hold/x", fields=JSON)
        await ends.origin.arrived("/hold/x")
        await stack.enter_async_context(ends.join(via=relays[1]))
        kill(relays[0])
        await ends.origin.until(lambda: ends.origin.targets() == ["/hold/x"] * 2)
        await stack.enter_async_context(ends.join())
        kill(relays[1])
        problem = problem_of(await call.answer())
        assert (problem["status"], problem["outcome"]) == (502, "sent")
        assert ends.origin.targets() == ["/hold/x"] * 2


async def test_a_repeated_get_is_answered() -> None:
    async with (
        open_tunnel(relay=True, limits=QUICK) as tunnel,
        anyio.create_task_group() as group,
    ):
        assert tunnel.relay is not None
        call = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        async with tunnel.join():
            kill(tunnel.relay)
            await tunnel.origin.until(lambda: tunnel.origin.targets() == ["/hold/x"] * 2)
            tunnel.origin.release("x")
            assert await call.status() == 200


@pytest.mark.parametrize(("method", "body"), [("POST", b""), ("POST", b"body"), ("GET", b"body"), ("DELETE", b"")])
async def test_a_request_that_may_not_be_made_twice_is_not_repeated(method: str, body: bytes) -> None:
    async with (
        open_tunnel(relay=True, limits=QUICK) as tunnel,
        anyio.create_task_group() as group,
    ):
        assert tunnel.relay is not None
        call = tunnel.call(group, "/hold/x", method=method, body=body, fields=JSON)
        await tunnel.origin.arrived("/hold/x")
        async with tunnel.join():
            kill(tunnel.relay)
            problem = problem_of(await call.answer())
        assert (problem["status"], problem["outcome"]) == (502, "sent")
        assert tunnel.origin.targets() == ["/hold/x"]


async def test_what_a_draining_client_refuses_goes_to_another() -> None:
    async with open_tunnel() as tunnel, anyio.create_task_group() as group:
        held = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        async with draining(tunnel.client), tunnel.join():
            calls = [tunnel.call(group, "/echo", method="POST", body=b"x" * 100) for _ in range(10)]
            for call in calls:
                assert await call.status() == 200
            assert not held.ended
            tunnel.origin.release("x")
            assert await held.status() == 200


async def test_what_the_only_client_refuses_waits_for_another() -> None:
    async with open_tunnel() as tunnel, anyio.create_task_group() as group:
        held = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        async with draining(tunnel.client):
            call = tunnel.call(group, "/echo", method="POST", body=b"x" * 100)
            await tunnel.pending(2)
            problem = problem_of(await ask(tunnel.port, tunnel.path("/echo"), Prefer="wait=0"))
            assert (problem["status"], problem["code"]) == (503, "no_client")
            async with tunnel.join():
                assert await call.status() == 200
            tunnel.origin.release("x")
            assert await held.status() == 200


async def test_a_draining_client_is_no_other_session_to_repeat_on() -> None:
    async with (
        open_tunnel(relay=True, limits=QUICK) as tunnel,
        anyio.create_task_group() as group,
    ):
        assert tunnel.relay is not None
        call = tunnel.call(group, "/hold/x", fields=JSON)
        await tunnel.origin.arrived("/hold/x")
        async with tunnel.join() as other:
            held = await held_by_the_idle_one(tunnel, group)
            async with draining(other):
                kill(tunnel.relay)
                problem = problem_of(await call.answer())
                assert (problem["code"], problem["outcome"]) == ("tunnel_lost", "sent")
                tunnel.origin.release("y")
                assert await held.status() == 200


async def held_by_the_idle_one(ends: Ends, group: TaskGroup) -> Call:
    """A request that runs on the client that has none, as the least loaded."""
    call = ends.call(group, "/hold/y")
    await ends.origin.arrived("/hold/y")
    return call


@asynccontextmanager
async def draining(client: TunnelClient) -> AsyncIterator[None]:
    """The client drains; when the context is left, until it is done."""
    async with anyio.create_task_group() as group:
        group.start_soon(client.drain)
        await anyio.wait_all_tasks_blocked()
        yield


# -- the caller --------------------------------------------------------------------------------


async def test_a_caller_that_leaves_cancels_at_the_origin() -> None:
    async with open_tunnel() as tunnel, anyio.create_task_group() as group:
        call = tunnel.call(group, "/hold/x")
        arrived = await tunnel.origin.arrived("/hold/x")
        call.leave()
        await tunnel.origin.until(lambda: arrived.gone)
        await tunnel.pending(0)


async def test_a_caller_that_leaves_in_the_middle_of_an_answer_cancels_at_the_origin() -> None:
    async with open_tunnel() as tunnel:
        async with tunnel.caller() as stream:
            await stream.send(f"GET {tunnel.path('/bytes/1000000000')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await read_head(stream)
            arrived = await tunnel.origin.arrived("/bytes/1000000000")
        await tunnel.origin.until(lambda: arrived.gone)


async def test_a_caller_that_leaves_in_the_middle_of_its_body_cancels_at_the_origin() -> None:
    async with open_tunnel() as tunnel:
        async with tunnel.caller() as stream:
            await stream.send(
                f"POST {tunnel.path('/sink')} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhello".encode()
            )
            arrived = await tunnel.origin.arrived("/sink")
            await tunnel.origin.until(lambda: arrived.body_size == 5)
        await tunnel.origin.until(lambda: arrived.gone)
        assert not arrived.body_complete


async def test_half_a_close_is_a_caller_gone() -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as stream:
        await stream.send(f"GET {tunnel.path('/hold/x')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        arrived = await tunnel.origin.arrived("/hold/x")
        await stream.send_eof()
        await tunnel.origin.until(lambda: arrived.gone)


async def test_half_a_close_is_answered_where_the_server_is_told_so() -> None:
    async with open_tunnel(server_options={"half_close": "answer"}) as tunnel, tunnel.caller() as stream:
        await stream.send(f"GET {tunnel.path('/hold/x')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await tunnel.origin.arrived("/hold/x")
        await stream.send_eof()
        tunnel.origin.release("x")
        assert (await read_head(stream))[0] == 200


# -- the origin --------------------------------------------------------------------------------


async def test_an_origin_that_refuses_is_502_without_its_address() -> None:
    with nobodys_port() as port:
        async with open_tunnel(client_options={"origin": f"http://127.0.0.1:{port}"}) as tunnel:
            answer = await ask(tunnel.port, tunnel.path("/x"))
            problem = problem_of(answer)
            assert (problem["status"], problem["code"]) == (502, "origin_unreachable")
            told = repr(answer)
            assert "127.0.0.1" not in told
            assert str(port) not in told


async def test_an_origin_that_breaks_off_breaks_the_callers_connection() -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as stream:
        await stream.send(f"GET {tunnel.path('/half/200000')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        _, _, data = await read_head(stream)
        tunnel.origin.release("half")
        with anyio.fail_after(10):
            data += await receive_to_the_end(stream)
        assert len(data) <= 100_000
        assert data == (BLOCK * 2)[: len(data)]


async def never_completed(tunnel: Ends) -> None:
    """Ask for ``/raw/x``, an incomplete answer. It is broken off, whether its head was on its way by then or not."""
    async with tunnel.caller() as stream:
        await stream.send(f"GET {tunnel.path('/raw/x')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        with anyio.fail_after(10):
            told = await receive_to_the_end(stream)
    assert told == b"" or told.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not told.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", id="short"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", id="chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", id="bad-chunk"),
    ],
)
async def test_an_incomplete_answer_is_broken_off_and_not_asked_for_again(answer: bytes) -> None:
    async with open_tunnel() as tunnel, tunnel.join():
        tunnel.origin.raw["x"] = answer
        await never_completed(tunnel)
        assert len(tunnel.origin.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="half-a-head"),
        pytest.param(b"\x00\xff\x16\x03garbage\r\n\r\n", id="garbage"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another-protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two-lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA" + b"a" * 100_000 + b": x\r\n\r\n", id="long-head"),
    ],
)
async def test_an_origin_that_answers_no_http_is_502(answer: bytes) -> None:
    async with open_tunnel() as tunnel:
        tunnel.origin.raw["x"] = answer
        problem = problem_of(await ask(tunnel.port, tunnel.path("/raw/x")))
        assert problem["status"] == 502
        # The client is told of nothing else by this, and serves on.
        assert (await tunnel.get("/status/200"))[0] == 200


async def test_what_follows_a_complete_answer_reaches_no_caller() -> None:
    async with open_tunnel() as tunnel:
        tunnel.origin.raw["x"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\nmore"
        for _ in range(3):
            assert (await tunnel.get("/raw/x"))[2] == b"hello"
        assert (await tunnel.get("/bytes/10"))[2] == BLOCK[:10]


async def test_an_answer_until_close_is_passed_on() -> None:
    async with open_tunnel() as tunnel:
        tunnel.origin.raw["x"] = b"HTTP/1.0 200 OK\r\n\r\nold but whole"
        assert (await tunnel.get("/raw/x"))[::2] == (200, b"old but whole")


async def test_failures_of_one_request_are_nobody_elses() -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as stream:
        tunnel.origin.raw["x"] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"
        await stream.send(f"GET {tunnel.path('/sse')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await read_head(stream)

        await gather(*[lambda: never_completed(tunnel)] * 10)
        for number in range(5):
            tunnel.origin.release(f"event{number}")
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += await receive_more(stream)
        assert data.count(b"data: ") == 5
