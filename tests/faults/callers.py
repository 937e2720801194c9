"""Callers that keep asking, check every byte, and keep what they were told when something went wrong."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import count
from typing import Any

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.to_thread import run_sync

from tunnelkit.agent_workers import WORKERS_KEPT

from ..e2e.origin import BLOCK
from ..e2e.processes import expected_digest
from ..e2e.tunnel import parse_head, until
from .ends import TOKEN, Tunnel
from .places import Place

__all__ = ["Call", "Kind", "Pace", "Traffic", "crowd", "pending", "seen", "served_again", "traffic"]

# Gone in the middle, whatever the kernel or the origin made of it.
ENDED = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.IncompleteRead, ConnectionError)
KINDS = 4  # small requests, downloads, uploads, streams of events
PIECES = 40  # in which a paced body is read or written


class Kind(StrEnum):
    """How a call ended. A wrong body is none of these: it fails the test."""

    WHOLE = "whole"  # a success, with every byte
    TOLD = "told"  # an error that tunnelkit told, as a complete response
    BROKEN = "broken"  # the connection ended where no response does
    UNREACHED = "unreached"  # nobody took the connection


@dataclass(frozen=True)
class Pace:
    """How long and how large: so that a fault meets bodies on their way, and the machine has time for others."""

    size: int = 2_000_000  # bytes of a body
    time: float = 1.0  # seconds in which a caller moves one
    events: int = 10
    pause: float = 0.02  # between two requests of a caller
    each: int = 1  # callers of every kind
    patience: float = 150.0  # a call that takes longer hangs


@dataclass
class Call:
    """One request and what became of it."""

    target: str
    kind: Kind | None = None
    status: int = 0
    code: str = ""  # of tunnelkit's own errors
    outcome: str = ""
    began: float = field(default_factory=anyio.current_time)
    ended: float = 0.0
    done: int = 0  # bytes of the body that were moved

    @property
    def told(self) -> str:
        """For comparisons and for people: ``whole``, ``broken``, ``502 tunnel_lost sent`` ..."""
        assert self.kind is not None
        return f"{self.status} {self.code} {self.outcome}" if self.kind is Kind.TOLD else self.kind.value

    @property
    def refused(self) -> bool:
        """An error without an outcome is for what was never taken (docs/errors.md)."""
        return self.kind is Kind.TOLD and self.outcome in ("", "never_sent")

    # -- the exchange itself -------------------------------------------------------------------

    async def run(self, place: Place, port: int, exchange: Callable[[SocketStream], Awaitable[None]]) -> None:
        """``exchange`` on a connection of its own. Raises AssertionError for what no caller may ever see."""
        try:
            connected = await run_sync(place.connect, port)
        except OSError:
            self.kind = Kind.UNREACHED
        else:
            try:
                stream = await SocketStream.from_socket(connected)
            except ValueError:  # it was reset since, so that it has no peer any more
                connected.close()
                self.kind = Kind.BROKEN
            else:
                await self._over(stream, exchange)
        self.ended = anyio.current_time()

    async def _over(self, stream: SocketStream, exchange: Callable[[SocketStream], Awaitable[None]]) -> None:
        async with stream:
            try:
                await exchange(stream)
            except ENDED:
                self.kind = Kind.BROKEN

    async def head(self, reader: BufferedByteReceiveStream) -> dict[str, str] | None:
        """The fields of a success. None for an error, which was read whole then."""
        self.status, listed = parse_head(await reader.receive_until(b"\r\n\r\n", 65536))
        fields = {name.lower(): value for name, value in listed}
        if self.status == 200:
            return fields
        assert fields["content-type"] == "application/problem+json", (self.target, self.status, fields)
        problem = json.loads(await reader.receive_exactly(int(fields["content-length"])))
        self.kind, self.code, self.outcome = Kind.TOLD, problem["code"], problem.get("outcome", "")
        return None


def _request(line: str, *fields: str) -> bytes:
    known = ["Host: 127.0.0.1", f"X-Token: {TOKEN}", "Accept: application/json", "Connection: close"]
    return "\r\n".join([f"{line} HTTP/1.1", *known, *fields, "", ""]).encode()


async def ask(call: Call, stream: SocketStream) -> None:
    """A small request."""
    await stream.send(_request(f"GET {call.target}"))
    reader = BufferedByteReceiveStream(stream)
    if (fields := await call.head(reader)) is not None:
        body = await reader.receive_exactly(int(fields["content-length"]))
        assert json.loads(body)["target"] == call.target, body
        call.kind = Kind.WHOLE


async def download(call: Call, stream: SocketStream, pace: Pace) -> None:
    await stream.send(_request(f"GET {call.target}"))
    reader = BufferedByteReceiveStream(stream)
    if await call.head(reader) is None:
        return
    digest = hashlib.sha256()
    while call.done < pace.size:
        piece = await reader.receive_exactly(min(pace.size // PIECES, pace.size - call.done))
        digest.update(piece)
        call.done += len(piece)
        await anyio.sleep(pace.time / PIECES)  # the pace
    assert digest.hexdigest() == expected_digest(pace.size), call.target
    call.kind = Kind.WHOLE


async def upload(call: Call, stream: SocketStream, pace: Pace) -> None:
    await stream.send(_request(f"PUT {call.target}", f"Content-Length: {pace.size}"))
    reader = BufferedByteReceiveStream(stream)
    while call.done < pace.size:
        start = call.done % len(BLOCK)
        piece = (BLOCK[start:] + BLOCK)[: min(pace.size // PIECES, pace.size - call.done)]
        try:
            await stream.send(piece)
        except anyio.BrokenResourceError:
            break  # an answer may have come before, and be there still
        call.done += len(piece)
        await anyio.sleep(pace.time / PIECES)  # the pace
    if (fields := await call.head(reader)) is not None:
        body = await reader.receive_exactly(int(fields["content-length"]))
        assert json.loads(body) == {"size": pace.size, "sha256": expected_digest(pace.size)}, call.target
        call.kind = Kind.WHOLE


async def listen(call: Call, stream: SocketStream, pace: Pace) -> None:
    """To a stream of events, each of which must be the next one."""
    await stream.send(_request(f"GET {call.target}"))
    reader = BufferedByteReceiveStream(stream)
    if await call.head(reader) is None:
        return
    body = bytearray()
    while size := int(await reader.receive_until(b"\r\n", 20), 16):
        body += await reader.receive_exactly(size)
        call.done = len(body)
        await reader.receive_exactly(2)
    assert bytes(body) == b"".join(b"data: %d\n\n" % number for number in range(pace.events)), call.target
    call.kind = Kind.WHOLE


# -- many of them ------------------------------------------------------------------------------


class Traffic:
    """Callers that go on until they are told to stop: small requests, downloads, uploads and events."""

    def __init__(self, tunnel: Tunnel, pace: Pace) -> None:
        self.ended: list[Call] = []
        self.running: list[Call] = []
        self.arrived: set[str] = set()  # at the origin; known at the end
        self.pace = pace
        self._tunnel = tunnel
        self._numbers = count()
        self._stopped = False

    def stop(self) -> None:
        """Nothing new; what runs goes on to its end."""
        self._stopped = True

    def loops(self) -> Sequence[Callable[[], Coroutine[None, None, None]]]:
        pace = self.pace
        return pace.each * [
            partial(self._repeat, "/echo", ask),
            partial(self._repeat, f"/bytes/{pace.size}", partial(download, pace=pace)),
            partial(self._repeat, "/sink", partial(upload, pace=pace)),
            partial(self._repeat, f"/events/{pace.events}/{pace.time / pace.events}", partial(listen, pace=pace)),
        ]

    async def _repeat(self, path: str, exchange: Callable[[Call, SocketStream], Awaitable[None]]) -> None:
        while not self._stopped:
            await self.call(f"{path}?{next(self._numbers)}", exchange)
            await anyio.sleep(self.pace.pause)

    async def call(self, target: str, exchange: Callable[[Call, SocketStream], Awaitable[None]]) -> Call:
        """One, whose end is kept. Raises TimeoutError when it hangs."""
        call = Call(target)
        self.running.append(call)
        with anyio.fail_after(self.pace.patience):
            await call.run(self._tunnel.server.place, self._tunnel.port, partial(exchange, call))
        self.running.remove(call)
        self.ended.append(call)
        return call

    # -- what is waited for and checked --------------------------------------------------------

    async def amid_bodies(self) -> list[Call]:
        """Wait until all downloads, uploads and streams of events are on their way; these calls."""

        def amid() -> list[Call]:
            return [call for call in self.running if call.done and call.kind is None]

        await until(lambda: len(amid()) == self.pace.each * (KINDS - 1), 30)
        return amid()

    async def over(self, calls: list[Call]) -> None:
        """Wait until these have ended, however."""
        await until(lambda: all(call.kind for call in calls), self.pace.patience)

    async def whole_again(self, since: float, timeout: float = 30) -> None:
        """Wait until one of every kind that began after ``since`` succeeded."""

        def paths() -> set[str]:
            return {_path(call) for call in self.ended if call.kind is Kind.WHOLE and call.began >= since}

        await until(lambda: len(paths()) == KINDS, timeout)

    def told(self) -> Counter[str]:
        """How often callers were told what."""
        return Counter(call.told for call in self.ended)

    def check_truth(self, arrived: list[str]) -> None:
        """Against what the origin saw: nothing came twice that must not be repeated, nothing that was never sent."""
        counts = Counter(arrived)
        self.arrived = set(arrived)
        for call in self.ended:
            times = counts[call.target]
            assert times <= (1 if call.target.startswith("/sink") else 2), (call, times)
            if call.refused or call.kind is Kind.UNREACHED:
                assert not times, call
            if call.kind is Kind.WHOLE:
                assert times, call


def _path(call: Call) -> str:
    return call.target.split("/")[1].partition("?")[0]


@asynccontextmanager
async def traffic(tunnel: Tunnel, pace: Pace) -> AsyncIterator[Traffic]:
    """While the context lasts; at its end everything has had its answer, which is checked against the origin."""
    await seen(tunnel)
    made = Traffic(tunnel, pace)
    async with anyio.create_task_group() as group:
        for loop in made.loops():
            group.start_soon(loop)
        yield made
        made.stop()
    made.check_truth(await _quiet_origin(tunnel))


async def _quiet_origin(tunnel: Tunnel) -> list[str]:
    """Wait until nothing runs at the origin: whose caller has its answer, or has left, runs there no more. All that
    arrived."""
    arrived: list[str] = []
    with anyio.fail_after(30):
        while True:
            now = await seen(tunnel)
            arrived += now["arrived"]
            if not now["running"]:
                return arrived
            await anyio.sleep(0.1)  # between two looks


async def seen(tunnel: Tunnel) -> dict[str, list[str]]:
    """What arrived at the origin since this was asked the last time, and what runs there now."""
    answer: dict[str, list[str]] = await _get(tunnel.client.place, int(tunnel.origin.said), "/seen")
    return answer


async def pending(tunnel: Tunnel) -> int:
    """How many requests the server says it has."""
    answer = await _get(tunnel.server.place, tunnel.port, "/_stats")
    return int(answer["req_pending"])


async def _get(place: Place, port: int, target: str) -> Any:
    """JSON, from somewhere that answers."""
    found: list[Any] = []

    async def exchange(stream: SocketStream) -> None:
        await stream.send(_request(f"GET {target}"))
        reader = BufferedByteReceiveStream(stream)
        fields = await call.head(reader)
        assert fields is not None
        found.append(json.loads(await reader.receive_exactly(int(fields["content-length"]))))

    call = Call(target)
    await call.run(place, port, exchange)
    assert found, call
    return found[0]


async def crowd(tunnel: Tunnel) -> None:
    """So many at once that the client has all the workers which it keeps for the next ones."""
    name = f"crowd{next(_crowds)}"
    calls = [Call(f"/hold/{name}?{number}") for number in range(WORKERS_KEPT + 6)]
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(call.run, tunnel.server.place, tunnel.port, partial(_wait, call))
        with anyio.fail_after(30):
            while len((await seen(tunnel))["running"]) < len(calls):  # noqa: ASYNC110 - in another process
                await anyio.sleep(0.05)  # between two looks
        await _get(tunnel.client.place, int(tunnel.origin.said), f"/release/{name}")
    assert {call.kind for call in calls} == {Kind.WHOLE}, calls


_crowds = count()  # what was released once waits no more


async def _wait(call: Call, stream: SocketStream) -> None:
    """Until the origin answers."""
    await stream.send(_request(f"GET {call.target}"))
    reader = BufferedByteReceiveStream(stream)
    if (fields := await call.head(reader)) is not None:
        await reader.receive_exactly(int(fields["content-length"]))
        call.kind = Kind.WHOLE


async def served_again(tunnel: Tunnel, timeout: float = 60) -> float:
    """Ask until there is an answer from the origin; how long that took, in seconds."""
    began = anyio.current_time()
    with anyio.fail_after(timeout):
        while True:
            call = Call("/echo?again")
            await call.run(tunnel.server.place, tunnel.port, partial(ask, call))
            if call.kind is Kind.WHOLE:
                return anyio.current_time() - began
            await anyio.sleep(0.05)  # beside refused connections
