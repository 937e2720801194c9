"""What makes a developer's own server easy to serve (localtunnel's conveniences)."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.abc
import anyio.streams.tls
import pytest
import trustme
from anyio.abc import SocketStream

from tunnelkit.config import DEFAULT_LIMITS

from .origin import TestOrigin
from .tunnel import TOKEN, Ends, ask, exchange, open_ends, open_tunnel, problem_of

pytestmark = pytest.mark.anyio

# Where nobody is to wait for an origin: if somebody did, that would be no matter of a busy machine.
LONG_WAIT = replace(DEFAULT_LIMITS, origin_wait=30.0)


# -- what is shown of a tunnel -----------------------------------------------------------------


async def test_requests_are_counted() -> None:
    async with open_tunnel() as tunnel, anyio.create_task_group() as group:
        call = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        assert (tunnel.client.requests_active, tunnel.client.requests_served) == (1, 0)
        tunnel.origin.release("x")
        assert await call.status() == 200
        with anyio.fail_after(10):
            while tunnel.client.requests_active:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert tunnel.client.requests_served == 1


async def test_the_round_trip_is_known_after_a_while() -> None:
    async with open_tunnel() as tunnel:
        await tunnel.get("/bytes/100000")
        await tunnel.get("/echo")
        assert tunnel.client.round_trip is not None
        assert 0 < tunnel.client.round_trip < 10


# -- local-host --------------------------------------------------------------------------------


async def test_host_is_rewritten_on_every_request() -> None:
    """localtunnel rewrote it on the first request of a connection alone."""
    async with open_tunnel(client_options={"host": "dev.example:3000"}) as tunnel:
        for _ in range(3):
            _, _, body = await tunnel.get("/echo")
            assert [value for name, value in json.loads(body)["fields"] if name == "Host"] == ["dev.example:3000"]


# -- https, unix, localhost --------------------------------------------------------------------


async def answer_all(stream: SocketStream) -> None:
    async with stream:
        try:
            while await stream.receive():
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            return


async def test_an_https_origin_with_its_own_ca_or_unverified(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    async with open_ends(known_tokens=[TOKEN]) as ends, anyio.create_task_group() as group:
        port = await serve_tls(group, context)
        url = f"https://localhost:{port}"
        for options, status in (
            ({"origin_cafile": tmp_path / "ca.pem"}, 200),
            ({"origin_insecure": True}, 200),
            ({}, 502),
        ):
            async with ends.join(origin=url, **options):
                answer = await ask(ends.port, ends.path("/"))
                assert answer[0] == status
                if status == 502:
                    assert problem_of(answer)["code"] == "origin_tls"
        group.cancel_scope.cancel()


async def serve_tls(group: anyio.abc.TaskGroup, context: ssl.SSLContext) -> int:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def handle(stream: SocketStream) -> None:
        try:
            secured = await anyio.streams.tls.TLSStream.wrap(stream, server_side=True, ssl_context=context)
            await secured.receive()
            await secured.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await secured.aclose()
        except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream):
            await stream.aclose()

    group.start_soon(serve, listener, handle)
    return port


async def serve(
    listener: anyio.abc.Listener[SocketStream], handler: Callable[[SocketStream], Awaitable[None]] = answer_all
) -> None:
    async with listener:
        await listener.serve(handler)


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "origin.sock"
    async with open_ends() as ends, anyio.create_task_group() as group:
        group.start_soon(serve, await anyio.create_unix_listener(path))
        async with ends.join(origin=f"unix:{path}"):
            assert (await ends.get("/a"))[2] == b"ok"
        group.cancel_scope.cancel()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_localhost_is_tried_by_both_addresses(address: str) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    other = "::1" if address == "127.0.0.1" else "127.0.0.1"
    async with open_ends() as ends, anyio.create_task_group() as group:
        with taken(other) as port:
            group.start_soon(serve, await anyio.create_tcp_listener(local_host=address, local_port=port))
            async with ends.join(origin=f"http://localhost:{port}"):
                assert (await ends.get("/a"))[2] == b"ok"
        group.cancel_scope.cancel()


@contextmanager
def taken(address: str) -> Iterator[int]:
    """A port at which nobody listens on ``address``, and nobody can."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as placeholder:
        placeholder.bind((address, 0))
        yield placeholder.getsockname()[1]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


# -- an origin that restarts -------------------------------------------------------------------


