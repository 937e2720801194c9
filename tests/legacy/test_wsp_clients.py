"""wsp's deployed clients at a tunnel server of ours."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tunnelkit import ConfigError, Rule, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import StreamBroken
from tunnelkit.legacy.wsp import WspTransport
from tunnelkit.net.stream import ByteStream

from ..e2e.tunnel import TOKEN, Answer, Call, Ends, exchange, open_ends, problem_of, until
from .wsp_client_peer import Asked, WspClient, WspConnection

pytestmark = pytest.mark.anyio

KEY = "ThisIsASecret"
SITE = "http://127.0.0.1:27181"  # nobody connects to it: the client is played
HEADER = {"Content-Type": ["text/plain"], "Set-Cookie": ["a=1", "b=2"]}


@asynccontextmanager
async def serving(*, path: str = "/register", **options: Any) -> AsyncIterator[Ends]:
    limits = options.setdefault("limits", DEFAULT_LIMITS)
    transports = ("websocket", WspTransport(token=TOKEN, path=path, limits=limits))
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
