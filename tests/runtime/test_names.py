"""Reverse look-ups are made beside everything else, a few at a time."""

from __future__ import annotations

import socket
import threading

import anyio
import anyio.lowlevel
import pytest

from tunnelkit.names import LOOKUPS_AT_ONCE, LOOKUPS_WAITING, HostNames

from .tunnels import eventually

pytestmark = pytest.mark.anyio


async def test_names_are_found_and_missing_ones_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def look_up(sockaddr: tuple[str, int], flags: int) -> tuple[str, str]:
        assert flags == socket.NI_NAMEREQD
        asked.append(sockaddr[0])
        if sockaddr[0] == "192.0.2.1":
            return "one.example", "0"
        raise socket.gaierror(socket.EAI_NONAME, "no name")

    monkeypatch.setattr(socket, "getnameinfo", look_up)
    found: list[str] = []
    host_names = HostNames()
    host_names.look_up("192.0.2.3", found.append)  # before it runs: nothing is looked up
    async with anyio.create_task_group() as group:
        await group.start(host_names.run)
        for address in ("192.0.2.1", "192.0.2.2", ""):
            host_names.look_up(address, found.append)
        await eventually(lambda: host_names._waiting == 0)
        group.cancel_scope.cancel()
    assert sorted(asked) == ["192.0.2.1", "192.0.2.2"]
    assert found == ["one.example"]


async def test_a_slow_name_server_delays_nobody_and_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    end = threading.Event()

    def look_up(sockaddr: tuple[str, int], flags: int) -> tuple[str, str]:
        asked.append(sockaddr[0])
        end.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getnameinfo", look_up)
    host_names = HostNames()
    try:
        async with anyio.create_task_group() as group:
            await group.start(host_names.run)
            for number in range(LOOKUPS_WAITING * 2):
                host_names.look_up(f"192.0.2.{number}", print)
            await eventually(lambda: len(asked) == LOOKUPS_AT_ONCE)
            assert host_names._waiting == LOOKUPS_WAITING
            group.cancel_scope.cancel()  # waits for no name server
    finally:
        end.set()
    assert len(asked) == LOOKUPS_AT_ONCE
    assert host_names._waiting == 0


async def test_when_it_ends_nothing_more_is_looked_up() -> None:
    """A session may register in that turn of the loop: no look-up may fail it, nor be begun and left."""
    host_names = HostNames()

    async def register() -> None:
        with anyio.CancelScope(shield=True):
            for _ in range(5):
                host_names.look_up("192.0.2.1", pytest.fail)
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        await group.start(host_names.run)
        group.start_soon(register)
        group.cancel_scope.cancel()
    host_names.look_up("192.0.2.1", pytest.fail)
    assert host_names._waiting == 0
