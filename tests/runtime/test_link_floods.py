"""A peer that floods its link: the other tasks of the process get their turn all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import anyio
import anyio.lowlevel
import pytest

from tunnelkit.core.frames import HEAD_MORE, StreamKind, encode_credit, encode_open, pack_header
from tunnelkit.core.message import Kind, build
from tunnelkit.core.opening import Attached, OpeningResult
from tunnelkit.errors import ConnectionLost
from tunnelkit.transports.base import Connection

from .links import Silent, joined

pytestmark = pytest.mark.anyio


class Flood(Connection):
    """Always has another message at hand; after the last, it is lost."""

    transport = "flood"
    max_message = 65_528

    def __init__(self, messages: Iterator[bytes]) -> None:
        self.messages = messages

    async def ready(self) -> int:
        await anyio.lowlevel.checkpoint()
        return self.max_message

    async def send(self, message: bytes) -> None: ...

    async def receive(self) -> bytes:
        for message in self.messages:
            return message
        raise ConnectionLost("that was all")

    @property
    def last_received(self) -> float:
        return anyio.current_time()

    async def aclose(self, code: int = 1000, reason: str = "") -> None: ...

    def abort(self) -> None: ...


def small_messages() -> Iterator[bytes]:
    for _ in range(100_000):
        yield build(Kind.ACK, 1, 0, 0)


def data(pieces: Iterator[bytes]) -> Iterator[bytes]:
    offset = 0
    for piece in pieces:
        yield build(Kind.DATA, 1, offset, 0, (piece,))
        offset += len(piece)


def credits() -> Iterator[bytes]:
    """For the first stream of the server."""
    yield from data(b"".join(encode_credit(2, k * 500 + n) for n in range(500)) for k in range(1000, 2000))


def refused_streams() -> Iterator[bytes]:
    """Few among others: 2,000 that await their reset cost the session, and a quick machine reads those in a turn."""
    for refused in data(encode_open(k * 2 + 1, 1, 0) for k in range(10_000)):
        yield refused
        yield from islice(small_messages(), 50)


def heads_of_no_end() -> Iterator[bytes]:
    yield from data(pack_header(HEAD_MORE, 0, 2) * 1000 for _ in range(1000))


@pytest.mark.parametrize("flood", [small_messages, credits, refused_streams, heads_of_no_end])
async def test_others_get_their_turn(flood: Callable[[], Iterator[bytes]]) -> None:
    """While the flood goes on: it ends when they had three. (How much is read in one turn is a matter of time, and
    some floods cost their session after a number of messages.)"""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
            turns += 1
        connection.messages = iter(())

    async with joined() as pair:
        stream = pair.server.open_stream(StreamKind.HTTP, Silent())
        stream.send_head(b"a head")
        pair.server.mux.frames_to_send(10_000)  # the peer knows it
        connection = Flood(flood())
        pair.group.start_soon(take_turns)
        with anyio.fail_after(30):
            await pair.server.run(connection, OpeningResult(attached=Attached(1, 0)))
        assert turns == 3
