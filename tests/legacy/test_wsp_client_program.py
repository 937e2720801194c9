"""wsp's own client at a tunnel server of ours, where ``TUNNELKIT_PEER_WSP_CLIENT`` names it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.legacy.wsp import WspTransport

from ..e2e.origin import pattern_digest
from ..e2e.tunnel import TOKEN, Answer, Call, Ends, exchange, gather, open_ends, problem_of, receive_more, until

# Read when the tests are collected: their quiet environment does not hold it.
PROGRAM = os.environ.get("TUNNELKIT_PEER_WSP_CLIENT", "")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not PROGRAM, reason="TUNNELKIT_PEER_WSP_CLIENT names no wsp_client"),
]

SIZE = 10_000_000
STARTING = 30.0
KEY = "ThisIsASecret"


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Ends]:
    known: dict[str, Any] = {"secretkey": KEY, "transports": ("websocket", WspTransport(wsp_token=TOKEN))}
    async with open_ends(wsp_token=TOKEN, **known | options) as ends:
        yield ends


@asynccontextmanager
async def program(ends: Ends, folder: Path, *, key: str = KEY, idle: int = 4) -> AsyncIterator[anyio.abc.Process]:
    config = folder / "client.yml"
    target = f"ws://127.0.0.1:{ends.port}/register"
    config.write_text(
        f"id: client-A\ntargets:\n - {target}\npoolidlesize: {idle}\npoolmaxsize: 20\nsecretkey: {key}\n",
    )
    quiet = subprocess.DEVNULL
    command = [PROGRAM, "-config", str(config)]
    async with await anyio.open_process(command, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        try:
            yield process
        finally:
            process.kill()
            with anyio.CancelScope(shield=True):
                await process.wait()


@asynccontextmanager
async def joined(ends: Ends, folder: Path) -> AsyncIterator[None]:
    async with program(ends, folder):
        await until(lambda: [session.transport for session in ends.server.sessions()] == ["wsp"], STARTING)
        yield


async def fetch(ends: Ends, path: str, *, method: str = "GET", body: bytes = b"", **fields: str) -> Answer:
    given = {"X-PROXY-DESTINATION": ends.origin.url + path, "Accept": "application/json"} | fields
    with anyio.fail_after(STARTING):
        return await exchange(ends.port, method, "/request", fields=given, body=body)


async def test_pages_bodies_and_crowds(tmp_path: Path) -> None:
    async with serving() as ends, joined(ends, tmp_path):
        status, _, body = await fetch(ends, "/bytes/100")
        assert (status, body) == (200, bytes(range(100)))
        sent = bytes(range(250)) * (SIZE // 250)
        _, _, body = await fetch(ends, "/sink", method="POST", body=sent)
        assert json.loads(body) == {"size": SIZE, "sha256": hashlib.sha256(sent).hexdigest()}
        _, _, body = await fetch(ends, f"/bytes/{SIZE}")
        assert hashlib.sha256(body).hexdigest() == pattern_digest(SIZE)
        answers = await gather(*[lambda size=size: fetch(ends, f"/bytes/{size}") for size in range(100)])
        assert [len(body) for _, _, body in answers] == list(range(100))
        status, fields, _ = await fetch(ends, "/bytes/10", method="HEAD")
        assert (status, ("Content-Length", "10") in fields) == (200, True)
        assert (await fetch(ends, "/status/445"))[0] == 445
        echo = json.loads((await fetch(ends, "/echo?a=%2F", X_Other="kept"))[2])
        names = [name.lower() for name, _ in echo["fields"]]
        assert echo["target"] == "/echo?a=%2F"
        assert "x-other" in names
        assert not {"x-proxy-destination", "x-token"} & set(names)
        assert len(ends.server.sessions()) == 1


async def test_an_origin_that_is_not_there_is_told_without_its_address(tmp_path: Path) -> None:
    async with serving() as ends, joined(ends, tmp_path):
        given = {"X-PROXY-DESTINATION": "http://127.0.0.1:1/x", "Accept": "application/json"}
        answer = await exchange(ends.port, "GET", "/request", fields=given)
        assert (answer[0], problem_of(answer)["code"]) == (502, "origin_unreachable")
        assert b"127.0.0.1" not in answer[2]


async def test_a_client_that_dies_is_told_and_what_waits_is_served_by_the_next(tmp_path: Path) -> None:
    async with serving() as ends, anyio.create_task_group() as group:
        async with joined(ends, tmp_path):
            sent = Call()
            fields = {"X-PROXY-DESTINATION": f"{ends.origin.url}/hold/x", "Accept": "application/json"}
            group.start_soon(sent.run, ends.port, "POST", "/request", fields, b"x")
            await ends.origin.arrived("/hold/x")
        assert problem_of(await sent.answer())["code"] == "tunnel_lost"
        async with joined(ends, tmp_path):
            assert (await fetch(ends, "/bytes/5"))[0] == 200


async def test_a_caller_that_stops_reading_or_leaves_costs_nobody_else(tmp_path: Path) -> None:
    async with serving() as ends, joined(ends, tmp_path):
        async with ends.caller() as stalled:
            head = f"GET /request HTTP/1.1\r\nHost: a\r\nX-PROXY-DESTINATION: {ends.origin.url}/bytes/40000000"
            await stalled.send(f"{head}\r\n\r\n".encode())
            await receive_more(stalled)
            for _ in range(10):
                assert (await fetch(ends, "/bytes/1"))[0] == 200
        assert (await fetch(ends, "/bytes/1"))[0] == 200
        assert len(ends.server.sessions()) == 1


async def test_an_answer_that_breaks_off_is_seen_to_be_partial(tmp_path: Path) -> None:
    async with serving() as ends, joined(ends, tmp_path):
        ends.origin.release("half")
        with pytest.raises((AssertionError, StreamBroken)):
            await fetch(ends, "/half/100000")
        assert (await fetch(ends, "/bytes/1"))[0] == 200


async def test_a_wrong_key_is_not_let_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as ends, program(ends, tmp_path, key="wrong"):
        await until(lambda: "refused a registration: wrong or missing password" in caplog.text, STARTING)
        assert ends.server.sessions() == []
