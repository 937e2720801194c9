"""``server.connect(token, host, port)``: streams of bytes from the server's own program, through a whole tunnel."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tunnelkit import ConfigError, Limits, TunnelServer
from tunnelkit.errors import ConnectRefused
from tunnelkit.inside import request
from tunnelkit.inside.connecting import TunnelStream

from .tunnel import TOKEN, Ends, ask, open_ends, until

pytestmark = pytest.mark.anyio
EVERY_WAY = pytest.mark.ways("websocket", "longpoll", "streamed")

ANY = [r"tcp://127\.0\.0\.1:\d+"]
Serve = Callable[[SocketStream], Awaitable[None]]


@asynccontextmanager
async def destination(serve: Serve) -> AsyncIterator[int]:
    """A TCP server; its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def handle(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError):
                await serve(stream)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


async def echo(stream: SocketStream) -> None:
    """And a last word behind the end."""
    async for data in stream:
        await stream.send(data)
    await stream.send(b" and goodbye")


@EVERY_WAY
async def test_bytes_both_ways_and_half_a_close() -> None:
    blob = bytes(range(256)) * 4000
    async with destination(echo) as port, open_ends() as ends, ends.join(origin=None, allow=ANY):
        async with ends.server.connect(TOKEN, "127.0.0.1", port) as stream, anyio.create_task_group() as group:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"

            async def send() -> None:
                await stream.send(blob)
                await stream.send_eof()

            group.start_soon(send)
            received = b"".join([data async for data in stream])
            assert hashlib.sha256(received).digest() == hashlib.sha256(blob + b" and goodbye").digest()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"x")
        assert repr(stream) == "<TunnelStream closed>"
        await ends.pending(0)


async def test_two_tasks_at_once_are_told_so() -> None:
    """As with anyio's own streams: or both would wait, and one of them for ever."""
    async with (
        destination(echo) as port,
        open_ends() as ends,
        ends.join(origin=None, allow=ANY),
        ends.server.connect(TOKEN, "127.0.0.1", port) as stream,
        anyio.create_task_group() as group,
    ):
        group.start_soon(stream.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await stream.receive()
        await stream.send(b"x")


async def test_a_close_ends_who_sends() -> None:
    begun = 0
    ended = anyio.Event()

    async def send(stream: TunnelStream) -> None:
        nonlocal begun
        with suppress(anyio.ClosedResourceError):
            while True:
                begun += 1
                await stream.send(bytes(100_000))
        ended.set()

    with socket.create_server(("127.0.0.1", 0)) as deaf:  # the kernel accepts, and takes what it has room for
        port = deaf.getsockname()[1]
        async with (
            open_ends() as ends,
            ends.join(origin=None, allow=ANY),
            ends.server.connect(TOKEN, "127.0.0.1", port) as stream,
            anyio.create_task_group() as group,
        ):
            group.start_soon(send, stream)
            await anyio.wait_all_tasks_blocked()
            assert begun
            await stream.aclose()
            with anyio.fail_after(10):
                await ended.wait()


@pytest.mark.parametrize("who", ["destination", "program"])
async def test_a_break_is_seen_at_the_other_end(who: str) -> None:
    broken = anyio.Event()

    async def serve(stream: SocketStream) -> None:
        assert await stream.receive() == b"x"
        if who == "destination":
            stream.extra(SocketAttribute.raw_socket).setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # RST at close
            return
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        broken.set()

    async with destination(serve) as port, open_ends() as ends, ends.join(origin=None, allow=ANY):
        with anyio.fail_after(10):
            async with ends.server.connect(TOKEN, "127.0.0.1", port) as stream:
                await stream.send(b"x")
                if who == "destination":
                    with pytest.raises(anyio.BrokenResourceError):
                        await stream.receive()
            if who == "program":
                await broken.wait()


async def test_a_destination_that_does_not_close_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "LINGER", 1.0)
    heard = b""

    async def deaf(stream: SocketStream) -> None:
        nonlocal heard
        with suppress(anyio.EndOfStream):
            while True:
                heard += await stream.receive()
        await anyio.sleep_forever()

    async with destination(deaf) as port, open_ends() as ends, ends.join(origin=None, allow=ANY) as client:
        async with ends.server.connect(TOKEN, "127.0.0.1", port) as stream:
            await stream.send(b"x" * 200_000)
        await until(lambda: not client.requests_active)
        await ends.pending(0)
        assert len(heard) == 200_000  # what was sent before the close went out


