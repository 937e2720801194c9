"""A whole tunnel on loopback for a test: origin, server, client and, where it is wanted, a relay on the link."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from tunnelkit import Limits, TunnelClient, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import StreamBroken
from tunnelkit.net.dial import connect_tcp
from tunnelkit.net.stream import ByteStream
from tunnelkit.origins.url import UrlOrigin
from tunnelkit.testing.relay import Relay, serve_relay

from .origin import TestOrigin, serve_origin
from .ways import current

__all__ = [
    "QUICK",
    "SHORT",
    "TOKEN",
    "Call",
    "Ends",
    "Tunnel",
    "ask",
    "exchange",
    "gather",
    "open_ends",
    "open_tunnel",
    "parse_head",
    "problem_of",
    "read_head",
    "receive_more",
    "until",
]

Answer: TypeAlias = "tuple[int, list[tuple[str, str]], bytes]"

TOKEN = "a-token-for-the-tests"

# Clocks for tests of loss and grace: everything as by default, only sooner.
SHORT = replace(
    DEFAULT_LIMITS,
    ping_active_silence=0.4,
    ping_active_timeout=0.4,
    ping_idle_silence=1.0,
    ping_idle_timeout=0.5,
    dial_timeout=0.7,
    retry_cap_resumable=0.4,
    retry_cap=1.0,
    grace=2.0,
    poll_hold_active=0.4,
    poll_hold_idle=1.0,
    poll_answer_timeout=0.8,  # half of it is what a loaded machine has to keep
    poll_absence=1.4,
)

# The shortest grace that its own check allows with clocks which a busy machine still keeps.
QUICK = replace(
    SHORT,
    ping_active_silence=0.25,
    ping_active_timeout=0.25,
    dial_timeout=0.4,
    retry_cap_resumable=0.1,
    retry_cap=0.2,
    grace=1.0,
    poll_hold_active=0.25,
    poll_answer_timeout=0.5,
    poll_absence=0.8,
)


@dataclass
class Ends:
    """Origin and server; clients join as a test wants."""

    origin: TestOrigin
    server: TunnelServer
    limits: Limits

    @asynccontextmanager
    async def join(
        self, *, via: Relay | None = None, url: str = "", ready: bool = True, **options: Any
    ) -> AsyncIterator[TunnelClient]:
        """One more client, by a relay where one is given, over the way of the running test unless ``transport`` says
        otherwise."""
        known: dict[str, Any] = {"token": TOKEN, "origin": self.origin.url, "limits": self.limits} | options
        known.setdefault("transport", current().transport(known["limits"]))
        made = TunnelClient(url or f"ws://127.0.0.1:{via.port if via is not None else self.port}", **known)
        _be_patient(made)
        async with made as client:
            if ready:
                await client.wait_ready(30)
            yield client

    async def pending(self, count: int) -> None:
        """Wait until the server has this many requests, wherever they are."""
        await until(lambda: self.server.snapshot().req_pending == count)

    async def detached(self) -> None:
        """Wait until the server has noticed that its clients lost their connections."""
        await until(lambda: not any(session.attached for session in self.server.sessions()))

    @property
    def port(self) -> int:
        return int(self.server.url.rpartition(":")[2].partition("/")[0])

    def path(self, target: str) -> str:
        """The target by which callers reach ``target`` of the origin."""
        return f"/_token/{TOKEN}{target}"

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[ByteStream]:
        """A caller's connection."""
        stream = await connect_tcp("127.0.0.1", self.port, timeout=5)
        try:
            yield stream
        finally:
            stream.abort()

    async def get(self, target: str, **fields: str) -> Answer:
        """One GET through the tunnel, on a connection of its own."""
        return await exchange(self.port, "GET", self.path(target), fields=fields)

    def call(
        self,
        group: TaskGroup,
        target: str,
        *,
        method: str = "GET",
        fields: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Call:
        """One request through the tunnel, in a task of ``group``."""
        call = Call()
        group.start_soon(call.run, self.port, method, self.path(target), fields, body)
        return call


def _be_patient(client: TunnelClient) -> None:
    """The short clocks are for the link. The origin of these tests is never silent, only slow on a busy machine, and
    a dial given up would be a 502 that no test expects."""
    origin = client._origin
    if isinstance(origin, UrlOrigin):
        patience = DEFAULT_LIMITS.dial_timeout
        origin._limits = replace(origin._limits, dial_timeout=patience, grace=origin._limits.grace + patience)


@dataclass
class Tunnel(Ends):
    client: TunnelClient
    relay: Relay | None


class Call:
    """A request under way."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._answer: Answer | None = None
        self._failure: Exception | None = None

    async def run(
        self, port: int, method: str, target: str, fields: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        with self.scope:
            try:
                self._answer = await exchange(port, method, target, fields=fields, body=body)
            except (AssertionError, StreamBroken) as error:
                self._failure = error
        self._ended.set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def leave(self) -> None:
        """The caller goes away without waiting for its answer."""
        self.scope.cancel()

    async def answer(self) -> Answer:
        """The final response, whole."""
        with anyio.fail_after(20):
            await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        assert self._answer is not None
        return self._answer

    async def status(self) -> int:
        return (await self.answer())[0]

    async def broken_off(self) -> None:
        """Wait until the connection ended before its response did."""
        with anyio.fail_after(20):
            await self._ended.wait()
        assert self._failure is not None, f"a whole response: {self._answer}"


async def until(condition: Callable[[], object], timeout: float = 10) -> None:
    """Wait for a condition inside the library that no event tells of."""
    with anyio.fail_after(timeout):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


def problem_of(answer: Answer) -> dict[str, Any]:
    """The problem that an answer tells, given as JSON."""
    _, fields, body = answer
    assert ("Content-Type", "application/problem+json") in fields, body
    problem = json.loads(body)
    assert isinstance(problem, dict)
    assert problem["status"] == answer[0]
    assert any(name == "Proxy-Status" and problem["code"] in value for name, value in fields)
    return problem


async def ask(port: int, target: str, **fields: str) -> Answer:
    """One GET that likes its errors as JSON."""
    return await exchange(port, "GET", target, fields={"Accept": "application/json"} | fields)


async def exchange(
    port: int,
    method: str,
    target: str,
    *,
    host: str = "tunnel.test",
    fields: dict[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    """One request on a connection of its own; status, fields and body of the final response.

    Raises ``AssertionError`` when the connection ends before the response is complete.
    """
    stream = await connect_tcp("127.0.0.1", port, timeout=5)
    try:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in (fields or {}).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        await stream.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        rest = b""
        while True:
            status, answer, rest = await read_head(stream, rest)
            if status >= 200:
                return status, answer, await _read_body(stream, method, status, answer, rest)
    finally:
        stream.abort()


async def read_head(stream: ByteStream, data: bytes = b"") -> Answer:
    """Status, fields, and what came behind the head."""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive()
        assert piece, f"the connection ended inside a head: {data!r}"
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return *parse_head(head), rest


def parse_head(head: bytes) -> tuple[int, list[tuple[str, str]]]:
    line, *lines = head.decode("latin-1").split("\r\n")
    fields = [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)]
    return int(line.split(" ")[1]), fields


async def _read_body(
    stream: ByteStream, method: str, status: int, fields: list[tuple[str, str]], data: bytes
) -> bytes:
    values = {name.lower(): value for name, value in fields}
    if method == "HEAD" or status in (204, 304):
        return b""
    if "chunked" in values.get("transfer-encoding", ""):
        return await _read_chunked(stream, data)
    length = int(values["content-length"]) if "content-length" in values else None
    pieces = [data]
    size = len(data)
    while length is None or size < length:
        piece = await stream.receive()
        if not piece:
            assert length is None, f"{size} of {length} bytes, then the end"
            break
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


async def _read_chunked(stream: ByteStream, data: bytes) -> bytes:
    body = bytearray()
    while True:
        while b"\r\n" not in data:
            data += await receive_more(stream)
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            return bytes(body)
        while len(data) < size + 2:
            data += await receive_more(stream)
        body += data[:size]
        data = data[size + 2 :]


async def receive_more(stream: ByteStream) -> bytes:
    """What comes next, where something must: a test that waits for more behind the end would spin for ever."""
    piece = await stream.receive()
    assert piece, "the connection ended too early"
    return piece


@asynccontextmanager
async def open_ends(*, limits: Limits = DEFAULT_LIMITS, **server_options: Any) -> AsyncIterator[Ends]:
    """Origin and server in this event loop, without a client."""
    async with (
        serve_origin() as origin,
        TunnelServer("127.0.0.1:0", **({"limits": limits} | server_options)) as server,
    ):
        yield Ends(origin, server, limits)


@asynccontextmanager
async def open_tunnel(
    *,
    relay: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    server_options: dict[str, Any] | None = None,
    client_options: dict[str, Any] | None = None,
    ready: bool = True,
) -> AsyncIterator[Tunnel]:
    """All parts in this event loop, ready for requests."""
    async with AsyncExitStack() as stack:
        ends = await stack.enter_async_context(open_ends(**({"limits": limits} | (server_options or {}))))
        between = await stack.enter_async_context(serve_relay(ends.port)) if relay else None
        options: dict[str, Any] = {"limits": limits, "via": between, "ready": ready} | (client_options or {})
        client = await stack.enter_async_context(ends.join(**options))
        yield Tunnel(ends.origin, ends.server, ends.limits, client, between)


async def gather(*jobs: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run all at once; their results in order."""
    results: list[Any] = [None] * len(jobs)

    async def run(index: int, job: Callable[[], Awaitable[Any]]) -> None:
        results[index] = await job()

    async with anyio.create_task_group() as group:
        for index, job in enumerate(jobs):
            group.start_soon(run, index, job)
    return results
