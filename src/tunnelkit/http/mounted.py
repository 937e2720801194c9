"""A caller's request as transports see it (``transports.base.MountedRequest``), whichever server carries it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import ParamSpec, TypeVar

import anyio

from ..errors import HeadError, StreamBroken
from ..heads import Fields, ResponseHead
from ..net.stream import READ_AHEAD, ByteStream
from .request import CallerRequest

__all__ = ["Mounted"]

P = ParamSpec("P")
T = TypeVar("T")


class Mounted:
    """``path`` is what follows the transports' prefix. Every method raises ``StreamBroken`` once the caller is
    gone; cancelled in a write, the request must be aborted."""

    def __init__(self, request: CallerRequest, path: str) -> None:
        self.method = request.head.method
        self.fields = request.head.fields
        self.peer = request.peer
        self.path = path
        self._request = request

    async def body(self, max_bytes: int) -> bytes:
        """The whole body. Raises ``HeadError``: 413 when it is longer than ``max_bytes``."""
        pieces: list[bytes] = []
        room = max_bytes
        while (data := await self._receive()) != b"":
            room -= len(data)
            if room < 0:
                raise HeadError(413, "body_too_large", f"the body is longer than {max_bytes} bytes")
            pieces.append(data)
        return b"".join(pieces)

    async def _receive(self) -> bytes:
        while (data := self._request.receive_body_nowait()) is None:
            self._check()
            await self._request.wait(readable=True)
        return data

    async def respond(self, status: int, fields: Fields, body: bytes = b"") -> None:
        """A whole response; Content-Length is added."""
        self._send_head(status, [*fields, (b"Content-Length", b"%d" % len(body))])
        await self._send_body(body)
        await self.finish()

    def respond_now(self, status: int, fields: Fields, body: bytes = b"") -> bool:
        """``respond`` for the task that is in ``wait``, which is woken only where there is something left for it."""
        request = self._request
        if request.gone or len(body) > READ_AHEAD:
            return False
        self._send_head(status, [*fields, (b"Content-Length", b"%d" % len(body))])
        request.try_send_body(body)  # nothing is before it: what a response has before its head was flushed
        request.send_end()
        if not request.rest():
            request.wake()
        return True

    async def start(self, status: int, fields: Fields) -> None:
        """Begin a response whose body comes in pieces: chunked, or until close for HTTP/1.0. Its head waits for the
        first of them: proxies and radios take one packet better than two."""
        self._send_head(status, fields)
        self._check()

    async def send(self, *pieces: bytes) -> None:
        """Pieces of that body, flushed together."""
        for piece in pieces:
            await self._send_body(piece)
        await self._flush()

    def send_now(self, *pieces: bytes) -> bool:
        """``send`` for whoever has something for a task that is in ``wait``."""
        for piece in pieces:
            self._request.try_send_body(piece)  # all before it was flushed
        return self._request.flush()

    async def finish(self) -> None:
        """The response is complete, and flushed."""
        self._request.send_end()
        await self._flush()

    def _send_head(self, status: int, fields: Fields) -> None:
        self._request.send_head(ResponseHead(status, fields, _REASONS.get(status, b"")))

    async def _send_body(self, body: bytes) -> None:
        view = memoryview(body)
        for start in range(0, len(body), READ_AHEAD):
            while not self._request.try_send_body(view[start : start + READ_AHEAD]):
                await self._request.wait(writable=True)
                self._check()

    async def _flush(self) -> None:
        while not self._request.flush():
            await self._request.wait(writable=True)
        self._check()

    # -- waiting -------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        return self._request.gone

    async def wait(self) -> None:
        """Until ``wake``, or until the caller is gone; sometimes for nothing."""
        await self._request.wait(readable=True)

    def wake(self) -> None:
        self._request.wake()

    def while_there(self, work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """``work``, cancelled when the caller goes, for whom it is. Raises ``StreamBroken`` then."""
        return partial(self._attend, work)

    async def _attend(self, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        results: list[T] = []
        failures: list[Exception] = []
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, group.cancel_scope)
            try:
                results.append(await work(*args, **kwargs))
            except Exception as error:  # to come out of here as it is, not in a group
                failures.append(error)
            group.cancel_scope.cancel()
        if failures:
            raise failures[0]
        if not results:
            raise StreamBroken("the caller is gone")
        return results[0]

    async def _watch(self, scope: anyio.CancelScope) -> None:
        while not self.gone:
            await self.wait()
        scope.cancel()

    async def upgrade(self, fields: Fields) -> ByteStream:
        """Answer 101 with ``fields`` and take the connection over."""
        return await self._request.upgrade(ResponseHead(101, fields, b"Switching Protocols"))

    def _check(self) -> None:
        if self._request.gone:
            raise StreamBroken("the caller is gone")


_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