async def test_only_destinations_that_the_client_allows() -> None:
    async with destination(echo) as port, open_ends() as ends:
        async with ends.join(allow=[r"http://127\.0\.0\.1:\d+", r"tcp://127\.0\.0\.1:1"]):
            await refused(ends, port, 403, "x_host_refused")
        # What is allowed for streams is no origin for callers, who have no streams.
        async with ends.join(allow=ANY):
            for x_host in (f"tcp://127.0.0.1:{port}", f"http://127.0.0.1:{port}"):
                answer = await ask(ends.port, ends.path("/"), X_Host=x_host, Connection="Upgrade", Upgrade="tcp")
                assert answer[0] in (400, 403)


async def refused(ends: Ends, port: int, status: int, code: str) -> None:
    with pytest.raises(ConnectRefused) as caught:
        async with ends.server.connect(TOKEN, "127.0.0.1", port):
            raise AssertionError("it opened")
    assert (caught.value.status, caught.value.code) == (status, code)


async def test_a_destination_that_is_not_there() -> None:
    async with destination(echo) as port:
        pass
    async with open_ends() as ends, ends.join(origin=None, allow=ANY):
        await refused(ends, port, 502, "origin_unreachable")


async def test_private_destinations_are_refused_where_that_is_asked_for() -> None:
    async with (
        destination(echo) as port,
        open_ends() as ends,
        ends.join(origin=None, allow=[r"tcp://localhost:\d+"], refuse_private=True),
    ):
        with pytest.raises(ConnectRefused) as caught:
            async with ends.server.connect(TOKEN, "localhost", port):
                raise AssertionError("it opened")
        assert caught.value.code == "x_host_refused"


async def test_without_a_client_it_waits_as_requests_do() -> None:
    limits = Limits(queue_timeout=0.1, startup_wait=0)
    async with destination(echo) as port, open_ends(limits=limits) as ends:
        with pytest.raises(ConnectRefused) as caught:
            async with ends.server.connect(TOKEN, "127.0.0.1", port):
                raise AssertionError("it opened")
        assert caught.value.code in ("no_tunnel", "queue_timeout")
    with pytest.raises(RuntimeError, match="does not run"):
        async with ends.server.connect(TOKEN, "127.0.0.1", port):
            raise AssertionError("it opened")


async def test_a_connect_that_is_cancelled_leaves_nothing() -> None:
    async with open_ends() as ends:
        with anyio.move_on_after(0.05) as waiting:
            async with ends.server.connect(TOKEN, "127.0.0.1", 1):
                raise AssertionError("it opened")
        assert waiting.cancelled_caught
        await ends.pending(0)


async def test_a_client_that_is_lost_breaks_the_stream() -> None:
    async with (
        destination(echo) as port,
        open_ends() as ends,
        ends.join(origin=None, allow=ANY) as client,
        ends.server.connect(TOKEN, "127.0.0.1", port) as stream,
    ):
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        client.close()
        with anyio.fail_after(10), pytest.raises(anyio.BrokenResourceError):
            await stream.receive()
        await until(lambda: not ends.server.sessions())


@pytest.mark.parametrize(("host", "port"), [("a b", 1), ("a", 0), ("a", 65_536), ("a/b", 1), ("", 1)])
async def test_no_destination(host: str, port: int) -> None:
    server = TunnelServer("127.0.0.1:0")
    async with server:
        with pytest.raises(ConfigError):
            async with server.connect(TOKEN, host, port):
                raise AssertionError("it opened")
    with pytest.raises(ConfigError):
        server.connect("short", "a", 1)
