"""wsp's deployed clients at a tunnel server of ours."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup

from tunnelkit import ConfigError, Rule, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import StreamBroken
from tunnelkit.legacy.wsp import WspTransport
from tunnelkit.net.stream import ByteStream

from ..e2e.hosts import HOSTS, hosted
from ..e2e.processes import Process
from ..e2e.tunnel import TOKEN, Answer, Call, Ends, exchange, open_ends, problem_of, until
from .wsp_client_peer import Asked, WspClient, WspConnection

pytestmark = pytest.mark.anyio

KEY = "ThisIsASecret"
SITE = "http://127.0.0.1:27181"  # nobody connects to it: the client is played
HEADER = {"Content-Type": ["text/plain"], "Set-Cookie": ["a=1", "b=2"]}


@asynccontextmanager
async def serving(*, path: str = "/register", **options: Any) -> AsyncIterator[Ends]:
    limits = options.setdefault("limits", DEFAULT_LIMITS)
    transports = ("websocket", WspTransport(wsp_token=TOKEN, path=path, limits=limits))
    async with open_ends(transports=transports, wsp_token=TOKEN, **options) as ends:
        yield ends


async def fetch(ends: Ends, path: str = "/", *, method: str = "GET", body: bytes = b"", **fields: str) -> Answer:
    given = {"X-PROXY-DESTINATION": SITE + path, "Accept": "application/json"} | fields
    with anyio.fail_after(30):
        return await exchange(ends.port, method, "/request", fields=given, body=body)


def refusal(answer: Answer) -> tuple[int, str]:
    return answer[0], problem_of(answer)["code"]


async def greet(connection: WspConnection, asked: Asked) -> None:
    await connection.body()
    await connection.reply(f"hello {asked.method} {asked.url}".encode(), header=HEADER)


async def echo(connection: WspConnection, asked: Asked) -> None:
    await connection.reply(await connection.body())


# -- pages -------------------------------------------------------------------------------------


async def test_a_page_comes_back_with_its_fields() -> None:
    async with serving() as ends, WspClient.running(ends.port, greet) as client:
        status, fields, body = await fetch(ends, "/a%2Fb?x=1")
        assert (status, body) == (200, f"hello GET {SITE}/a%2Fb?x=1".encode())
        assert [value for name, value in fields if name == "Set-Cookie"] == ["a=1", "b=2"]
        assert ("Content-Length", str(len(body))) in fields
        (asked,) = client.asked
        assert asked.length == 0
        assert not {"Host", "X-Proxy-Destination", "X-Token", "Connection"} & asked.header.keys()
        (session,) = ends.server.sessions()
        assert (session.transport, session.client_version) == ("wsp", "wsp")


async def test_a_destination_may_also_be_named_by_x_host() -> None:
    async with serving() as ends, WspClient.running(ends.port, greet):
        assert (await ends.get("/x", X_Host=SITE))[2] == f"hello GET {SITE}/x".encode()
        assert refusal(await ends.get("/x", Accept="application/json")) == (403, "x_host_refused")


async def test_the_servers_rules_judge_first() -> None:
    async with serving(blacklist=[Rule(url=".*/forbidden")]) as ends, WspClient.running(ends.port, greet) as client:
        assert refusal(await fetch(ends, "/forbidden")) == (403, "destination_refused")
        assert client.asked == []


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 1_000_000])
async def test_bodies_go_both_ways(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with serving() as ends, WspClient.running(ends.port, echo) as client:
        status, _, back = await fetch(ends, method="POST", body=body)
        assert (status, hashlib.sha256(back).digest()) == (200, hashlib.sha256(body).digest())
        assert client.asked[0].length == size


async def test_an_upgrade_becomes_a_plain_request() -> None:
    async with serving() as ends, WspClient.running(ends.port, greet) as client:
        assert (await fetch(ends, Upgrade="websocket", Connection="Upgrade"))[0] == 200
        assert not {"Upgrade", "Connection"} & client.asked[0].header.keys()


async def test_a_request_without_a_path_is_in_no_url() -> None:
    async with serving() as ends, WspClient.running(ends.port, greet) as client:
        fields = {"X-Token": TOKEN, "X-Host": SITE, "Accept": "application/json", "Max-Forwards": "5"}
        assert refusal(await exchange(ends.port, "OPTIONS", "*", fields=fields)) == (400, "bad_target")
        assert client.asked == []


@pytest.mark.full
async def test_large_bodies_go_both_ways() -> None:
    body = bytes(range(256)) * 40_000
    async with serving() as ends, WspClient.running(ends.port, echo):
        status, _, back = await fetch(ends, method="POST", body=body)
        assert (status, hashlib.sha256(back).digest()) == (200, hashlib.sha256(body).digest())


async def test_lengths_that_nobody_knows_are_minus_one() -> None:
    async def unknown(connection: WspConnection, asked: Asked) -> None:
        body = await connection.body()
        await connection.head(200, None, -1)
        await connection.piece(body, last=False)
        await connection.piece(b"", last=True)

    head = f"POST /request HTTP/1.1\r\nHost: a\r\nX-PROXY-DESTINATION: {SITE}/\r\nTransfer-Encoding: chunked\r\n"
    async with serving() as ends, WspClient.running(ends.port, unknown) as client, ends.caller() as caller:
        await caller.send(head.encode() + b"\r\n5\r\nhello\r\n0\r\n\r\n")
        answer = await receive_until(caller, b"0\r\n\r\n")
        assert b"hello" in answer
        assert b"Content-Length" not in answer
        assert client.asked[0].length == -1


@pytest.mark.parametrize(("method", "status", "length"), [("HEAD", 200, 1234), ("GET", 204, 0), ("GET", 304, 0)])
async def test_answers_without_a_body(method: str, status: int, length: int) -> None:
    async def bodiless(connection: WspConnection, asked: Asked) -> None:
        await connection.body()
        await connection.reply(status=status, length=length, header={"Content-Length": [str(length)]})

    async with serving() as ends, WspClient.running(ends.port, bodiless, size=1, most=1) as client:
        for _ in range(2):
            answer = await fetch(ends, method=method)
            assert (answer[0], answer[2]) == (status, b"")
            assert not length or ("Content-Length", "1234") in answer[1]
        assert client.dials == 1


async def test_bodies_are_streamed() -> None:
    async def slowly(connection: WspConnection, asked: Asked) -> None:
        data, last = await connection.receive()
        assert (data, last) == (b"first", False)
        await connection.head(200, {}, 15)
        await connection.piece(b"first ", last=False)
        while not last:
            data, last = await connection.receive()
            await connection.piece(data, last=False)
        connection.body_ended = True
        await connection.piece(b"", last=True)

    head = f"POST /request HTTP/1.1\r\nHost: a\r\nX-PROXY-DESTINATION: {SITE}/\r\nContent-Length: 14\r\n\r\n"
    async with serving() as ends, WspClient.running(ends.port, slowly), ends.caller() as caller:
        await caller.send(head.encode() + b"first")
        await receive_until(caller, b"first ")
        await caller.send(b"then this")
        await receive_until(caller, b"then this")


async def test_an_expectation_is_met_before_the_body_comes() -> None:
    head = f"POST /request HTTP/1.1\r\nHost: a\r\nX-PROXY-DESTINATION: {SITE}/\r\nExpect: 100-continue\r\n"
    async with serving() as ends, WspClient.running(ends.port, echo) as client, ends.caller() as caller:
        await caller.send(f"{head}Content-Length: 2\r\n\r\n".encode())
        await receive_until(caller, b"HTTP/1.1 100 Continue\r\n\r\n")
        await caller.send(b"ok")
        await receive_until(caller, b"\r\n\r\nok")
        assert "Expect" not in client.asked[0].header


async def test_an_answer_before_the_bodys_end_is_passed_on_and_costs_the_connection() -> None:
    async def early(connection: WspConnection, asked: Asked) -> None:
        await connection.reply(b"too large", status=413)

    head = f"POST /request HTTP/1.1\r\nHost: a\r\nX-PROXY-DESTINATION: {SITE}/\r\nContent-Length: 100\r\n\r\n"
    async with serving() as ends, WspClient.running(ends.port, early, size=1) as client, ends.caller() as caller:
        await caller.send(head.encode() + b"some")
        await receive_until(caller, b"\r\n\r\ntoo large")
        await client.until(lambda: client.dials == 2)


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ('Unable to execute request : Get "http://10.0.0.1/": dial tcp 10.0.0.1:80: refused\n', "origin_unreachable"),
        ("Destination is forbidden", "destination_refused"),
    ],
)
async def test_what_their_client_says_is_told_truthfully_and_without_its_addresses(words: str, told: str) -> None:
    async def failing(connection: WspConnection, asked: Asked) -> None:
        await connection.body()
        await connection.reply(words.encode(), status=527)

    async with serving() as ends, WspClient.running(ends.port, failing, size=1, most=1) as client:
        answer = await fetch(ends)
        assert problem_of(answer)["code"] == told
        assert b"10.0.0.1" not in answer[2]
        assert refusal(await fetch(ends)) == refusal(answer)
        assert client.dials == 1  # it is an answer like any other


BAD_HEADS = [
    "ok",
    '{"StatusCode":0,"Header":{},"ContentLength":0}',
    '{"StatusCode":101,"Header":{},"ContentLength":0}',
    '{"StatusCode":200,"Header":{"A":["b\\r\\nc"]},"ContentLength":0}',
    '{"StatusCode":200,"Header":{"Content-Length":["5"]},"ContentLength":4}',
    " " * 300_000,
]


@pytest.mark.parametrize("text", BAD_HEADS, ids=range(len(BAD_HEADS)))
async def test_an_answer_that_is_none_is_a_502_and_costs_its_own_connection(text: str) -> None:
    bad = [text]

    async def badly(connection: WspConnection, asked: Asked) -> None:
        if bad:
            await connection.text(bad.pop())
        else:
            await greet(connection, asked)

    async with serving() as ends, WspClient.running(ends.port, badly) as client:
        status, code = refusal(await fetch(ends))
        assert (status, code in ("bad_answer", "bad_response")) == (502, True)
        await client.until(lambda: client.dials == 3)
        assert (await fetch(ends))[0] == 200
        assert len(ends.server.sessions()) == 1


@pytest.mark.parametrize("body", [b"123456", b"1234"])
async def test_a_body_of_another_length_is_broken_off(body: bytes) -> None:
    async def badly(connection: WspConnection, asked: Asked) -> None:
        await connection.body()
        await connection.head(200, {}, 5)
        await connection.piece(body, last=True)

    async with serving() as ends, WspClient.running(ends.port, badly):
        with pytest.raises((AssertionError, StreamBroken)):
            await fetch(ends)


async def test_a_note_that_does_not_end_is_no_answer() -> None:
    async def endless(connection: WspConnection, asked: Asked) -> None:
        await connection.body()
        await connection.head(527, None, -1)
        await connection.piece(b"x" * 5000, last=False)

    async with serving() as ends, WspClient.running(ends.port, endless):
        assert refusal(await fetch(ends)) == (502, "bad_answer")


async def lose(connection: WspConnection, asked: Asked) -> None:
    connection.drop()
    await connection.receive()


async def test_what_may_be_repeated_goes_to_another_connection_once() -> None:
    async def once(connection: WspConnection, asked: Asked) -> None:
        await (greet if len(client.asked) > 1 else lose)(connection, asked)

    async with serving() as ends, WspClient.running(ends.port, once) as client:
        assert (await fetch(ends))[0] == 200
        assert len(client.asked) == 2


async def test_what_is_lost_twice_is_told_so() -> None:
    async with serving() as ends, WspClient.running(ends.port, lose, size=4) as client:
        problem = problem_of(await fetch(ends))
        assert (problem["status"], problem["code"]) == (502, "tunnel_lost")
        assert "sent twice" in problem["detail"]
        assert len(client.asked) == 2


async def test_what_must_not_be_repeated_is_told_as_sent() -> None:
    async with serving() as ends, WspClient.running(ends.port, lose) as client:
        problem = problem_of(await fetch(ends, method="POST", body=b"once"))
        assert (problem["status"], problem["code"], problem["outcome"]) == (502, "tunnel_lost", "sent")
        assert len(client.asked) == 1


async def test_an_answer_that_breaks_off_is_seen_to_be_partial() -> None:
    async def halfway(connection: WspConnection, asked: Asked) -> None:
        await connection.body()
        await connection.head(200, {}, -1)
        await connection.piece(b"half", last=False)
        await lose(connection, asked)

    async with serving() as ends, WspClient.running(ends.port, halfway):
        with pytest.raises((AssertionError, StreamBroken)):
            await fetch(ends)


async def test_what_waits_for_a_client_that_leaves_was_never_sent_and_goes_to_the_next() -> None:
    async def never(connection: WspConnection, asked: Asked) -> None:
        await anyio.sleep_forever()

    async with serving() as ends, anyio.create_task_group() as tasks:
        async with WspClient.running(ends.port, never, size=1, most=1) as client:
            sent = post(ends, tasks, "/sent")
            await client.until(lambda: client.asked)
            waiting = post(ends, tasks, "/waiting")
            await ends.pending(2)
        assert problem_of(await sent.answer())["outcome"] == "sent"
        async with WspClient.running(ends.port, greet, client_id="client-B"):
            assert (await waiting.answer())[2] == f"hello POST {SITE}/waiting".encode()


async def test_who_finds_no_connection_in_time_is_told_so() -> None:
    async def never(connection: WspConnection, asked: Asked) -> None:
        await anyio.sleep_forever()

    limits = replace(DEFAULT_LIMITS, queue_timeout=0.3)
    async with (
        serving(limits=limits) as ends,
        WspClient.running(ends.port, never, size=1, most=1) as client,
        anyio.create_task_group() as tasks,
    ):
        post(ends, tasks, "/busy")
        await client.until(lambda: client.asked)
        problem = problem_of(await fetch(ends, method="POST", body=b"late"))
        assert (problem["status"], problem["code"], problem["outcome"]) == (504, "queue_timeout", "never_sent")
        tasks.cancel_scope.cancel()


# -- many at a time ----------------------------------------------------------------------------


async def test_a_hundred_requests_at_a_time_through_a_pool_that_grows() -> None:
    async with serving() as ends, WspClient.running(ends.port, greet, size=4, most=20) as client:
        bodies: list[bytes] = []

        async def one(number: int) -> None:
            bodies.append((await fetch(ends, f"/{number}"))[2])

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(one, number)
        assert sorted(bodies) == sorted(f"hello GET {SITE}/{number}".encode() for number in range(100))
        assert len(client.connections) <= 20


async def test_a_caller_that_stops_reading_stops_nobody_else_and_costs_its_connection_alone() -> None:
    sent = 0

    async def much(connection: WspConnection, asked: Asked) -> None:
        nonlocal sent
        await connection.body()
        if not asked.url.endswith("/much"):
            await connection.reply(b"small")
            return
        await connection.head(200, {}, -1)
        while True:
            await connection.piece(bytes(65_536), last=False)
            sent += 65_536

    async with serving() as ends, WspClient.running(ends.port, much) as client:
        async with ends.caller() as stalled:
            await stalled.send(
                f"GET /request HTTP/1.1\r\nHost: a\r\nX-PROXY-DESTINATION: {SITE}/much\r\n\r\n".encode()
            )
            await client.until(lambda: client.asked)
            for _ in range(20):
                assert (await fetch(ends))[2] == b"small"
            assert sent < 30_000_000
            (busy,) = [connection for connection in client.connections if not connection.idle]
        await client.until(lambda: busy not in client.connections)
        assert (await fetch(ends))[2] == b"small"
        assert len(ends.server.sessions()) == 1


async def test_a_caller_that_leaves_costs_that_connection_alone() -> None:
    async def never(connection: WspConnection, asked: Asked) -> None:
        await connection.receive()
        await connection.receive()

    async with (
        serving() as ends,
        WspClient.running(ends.port, never) as client,
        anyio.create_task_group() as tasks,
    ):
        call = post(ends, tasks, "/")
        await client.until(lambda: client.asked)
        (busy,) = [connection for connection in client.connections if not connection.idle]
        call.leave()
        await client.until(lambda: busy not in client.connections and len(client.connections) == 2)
        assert len(ends.server.sessions()) == 1


async def test_a_caller_that_leaves_the_line_is_forgotten() -> None:
    hold = anyio.Event()

    async def held(connection: WspConnection, asked: Asked) -> None:
        await hold.wait()
        await greet(connection, asked)

    async with (
        serving() as ends,
        WspClient.running(ends.port, held, size=1, most=1) as client,
        anyio.create_task_group() as tasks,
    ):
        first = post(ends, tasks, "/first")
        await client.until(lambda: client.asked)
        gone = post(ends, tasks, "/gone")
        await ends.pending(2)
        gone.leave()
        await ends.pending(1)
        hold.set()
        assert await first.status() == 200
        assert (await fetch(ends))[0] == 200
        assert [asked.url for asked in client.asked] == [f"{SITE}/first", f"{SITE}/"]


# -- connections -------------------------------------------------------------------------------


async def test_a_message_that_nobody_asked_for_costs_its_own_connection() -> None:
    async with serving() as ends, WspClient.running(ends.port, greet) as client:
        await client.connections[0].text("hello?")
        await client.until(lambda: client.dials == 3 and len(client.connections) == 2)
        assert (await fetch(ends))[0] == 200
        assert len(ends.server.sessions()) == 1


GARBAGE = [b"\x81\x85\x00\x00\x00\x00no_id", b"\xff\xff\xff", b"\x82\xfe\xff\xff" + bytes(5)]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_costs_its_own_connection(garbage: bytes) -> None:
    async with serving() as ends, WspClient.running(ends.port, greet) as client:
        await client.connections[0].raw(garbage)
        await client.until(lambda: client.dials >= 3)
        assert (await fetch(ends))[0] == 200


async def test_pings_are_answered() -> None:
    async with serving() as ends, WspClient.running(ends.port, greet) as client:
        await client.connections[0].ping()
        await client.until(lambda: client.connections[0].pongs == 1)


async def test_an_idle_client_that_is_silent_is_asked() -> None:
    limits = replace(DEFAULT_LIMITS, ping_idle_silence=0.2)
    async with serving(limits=limits) as ends, WspClient.running(ends.port, greet) as client:
        await client.until(lambda: all(connection.pinged for connection in client.connections))
        assert client.dials == 2


async def test_a_client_that_restarts_with_the_same_id_is_served_again() -> None:
    async with serving() as ends:
        for _ in range(3):
            async with WspClient.running(ends.port, greet):
                assert (await fetch(ends))[0] == 200
                await until(lambda: len(ends.server.sessions()) == 1)
        await until(lambda: not ends.server.sessions())


async def test_clients_with_other_ids_have_sessions_of_their_own() -> None:
    async with (
        serving() as ends,
        WspClient.running(ends.port, greet) as one,
        WspClient.running(ends.port, greet, client_id="client-B") as other,
    ):
        await until(lambda: len(ends.server.sessions()) == 2)
        while not (one.asked and other.asked):
            assert (await fetch(ends))[0] == 200


async def test_connections_that_nobody_needs_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wsp_server_client.CLEANING", 0.05)
    monkeypatch.setattr("tunnelkit.legacy.wsp_server_pool.IDLE_TIME", 0.05)
    async with serving() as ends, WspClient.running(ends.port, greet, size=5) as client:
        client.tick = 60
        client.greeting = "client-A_3"  # the newest counts
        client.dial(1)
        await client.until(lambda: client.dials == 6)
        await client.until(lambda: len(client.connections) == 3)
        assert (await fetch(ends))[0] == 200


async def test_a_pool_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wsp_server_pool.POOL_LIMIT", 2)
    async with serving() as ends, WspClient.running(ends.port, greet, size=4, ready=False) as client:
        await client.until(lambda: client.dials >= 6)
        assert (await fetch(ends))[0] == 200


async def test_clients_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wsp_server.CLIENTS_LIMIT", 1)
    async with serving() as ends, WspClient.running(ends.port, greet):
        await until(ends.server.sessions)
        async with WspClient.running(ends.port, greet, client_id="B", ready=False) as client:
            await client.until(lambda: client.dials >= 3)
            assert len(ends.server.sessions()) == 1


async def test_a_session_that_the_server_ends_takes_its_connections_along() -> None:
    async with serving() as ends, WspClient.running(ends.port, greet) as client:
        await until(ends.server.sessions)
        ends.server.sessions()[0].close()
        await client.until(lambda: client.dials >= 4 and len(client.connections) == 2)
        assert (await fetch(ends))[0] == 200


# -- registering -------------------------------------------------------------------------------


async def test_the_secret_key_lets_in() -> None:
    async with serving(secretkey=KEY) as ends, WspClient.running(ends.port, greet, key=KEY) as client:
        assert (await fetch(ends))[0] == 200
        assert client.refused == []
        async with WspClient.running(ends.port, greet, client_id="client-B", key=KEY):
            await until(lambda: len(ends.server.sessions()) == 2)


@pytest.mark.parametrize("key", ["", "wrong"])
async def test_a_wrong_key_is_refused_as_theirs_refuses_it(key: str) -> None:
    async with (
        serving(secretkey=KEY) as ends,
        WspClient.running(ends.port, greet, key=KEY) as known,
        WspClient.running(ends.port, greet, key=key, ready=False) as client,
    ):
        await client.until(lambda: client.refused)
        assert client.refused[0] == (526, b"Invalid X-SECRET-KEY\n")
        assert client.connections == []
        assert (await fetch(ends))[0] == 200
        assert len(known.asked) == 1


async def test_a_key_that_was_changed_lets_nobody_in_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wsp_server.KEY_TIME", 0.0)
    keys = [KEY]
    async with (
        serving(secretkey=lambda: keys[-1]) as ends,
        WspClient.running(ends.port, greet, key=KEY, size=3) as client,
    ):
        assert client.refused == []
        keys.append("another")
        await ends.server.reload()
        client.connections[0].drop()
        await client.until(lambda: client.refused)
        assert client.refused[0][0] == 526
        assert (await fetch(ends))[0] == 200  # what is here stays


async def test_the_one_client_that_may_be_there_gets_all_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.wsp_server.KEY_TIME", 0.0)
    async with (
        serving(policy="reject", secretkey=KEY) as ends,
        WspClient.running(ends.port, greet, key=KEY, size=1) as client,
    ):
        await until(ends.server.sessions)
        client.dial(3)
        await client.until(lambda: len(client.connections) == 4)
        assert client.refused == []


async def test_another_key_is_another_client() -> None:
    """Where none is needed, whoever guesses an id does not join its connections."""
    async with (
        serving() as ends,
        WspClient.running(ends.port, greet, key="one"),
        WspClient.running(ends.port, greet, key="two"),
    ):
        await until(lambda: len(ends.server.sessions()) == 2)


async def test_a_second_client_is_refused_where_one_is_enough() -> None:
    async with serving(policy="reject", secretkey=KEY) as ends, WspClient.running(ends.port, greet, key=KEY):
        await until(ends.server.sessions)
        async with WspClient.running(ends.port, greet, key=KEY, client_id="B", ready=False) as client:
            await client.until(lambda: client.dials >= 2)
            assert len(ends.server.sessions()) == 1


@pytest.mark.parametrize("greeting", ["", "client-A", "client-A_x", "_1", "x" * 300 + "_1"])
async def test_a_greeting_that_is_none_is_not_let_in(greeting: str) -> None:
    async with serving() as ends, WspClient.running(ends.port, greet, ready=False) as client:
        client.greeting = greeting
        await client.until(lambda: client.dials >= 2 and not client.connections)
        assert ends.server.sessions() == []


async def test_who_says_nothing_is_not_let_in(caplog: pytest.LogCaptureFixture) -> None:
    limits = replace(DEFAULT_LIMITS, opening_timeout=0.2)
    async with serving(limits=limits) as ends, ends.caller() as stream:
        fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        await stream.send(f"GET /register HTTP/1.1\r\nHost: a\r\n{fields}\r\n{key}\r\n\r\n".encode())
        await receive_until(stream, b"101 Switching Protocols")
        with anyio.fail_after(10), suppress(StreamBroken):
            while await stream.receive():
                pass


async def test_the_path_is_configurable_and_lies_below_the_base_path() -> None:
    async with (
        serving(path="/join", base_path="/base") as ends,
        WspClient.running(ends.port, greet, path="/base/join"),
    ):
        given = {"X-PROXY-DESTINATION": f"{SITE}/"}
        assert (await exchange(ends.port, "GET", "/base/request", fields=given))[0] == 200
        assert (await exchange(ends.port, "GET", "/base/register"))[0] == 404


async def test_a_request_of_a_tunnel_is_not_taken_for_a_client() -> None:
    async with serving() as ends, ends.join():
        assert (await exchange(ends.port, "GET", "/register", fields={"X-Token": TOKEN}))[0] == 200
        assert ends.origin.targets() == ["/register"]


@pytest.mark.parametrize(("fields", "status"), [({}, 426), ({"Origin": "https://evil.example"}, 403)])
async def test_what_is_no_client_is_turned_away(fields: dict[str, str], status: int) -> None:
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with serving() as ends:
        answer = await exchange(ends.port, "GET", "/register", fields=fields | upgrade if fields else {})
        assert answer[0] == status


async def test_two_keys_are_refused() -> None:
    lines = [
        "GET /register HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-SECRET-KEY: a\r\nX-SECRET-KEY: b\r\n\r\n",
    ]
    async with serving() as ends, ends.caller() as stream:
        await stream.send("\r\n".join(lines).encode())
        await receive_until(stream, b"HTTP/1.1 400")


async def test_a_server_needs_to_know_whose_requests_they_serve() -> None:
    with pytest.raises(ConfigError, match="wsp needs a token"):
        async with TunnelServer("127.0.0.1:0", transports=("websocket", "wsp")):
            pass
    with pytest.raises(ConfigError, match="wsp_token: can be no token"):
        WspTransport(wsp_token="short")


async def test_no_two_may_have_one_path() -> None:
    ours = WspTransport(wsp_token=TOKEN)
    with pytest.raises(ConfigError, match="wsp_path: /register is a transport's path"):
        TunnelServer("127.0.0.1:0", transports=("websocket", ours), wsp_path="/register")
    other = WspTransport(wsp_token=TOKEN)
    other.name = "other"
    with pytest.raises(ConfigError, match="wanted by two"):
        TunnelServer("127.0.0.1:0", transports=(ours, other))


@pytest.mark.programs
async def test_the_command_line_serves_them(anyio_backend_name: str) -> None:
    flags = ["--listen", "127.0.0.1:0", "--wsp-token", TOKEN, "--wsp-register", "/register", "--secretkey", KEY]
    flags += ["--backend", anyio_backend_name]
    server = await anyio.to_thread.run_sync(lambda: Process("examples/tunnel_server.py", *flags))
    try:
        url = await anyio.to_thread.run_sync(lambda: server.said("listening on "))
        port = int(url.rpartition(":")[2])
        async with WspClient.running(port, greet, key=KEY):
            assert (await exchange(port, "GET", "/request", fields={"X-PROXY-DESTINATION": f"{SITE}/x"}))[0] == 200
    finally:
        server.close()


async def test_our_own_clients_share_the_port_with_theirs() -> None:
    async with serving() as ends, WspClient.running(ends.port, greet), ends.join(token="another-token-of-16"):
        assert (await fetch(ends))[0] == 200
        assert (await exchange(ends.port, "GET", "/_token/another-token-of-16/bytes/10"))[0] == 200


# -- under another HTTP server -----------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
async def test_under_an_asgi_server_they_are_served_too(host: str) -> None:
    server = TunnelServer((), wsp_token=TOKEN, secretkey=KEY, transports=(WspTransport(wsp_token=TOKEN),))
    body = bytes(range(256)) * 400
    async with hosted(server.asgi_app, host) as port, WspClient.running(port, echo, key=KEY) as client:
        fields = {"X-PROXY-DESTINATION": f"{SITE}/x"}
        assert (await exchange(port, "POST", "/request", fields=fields, body=body))[2] == body
        assert client.asked[0].url == f"{SITE}/x"
        async with WspClient.running(port, echo, key="wrong", ready=False) as other:
            await other.until(lambda: other.dials >= 2)
            assert other.connections == []


async def receive_until(stream: ByteStream, end: bytes) -> bytes:
    data = b""
    with anyio.fail_after(10):
        while end not in data:
            piece = await stream.receive()
            assert piece, f"the connection ended: {data!r}"
            data += piece
    return data


def post(ends: Ends, tasks: TaskGroup, path: str) -> Call:
    """A POST under way, with one byte of body."""
    call = Call()
    fields = {"X-PROXY-DESTINATION": SITE + path, "Accept": "application/json"}
    tasks.start_soon(call.run, ends.port, "POST", "/request", fields, b"x")
    return call
