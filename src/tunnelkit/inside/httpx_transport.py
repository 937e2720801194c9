"""httpx through a tunnel, from the server's own program: no socket, no port, no token in a URL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from inspect import isasyncgen
from typing import Any, TypeVar
from weakref import WeakSet

import anyio
import httpcore
import httpx

from ..config import Limits
from ..core.allowlist import X_HOST_LIMIT
from ..core.routing import ToTunnel
from ..core.tokens import mask_token
from ..errors import HeadError, StreamBroken
from ..heads import RequestHead, body_length, content_length, field_values, validate_request
from ..net.stream import ByteStream
from .carrying import Running, WrongLength, carry, upload
from .request import InsideRequest, TooLate

__all__ = ["TunnelTransport"]

T = TypeVar("T")


class TunnelTransport(httpx.AsyncBaseTransport):
    """Requests go to the tunnel of ``token``, whatever the URL's host: that is what the origin is told, where the
    client has ``host="preserve"``. A field X-Host chooses another origin, as callers' do.

    Bodies stream both ways. Failures of the tunnel are answers, as callers get them (502, 503, 504); an answer that
    breaks off raises ``httpx.ReadError``. ``timeout.read`` is for the head, from when the tunnel last took something
    of the request, and for each piece; there are no others, the server's limits hold. An upgrade's answer has the
    stream behind it in its extensions, as ``network_stream``; trailers stand there as ``trailers``, a list that is
    filled at the body's end.
    """

    def __init__(self, running: Callable[[], Running | None], token: str, *, limits: Limits) -> None:
        self._running = running
        self._token = token
        self._limits = limits
        self._open: WeakSet[InsideRequest] = WeakSet()

    def __repr__(self) -> str:
        return f"<TunnelTransport token={mask_token(self._token)}>"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Cancelled, the request is taken back. Raises httpx's errors."""
        running = self._running()
        if running is None:
            raise httpx.ConnectError("the tunnel server does not run", request=request)
        head = self._head(request)
        inside = InsideRequest(head, scheme=request.url.scheme, has_body=body_length(head) != 0)
        where = ToTunnel((self._token,), head.target, _x_host(head, request))
        try:
            running.spawn(lambda: carry(running, inside, where))
        except RuntimeError:
            raise httpx.ConnectError("the tunnel server ends", request=request) from None
        stream = request.stream
        self._open.add(inside)
        if inside.has_body:
            assert isinstance(stream, httpx.AsyncByteStream)
            running.spawn(lambda: upload(inside, _pieces(stream), content_length(head.fields)))
        return await _answer(inside, request)

    async def aclose(self) -> None:
        """Take back what still runs: answers that nobody read to their end or closed."""
        for inside in self._open:
            inside.leave()

    def _head(self, request: httpx.Request) -> RequestHead:
        head = RequestHead(request.method.encode("ascii"), request.url.raw_path, list(request.headers.raw))
        if request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"{request.url.scheme}: is not spoken by tunnels", request=request)
        try:
            validate_request(head, self._limits)
        except HeadError as error:
            raise httpx.LocalProtocolError(error.detail, request=request) from None
        return head


def _x_host(head: RequestHead, request: httpx.Request) -> bytes | None:
    values = field_values(head.fields, b"x-host")
    if len(values) > 1 or any(len(value) > X_HOST_LIMIT for value in values):
        raise httpx.LocalProtocolError("X-Host stands twice, or is too long", request=request)
    return values[0] if values else None


async def _pieces(stream: httpx.AsyncByteStream) -> AsyncIterator[bytes]:
    """Closed, it closes what it reads: httpx leaves a generator that it was given as a body to the garbage collector,
    and trio complains."""
    pieces = aiter(stream)
    try:
        async for piece in pieces:
            yield piece
    finally:
        for generator in (pieces, getattr(stream, "_stream", None)):
            if isasyncgen(generator):
                await generator.aclose()


async def _answer(inside: InsideRequest, request: httpx.Request) -> httpx.Response:
    timeout = request.extensions.get("timeout", {}).get("read")
    body = _Body(inside, request, timeout)
    head = await body.guard(lambda: inside.response(timeout))
    extensions: dict[str, Any] = {"http_version": b"HTTP/1.1", "trailers": inside.response_trailers}
    if head.reason:
        extensions["reason_phrase"] = head.reason
    if inside.switched is not None:
        extensions["network_stream"] = _NetworkStream(inside.switched)
    return httpx.Response(head.status, headers=head.fields, stream=body, extensions=extensions)


class _Body(httpx.AsyncByteStream):
    """The answer's body as it comes. Whoever closes it before its end takes the request back."""

    def __init__(self, inside: InsideRequest, request: httpx.Request, timeout: float | None) -> None:
        self._inside = inside
        self._request = request
        self._timeout = timeout

    async def guard(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await one of the exchange's calls, with httpx's errors. What fails is over."""
        try:
            return await call()
        except TooLate:
            self._inside.leave()
            raise httpx.ReadTimeout("no answer in time", request=self._request) from None
        except StreamBroken as error:
            self._inside.leave()
            raise httpx.ReadError(str(error), request=self._request) from error
        except WrongLength as error:
            self._inside.leave()
            raise httpx.LocalProtocolError(str(error), request=self._request) from None
        except BaseException:
            self._inside.leave()
            raise

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.guard(self._receive)
        if not piece:
            raise StopAsyncIteration
        return piece

    async def _receive(self) -> bytes:
        with anyio.move_on_after(self._timeout):
            return await self._inside.receive()
        raise TooLate

    async def aclose(self) -> None:
        try:
            if self._inside.switched is not None:
                await self._inside.switched.aclose()
        finally:
            self._inside.leave()


class _NetworkStream(httpcore.AsyncNetworkStream):
    """The bytes behind a 101, as httpx's users expect them."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _mapped(httpcore.ReadError, httpcore.ReadTimeout), anyio.fail_after(timeout):
            return await self._stream.receive(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _mapped(httpcore.WriteError, httpcore.WriteTimeout), anyio.fail_after(timeout):
            await self._stream.send(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return None


@contextmanager
def _mapped(broken: type[Exception], late: type[Exception]) -> Iterator[None]:
    try:
        yield
    except StreamBroken as error:
        raise broken(str(error)) from error
    except TimeoutError as error:
        raise late("not in time") from error
