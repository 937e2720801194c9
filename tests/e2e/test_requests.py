"""Requests through a whole tunnel on loopback: what callers see when all is well."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from .origin import EARLY, pattern_digest
from .tunnel import TOKEN, exchange, gather, open_ends, open_tunnel, read_head, receive_more, until

pytestmark = pytest.mark.anyio

SIZES = [0, 1, 65_535, 65_536, 65_537, 5_000_000]


async def test_both_ways_of_naming_the_token() -> None:
    async with open_tunnel() as tunnel:
        status, _, body = await tunnel.get("/echo?a=1&b=%2F")
        assert status == 200
        assert json.loads(body)["target"] == "/echo?a=1&b=%2F"
        status, _, body = await exchange(tunnel.port, "GET", "/echo//x/../y", fields={"X-Token": TOKEN})
        assert status == 200
        seen = json.loads(body)
        assert seen["target"] == "/echo//x/../y"
        assert "x-token" not in {name.lower() for name, _ in seen["fields"]}


@pytest.mark.parametrize("coding", ["", "/chunked"])
async def test_downloads_of_every_size(coding: str) -> None:
    async with open_tunnel() as tunnel:
        for size in SIZES:
            status, _, body = await tunnel.get(f"/bytes/{size}{coding}")
            assert (status, len(body)) == (200, size)
            assert hashlib.sha256(body).hexdigest() == pattern_digest(size)


async def test_uploads_of_every_size() -> None:
    async with open_tunnel() as tunnel:
        for size in SIZES:
            body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
            status, _, answer = await exchange(tunnel.port, "PUT", tunnel.path("/sink"), body=body)
            assert status == 200
            assert json.loads(answer) == {"size": size, "sha256": hashlib.sha256(body).hexdigest()}


async def test_chunked_upload_arrives_as_it_is_sent() -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as stream:
        await stream.send(
            f"POST {tunnel.path('/sink')} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        arrived = await tunnel.origin.arrived("/sink")
        await stream.send(b"5\r\nhello\r\n")
        await tunnel.origin.until(lambda: arrived.body_size == 5)
        await stream.send(b"6\r\n world\r\n0\r\n\r\n")
        status, _, rest = await read_head(stream)
        assert status == 200
        assert json.loads(rest)["sha256"] == hashlib.sha256(b"hello world").hexdigest()


@pytest.mark.parametrize("status", [204, 301, 302, 304, 404, 500])
async def test_statuses_are_passed_on(status: int) -> None:
    async with open_tunnel() as tunnel:
        got, fields, _ = await tunnel.get(f"/status/{status}")
        assert got == status
        if status in (301, 302):  # never followed
            assert ("Location", "http://elsewhere.example/") in fields
            assert tunnel.origin.targets() == [f"/status/{status}"]


async def test_head_keeps_the_length_and_has_no_body() -> None:
    async with open_tunnel() as tunnel:
        status, fields, body = await exchange(tunnel.port, "HEAD", tunnel.path("/bytes/12345"))
        assert (status, body) == (200, b"")
        assert ("Content-Length", "12345") in fields


async def test_many_requests_over_kept_alive_connections() -> None:
    async with open_tunnel() as tunnel:
        statuses: list[int] = []

        async def caller() -> None:
            async with tunnel.caller() as stream:
                rest = b""
                for _ in range(8):
                    await stream.send(f"GET {tunnel.path('/status/200')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    status, _, rest = await read_head(stream, rest)
                    statuses.append(status)

        await gather(*[caller] * 64)
        assert statuses == [200] * 512


async def test_interim_responses_and_trailers_are_relayed() -> None:
    async with open_tunnel() as tunnel:
        async with tunnel.caller() as stream:
            await stream.send(f"GET {tunnel.path('/info')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            seen: list[int] = []
            rest = b""
            while not seen or seen[-1] < 200:
                status, _, rest = await read_head(stream, rest)
                seen.append(status)
            assert seen == [103, 100, 200]
        async with tunnel.caller() as stream:
            await stream.send(f"GET {tunnel.path('/trailers')} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n".encode())
            data = b""
            while not data.endswith(b"\r\n\r\n") or b"0\r\n" not in data:
                data += await receive_more(stream)
            assert data.endswith(b"0\r\nX-Sum: 5\r\n\r\n")


async def test_events_of_a_stream_arrive_one_by_one() -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as stream:
        await stream.send(f"GET {tunnel.path('/sse')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        _, _, rest = await read_head(stream)
        for number in range(5):
            tunnel.origin.release(f"event{number}")
            with anyio.fail_after(10):
                while f"data: {number}\n\n".encode() not in rest:
                    rest += await receive_more(stream)
            assert f"data: {number + 1}\n\n".encode() not in rest


async def test_events_half_a_second_apart_arrive_as_they_are_sent() -> None:
    arrivals: list[float] = []
    async with open_tunnel() as tunnel, tunnel.caller() as stream:
        await stream.send(f"GET {tunnel.path('/sse?timed')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        _, _, data = await read_head(stream)
        with anyio.fail_after(20):
            for number in range(5):
                while f"data: {number}\n\n".encode() not in data:
                    data += await receive_more(stream)
                assert f"data: {number + 1}\n\n".encode() not in data
                arrivals.append(anyio.current_time())
    distances = [later - earlier for earlier, later in pairwise(arrivals)]
    assert min(distances) > 0.25, distances


async def test_an_upgrade_is_spliced_with_early_bytes_and_half_close() -> None:
    async with open_tunnel() as tunnel:
        async with tunnel.caller() as stream:
            head = (
                f"GET {tunnel.path('/upgrade')} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
            )
            await stream.send(head.encode() + b"early bytes of the caller")
            status, fields, data = await read_head(stream)
            assert status == 101
            assert ("Upgrade", "echo") in fields
            await stream.send(b"x" * 300_000)
            await stream.send_eof()
            while piece := await stream.receive():
                data += piece
        assert data == EARLY + b"early bytes of the caller" + b"x" * 300_000 + b"bye"


async def test_a_refused_upgrade_is_an_ordinary_response() -> None:
    async with open_tunnel() as tunnel:
        fields = {"Connection": "close, Upgrade", "Upgrade": "echo"}
        status, _, body = await exchange(tunnel.port, "GET", tunnel.path("/status/403"), fields=fields)
        assert (status, body) == (403, b"")


async def test_an_early_answer_stops_the_upload() -> None:
    async with open_tunnel() as tunnel, tunnel.caller() as stream:
        await stream.send(
            f"POST {tunnel.path('/early/413')} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n".encode()
        )
        status, _, _ = await read_head(stream)
        assert status == 413
        with anyio.fail_after(10):
            while await stream.receive():
                pass


async def test_an_idle_connection_to_the_origin_is_ended_in_order_and_by_itself() -> None:
    """At its limit, without another request, and by FIN: origins log a reset as an error."""
    ends: list[bytes] = []

    async def keep_alive(stream: SocketStream) -> None:
        async with stream:
            await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", 65_536)
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
            try:
                ends.append(await stream.receive())
            except anyio.EndOfStream:
                ends.append(b"")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        open_ends() as tunnel,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, keep_alive)
        port = listener.extra(SocketAttribute.local_port)
        limits = replace(tunnel.limits, origin_idle=0.05)
        async with tunnel.join(origin=f"http://127.0.0.1:{port}", limits=limits):
            assert (await tunnel.get("/"))[::2] == (200, b"fine")
            await until(lambda: ends == [b""])
        group.cancel_scope.cancel()
