"""A request that passes its calls on to another: what stands around one changes only what it is there for."""

from __future__ import annotations

from ..heads import Fields, ResponseHead
from ..net.stream import READ_AHEAD, Buffer, ByteStream
from .request import CallerRequest

__all__ = ["PassingRequest"]


class PassingRequest(CallerRequest):
    def __init__(self, inner: CallerRequest) -> None:
        self.head = inner.head
        self.peer = inner.peer
        self.scheme = inner.scheme
        self.has_body = inner.has_body
        self.expects_continue = inner.expects_continue
        self.byte_stream = inner.byte_stream
        self.inside = inner.inside
        self.mounted = inner.mounted
        self._inner = inner

    def __repr__(self) -> str:
        return f"<{type(self).__name__} around {self._inner!r}>"

    def be_link(self) -> None:
        self._inner.be_link()

    @property
    def trailers(self) -> Fields:  # type: ignore[override]  # an attribute there
        return self._inner.trailers

    def receive_body_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        return self._inner.receive_body_nowait(max_bytes)

    @property
    def gone(self) -> bool:
        return self._inner.gone

    def send_info(self, head: ResponseHead) -> None:
        self._inner.send_info(head)

    def send_head(self, head: ResponseHead) -> None:
        self._inner.send_head(head)

    def try_send_body(self, data: Buffer) -> bool:
        return self._inner.try_send_body(data)

    def send_end(self, trailers: Fields | None = None) -> None:
        self._inner.send_end(trailers)

    def flush(self) -> bool:
        return self._inner.flush()

    def abort(self) -> None:
        self._inner.abort()

    async def wait(self, *, readable: bool = False, writable: bool = False) -> None:
        await self._inner.wait(readable=readable, writable=writable)

    def wake(self) -> None:
        self._inner.wake()

    async def upgrade(self, head: ResponseHead) -> ByteStream:
        return await self._inner.upgrade(head)
