"""A tunnel client of ours at wsp's own server, where the environment names one."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL

import anyio
import pytest

from tunnelkit import TunnelClient
from tunnelkit.errors import DialError, StreamBroken
from tunnelkit.legacy.wsp import PoolSize, WspTransport

from ..e2e.origin import pattern_digest, serve_origin
from ..e2e.tunnel import TOKEN, exchange

# Read at once: the tests' quiet environment does not hold it.
SERVER = os.environ.get("TUNNELKIT_PEER_WSP_SERVER", "")
KEY = "a secret key"
BODY = bytes(range(256)) * 40_000

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not SERVER, reason="TUNNELKIT_PEER_WSP_SERVER names no wsp_server, which takes -config FILE"),
]


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[int]:
    """The port of their server, once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = int(chosen.getsockname()[1])
    config = folder / "wsp_server.cfg"
    config.write_text(f'host: 127.0.0.1\nport: {port}\ntimeout: 5000\nidletimeout: 60000\nsecretkey: "{KEY}"\n')
    async with await anyio.open_process([SERVER, "-config", str(config)], stdout=DEVNULL, stderr=DEVNULL) as process:
        try:
            await until_it_listens(port)
            yield port
        finally:
            process.kill()


async def until_it_listens(port: int) -> None:
    with anyio.fail_after(20):
        while True:
            try:
                await exchange(port, "GET", "/status")
                return
            except (DialError, StreamBroken):
                await anyio.sleep(0.05)


async def fetch(port: int, url: str, *, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    with anyio.fail_after(60):
        status, _, answer = await exchange(port, method, "/request", fields={"X-PROXY-DESTINATION": url}, body=body)
    return status, answer


async def test_pages_bodies_many_at_a_time_and_failures(tmp_path: Path) -> None:
    transport = WspTransport(size=PoolSize(poolidlesize=10, poolmaxsize=120))
    async with (
        running(tmp_path) as port,
        serve_origin() as origin,
        TunnelClient(
            f"ws://127.0.0.1:{port}/register", token=TOKEN, password=KEY, origin=origin.url, transport=transport
        ) as client,
    ):
        await client.wait_ready(10)
        assert await fetch(port, f"{origin.url}/bytes/10") == (200, bytes(range(10)))
        status, answer = await fetch(port, f"{origin.url}/sink", method="POST", body=BODY)
        assert (status, json.loads(answer)["sha256"]) == (200, hashlib.sha256(BODY).hexdigest())
        for kind in ("", "/chunked"):
            status, answer = await fetch(port, f"{origin.url}/bytes/{len(BODY)}{kind}")
            assert (status, hashlib.sha256(answer).hexdigest()) == (200, pattern_digest(len(BODY)))
        statuses: list[int] = []

        async def one(number: int) -> None:
            statuses.append((await fetch(port, f"{origin.url}/bytes/{number}"))[0])

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(one, number)
        assert statuses == [200] * 100
        assert await fetch(port, "http://127.0.0.1:9/") == (527, b"Destination is not allowed\n")
