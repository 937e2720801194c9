"""Both ends of tunnelkit over wsp's wire: what each says is what the other understands."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import TaskGroup

from tunnelkit import TunnelClient
from tunnelkit.errors import RegistrationRefused, StreamBroken
from tunnelkit.legacy.wsp import PoolSize, WspTransport

from ..e2e.origin import pattern_digest
from ..e2e.tunnel import SHORT, TOKEN, Answer, Call, Ends, exchange, open_ends, problem_of, until

pytestmark = pytest.mark.anyio

KEY = "a secret key"


@asynccontextmanager
async def joined() -> AsyncIterator[tuple[Ends, TunnelClient]]:
    pool = WspTransport(size=PoolSize(poolidlesize=2))
    transports = ("websocket", WspTransport(wsp_token=TOKEN))
    async with (
        open_ends(transports=transports, wsp_token=TOKEN, passwords={TOKEN: KEY}) as ends,
        join(ends, KEY, pool) as client,
    ):
        await client.wait_ready(10)
        await until(lambda: ends.server.sessions())
        yield ends, client


def join(ends: Ends, key: str, transport: WspTransport) -> TunnelClient:
    url = f"ws://127.0.0.1:{ends.port}/register"
    return TunnelClient(url, token="another-token-of-16", password=key, origin=ends.origin.url, transport=transport)


async def fetch(ends: Ends, target: str, *, method: str = "GET", body: bytes = b"", site: str = "") -> Answer:
    fields = {"X-PROXY-DESTINATION": (site or ends.origin.url) + target, "Accept": "application/json"}
    with anyio.fail_after(30):
        return await exchange(ends.port, method, "/request", fields=fields, body=body)


def call(ends: Ends, group: TaskGroup, target: str) -> Call:
    made = Call()
    fields = {"X-PROXY-DESTINATION": ends.origin.url + target, "Accept": "application/json"}
    group.start_soon(made.run, ends.port, "GET", "/request", fields, b"")
    return made


async def test_pages_and_bodies() -> None:
    body = bytes(range(256)) * 4000
    async with joined() as (ends, _):
        status, _, answer = await fetch(ends, "/sink", method="POST", body=body)
        assert (status, hashlib.sha256(body).hexdigest() in answer.decode()) == (200, True)
        for target in ("/bytes/1000000", "/bytes/1000000/chunked"):
            status, _, answer = await fetch(ends, target)
            assert (status, hashlib.sha256(answer).hexdigest()) == (200, pattern_digest(1_000_000))
        status, fields, answer = await fetch(ends, "/bytes/10", method="HEAD")
        assert (status, answer, dict(fields)["Content-Length"]) == (200, b"", "10")


async def test_many_at_a_time() -> None:
    async with joined() as (ends, _), anyio.create_task_group() as group:
        calls = [call(ends, group, f"/hold/x?{number}") for number in range(30)]
        for number in range(30):
            await ends.origin.arrived(f"/hold/x?{number}")
        ends.origin.release("x")
        assert [(await each.answer())[2] for each in calls] == [b"held x"] * 30


async def test_failures_are_told_by_their_codes() -> None:
    async with joined() as (ends, _):
        problem = problem_of(await fetch(ends, "/", site="http://127.0.0.1:9"))
        assert (problem["status"], problem["code"]) == (403, "destination_refused")
        ends.origin.release("half")
        with pytest.raises((AssertionError, StreamBroken)):
            await fetch(ends, "/half/100000")
        assert (await fetch(ends, "/bytes/1"))[0] == 200
        ends.origin.raw["none"] = b"no http\r\n\r\n"
        problem = problem_of(await fetch(ends, "/raw/none"))
        assert (problem["status"], problem["code"]) == (502, "origin_failed")


async def test_an_origin_that_is_down_is_told_as_such() -> None:
    transports = ("websocket", WspTransport(wsp_token=TOKEN))
    async with open_ends(transports=transports, wsp_token=TOKEN) as ends:
        url, nowhere = f"ws://127.0.0.1:{ends.port}/register", "http://127.0.0.1:9"
        async with TunnelClient(url, token=TOKEN, origin=nowhere, transport="wsp", limits=SHORT) as client:
            await client.wait_ready(10)
            problem = problem_of(await fetch(ends, "/", site=nowhere))
            assert (problem["status"], problem["code"]) == (502, "origin_unreachable")


async def test_a_wrong_key_ends_the_client() -> None:
    async with joined() as (ends, _):
        with pytest.raises(RegistrationRefused, match="key"):
            async with join(ends, "wrong", WspTransport()):
                await anyio.sleep_forever()


async def test_a_client_that_drains_finishes_what_runs() -> None:
    async with joined() as (ends, client), anyio.create_task_group() as group:
        held = call(ends, group, "/hold/x")
        await ends.origin.arrived("/hold/x")
        group.start_soon(client.drain, 10)
        await anyio.wait_all_tasks_blocked()
        ends.origin.release("x")
        assert (await held.answer())[2] == b"held x"
        await until(lambda: client.transport is None)
