"""A tunnel client of ours at wsp's own server, where the environment names one."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL

import anyio
import pytest

from tunnelkit import RegistrationRefused, TunnelClient
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        return int(chosen.getsockname()[1])


@asynccontextmanager
async def running(folder: Path, port: int) -> AsyncIterator[None]:
    """Their server, once it listens."""
    config = folder / "wsp_server.cfg"
    config.write_text(f'host: 127.0.0.1\nport: {port}\ntimeout: 5000\nidletimeout: 60000\nsecretkey: "{KEY}"\n')
    async with await anyio.open_process([SERVER, "-config", str(config)], stdout=DEVNULL, stderr=DEVNULL) as process:
        try:
            await until_it_listens(port)
            yield
        finally:
            process.kill()


def client(port: int, origin: str, key: str = KEY) -> TunnelClient:
    transport = WspTransport(size=PoolSize(poolidlesize=10, poolmaxsize=120))
    url = f"ws://127.0.0.1:{port}/register"
    return TunnelClient(url, token=TOKEN, password=key, origin=origin, transport=transport)


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
    port = free_port()
    async with running(tmp_path, port), serve_origin() as origin, client(port, origin.url) as joined:
        await joined.wait_ready(10)
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
        origin.release("half")
        with suppress(AssertionError, StreamBroken):  # the caller is told something, or cut: it is their server's way
            await fetch(port, f"{origin.url}/half/100000")
        assert await fetch(port, f"{origin.url}/bytes/1") == (200, bytes(1))


async def test_an_answer_that_comes_before_the_body_was_taken(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, port), serve_origin() as origin, client(port, origin.url) as joined:
        await joined.wait_ready(10)
        for _ in range(12):  # as many as there are connections, and more
            assert (await fetch(port, f"{origin.url}/early/413", method="POST", body=BODY[:300_000]))[0] == 413


async def test_an_origin_that_is_down_is_told(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, port), client(port, "http://127.0.0.1:9") as joined:
        await joined.wait_ready(10)
        told = b"Unable to execute request : dial tcp: the origin cannot be reached\n"
        assert await fetch(port, "http://127.0.0.1:9/") == (527, told)


async def test_a_wrong_key_ends_the_client(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, port):
        with pytest.raises(RegistrationRefused, match="secret key"):
            async with client(port, "http://127.0.0.1:9", "wrong"):
                await anyio.sleep_forever()


async def test_a_server_that_restarts_is_joined_again(tmp_path: Path) -> None:
    port = free_port()
    async with serve_origin() as origin, client(port, origin.url) as joined:
        for _ in range(2):
            async with running(tmp_path, port):
                with anyio.fail_after(30):
                    while (await fetch(port, f"{origin.url}/bytes/1"))[0] == 526:  # noqa: ASYNC110 - their server tells nobody
                        await anyio.sleep(0.05)
                assert await fetch(port, f"{origin.url}/bytes/1") == (200, bytes(1))
        assert origin.targets().count("/bytes/1") >= 4
        joined.close()
