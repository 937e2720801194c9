"""Long-poll over sockets with both ends given what comes where it comes (``Connection.receive_into``), and sending
without a wait where that goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tunnelkit.errors import ConnectionLost
from tunnelkit.testing import wired
from tunnelkit.transports.base import Connection
from tunnelkit.transports.longpoll import LongPollTransport
from tunnelkit.transports.longpoll import client_connection as longpoll_client_connection

from .test_receive_into import Taking, taking

pytestmark = pytest.mark.anyio

MODES = ("strict", "streamed", "auto")


@asynccontextmanager
async def ends(mode: str) -> AsyncIterator[tuple[Connection, Connection]]:
    """The client's and the server's."""
    async with wired(LongPollTransport(mode=mode)) as wires:
        client, server = await wires.connect()
        yield client, server
        client.abort()
        server.abort()


async def give(connection: Connection, message: bytes) -> None:
    if connection.room_now():
        connection.send_now(message)
    else:
        await connection.ready()
        await connection.send(message)


async def until(taken: Taking) -> Exception:
    while taken.error is None:
        await checkpoint()
    return taken.error


@pytest.mark.parametrize("mode", MODES)
async def test_messages_of_all_sizes_come_both_ways(mode: str) -> None:
    messages = [bytes([size % 251]) * size for size in (1, 1000, 20_000, 70_000, 1 << 20, 7, 2000)]
    async with ends(mode) as (client, server), taking(client) as down, taking(server) as up:
        for sender, taken in ((client, up), (server, down)) * 2:
            before = len(taken.messages)
            for message in messages:
                await give(sender, message)
            assert sorted((await taken.has(before + len(messages)))[before:]) == sorted(messages)


@pytest.mark.parametrize("mode", MODES)
async def test_answers_are_sent_from_within(mode: str) -> None:
    at_once = 0
    async with ends(mode) as (client, server), anyio.create_task_group() as tasks:

        def echo(message: bytes) -> None:
            nonlocal at_once
            if server.room_now():
                at_once += 1
                server.send_now(message)
            else:
                tasks.start_soon(give, server, message)

        async with taking(server, echo), taking(client) as down:
            for number in range(1, 50):
                await give(client, b"x" * number)
                await down.has(number)
            assert [len(message) for message in down.messages] == list(range(1, 50))
            assert at_once


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("mode", MODES)
async def test_what_is_raised_from_within_goes_through(mode: str, swapped: bool) -> None:
    def fail(message: bytes) -> None:
        raise ValueError(message)

    async with ends(mode) as (client, server):
        sender, receiver = (server, client) if swapped else (client, server)
        async with taking(receiver, fail) as taken:
            await give(sender, b"one")
            assert isinstance(await until(taken), ValueError)
            await give(sender, b"two")
            assert taken.messages == [b"one"]
        assert await receiver.receive() == b"two"


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("mode", MODES)
async def test_aborted_from_within_it_gives_nothing_more(mode: str, swapped: bool) -> None:
    async with ends(mode) as (client, server):
        sender, receiver = (server, client) if swapped else (client, server)
        async with taking(receiver, lambda message: receiver.abort()) as taken:
            await give(sender, b"one")
            assert isinstance(await until(taken), ConnectionLost)
            with suppress(ConnectionLost), anyio.move_on_after(0.1):
                await give(sender, b"two")
        assert taken.messages == [b"one"]
        assert not receiver.room_now()


async def test_what_came_before_is_given_first() -> None:
    async with ends("strict") as (client, server):
        async with anyio.create_task_group() as tasks:
            for message in (b"one", b"two", b"three"):
                await client.ready()
                tasks.start_soon(client.send, message)
        await anyio.sleep(0.1)
        async with taking(server) as taken:
            assert sorted(await taken.has(3)) == [b"one", b"three", b"two"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_close_is_the_end(mode: str) -> None:
    async with ends(mode) as (client, server), taking(server) as taken:
        await give(client, b"last")
        await client.aclose()
        error = await until(taken)
        assert isinstance(error, ConnectionLost)
        assert error.clean
        assert taken.messages == [b"last"]


@pytest.mark.interpreted
@pytest.mark.parametrize("mode", MODES)
async def test_the_others_have_their_turn(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn is over after every message here."""
    monkeypatch.setattr(longpoll_client_connection, "TURN", -1.0)
    async with ends(mode) as (client, server), taking(client) as taken:
        for number in range(50):
            await give(server, b"%d" % number)
        assert await taken.has(50) == [b"%d" % number for number in range(50)]


async def test_a_post_finds_its_connection_closed() -> None:
    """It goes out on another one."""
    async with ends("strict") as (client, server), taking(server) as taken:
        await give(client, b"one")
        await taken.has(1)
        while not client.room_now():
            await checkpoint()
        assert isinstance(client, longpoll_client_connection.ClientConnection)
        (lane,) = client._lanes
        assert lane._call is not None
        lane._call.abort()
        client.send_now(b"two")
        assert await taken.has(2) == [b"one", b"two"]
