"""``refuse_private``: what X-Host names is connected to by an address that was judged, or not at all."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tunnelkit import client as client_module

from .tunnels import Answering, tunnel

pytestmark = pytest.mark.anyio

ANY = ["http://.*"]


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, list[bytes]]]:
    """An origin on 127.0.0.1: its port, and the heads that it was sent."""
    heads: list[bytes] = []

    async def answer(stream: SocketStream) -> None:
        async with stream:
            heads.append(await stream.receive())
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfine")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, answer)
        yield listener.extra(SocketAttribute.local_port), heads
        group.cancel_scope.cancel()


class Resolver:
    """Stands for the system's: each question gets the next of the answers, the last for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        monkeypatch.setattr(anyio, "getaddrinfo", self)

    async def __call__(self, host: str, port: int, **kwargs: Any) -> list[Any]:
        self.asked.append(host)
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"])
async def test_private_addresses_are_refused(host: str) -> None:
    async with (
        listening() as (port, heads),
        tunnel() as there,
        there.client(None, allow=ANY, refuse_private=True) as client,
    ):
        await client.wait_ready(10)
        status, _ = await there.get("/x", f"X-Host: http://{host}:{port}")
        assert status == 403
    assert heads == []


async def test_without_it_they_are_reached() -> None:
    async with listening() as (port, heads), tunnel() as there, there.client(None, allow=ANY) as client:
        await client.wait_ready(10)
        assert await there.get("/x", f"X-Host: http://127.0.0.1:{port}") == (200, b"fine")
    assert len(heads) == 1


async def test_the_configured_origin_is_not_judged() -> None:
    async with (
        listening() as (port, _),
        tunnel() as there,
        there.client(f"http://127.0.0.1:{port}", refuse_private=True) as client,
    ):
        await client.wait_ready(10)
        assert await there.get("/x") == (200, b"fine")


async def test_a_second_answer_of_the_resolver_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when it is judged, 127.0.0.1 when it is connected to. There is no second question."""
    monkeypatch.setattr(client_module, "is_public", lambda address: address == "127.0.0.1")  # "public", and ours
    async with (
        listening() as (port, heads),
        tunnel() as there,
        there.client(None, allow=ANY, refuse_private=True) as client,
    ):
        await client.wait_ready(10)
        resolver = Resolver(monkeypatch, ["10.0.0.1", "127.0.0.1"], ["10.0.0.1"])
        assert await there.get("/x", f"X-Host: http://rebound.test:{port}") == (200, b"fine")
        assert resolver.asked == ["rebound.test"]
        assert (await there.get("/x", f"X-Host: http://rebound.test:{port}"))[0] == 403
        assert resolver.asked == ["rebound.test"] * 2
    assert len(heads) == 1
    assert f"Host: rebound.test:{port}".encode() in heads[0], "the name stays what it was"


async def test_an_origin_object_takes_no_part() -> None:
    async with tunnel() as there, there.client(Answering(), refuse_private=True) as client:
        await client.wait_ready(10)
        assert await there.get("/x") == (200, b"fine")
