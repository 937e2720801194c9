"""A session moves between transports, up and down again, with all that runs on it, and nobody notices."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio
import pytest

from tunnelkit import Limits
from tunnelkit.config import DEFAULT_LIMITS, KIB
from tunnelkit.core.events import Data, Event
from tunnelkit.events import Closed, EventStream, Lost, Moved, Resumed
from tunnelkit.heads import ResponseHead
from tunnelkit.link import Link
from tunnelkit.link_streams import LinkStreams
from tunnelkit.net.memory import memory_pair
from tunnelkit.net.stream import ByteStream
from tunnelkit.origins.base import OriginExchange
from tunnelkit.testing.middlebox import Middlebox, serve_middlebox
from tunnelkit.tunnel_stream import Stream, StreamHandler

from ..runtime.tunnels import Answering, News, plain
from ..runtime.ways import expect, longpoll, websocket
from .origin import BLOCK
from .transfers import Download as WholeDownload
from .tunnel import Ends, gather, open_ends, read_head, until

pytestmark = [pytest.mark.anyio, pytest.mark.pair(0), pytest.mark.timeout(180)]

# Windows so small that what a caller reads between two moves has to come over the connection in use; and clocks so
# short that nobody waits for them.
LIMITS = replace(
    DEFAULT_LIMITS,
    stream_floor=16 * KIB,
    stream_first_window=16 * KIB,
    stream_max_window=32 * KIB,
    retry_first=0.01,
    retry_cap_resumable=0.05,
    retry_cap=0.05,
    first_answer_timeout=0.5,
    probe_first=0.05,
    probe_cap=0.1,
)
STEP = 32 * KIB  # what every transfer moves between two moves, at the least,
FLOW = 256 * KIB  # and while a move is waited for, at the most
PIECE = 8 * KIB
TRANSPORTS = ("websocket", "longpoll")


# -- what runs meanwhile -----------------------------------------------------------------------


class Pace:
    """How far the transfers may go by now."""

    def __init__(self) -> None:
        self._allowed = 0
        self._raised = anyio.Event()

    def allow(self, count: int) -> None:
        self._allowed = count
        raised, self._raised = self._raised, anyio.Event()
        raised.set()

    async def wait(self, done: int) -> None:
        while done >= self._allowed:
            await self._raised.wait()


@dataclass(eq=False)
class Transfer(ABC):
    """``size`` bytes that go on as the pace allows at their source. ``done``: what came to their destination."""

    pace: Pace
    size: int
    done: int = 0

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, self.size, PIECE):
            yield BLOCK[: min(PIECE, self.size - start)]

    def digest(self) -> str:
        return hashlib.sha256(b"".join(self.pieces())).hexdigest()

    async def paced(self) -> AsyncIterator[bytes]:
        sent = 0
        for piece in self.pieces():
            await self.pace.wait(sent)
            yield piece
            sent += len(piece)

    @abstractmethod
    async def call(self, stream: ByteStream, path: str) -> None:
        """At the caller. Raises AssertionError unless every byte arrives, in order."""

    @abstractmethod
    async def answer(self, exchange: OriginExchange) -> None:
        """At the origin."""


class Download(Transfer):
    async def call(self, stream: ByteStream, path: str) -> None:
        await ask(stream, f"GET {path}")
        status, _, data = await read_head(stream)
        assert status == 200
        digest = hashlib.sha256()
        while True:
            digest.update(data)
            self.done += len(data)
            if self.done >= self.size:
                break
            data = await stream.receive()
            assert data, f"{self.done} of {self.size} bytes, then the end"
        assert (self.done, digest.hexdigest()) == (self.size, self.digest())

    async def answer(self, exchange: OriginExchange) -> None:
        news = News(exchange)
        exchange.send_head(ResponseHead(200, [(b"Content-Length", b"%d" % self.size)], b"OK"))
        async for piece in self.paced():
            while piece:
                while not exchange.room:
                    await news.wait()
                    assert not exchange.gone
                room = exchange.room
                exchange.send_body(piece[:room])
                piece = piece[room:]
        exchange.send_end()


class Upload(Transfer):
    async def call(self, stream: ByteStream, path: str) -> None:
        await ask(stream, f"PUT {path}", f"Content-Length: {self.size}")
        async for piece in self.paced():
            await stream.send(piece)
        status, _, body = await read_head(stream)
        assert status == 200
        while len(body) < 64:
            body += await stream.receive()
        assert (self.done, body.decode()) == (self.size, self.digest())

    async def answer(self, exchange: OriginExchange) -> None:
        news, digest = News(exchange), hashlib.sha256()
        while (piece := exchange.body_waiting) != b"":
            if piece is None:
                await news.wait()
                assert not exchange.gone
                continue
            digest.update(piece)
            self.done += len(piece)
            exchange.body_taken()
        await plain(exchange, digest.hexdigest().encode())


class Echo(Transfer):
    """An upgraded connection: what comes back is what was sent."""

    async def call(self, stream: ByteStream, path: str) -> None:
        await ask(stream, f"GET {path}", "Connection: Upgrade", "Upgrade: echo")
        status, _, data = await read_head(stream)
        assert status == 101
        digest = hashlib.sha256(data)

        async def send() -> None:
            async for piece in self.paced():
                await stream.send(piece)
            await stream.send_eof()

        async def receive() -> None:
            while piece := await stream.receive():
                digest.update(piece)
                self.done += len(piece)

        await gather(send, receive)
        assert (self.done, digest.hexdigest()) == (self.size, self.digest())

    async def answer(self, exchange: OriginExchange) -> None:
        near, far = memory_pair(PIECE)

        async def echo() -> None:
            while piece := await near.receive():
                await near.send(piece)
            await near.send_eof()

        fields = [(b"Connection", b"Upgrade"), (b"Upgrade", b"echo")]
        async with anyio.create_task_group() as group:
            group.start_soon(echo)
            await exchange.splice(ResponseHead(101, fields, b"Switching Protocols"), far)


async def ask(stream: ByteStream, line: str, *fields: str) -> None:
    await stream.send("\r\n".join([f"{line} HTTP/1.1", "Host: tunnel.test", *fields, "", ""]).encode())


@dataclass
class Carried:
    """The bytes that each stream was brought by each transport: downwards at the server, upwards at the client."""

    down: dict[int, Counter[str]] = field(default_factory=dict)
    up: dict[int, Counter[str]] = field(default_factory=dict)

    @classmethod
    def watch(cls, patch: pytest.MonkeyPatch) -> Carried:
        carried, deliver = cls(), LinkStreams._deliver

        def noting(streams: LinkStreams, event: Event, touched: dict[Stream, StreamHandler]) -> None:
            link: Link = streams.ring.__self__  # type: ignore[attr-defined]
            if isinstance(event, Data) and event.stream_id in streams.by_id and link.connection is not None:
                way = carried.down if streams._accept is None else carried.up
                way.setdefault(event.stream_id, Counter())[link.connection.transport] += len(event.data)
            deliver(streams, event, touched)

        patch.setattr(LinkStreams, "_deliver", noting)
        return carried


# -- the ways ----------------------------------------------------------------------------------


class Road(ABC):
    """Between a client and a server, where something opens and closes the better way."""

    server_options: dict[str, Any] = {}  # noqa: RUF012 - never changed

    @abstractmethod
    def between(self, ends: Ends) -> AbstractAsyncContextManager[dict[str, Any]]:
        """Build it; the options of a client that takes it."""

    @abstractmethod
    def close(self) -> None:
        """Let no websocket through any more; those there are end."""

    @abstractmethod
    def open(self) -> None: ...


class MemoryRoad(Road):
    """Messages handed over inside the process, by a transport that keeps order and one that does not."""

    def __init__(self) -> None:
        self.better, self.other = websocket(), longpoll(seed=3)
        self.server_options = {"transports": [self.better, self.other]}

    @asynccontextmanager
    async def between(self, ends: Ends) -> AsyncIterator[dict[str, Any]]:
        yield {"transport": [self.better, self.other]}

    def close(self) -> None:
        self.better.blocked = True
        self.better.cut()

    def open(self) -> None:
        self.better.blocked = False


class BoxRoad(Road):
    """The real transports, through a middlebox on loopback."""

    box: Middlebox

    @asynccontextmanager
    async def between(self, ends: Ends) -> AsyncIterator[dict[str, Any]]:
        async with serve_middlebox(ends.port) as self.box:
            yield {"via": self.box.relay}

    def close(self) -> None:
        self.box.refuse_upgrades = 403
        self.box.relay.cut()

    def open(self) -> None:
        self.box.refuse_upgrades = 0


class Moving:
    """A tunnel over a road, with transfers that it carries to and fro."""

    def __init__(self, ends: Ends, road: Road, pace: Pace, transfers: list[Transfer], events: EventStream) -> None:
        self.ends = ends
        self.road = road
        self.pace = pace
        self.transfers = transfers
        self.events = events
        self._allowed = 0

    async def run(self, moves: int) -> None:
        """``moves`` down and as many up, each with all transfers on their way; they rest between two moves."""
        (before,) = self.ends.server.sessions()
        calls = [partial(self._call, transfer) for transfer in self.transfers]
        await gather(partial(self._move_again_and_again, moves), *calls)
        (after,) = self.ends.server.sessions()
        assert after.id == before.id

    async def _move_again_and_again(self, moves: int) -> None:
        await self._rest()
        for _ in range(moves):
            await self._flow()
            self.road.close()
            resumed = await expect(self.events, Resumed)
            assert isinstance(resumed, Resumed)
            assert (resumed.transport, bool(resumed.reason)) == ("longpoll", True)
            await self._rest()
            self.road.open()
            moved = await self._flow_until_moved()
            assert isinstance(moved, Moved)
            assert moved.transport == "websocket"
            await self._rest()
        self.pace.allow(self.transfers[0].size)

    async def _flow(self) -> None:
        """Let every transfer go on a step; return as soon as some bytes of it arrived."""
        before = sum(transfer.done for transfer in self.transfers)
        self._allowed += STEP
        self.pace.allow(self._allowed)
        await until(lambda: sum(transfer.done for transfer in self.transfers) > before)

    async def _flow_until_moved(self) -> object:
        """Let the transfers go on, by no more than ``FLOW``, until the session moves."""
        async with anyio.create_task_group() as group:

            async def flow() -> None:
                for _ in range(FLOW // PIECE):
                    self._allowed += PIECE
                    self.pace.allow(self._allowed)
                    await until(lambda: any(transfer.done >= self._allowed for transfer in self.transfers))

            group.start_soon(flow)
            event = await expect(self.events, Moved, Lost)
            group.cancel_scope.cancel()
        return event

    async def _rest(self) -> None:
        """Let every transfer go on a step, to its end."""
        self._allowed += STEP
        self.pace.allow(self._allowed)
        await until(lambda: all(transfer.done >= self._allowed for transfer in self.transfers), 30)

    async def _call(self, transfer: Transfer) -> None:
        async with self.ends.caller() as stream:
            await transfer.call(stream, self.ends.path(f"/{self.transfers.index(transfer)}"))


async def move_with_load(road: Road, *, moves: int, downloads: int) -> None:
    pace, size = Pace(), STEP + moves * (3 * STEP + FLOW)
    transfers: list[Transfer] = [
        *[Download(pace, size) for _ in range(downloads)],
        *[Upload(pace, size) for _ in range(4)],
        Echo(pace, size),
    ]
    with pytest.MonkeyPatch.context() as patch:
        carried = Carried.watch(patch)
        async with open_ends(limits=LIMITS, **road.server_options) as ends:

            async def answer(exchange: OriginExchange) -> None:
                await transfers[int(exchange.head.target[1:])].answer(exchange)

            async with (
                road.between(ends) as options,
                ends.join(origin=Answering(answer), **options) as client,
            ):
                assert client.transport == "websocket"
                await Moving(ends, road, pace, transfers, client.events()).run(moves)
    assert len([way for way in carried.down.values() if way.total() == size]) == downloads + 1
    assert len([way for way in carried.up.values() if way.total() == size]) == 5
    for way in [*carried.down.values(), *carried.up.values()]:
        if way.total() == size:  # else it is the answer to an upload
            assert way["websocket"] >= STEP * (moves + 1), way
            assert way["longpoll"] >= STEP * moves, way


@pytest.mark.interpreted
@pytest.mark.parametrize("moves", [3, pytest.param(20, marks=pytest.mark.full)])
async def test_everything_goes_on_across_moves_of_messages(moves: int) -> None:
    """From a connection that keeps order to one that does not, with 16 times the largest message, and back."""
    with anyio.fail_after(20 * moves):
        await move_with_load(MemoryRoad(), moves=moves, downloads=50)


@pytest.mark.interpreted
@pytest.mark.parametrize("moves", [2, pytest.param(10, marks=pytest.mark.full)])
async def test_everything_goes_on_across_moves(moves: int) -> None:
    """Where something in between lets websockets through, and then no more, again and again."""
    with anyio.fail_after(30 * moves):
        await move_with_load(BoxRoad(), moves=moves, downloads=50)


@asynccontextmanager
async def behind_a_box(*, limits: Limits = LIMITS) -> AsyncIterator[tuple[Ends, Middlebox]]:
    async with open_ends(limits=limits) as ends, serve_middlebox(ends.port) as box:
        yield ends, box


@pytest.mark.parametrize(
    ("limits", "timeout"),
    [
        pytest.param(LIMITS, 10, id="short"),
        pytest.param(DEFAULT_LIMITS, 9, id="defaults"),
    ],
)
async def test_where_upgrades_are_refused(limits: Limits, timeout: float) -> None:
    async with behind_a_box(limits=limits) as (ends, box):
        box.refuse_upgrades = 403
        with anyio.fail_after(timeout):
            async with ends.join(via=box.relay) as client:
                assert client.transport == "longpoll"
                assert (await ends.get("/status/200"))[0] == 200


@pytest.mark.parametrize(
    ("limits", "timeout"),
    [
        pytest.param(LIMITS, 10, id="short"),
        pytest.param(DEFAULT_LIMITS, 10, id="defaults", marks=pytest.mark.full),
    ],
)
async def test_where_frames_are_swallowed(limits: Limits, timeout: float) -> None:
    async with behind_a_box(limits=replace(limits, max_clients_per_token=1)) as (ends, box):
        box.swallow = True
        with anyio.fail_after(timeout):
            async with ends.join(via=box.relay) as client:
                assert client.transport == "longpoll"
                assert (await ends.get("/status/200"))[0] == 200
        assert box.swallowed


async def test_frames_that_are_swallowed_from_some_moment_on() -> None:
    limits = replace(LIMITS, ping_active_silence=0.5, ping_active_timeout=0.5)
    async with behind_a_box(limits=limits) as (ends, box), ends.join(via=box.relay) as client:
        assert client.transport == "websocket"
        events = client.events()
        download = WholeDownload(ends, 10_000_000)

        async def swallow() -> None:
            await box.until(lambda: box.upgrades[0].carried > 1_000_000)
            box.swallow = True
            resumed = await expect(events, Resumed)
            assert isinstance(resumed, Resumed)
            assert resumed.transport == "longpoll"

        with anyio.fail_after(30):
            await gather(swallow, download.run)


async def test_probes_into_a_black_hole_do_not_disturb_the_session() -> None:
    limits = replace(LIMITS, probe_timeout=0.2)
    async with behind_a_box(limits=limits) as (ends, box):
        box.swallow = True
        async with ends.join(via=box.relay) as client:
            events = client.events()
            (session,) = ends.server.sessions()
            downloads = [WholeDownload(ends, 3_000_000) for _ in range(3)]
            with anyio.fail_after(30):
                await gather(lambda: box.until(lambda: len(box.upgrades) >= 6), *[each.run for each in downloads])
            assert (client.transport, session.attached) == ("longpoll", True)
            assert [each.id for each in ends.server.sessions()] == [session.id]
        assert [event async for event in events] == [Closed(reason="closed")]
