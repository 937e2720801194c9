"""The relay does to connections what it is told to, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from tunnelkit.net.stream import ByteStream
from tunnelkit.testing.relay import End, Relay, Way, serve_relay

from ..nobodys_port import nobodys_port
from .peers import Server, end_of, near_end, read_exactly, serving

pytestmark = pytest.mark.anyio


@dataclass
class Line:
    """One connection through a relay."""

    relay: Relay
    server: Server
    near: ByteStream
    far: ByteStream

    async def check_alive(self) -> None:
        for source, target in ((self.near, self.far), (self.far, self.near)):
            await source.send(b"alive")
            assert await read_exactly(target, 5) == b"alive"

    async def silent(self, end: ByteStream) -> None:
        """Nothing comes: neither bytes nor an end."""
        with anyio.move_on_after(0.05) as scope:
            await end.receive()
        assert scope.cancelled_caught


@asynccontextmanager
async def line() -> AsyncIterator[Line]:
    with anyio.fail_after(15):
        async with serving() as server, serve_relay(server.port) as relay, near_end(relay.port) as near:
            yield Line(relay, server, near, await server.stream())


async def test_it_carries_both_ways_and_counts() -> None:
    async with line() as it:
        await it.check_alive()
        assert (it.relay.up, it.relay.down, it.relay.carried) == (5, 5, 10)
        (pair,) = it.relay.pairs
        assert (pair.up, pair.down) == (5, 5)
        assert it.relay.connections == 1
        assert "1 of 1 connections" in repr(it.relay)


async def test_ends_in_order_pass() -> None:
    async with line() as it:
        await it.near.send(b"last")
        await it.near.send_eof()
        assert await end_of(it.far) == (4, "fin")
        await it.far.send(b"answer")
        await it.far.send_eof()
        assert await end_of(it.near) == (6, "fin")
        await it.relay.until(lambda: not it.relay.pairs)
        assert it.relay.cuts == 0


async def test_a_broken_side_breaks_the_other() -> None:
    async with line() as it:
        it.near.abort()
        assert await end_of(it.far) == (0, "rst")


@pytest.mark.parametrize("end", [End.RST, End.FIN])
async def test_a_cut_is_told_as_asked(end: End) -> None:
    async with line() as it:
        assert it.relay.cut(end, end) == 1
        assert await end_of(it.near) == (0, end.name.lower())
        assert await end_of(it.far) == (0, end.name.lower())
        assert it.relay.cuts == 1


async def test_a_half_open_cut_tells_one_side() -> None:
    async with line() as it:
        it.relay.cut(End.UNTOLD, End.FIN)
        assert await end_of(it.far) == (0, "fin")
        await it.silent(it.near)


async def test_a_cut_after_so_many_bytes_is_exact() -> None:
    async with line() as it:
        it.relay.cut_after(1000, End.FIN, End.FIN)
        await it.near.send(b"x" * 5000)
        assert await end_of(it.far) == (1000, "fin")
        assert it.relay.carried == 1000


async def test_a_coming_connection_is_cut_after_so_many_bytes() -> None:
    async with line() as it:
        it.relay.cut_next.append(0)
        async with near_end(it.relay.port) as near:
            await near.send(b"first")
            assert await end_of(near) == (0, "rst")
        await it.check_alive()


async def test_a_cut_in_so_many_seconds() -> None:
    async with line() as it:
        await it.check_alive()
        it.relay.cut_in(0.02, End.FIN, End.FIN)
        assert await end_of(it.near) == (0, "fin")
        assert it.relay.cuts == 1


async def test_a_cut_every_so_many_seconds() -> None:
    async with line() as it:
        it.relay.cut_every(0.02)
        for number in range(1, 4):
            async with near_end(it.relay.port) as near:
                assert await end_of(near) == (0, "rst")
            assert it.relay.cuts >= number
        it.relay.cut_every(0)
        cuts = it.relay.cuts
        async with near_end(it.relay.port) as near:
            await it.silent(near)
        assert it.relay.cuts == cuts


async def test_idle_connections_are_dropped_and_others_not() -> None:
    async with line() as it, near_end(it.relay.port) as busy:
        other = await it.server.stream(1)
        it.relay.drop_idle(1.0, End.FIN, End.UNTOLD)
        while it.relay.idle_cuts == 0:
            await busy.send(b"x")
            await read_exactly(other, 1)
            await anyio.sleep(0.01)  # keeps this one from being idle, and the loop from being busy
        assert await end_of(it.near) == (0, "fin")
        await it.silent(it.far)
        it.relay.drop_idle(0)
        await busy.send(b"x")
        assert await read_exactly(other, 1) == b"x"


@pytest.mark.parametrize("way", ["up", "down", None])
async def test_a_black_hole_drops_and_tells_nobody(way: Way | None) -> None:
    async with line() as it:
        it.relay.mute(way)
        for source, target, direction in ((it.near, it.far, "up"), (it.far, it.near, "down")):
            await source.send(b"alive")
            if way in (None, direction):
                await it.silent(target)
            else:
                assert await read_exactly(target, 5) == b"alive"
        async with near_end(it.relay.port) as near:  # later ones are not concerned
            await near.send(b"new")
            assert await read_exactly(await it.server.stream(1), 3) == b"new"


@pytest.mark.parametrize("near", [True, False])
async def test_one_side_hears_an_end_and_the_other_goes_on(near: bool) -> None:
    async with line() as it:
        told, untold = (it.near, it.far) if near else (it.far, it.near)
        it.relay.half_close(near=near)
        assert await end_of(told) == (0, "fin")
        await told.send(b"still")
        assert await read_exactly(untold, 5) == b"still"
        await untold.send(b"dropped")
        await it.silent(untold)


@pytest.mark.parametrize("way", ["up", None])
async def test_a_stall_holds_everything_and_loses_nothing(way: Way | None) -> None:
    async with line() as it:
        it.relay.stall(way)
        await it.near.send(b"later")
        await it.silent(it.far)
        if way == "up":
            await it.far.send(b"now")
            assert await read_exactly(it.near, 3) == b"now"
        it.relay.resume()
        assert await read_exactly(it.far, 5) == b"later"


async def test_a_stall_is_felt_by_the_sender() -> None:
    """Some is in kernels; what the relay itself holds is one read."""
    async with line() as it:
        it.relay.stall()
        total = 64 * 1024 * 1024
        with anyio.move_on_after(0.3) as scope:
            await it.near.send(bytes(total))
        assert scope.cancelled_caught
        (pair,) = it.relay.pairs
        assert pair.flows[0].held <= 64 * 1024


async def test_a_delay_is_kept_and_the_order_too() -> None:
    async with line() as it:
        it.relay.delay = 0.1
        before = anyio.current_time()
        for number in range(10):
            await it.near.send(bytes([number]))
            await anyio.sleep(0.002)  # so that they come as several pieces
        await it.near.send_eof()
        assert await read_exactly(it.far, 10) == bytes(range(10))
        assert anyio.current_time() - before >= 0.099
        assert await end_of(it.far) == (0, "fin")


async def test_a_rate_is_kept() -> None:
    async with line() as it:
        it.relay.rate = 1_000_000
        before = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.near.send, bytes(300_000))
            await read_exactly(it.far, 300_000)
        assert anyio.current_time() - before >= 0.2  # the last piece is not waited for


async def test_refused_connections_are_reset_and_counted() -> None:
    async with line() as it:
        it.relay.refusing = True
        async with near_end(it.relay.port) as near:
            assert await end_of(near) == (0, "rst")
        assert it.relay.refused == 1
        await it.check_alive()


async def test_without_a_target_the_near_side_sees_an_end() -> None:
    with anyio.fail_after(10), nobodys_port() as port:
        async with serve_relay(port) as relay, near_end(relay.port) as near:
            assert await end_of(near) == (0, "fin")


async def test_waiting_for_what_never_comes_says_what_was_counted() -> None:
    async with line() as it:
        with pytest.raises(TimeoutError, match="0 cuts"):
            await it.relay.until(lambda: it.relay.cuts, timeout=0.01)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_is_a_program_too(anyio_backend: str) -> None:
    with anyio.fail_after(20):
        async with serving() as server:
            command = [sys.executable, "-m", "tunnelkit.testing", "0", str(server.port)]
            async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                lines = BufferedByteReceiveStream(process.stdout)
                port = int((await lines.receive_until(b"\n", 100)).removeprefix(b"relaying on "))
                async with near_end(port) as near:
                    await server.stream()
                    for command_line, answer in [
                        (b"rate 1e9", b"rate 1e9"),
                        (b"delay 0.001", b"delay 0.001"),
                        (b"idle 60", b"idle 60"),
                        (b"every 60", b"every 60"),
                        (b"refuse", b"refuse"),
                        (b"accept", b"accept"),
                        (b"stall", b"stall"),
                        (b"resume", b"resume"),
                        (b"silence 0.01", b"spoke"),
                        (b"mute", b"mute"),
                    ]:
                        await process.stdin.send(command_line + b"\n")
                        assert await lines.receive_until(b"\n", 300) == answer
                    await process.stdin.send(b"cut fin\n")
                    assert await lines.receive_until(b"\n", 300) == b"cut 1"
                    assert await end_of(near) == (0, "fin")
                await process.stdin.send(b"what\n")
                assert (await lines.receive_until(b"\n", 300)).startswith(b"commands: ")
                process.terminate()
