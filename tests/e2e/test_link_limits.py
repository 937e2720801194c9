"""Limits of the link at their edges, through the running tunnel: the largest that may be passes, one byte more costs
its own connection or its own request, and other tokens never notice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from anyio.abc import TaskGroup

from tunnelkit.config import DEFAULT_LIMITS, KIB, MIB, Limits
from tunnelkit.core.frames import DATA, DATA_FIN, encode_credit, pack_header
from tunnelkit.core.frames import HEADER_SIZE as FRAME_HEADER
from tunnelkit.core.message import HEADER_SIZE, Kind, build
from tunnelkit.transports.longpoll.wire import Op
from tunnelkit.transports.websocket.frames import MAX_MESSAGE

from .by_hand import caller_side
from .scripted import ScriptedClient, data, head, scripted_client
from .test_bad_longpoll import beside_an_honest_client
from .tunnel import Call, Ends, open_ends, until

pytestmark = pytest.mark.anyio

OTHER = "a-token-of-its-own"
IGNORABLE = 0x6380  # a frame of a type that nobody knows, with the flag


def ask(ends: Ends, group: TaskGroup, *, body: bytes = b"") -> Call:
    call = Call()
    group.start_soon(call.run, ends.port, "PUT" if body else "GET", f"/_token/{OTHER}/", None, body)
    return call


def filling(size: int) -> bytes:
    """Frames of so many bytes that are skipped."""
    frames = []
    while size:
        payload = min(size - FRAME_HEADER, 60_000)
        if 0 < size - FRAME_HEADER - payload < FRAME_HEADER:
            payload -= FRAME_HEADER
        frames.append(pack_header(IGNORABLE, payload, 0) + bytes(payload))
        size -= FRAME_HEADER + payload
    return b"".join(frames)


@asynccontextmanager
async def beside(limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[tuple[Ends, ScriptedClient, TaskGroup]]:
    """A client by script; afterwards a good one of another token is as it was, on the connection that it had."""
    async with open_ends(limits=limits) as ends, ends.join(), anyio.create_task_group() as group:
        [session] = ends.server.sessions()
        async with scripted_client(group, ends.port, OTHER) as client:
            yield ends, client, group
        assert (await ends.get("/echo"))[0] == 200
        assert session in ends.server.sessions()
        assert session.epoch == 1
        group.cancel_scope.cancel()


async def test_the_largest_message_of_a_websocket() -> None:
    async with beside() as (ends, client, group):
        call = ask(ends, group)
        await client.asked()
        answer = head(2, 200) + data(2, b"x" * 1000, fin=True)
        answer += filling(MAX_MESSAGE - HEADER_SIZE - len(answer))
        await client.message(Kind.DATA, answer, offset=0)
        assert len((await call.answer())[2]) == 1000
        client.connection.max_message = MAX_MESSAGE + 1
        await client.message(Kind.DATA, bytes(MAX_MESSAGE + 1 - HEADER_SIZE), offset=len(answer))
        await client.until(lambda: client.lost is not None)
        assert "1009" in str(client.lost)


async def test_the_largest_message_of_a_post() -> None:
    async with open_ends() as ends, beside_an_honest_client(ends) as client:
        largest = build(Kind.DATA, 1, 0, 0, (filling(MIB - HEADER_SIZE),))
        assert len(largest) == DEFAULT_LIMITS.poll_body
        assert (await client.ask(Op.UP, 2, largest))[0] == 200
        assert await client.alive(2)
        async with caller_side(ends) as side:
            await side.send(client.head(Op.UP, 3, len(largest) + 1))
            answer = await side.rest()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert await client.alive(3)


async def test_the_largest_frame() -> None:
    """It takes more than one message; a larger one cannot be said."""
    async with beside() as (ends, client, group):
        call = ask(ends, group)
        await client.asked()
        await client.say(head(2, 200), data(2, b"x" * 65_535, fin=True))
        assert len((await call.answer())[2]) == 65_535


async def test_what_is_not_acknowledged_is_bounded() -> None:
    """With the replay buffer full the server waits, and drops nothing."""
    size = 300_000
    limits = replace(DEFAULT_LIMITS, replay_limit=64 * KIB)
    async with beside(limits) as (ends, client, group):
        client.acks = False
        call = ask(ends, group, body=bytes(size))
        await client.asked()
        await client.say(encode_credit(2, MIB))
        outbound = ends.server.sessions()[-1].link.session

        def unacknowledged() -> int:
            return outbound.sent - outbound.acked

        await until(lambda: unacknowledged() >= 64 * KIB - limits.min_message)
        for _ in range(5):
            assert (await ends.get("/echo"))[0] == 200
        assert unacknowledged() <= 64 * KIB + limits.control_reserve
        assert received(client) < size
        client.acks = True
        await client.message(Kind.ACK)
        await client.until(lambda: received(client) == size)
        await client.say(head(2, 200, fin=True))
        assert await call.status() == 200


def received(client: ScriptedClient) -> int:
    """Bytes of bodies."""
    return sum(len(payload) for code, _, payload in client.frames if code in (DATA, DATA_FIN))
