"""A request of the server's own program: ``CallerRequest`` for the gateway, coroutines for whoever makes it.

Both sides live in one event loop and meet in two small buffers, so that each has the other's pace.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from ..errors import StreamBroken
from ..heads import Fields, RequestHead, ResponseHead
from ..http.request import CallerRequest
from ..net.memory import memory_pair
from ..net.peer import Peer
from ..net.stream import READ_AHEAD, Buffer, ByteStream

__all__ = ["InsideRequest", "TooLate"]

# Bytes that wait for the other side, a direction; one piece more may be under way.
AHEAD: Final = READ_AHEAD

# Seconds for the far end to close too, once the program has closed an upgraded stream.
LINGER: Final = 5.0


class TooLate(Exception):
    """The tunnel did nothing for longer than the program waits."""


class InsideRequest(CallerRequest):
    """See the module. ``carry`` is over when ``end`` was called: nothing more happens then."""

    inside = True

    def __init__(self, head: RequestHead, *, scheme: str, has_body: bool) -> None:
        self.head = head
        self.peer = Peer()
        self.scheme = scheme
        self.has_body = has_body
        self.expects_continue = False
        self.trailers: Fields = []
        self.response_trailers: Fields = []  # filled at the answer's end
        self.switched: ByteStream | None = None  # after 101: what follows it
        self.scope = anyio.CancelScope()  # of the task that carries it
        self.uploading = anyio.CancelScope()  # of the task that sends its body, if it has one of its own
        self._body: deque[memoryview] = deque()
        self._body_size = 0
        self._body_ended = not has_body
        self._news = False  # of the body, which ``wait`` did not tell yet
        self._response: ResponseHead | None = None
        self._answer: deque[bytes] = deque()
        self._answer_size = 0
        self._complete = False
        self._clock = anyio.CancelScope()  # of whoever waits for the head
        self._patience: float | None = None
        self._ticks = not has_body  # it is the tunnel's turn
        self._failure: Exception | None = None
        self._left = False
        self._aborted = False
        self._over = False
        self._woken = False
        self._bell = anyio.Event()  # for the gateway
        self._changed = anyio.Event()  # for the program

    def __repr__(self) -> str:
        return f"<InsideRequest {'over' if self._over else 'gone' if self.gone else 'open'}>"

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # -- the program: the request's body -------------------------------------------------------

    async def put(self, data: bytes) -> None:
        """Send a piece of the body. Raises StreamBroken when it is not wanted any more."""
        await checkpoint()
        self._wind(ticks=True)
        while self._body_size >= AHEAD and not self._over:
            await self._changed.wait()
        if self._over or self.gone:
            raise StreamBroken("the rest of the request is not wanted")
        if data:
            self._body.append(memoryview(data))
            self._body_size += len(data)
            self._news = True
            self._bell.set()
        self._wind(ticks=False)  # whatever comes next is the program's to give

    def end_body(self) -> None:
        self._body_ended = self._news = True
        self._wind(ticks=True)
        self._bell.set()

    def fail_body(self, error: Exception) -> None:
        """The body cannot be had: the request is taken back, and whoever waits for the answer gets ``error``."""
        self._failure = error
        self.leave()

    # -- the program: the answer ---------------------------------------------------------------

    async def response(self, patience: float | None = None) -> ResponseHead:
        """The final head. Raises StreamBroken when there is none, or what ``fail_body`` was told; TooLate when the
        tunnel neither gave it nor took anything of the body for ``patience`` seconds. Time for which the program's
        own body keeps it waiting does not count."""
        await checkpoint()
        self._patience = patience
        with self._clock:
            self._wind(ticks=self._ticks)
            while self._response is None:
                self._check()
                await self._changed.wait()
        if self._response is None:
            raise TooLate
        return self._response

    def _wind(self, *, ticks: bool) -> None:
        self._ticks = ticks
        counts = ticks and self._patience is not None
        self._clock.deadline = anyio.current_time() + (self._patience or 0.0) if counts else math.inf

    async def receive(self) -> bytes:
        """A piece of the answer; ``b""`` at its end. Raises StreamBroken when it broke off. Cancelling loses
        nothing."""
        await checkpoint()
        while not self._answer:
            if self._complete:
                return b""
            self._check()
            await self._changed.wait()
        data = self._answer.popleft()
        self._answer_size -= len(data)
        self._bell.set()
        return data

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._over or self.gone:
            raise StreamBroken("the answer broke off")

    def leave(self) -> None:
        """Nobody waits for the answer any more. Harmless when it is complete."""
        self._left = True
        self.uploading.cancel()
        if self.switched is not None:
            self.switched.abort()  # nothing, after aclose: then what was sent still goes out
            self.scope.deadline = anyio.current_time() + LINGER
        self._bell.set()
        self._change()

    def end(self) -> None:
        """The gateway is done with it."""
        self._over = True
        self.uploading.cancel()
        self._change()

    # -- the gateway: the request's body -------------------------------------------------------

    def be_link(self) -> None: ...

    def receive_body_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        if self._body:
            data = self._body.popleft()
            if len(data) > max_bytes:
                self._body.appendleft(data[max_bytes:])
                data = data[:max_bytes]
            self._body_size -= len(data)
            self._wind(ticks=self._ticks)
            self._change()
            return bytes(data)
        self._news = False
        return b"" if self._body_ended else None

    @property
    def gone(self) -> bool:
        return self._left or self._aborted

    # -- the gateway: the answer ---------------------------------------------------------------

    def send_info(self, head: ResponseHead) -> None:
        """There is nobody to tell: an interim answer is not asked for."""

    def send_head(self, head: ResponseHead) -> None:
        self._response = head
        self._change()

    def try_send_body(self, data: Buffer) -> bool:
        if self.gone:
            return True
        if self._answer_size >= AHEAD:
            return False
        if data:
            self._answer.append(bytes(data))
            self._answer_size += len(data)
            self._change()
        return True

    def send_end(self, trailers: Fields | None = None) -> None:
        self.response_trailers += trailers or []
        self._complete = True
        self._change()

    def flush(self) -> bool:
        return self.gone or self._answer_size < AHEAD

    def abort(self) -> None:
        self._aborted = True
        self._answer.clear()
        self._change()

    async def upgrade(self, head: ResponseHead) -> ByteStream:
        near, far = memory_pair()
        self.switched = near
        if self._left:  # nobody will take it
            near.abort()
        self.send_head(head)
        await checkpoint()
        return far

    # -- the gateway: waiting ------------------------------------------------------------------

    async def wait(self, *, readable: bool = False, writable: bool = False) -> None:
        if self._is_ready(readable, writable):
            await checkpoint()
        else:
            self._bell = anyio.Event()
            await self._bell.wait()
        self._woken = False
        if readable:  # news are told once: whoever has no use for them yet is not to ask again and again
            self._news = False

    def _is_ready(self, readable: bool, writable: bool) -> bool:
        if self._woken or self.gone:
            return True
        return (readable and self._news) or (writable and self.flush())

    def wake(self) -> None:
        self._woken = True
        self._bell.set()
