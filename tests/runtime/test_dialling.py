"""One dial: how long it may take, and what a transport is given for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.dialling import Dialling, Way
from tunnelkit.errors import DialError
from tunnelkit.handshake import Grant, Handshake
from tunnelkit.heads import Fields
from tunnelkit.net.memory import memory_pair
from tunnelkit.net.stream import ByteStream
from tunnelkit.transports.base import Connection, DialRequest, Transport

from .tunnels import TOKEN

pytestmark = pytest.mark.anyio

LIMITS: Final = replace(DEFAULT_LIMITS, first_answer_timeout=0.05)
FIELDS: Final[Fields] = [(b"Proxy-Authorization", b"Basic x")]


class Near:
    """A dialler whose streams lead nowhere; ``gate`` is what every connection waits for."""

    def __init__(self) -> None:
        self.gate = anyio.Event()
        self.has_proxy = True

    async def __call__(self, host: str, port: int, *, tls: bool) -> ByteStream:
        return await self.dial()

    def forward_proxy(self, host: str, port: int) -> Near | None:
        return self if self.has_proxy else None

    @property
    def fields(self) -> Fields:
        return FIELDS

    async def dial(self) -> ByteStream:
        await self.gate.wait()
        return memory_pair(1)[0]


class Silent(Transport):
    """One whose server takes connections, and never says a word."""

    name = "silent"

    def __init__(self, *, by_proxy: bool) -> None:
        self.by_proxy = by_proxy
        self.asked = anyio.Event()
        self.connected = anyio.Event()

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        self.asked.set()
        for _ in range(2):  # a second connection does not begin the wait anew
            if self.by_proxy:
                proxy = request.dialler.forward_proxy("far", 80)
                assert proxy is not None
                assert proxy.fields == FIELDS
                await proxy.dial()
            else:
                await request.dialler("far", 80, tls=False)
        self.connected.set()
        await anyio.sleep_forever()
        raise AssertionError


def dialling(transport: Transport, dialler: Near, group: anyio.abc.TaskGroup) -> Dialling:
    way = Way(url="http://far", transports={transport.name: transport}, dialler=dialler, user_agent="test")
    return Dialling(way=way, announce=Handshake(token=TOKEN), limits=LIMITS, tasks=group)


@pytest.mark.parametrize("by_proxy", [False, True])
async def test_the_clock_for_the_first_answer_starts_with_the_connection(by_proxy: bool) -> None:
    near, silent = Near(), Silent(by_proxy=by_proxy)
    failures: list[DialError] = []

    async def dial() -> None:
        with pytest.raises(DialError) as caught:
            await dialling(silent, near, group).open("silent", None, brief=True)
        failures.append(caught.value)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(dial)
            await silent.asked.wait()
            await anyio.sleep(2 * LIMITS.first_answer_timeout)  # a slow way is no silent server
            assert not failures
            near.gate.set()
    assert str(failures[0]) == "the silent carried no answer within 0.05 s"
    assert failures[0].stage == "handshake"


async def test_without_another_transport_there_is_no_such_clock() -> None:
    near, silent = Near(), Silent(by_proxy=False)
    near.gate.set()
    async with anyio.create_task_group() as group:
        group.start_soon(dialling(silent, near, group).open, "silent", None)
        with anyio.fail_after(10):
            await silent.connected.wait()
        await anyio.sleep(2 * LIMITS.first_answer_timeout)
        group.cancel_scope.cancel()


async def test_no_proxy_is_no_proxy() -> None:
    class Direct(Transport):
        name = "direct"

        async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
            assert request.dialler.forward_proxy("far", 80) is None
            raise DialError("connect", "as wanted")

    near = Near()
    near.has_proxy = False
    async with anyio.create_task_group() as group:
        with pytest.raises(DialError, match="as wanted"):
            await dialling(Direct(), near, group).open("direct", None, brief=True)
