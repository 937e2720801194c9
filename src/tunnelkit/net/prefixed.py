"""A byte stream with bytes that were read too early put back in front."""

from __future__ import annotations

from anyio.lowlevel import checkpoint

from .buffer import ReadBuffer
from .stream import READ_AHEAD, Buffer, ByteStream, Taker

__all__ = ["PrefixedStream", "prefixed"]


def prefixed(stream: ByteStream, early: bytes) -> ByteStream:
    """``stream``, giving ``early`` first: for whoever takes over after an upgrade or a CONNECT."""
    return PrefixedStream(stream, early) if early else stream


class PrefixedStream(ByteStream):
    """Gives ``early``, then what ``stream`` gives. Everything else is the stream's own."""

    def __init__(self, stream: ByteStream, early: bytes) -> None:
        self._stream = stream
        self._early = ReadBuffer()
        self._early.append(early)

    def __repr__(self) -> str:
        return f"<PrefixedStream {len(self._early)} before {self._stream!r}>"

    def receive_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        return self._early.take(max_bytes) or self._stream.receive_nowait(max_bytes)

    def is_silent(self) -> bool:
        return not self._early and self._stream.is_silent()

    def try_send(self, data: Buffer) -> int:
        return self._stream.try_send(data)

    def try_send_headed(self, header: bytes, data: Buffer) -> int:
        return self._stream.try_send_headed(header, data)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def wait(self, *, readable: bool = False, writable: bool = False, taker: Taker | None = None) -> None:
        if readable and self._early:
            await checkpoint()
        else:
            await self._stream.wait(readable=readable, writable=writable, taker=taker)

    def wake(self) -> None:
        self._stream.wake()

    def abort(self) -> None:
        self._early.clear()
        self._stream.abort()

    async def aclose(self) -> None:
        self._early.clear()
        await self._stream.aclose()

    @property
    def last_received(self) -> float:
        return self._stream.last_received

    @property
    def write_buffered(self) -> int:
        return self._stream.write_buffered

    @property
    def needs_wait(self) -> bool:
        return self._stream.needs_wait

    @property
    def peer_address(self) -> tuple[str, int]:
        return self._stream.peer_address

    @property
    def local_address(self) -> tuple[str, int]:
        return self._stream.local_address

    @property
    def tls(self) -> bool:
        return self._stream.tls

    @property
    def peer_certificate(self) -> dict[str, object] | None:
        return self._stream.peer_certificate
