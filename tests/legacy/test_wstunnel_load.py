"""What both roles of WStunnel's wire have to carry: ten megabytes each way, a hundred at a time, and every failure
told truthfully."""

from __future__ import annotations

import hashlib
import json

import anyio
import pytest

from tunnelkit import Limits
from tunnelkit.errors import StreamBroken

from ..e2e.origin import pattern_digest
from ..e2e.tunnel import TOKEN, ask, exchange, gather, open_ends, problem_of
from .test_wstunnel_clients import echo, greet, read_to_the_end
from .test_wstunnel_servers import get, joined, post
from .wstunnel_peers import Asked, WStunnelClient, answer

pytestmark = pytest.mark.anyio

MB = 1_000_000
SIZES = pytest.mark.parametrize("size", [2 * MB, pytest.param(10 * MB, marks=pytest.mark.full)])


def body_of(size: int) -> bytes:
    return bytes(range(250)) * (size // 250)


@SIZES
async def test_megabytes_each_way_through_their_client(size: int) -> None:
    body = body_of(size)
    async with open_ends() as ends, WStunnelClient.joined(ends.port, echo) as client:
        status, _, back = await exchange(ends.port, "POST", ends.path("/up"), body=body)
        assert (status, hashlib.sha256(back).digest()) == (200, hashlib.sha256(body).digest())
        assert len(client.asked) == 1


@SIZES
async def test_megabytes_each_way_through_their_server(size: int) -> None:
    body = body_of(size)
    async with joined() as (server, _, _):
        answered = await server.ask(post("/sink", body))
        assert json.loads(answered.body) == {"size": size, "sha256": hashlib.sha256(body).hexdigest()}
        answered = await server.ask(get(f"/bytes/{size}"))
        assert hashlib.sha256(answered.body).hexdigest() == pattern_digest(size)
        assert answered.fragments[:2] == [102_400] * 2


async def test_a_hundred_at_a_time_through_their_client() -> None:
    waiting: list[Asked] = []

    async def when_all_are_there(client: WStunnelClient, asked: Asked) -> None:
        waiting.append(asked)
        if len(waiting) == 100:
            for each in reversed(waiting):
                await client.reply(each, answer("200 OK", each.line.encode()))

    async with open_ends() as ends, WStunnelClient.joined(ends.port, when_all_are_there) as client:
        answers = await gather(*[lambda number=number: ends.get(f"/{number}") for number in range(100)])
        assert [body for _, _, body in answers] == [f"GET /{number} HTTP/1.1".encode() for number in range(100)]
        assert len({asked.number for asked in client.asked}) == 100


async def test_a_hundred_at_a_time_through_their_server() -> None:
    async with joined() as (server, origin, _), anyio.create_task_group() as group:
        numbers = [await server.send(get(f"/hold/{place}")) for place in range(100)]
        await origin.until(lambda: len(origin.requests) == 100)
        for place in reversed(range(100)):
            origin.release(str(place))
        for place, number in enumerate(numbers):
            assert (await server.answered(number)).body == f"held {place}".encode()
        group.cancel_scope.cancel()


async def test_an_origin_that_is_down_is_told_by_both() -> None:
    down = answer("502 Bad Gateway", b"dial tcp 127.0.0.1:9: connect: connection refused")

    async def refuse(client: WStunnelClient, asked: Asked) -> None:
        await client.reply(asked, down)

    async with open_ends() as ends, WStunnelClient.joined(ends.port, refuse):
        status, _, body = await ends.get("/")
        assert (status, body) == (502, down.partition(b"\r\n\r\n")[2])
    async with joined(origin="http://127.0.0.1:1") as (server, _, _):
        answered = await server.ask(get("/", "Accept: application/json"))
        assert (answered.status, json.loads(answered.body)["code"]) == (502, "origin_unreachable")


async def test_a_client_that_never_answers_is_told_as_that_and_its_late_answer_is_nobodys() -> None:
    late: list[Asked] = []

    async def too_late(client: WStunnelClient, asked: Asked) -> None:
        if "/slow" in asked.line:
            late.append(asked)
        else:
            await greet(client, asked)

    limits = Limits(response_head_timeout=0.2)
    async with open_ends(limits=limits) as ends, WStunnelClient.joined(ends.port, too_late) as client:
        problem = problem_of(await ask(ends.port, ends.path("/slow")))
        assert (problem["status"], problem["code"]) == (504, "response_timeout")
        await client.reply(late[0], answer("200 OK", b"too late"))
        status, _, body = await ends.get("/")
        assert (status, body) == (200, b"hello GET / HTTP/1.1")


async def test_ids_go_round_and_leave_out_those_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wstunnel_wire.IDS", 4)

    async def all_but_the_first(client: WStunnelClient, asked: Asked) -> None:
        if "/held" not in asked.line:
            await greet(client, asked)

    async with open_ends() as ends, anyio.create_task_group() as group:
        async with WStunnelClient.joined(ends.port, all_but_the_first) as client:
            calls = [ends.call(group, "/held")]
            await client.until(lambda: client.asked)
            assert [(await ends.get("/"))[0] for _ in range(7)] == [200] * 7
            assert [asked.number for asked in client.asked] == [
                b"%04x" % number for number in (1, 2, 3, 0, 2, 3, 0, 2)
            ]
            calls += [ends.call(group, f"/held/{number}") for number in range(3)]
            await client.until(lambda: len(client.asked) == 11)
            problem = problem_of(await ask(ends.port, ends.path("/one-more")))
            assert (problem["status"], problem["code"]) == (503, "overloaded")
            calls[0].leave()  # its answer is owed all the same
            problem = problem_of(await ask(ends.port, ends.path("/one-more")))
            assert problem["code"] == "overloaded"
            await greet(client, client.asked[0])
            await client.until(lambda: len(client.asked) == 11)
            assert (await ends.get("/"))[0] == 200
        group.cancel_scope.cancel()


async def much(client: WStunnelClient, asked: Asked) -> None:
    """The kernel's and the streams' buffers hold some megabytes beside what is held for a caller."""
    sizes = {"GET /large HTTP/1.1": 24 * MB, "GET /long HTTP/1.1": 6 * MB}
    await client.reply(asked, answer("200 OK", b"x" * sizes[asked.line] if asked.line in sizes else b"small"))


async def test_a_caller_who_stops_reading_is_cut_and_the_tunnel_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wstunnel_responses.PATIENCE", 0.1)
    async with open_ends() as ends, WStunnelClient.joined(ends.port, much) as client, ends.caller() as stalled:
        await stalled.send(f"GET {ends.path('/large')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await client.until(lambda: client.asked)
        assert (await ends.get("/small"))[2] == b"small"
        await ends.pending(0)
        assert (await ends.get("/small"))[2] == b"small"
        with anyio.fail_after(20), pytest.raises(StreamBroken):
            await read_to_the_end(stalled)


async def test_a_caller_who_is_slow_gets_all_of_it_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wstunnel_responses.BACKLOG", 500_000)
    monkeypatch.setattr("tunnelkit.legacy.wstunnel_responses.PATIENCE", 60.0)
    async with open_ends() as ends, WStunnelClient.joined(ends.port, much) as client, ends.caller() as slow:
        await slow.send(f"GET {ends.path('/long')} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        await client.until(lambda: client.asked)
        size = 0
        for _ in range(3):  # between two pieces that it takes, others are served
            data = await slow.receive()
            size += len(data)
            assert (await ends.get("/small"))[2] == b"small"
        with anyio.fail_after(20):
            while data := await slow.receive():
                size += len(data)
        assert size > 6 * MB


async def test_a_tunnel_that_ends_without_a_close_frame_in_a_response_breaks_it_off() -> None:
    async def half(client: WStunnelClient, asked: Asked) -> None:
        await client.begin(asked, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")

    async with open_ends() as ends, ends.caller() as caller:
        async with WStunnelClient.joined(ends.port, half):
            await caller.send(f"GET /_token/{TOKEN}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            data = b""
            with anyio.fail_after(10):
                while not data.endswith(b"first"):
                    data += await caller.receive()
        with anyio.fail_after(10), pytest.raises(StreamBroken):
            await read_to_the_end(caller)
