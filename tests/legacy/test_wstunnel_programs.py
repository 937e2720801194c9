"""Both roles against WStunnel's own program, where ``TUNNELKIT_PEER_WSTUNNEL`` names it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tunnelkit import RegistrationRefused, TunnelClient, TunnelServer
from tunnelkit.errors import DialError, StreamBroken

from ..e2e.origin import TestOrigin, pattern_digest, serve_origin
from ..e2e.tunnel import SHORT, TOKEN, Ends, ask, exchange, gather, open_ends, problem_of, until
from .test_wstunnel_clients import read_to_the_end

# Read when the tests are collected: their quiet environment does not hold it.
PROGRAM = os.environ.get("TUNNELKIT_PEER_WSTUNNEL", "")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not PROGRAM, reason="TUNNELKIT_PEER_WSTUNNEL names no program of WStunnel's"),
]

OURS = "another-token-for-tests"
SIZE = 10_000_000
STARTING = 30.0


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[anyio.abc.Process]:
    quiet = subprocess.DEVNULL
    async with await anyio.open_process([PROGRAM, *arguments], stdin=quiet, stdout=quiet, stderr=quiet) as process:
        try:
            yield process
        finally:
            process.kill()
            with anyio.CancelScope(shield=True):
                await process.wait()


# -- their client at our server ----------------------------------------------------------------


@asynccontextmanager
async def their_client(ends: Ends, *more: str) -> AsyncIterator[anyio.abc.Process]:
    url = f"ws://127.0.0.1:{ends.port}"
    async with program("cli", "-tunnel", url, "-token", TOKEN, "-server", ends.origin.url, *more) as process:
        await until(lambda: [session.transport for session in ends.server.sessions()] == ["wstunnel"], STARTING)
        yield process


async def test_their_client_serves_pages_bodies_and_crowds() -> None:
    async with open_ends() as ends, their_client(ends):
        status, _, body = await ends.get("/bytes/100")
        assert (status, body) == (200, bytes(range(100)))
        sent = bytes(range(250)) * (SIZE // 250)
        _, _, body = await exchange(ends.port, "POST", ends.path("/sink"), body=sent)
        assert json.loads(body) == {"size": SIZE, "sha256": hashlib.sha256(sent).hexdigest()}
        _, _, body = await ends.get(f"/bytes/{SIZE}")
        assert hashlib.sha256(body).hexdigest() == pattern_digest(SIZE)
        answers = await gather(*[lambda size=size: ends.get(f"/bytes/{size}") for size in range(100)])
        assert [len(body) for _, _, body in answers] == list(range(100))
        status, fields, _ = await exchange(ends.port, "HEAD", ends.path("/bytes/10"))
        assert (status, ("Content-Length", "10") in fields) == (200, True)
        assert (await ends.get("/status/445"))[0] == 445
        assert (await ends.get("/", X_Host=ends.origin.url))[0] == 403  # it has no regexp


# Method, target, status, and what the body ends with.
KINDS = [
    ("GET", "/bytes/100000/chunked", 200, bytes(range(160))),
    ("GET", "/trailers", 200, b"hello"),
    ("GET", "/info", 200, b"after"),
    ("GET", "/bytes/0", 200, b""),
    ("GET", "/status/204", 204, b""),
    ("GET", "/status/304", 304, b""),
    ("GET", "/status/445", 445, b""),
    ("HEAD", "/bytes/10", 200, b""),
    ("DELETE", "/echo//a%2Fb;c=d?%zz&x=[1]", 200, b"}"),
    ("GET", "/upgrade", 200, b"no upgrade wanted"),
]


async def test_their_client_serves_answers_of_every_kind() -> None:
    async with open_ends() as ends, their_client(ends):
        for method, target, expected, end in KINDS:
            status, _, body = await exchange(ends.port, method, ends.path(target))
            assert (status, body[-len(end) :] if end else body) == (expected, end), target
        assert len(ends.server.sessions()) == 1


async def test_a_path_that_theirs_cannot_read_costs_nobody_the_tunnel() -> None:
    async with open_ends() as ends, their_client(ends):
        assert (await ends.get("/%zz"))[0] == 400
        assert (await ends.get("/bytes/1"))[0] == 200
        assert len(ends.server.sessions()) == 1


async def test_their_client_that_dies_is_told_and_what_waits_is_served_by_the_next() -> None:
    async with open_ends() as ends, anyio.create_task_group() as group:
        async with their_client(ends):
            sent = ends.call(group, "/hold/x", fields={"Accept": "application/json"})
            await ends.origin.arrived("/hold/x")
        assert problem_of(await sent.answer())["code"] == "tunnel_lost"
        queued = ends.call(group, "/bytes/5")
        await ends.pending(1)
        async with their_client(ends):
            assert await queued.status() == 200


async def test_their_client_shows_its_password() -> None:
    await needs_passwords()
    async with open_ends(passwords={TOKEN: "the right one"}) as ends:
        url = f"ws://127.0.0.1:{ends.port}"
        token = f"{TOKEN}:the right one"
        async with program("cli", "-tunnel", url, "-token", token, "-server", ends.origin.url):
            await until(lambda: ends.server.sessions(), STARTING)
            assert (await ends.get("/bytes/1"))[0] == 200


async def needs_passwords() -> None:
    told = await anyio.run_process([PROGRAM, "srv", "-h"], check=False)
    if b"passwords" not in told.stdout + told.stderr:
        pytest.skip(f"{PROGRAM} is of the older make, which knows no passwords")


async def test_a_caller_that_stops_reading_costs_their_client_nothing() -> None:
    async with open_ends() as ends, their_client(ends), ends.caller() as stalled:
        await stalled.send(f"GET {ends.path('/bytes/40000000')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await ends.origin.arrived("/bytes/40000000")
        assert (await ends.get("/bytes/1"))[0] == 200
        await until(lambda: ends.server.snapshot().req_pending == 0, STARTING)
        with anyio.fail_after(STARTING), pytest.raises(StreamBroken):
            await read_to_the_end(stalled)
        assert (await ends.get("/bytes/1"))[0] == 200
        assert len(ends.server.sessions()) == 1


# -- our client at their server ----------------------------------------------------------------


@asynccontextmanager
async def their_server(*more: str) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with program("srv", "-host", "127.0.0.1", "-port", str(port), *more):
        with anyio.fail_after(STARTING):
            while not await answers(port):  # noqa: ASYNC110 - another program's start
                await anyio.sleep(0.05)
        yield port


async def answers(port: int) -> bool:
    try:
        return (await exchange(port, "GET", "/_health_check"))[0] == 200
    except (DialError, StreamBroken, AssertionError):
        return False


@asynccontextmanager
async def our_client(port: int, *, auto: bool = False) -> AsyncIterator[tuple[TestOrigin, TunnelClient]]:
    async with serve_origin() as origin:
        client = TunnelClient(
            f"ws://127.0.0.1:{port}",
            token=TOKEN,
            origin=origin.url,
            transport="auto" if auto else "wstunnel",
            allow_legacy=auto,
        )
        async with client:
            await client.wait_ready(STARTING)
            assert client.transport == "wstunnel"
            yield origin, client


async def test_their_server_is_served_with_pages_bodies_and_crowds() -> None:
    async with their_server() as port, our_client(port):
        path = f"/_token/{TOKEN}"
        status, _, body = await exchange(port, "GET", f"{path}/bytes/100")
        assert (status, body) == (200, bytes(range(100)))
        sent = bytes(range(250)) * (SIZE // 250)
        _, _, body = await exchange(port, "POST", f"{path}/sink", body=sent)
        assert json.loads(body) == {"size": SIZE, "sha256": hashlib.sha256(sent).hexdigest()}
        _, _, body = await exchange(port, "GET", f"{path}/bytes/{SIZE}")
        assert hashlib.sha256(body).hexdigest() == pattern_digest(SIZE)
        asked = [lambda size=size: exchange(port, "GET", f"{path}/bytes/{size}") for size in range(10)]
        for _ in range(10):  # its queue has 20 places
            assert [len(body) for _, _, body in await gather(*asked)] == list(range(10))
        assert (await exchange(port, "GET", f"{path}/status/445"))[0] == 445
        assert (await exchange(port, "GET", "/bytes/1", fields={"X-Token": TOKEN}))[0] == 200


async def test_their_server_gets_answers_of_every_kind() -> None:
    async with their_server() as port, our_client(port):
        for method, target, expected, end in KINDS:
            if "//" in target:  # which their server answers with a redirect of its own
                continue
            status, _, body = await exchange(port, method, f"/_token/{TOKEN}{target}")
            assert (status, body[-len(end) :] if end else body) == (expected, end), target


async def test_their_server_is_shown_the_password() -> None:
    await needs_passwords()
    async with their_server("-passwords", f"{TOKEN}:right") as port:
        url = f"ws://127.0.0.1:{port}"
        options: dict[str, Any] = {"token": TOKEN, "origin": "http://127.0.0.1:1", "transport": "wstunnel"}
        async with TunnelClient(url, password="right", **options) as client:
            await client.wait_ready(STARTING)
        with pytest.raises(RegistrationRefused, match="Invalid token or password"):
            async with TunnelClient(url, password="wrong", **options):
                await anyio.sleep_forever()


async def test_their_server_is_found_where_that_is_allowed() -> None:
    async with their_server() as port, our_client(port, auto=True):
        assert (await exchange(port, "GET", f"/_token/{TOKEN}/bytes/1"))[0] == 200


async def test_with_their_server_replaced_both_clients_come_to_ours() -> None:
    async with serve_origin() as origin, anyio.create_task_group() as group:
        async with their_server() as port:
            url = f"ws://127.0.0.1:{port}"
            ours = TunnelClient(url, token=OURS, origin=origin.url, allow_legacy=True)
            await group.start(ours.run)
            theirs = await group.start(keep, "cli", "-tunnel", url, "-token", TOKEN, "-server", origin.url)
            await ours.wait_ready(STARTING)
            assert ours.transport == "wstunnel"
            for token in (OURS, TOKEN):
                await served(port, f"/_token/{token}/bytes/1")
        async with TunnelServer(f"127.0.0.1:{port}") as server:
            await until(lambda: len(server.sessions()) == 2, STARTING)  # theirs waits up to 10 s
            assert sorted(session.transport for session in server.sessions()) == ["websocket", "wstunnel"]
            for token in (OURS, TOKEN):
                assert (await exchange(port, "GET", f"/_token/{token}/bytes/1"))[0] == 200
            ours.close()
            theirs.cancel()


async def keep(*arguments: str, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
    with anyio.CancelScope() as scope:
        async with program(*arguments):
            task_status.started(scope)
            await anyio.sleep_forever()


async def served(port: int, target: str) -> None:
    """Wait until their server knows the token."""
    with anyio.fail_after(STARTING):
        while (await exchange(port, "GET", target))[0] != 200:  # noqa: ASYNC110 - another program
            await anyio.sleep(0.05)


async def test_their_server_gets_an_answer_though_the_origin_is_down() -> None:
    async with their_server() as port:
        client = TunnelClient(
            f"ws://127.0.0.1:{port}", token=TOKEN, origin="http://127.0.0.1:1", transport="wstunnel", limits=SHORT
        )
        async with client:
            await client.wait_ready(STARTING)
            problem = json.loads((await ask(port, f"/_token/{TOKEN}/"))[2])
            assert (problem["status"], problem["code"]) == (502, "origin_unreachable")
