"""A stream of bytes through a tunnel, from the server's own program to a destination that the client allows."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.abc import ByteStream as AnyioByteStream
from anyio.lowlevel import checkpoint

from ..core.allowlist import TCP_SCHEMES, parse_x_host
from ..core.routing import ToTunnel
from ..errors import ConfigError, ConnectRefused, HeadError, StreamBroken
from ..heads import RequestHead, ResponseHead
from ..net.stream import READ_AHEAD, ByteStream
from .carrying import Running, carry
from .request import InsideRequest

__all__ = ["TunnelStream", "connect"]

ANSWER_LIMIT = 16 * 1024  # of a refusal's body


class _BytesRequest(InsideRequest):
    byte_stream = True


@asynccontextmanager
async def connect(
    running: Callable[[], Running | None], token: str, host: str, port: int
) -> AsyncGenerator[TunnelStream, None]:
    """Raises ConnectRefused when there will be no stream, and ConfigError for what is no destination."""
    server = running()
    if server is None:
        raise RuntimeError("the server does not run")
    where = ToTunnel((token,), b"/", _destination(host, port))
    request = _BytesRequest(_head(), scheme="http", has_body=False)
    server.spawn(lambda: carry(server, request, where))
    try:
        async with TunnelStream(await _opened(request)) as stream:
            yield stream
    finally:
        request.leave()


def _destination(host: str, port: int) -> bytes:
    try:
        return str(parse_x_host(f"tcp://{f'[{host}]' if ':' in host else host}:{port}", schemes=TCP_SCHEMES)).encode()
    except HeadError as error:
        raise ConfigError("host", error.detail.removeprefix("X-Host ")) from None


def _head() -> RequestHead:
    """A refusal is to come as JSON, which holds its code and its detail."""
    fields = [
        (b"Host", b"localhost"),  # of no meaning: the destination stands in OPEN
        (b"Accept", b"application/json"),
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"tcp"),
    ]
    return RequestHead(b"GET", b"/", fields)


async def _opened(request: InsideRequest) -> ByteStream:
    try:
        head = await request.response()
        if request.switched is None:
            raise await _refusal(request, head)
    except StreamBroken as error:
        raise ConnectRefused(502, "tunnel_lost", str(error)) from error
    return request.switched


async def _refusal(request: InsideRequest, head: ResponseHead) -> ConnectRefused:
    body = b""
    while len(body) < ANSWER_LIMIT and (piece := await request.receive()):
        body += piece
    try:
        problem = json.loads(body)
        return ConnectRefused(head.status, str(problem["code"]), str(problem.get("detail", "")))
    except (ValueError, KeyError, TypeError):  # none of ours: middleware answered, or another make of client
        return ConnectRefused(head.status, "bad_answer", "the answer is neither a stream nor a problem")


class TunnelStream(AnyioByteStream):
    """An anyio stream: ``send_eof`` closes one half, ``aclose`` both. One task may receive and one send at a time:
    a second one gets anyio's BusyResourceError."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._closed = False
        self._receiving = anyio.ResourceGuard("receiving from")
        self._sending = anyio.ResourceGuard("sending to")

    def __repr__(self) -> str:
        return f"<TunnelStream {'closed' if self._closed else 'open'}>"

    async def receive(self, max_bytes: int = READ_AHEAD) -> bytes:
        """Cancelling loses nothing."""
        with self._receiving, self._guarded():
            await checkpoint()
            data = await self._stream.receive(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Cancelled, some unknown part was sent."""
        with self._sending, self._guarded():
            await checkpoint()
            await self._stream.send(item)

    async def send_eof(self) -> None:
        with self._sending, self._guarded():
            await self._stream.send_eof()

    async def aclose(self) -> None:
        self._closed = True
        await self._stream.aclose()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """anyio's errors instead of ours."""
        if self._closed:
            raise anyio.ClosedResourceError
        try:
            yield
        except StreamBroken as error:
            if self._closed:  # by another task, meanwhile
                raise anyio.ClosedResourceError from None
            raise anyio.BrokenResourceError from error