class Restarting:
    """An origin that can be taken away, and come back at its address."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self.port = 0
        self.requests = 0
        self.holding = anyio.Event()
        self._group = group
        self._scope = anyio.CancelScope()
        self._stopped = anyio.Event()

    async def start(self) -> None:
        self._scope, self._stopped = anyio.CancelScope(), anyio.Event()
        await self._group.start(self._serve)

    async def stop(self) -> None:
        """Its connections are closed, and the tunnel's client, which shares our loop, has heard so: a request that
        met one of them in that moment would count as sent."""
        self._scope.cancel()
        await self._stopped.wait()
        for _ in range(3):  # turns of the loop
            await anyio.lowlevel.checkpoint()

    async def _serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with self._scope:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
            self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
            task_status.started()
            async with listener:
                await listener.serve(self._answer)
        self._stopped.set()

    async def _answer(self, stream: SocketStream) -> None:
        async with stream:
            try:
                while b" /hold " not in await stream.receive():
                    self.requests += 1
                    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                self.holding.set()
                await anyio.sleep_forever()
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return


async def status_of(ends: Ends, method: str = "GET", body: bytes = b"") -> int:
    return (await exchange(ends.port, method, ends.path("/"), body=body))[0]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_waits_for_an_origin_that_restarts(method: str) -> None:
    async with open_ends() as ends, anyio.create_task_group() as group:
        origin = Restarting(group)
        await origin.start()
        async with ends.join(origin=f"http://127.0.0.1:{origin.port}"):
            assert await status_of(ends) == 200
            await origin.stop()
            call = ends.call(group, "/", method=method, body=b"x" if method == "POST" else b"")
            await ends.pending(1)
            await anyio.sleep(0.2)  # it is refused meanwhile
            assert not call.ended
            await origin.start()
            assert await call.status() == 200
            assert origin.requests == 2
        group.cancel_scope.cancel()


async def test_the_wait_for_an_origin_is_bounded_and_the_next_do_not_wait() -> None:
    limits = replace(DEFAULT_LIMITS, origin_wait=1.0)
    async with open_ends(limits=limits) as ends, anyio.create_task_group() as group:
        origin = Restarting(group)
        await origin.start()
        async with ends.join(origin=f"http://127.0.0.1:{origin.port}"):
            assert await status_of(ends) == 200
            await origin.stop()
            start = anyio.current_time()
            assert await status_of(ends) == 502
            assert anyio.current_time() - start >= 0.9
            tries = [await status_of(ends) for _ in range(20)]
            assert tries == [502] * 20  # 20 s if each waited
            assert anyio.current_time() - start < 10
        group.cancel_scope.cancel()


async def test_an_origin_that_never_was_there_is_not_waited_for() -> None:
    async with open_tunnel(limits=LONG_WAIT, client_options={"origin": "http://127.0.0.1:1"}) as tunnel:
        start = anyio.current_time()
        assert await status_of(tunnel) == 502
        assert anyio.current_time() - start < 10  # of 30


async def test_a_request_that_was_sent_does_not_wait_and_is_not_repeated() -> None:
    async with open_tunnel() as tunnel:
        assert isinstance(tunnel.origin, TestOrigin)
        tunnel.origin.raw["cut"] = b""
        answer = await exchange(tunnel.port, "POST", tunnel.path("/raw/cut"), body=b"x")
        assert answer[0] == 502
        assert tunnel.origin.targets() == ["/raw/cut"]


async def test_a_request_that_the_origin_saw_does_not_wait_though_it_may_be_repeated() -> None:
    async with open_ends(limits=LONG_WAIT) as ends, anyio.create_task_group() as group:
        origin = Restarting(group)
        await origin.start()
        async with ends.join(origin=f"http://127.0.0.1:{origin.port}"):
            assert await status_of(ends) == 200
            call = ends.call(group, "/hold")  # on the connection that was kept
            await origin.holding.wait()
            start = anyio.current_time()
            await origin.stop()
            assert await call.status() == 502
            assert anyio.current_time() - start < 10  # of 30
        group.cancel_scope.cancel()


async def test_a_caller_that_leaves_waits_for_no_origin() -> None:
    async with open_ends(limits=LONG_WAIT) as ends, anyio.create_task_group() as group:
        origin = Restarting(group)
        await origin.start()
        async with ends.join(origin=f"http://127.0.0.1:{origin.port}") as client:
            assert await status_of(ends) == 200
            await origin.stop()
            call = ends.call(group, "/")
            await ends.pending(1)
            call.leave()
            with anyio.fail_after(10):
                while client.requests_active:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            assert origin.requests == 1
        group.cancel_scope.cancel()
