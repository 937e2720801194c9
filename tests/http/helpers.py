"""Feeding codecs in every way a network may, and serving callers over memory."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import HeadError, StreamBroken
from tunnelkit.heads import RequestHead, ResponseHead
from tunnelkit.http.client_codec import ClientCodec
from tunnelkit.http.codec import Body, End
from tunnelkit.http.codec_moves import Signal
from tunnelkit.http.front import ErrorResponder, Front, Handler, plain_error
from tunnelkit.http.keeper import IdleKeeper
from tunnelkit.http.server_codec import ServerCodec
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.peer import Peer
from tunnelkit.net.timers import Timers

from .. import parsers

__all__ = [
    "Served",
    "client",
    "failure",
    "keeping",
    "read_all",
    "read_until",
    "server",
    "serving",
    "splits",
]

Read: TypeAlias = "RequestHead | ResponseHead | Body | End | Signal | tuple[int, str]"


def server(limits: Limits = DEFAULT_LIMITS) -> ServerCodec:
    return ServerCodec(parsers.used, limits)


def client(request: RequestHead | None = None, limits: Limits = DEFAULT_LIMITS) -> ClientCodec:
    """One that has sent ``request``."""
    codec = ClientCodec(parsers.used, limits)
    codec.encode_head(request or RequestHead(b"GET", b"/", [(b"Host", b"a")]))
    codec.encode_end()
    return codec


def splits(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and in two halves."""
    middle = len(data) // 2
    return [[data], [data[i : i + 1] for i in range(len(data))], [data[:middle], data[middle:]]]


def read_all(codec: ServerCodec | ClientCodec, pieces: Iterable[bytes]) -> list[Read]:
    """All events of ``pieces`` up to the first signal after them; neighbouring bodies joined, an error as its
    status and code."""
    events: list[Read] = []
    try:
        for piece in pieces:
            codec.receive_data(piece)
            events += _events(codec)
    except HeadError as error:
        events.append((error.status, error.code))
    return _joined(events)


def _events(codec: ServerCodec | ClientCodec) -> Iterable[Read]:
    while not isinstance(event := codec.next_event(), Signal):
        yield event
    if event is not Signal.NEED_DATA:
        yield event


def _joined(events: list[Read]) -> list[Read]:
    joined: list[Read] = []
    for event in events:
        if isinstance(event, Body) and joined and isinstance(joined[-1], Body):
            joined[-1] = Body(joined[-1].data + event.data)
        elif not joined or event is not joined[-1] or not isinstance(event, Signal):
            joined.append(event)
    return joined


def failure(codec: ServerCodec | ClientCodec, data: bytes) -> tuple[int, str] | None:
    """The status and code that ``data`` is refused with; None when it is not."""
    last = read_all(codec, [data])
    return last[-1] if last and isinstance(last[-1], tuple) else None


@asynccontextmanager
async def keeping() -> AsyncIterator[IdleKeeper]:
    """A keeper that runs."""
    keeper = IdleKeeper(logging.getLogger("tunnelkit.client"))
    async with anyio.create_task_group() as group:
        await group.start(keeper.run)
        with anyio.fail_after(10):
            yield keeper
        group.cancel_scope.cancel()


class Served:
    """A front and the connections that callers made to it."""

    def __init__(self, front: Front, timers: Timers, group: anyio.abc.TaskGroup) -> None:
        self.front = front
        self.timers = timers
        self._group = group

    def connect(self, capacity: int = 64 * 1024) -> MemoryStream:
        ours, theirs = memory_pair(capacity)
        self._group.start_soon(self.front.serve_connection, theirs, Peer(address="192.0.2.1", port=5))
        return ours


@asynccontextmanager
async def serving(
    handler: Handler,
    *,
    limits: Limits = DEFAULT_LIMITS,
    error_responder: ErrorResponder = plain_error,
    half_close_answers: bool = False,
) -> AsyncIterator[Served]:
    timers = Timers()
    front = Front(
        handler, timers=timers, limits=limits, error_responder=error_responder, half_close_answers=half_close_answers
    )
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(timers.run)
            yield Served(front, timers, group)
            group.cancel_scope.cancel()


async def read_until(stream: MemoryStream, end: bytes | None = None) -> bytes:
    """What comes until ``end``, or with None until the connection ends; a reset adds ``<reset>``."""
    data = b""
    try:
        while end is None or not data.endswith(end):
            if not (piece := await stream.receive()):
                return data
            data += piece
    except StreamBroken:
        return data + b"<reset>"
    return data
