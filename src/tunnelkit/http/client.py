"""The client's end of one HTTP/1.1 connection: requests out, responses in, without waiting but in ``wait``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from ..config import DEFAULT_LIMITS, Limits
from ..errors import HeadError, StreamBroken
from ..heads import Fields, RequestHead, ResponseHead
from ..net.prefixed import prefixed
from ..net.stream import READ_AHEAD, RELAY_READ, Buffer, ByteStream, Taker
from .client_codec import ClientCodec, RequestBlock, request_block
from .codec import Body, End, HeadParser
from .codec_moves import Signal, State
from .parsers import DEFAULT_PARSER
from .writing import GATHER, Outgoing

__all__ = ["OriginConnection", "simple_request"]

T = TypeVar("T")

_HEAD: Final = State.HEAD  # looked up once: it is asked for with every request


class OriginConnection:
    """One connection to an HTTP server. One task drives it; the methods that only write may be called by another.

    When writing fails the connection still reads on, since the answer that explains why may already be there
    (RFC 9112 9.5); reading then tells how it ended.
    """

    def __init__(
        self, stream: ByteStream, *, limits: Limits = DEFAULT_LIMITS, parser: HeadParser = DEFAULT_PARSER
    ) -> None:
        self.stream = stream
        self.exchanges = 0  # begun on this connection
        self._codec = ClientCodec(parser, limits)
        self._out = Outgoing()
        self._taken_before = 0  # what the stream had taken when this request began
        self._write_failed = False  # the rest of the request is not wanted, or the connection is gone: reading tells
        self._dead = False
        self._answer_begun = False

    def __repr__(self) -> str:
        return f"<OriginConnection {self._codec!r}{' dead' if self._dead else ''}>"

    # -- the request ---------------------------------------------------------------------------

    def send_request(self, head: RequestHead, *, has_body: bool = False) -> None:
        """Buffered until ``flush``. Without Content-Length, and with ``has_body``, the body goes chunked."""
        self.send_block(request_block(head, has_body=has_body))

    def send_block(self, request: RequestBlock) -> None:
        """The same for a head that is written already."""
        self._begin()
        self._out.add(self._codec.encode_request(request))

    def send_whole(self, request: RequestBlock) -> bool:
        """The same for one without a body, which goes out at once; True when nothing of it is left."""
        self._begin()
        self._out.add(self._codec.encode_whole(request))
        return self.flush()

    def _begin(self) -> None:
        if self._codec.reading is not _HEAD:
            self._codec.start_next_cycle()
        self.exchanges += 1
        self._taken_before = self._out.taken
        self._answer_begun = False

    def try_send_body(self, data: Buffer) -> bool:
        """Take all of ``data`` (at most 64 KiB) or nothing: False while what was taken before is not yet flushed."""
        if self._out.blocked and not self.flush():
            return False
        for piece in self._codec.encode_body(data):
            self._add(piece)
        return True

    def send_end(self, trailers: Fields | None = None) -> None:
        self._add(self._codec.encode_end(trailers))
        self.flush()

    def _add(self, piece: Buffer) -> None:
        if not self._write_failed:
            self._out.add(piece)
            if self._out.size >= GATHER:
                self.flush()

    def flush(self) -> bool:
        """Push what is buffered to the stream without waiting; True when nothing is left."""
        if self._write_failed:
            return True
        try:
            return self._out.flush(self.stream)
        except StreamBroken:
            self._write_failed = True
            self._out.clear()
            return True

    @property
    def request_untouched(self) -> bool:
        """No byte of the current request was taken by the stream: it may go out on another connection."""
        return self._out.taken == self._taken_before

    # -- the response --------------------------------------------------------------------------

    def next_event_nowait(self) -> ResponseHead | Body | End | None:
        """A head (status below 200: interim, and another follows; 101: take ``upgraded``), a piece of the body, or
        the end; None when nothing is there yet. Reads no further than it is asked.

        Raises ``HeadError`` (502) for a response that is malformed or cut short, ``StreamBroken`` when the
        connection failed. Afterwards it is only good for ``abort``.
        """
        if self._codec.awaits_head:
            if (data := self.stream.receive_nowait(RELAY_READ)) is None:
                return None
            if data:
                self._answer_begun = True
            self._codec.receive_data(data)
        while True:
            event = self._codec.next_event()
            if isinstance(event, (ResponseHead, Body, End)):
                return event
            if event is not Signal.NEED_DATA or (data := self.stream.receive_nowait(RELAY_READ)) is None:
                return None
            self._codec.receive_data(data)

    def plan(self, key: object, make: Callable[[], T]) -> T:
        """What ``make``, which is known by ``key``, makes of the head given last, which nobody changed: where it is
        the one before once more, what was made of that."""
        again = self._codec.again
        return make() if again is None else again.made(key, make)

    @property
    def body_complete(self) -> bool:
        """The last piece of a body with Content-Length was given: its end is the next event."""
        return self._codec.body_left == 0

    def take_rest(self) -> bytes | None:
        """The whole body of the response whose head was just given, where it has a Content-Length and is here: the
        response is complete then. Else ``None``, and it comes in events."""
        return self._codec.take_rest()

    @property
    def answer_begun(self) -> bool:
        """Something was read since the current request began, of an interim head perhaps."""
        return self._answer_begun

    def upgraded(self) -> ByteStream:
        """After 101: the byte stream, with the bytes that came early. What is buffered must be flushed before."""
        return prefixed(self.stream, self._codec.trailing_data)

    # -- waiting and closing -------------------------------------------------------------------

    async def wait(self, *, readable: bool = False, writable: bool = False, taker: Taker | None = None) -> None:
        await self.stream.wait(readable=readable, writable=writable, taker=taker)

    def wake(self) -> None:
        self.stream.wake()

    @property
    def reusable(self) -> bool:
        """Both messages are complete, nothing is left to write or to read, and nobody asked to close."""
        return self._codec.keep_alive and not (self._dead or self._write_failed or self._out.size)

    @property
    def quiet(self) -> bool:
        """Nothing is under way, or left to write: it can be closed in order, whether it can be used again or not."""
        complete = self._codec.complete or not self.exchanges
        return complete and not (self._dead or self._write_failed or self._out.size)

    def check_idle(self) -> bool:
        """Whether the connection, on which nothing is expected, is still quiet: an end or stray bytes spoil it."""
        return self.reusable and self.is_silent()

    def is_silent(self) -> bool:
        """The same of one that was ``reusable`` when its last exchange ended."""
        return self.stream.is_silent()

    def abort(self) -> None:
        self._dead = True
        self._out.clear()
        self.stream.abort()

    async def aclose(self) -> None:
        self._dead = True
        await self.stream.aclose()


async def simple_request(
    stream: ByteStream,
    head: RequestHead,
    body: bytes = b"",
    *,
    limits: Limits = DEFAULT_LIMITS,
    max_body: int = READ_AHEAD,
    parser: HeadParser = DEFAULT_PARSER,
) -> tuple[ResponseHead, bytes]:
    """One request and its final response, of at most ``max_body`` bytes, on a fresh stream.

    Raises ``HeadError`` (502) and ``StreamBroken``. Neither closes ``stream``; cancelled, it must be aborted.
    """
    connection = OriginConnection(stream, limits=limits, parser=parser)
    connection.send_request(head, has_body=bool(body))
    answer = _Answer(max_body)
    rest = memoryview(body)
    ended = False
    while not answer.complete:
        while rest and connection.try_send_body(rest[:READ_AHEAD]):
            rest = rest[READ_AHEAD:]
        if not rest and not ended:
            connection.send_end()
            ended = True
        flushed = connection.flush()
        if (event := connection.next_event_nowait()) is not None:
            answer.take(event)
        else:
            await connection.wait(readable=True, writable=bool(rest) or not flushed)
    return answer.head, b"".join(answer.pieces)


class _Answer:
    """Gathers one response."""

    def __init__(self, max_body: int) -> None:
        self.head = ResponseHead(0, [])
        self.pieces: list[bytes] = []
        self.complete = False
        self._max_body = self._room = max_body

    def take(self, event: ResponseHead | Body | End) -> None:
        if isinstance(event, ResponseHead):
            self.head = event
            self.complete = event.status == 101
        elif isinstance(event, Body):
            self.pieces.append(event.data)
            self._room -= len(event.data)
            if self._room < 0:
                raise HeadError(502, "response_too_large", f"the response is larger than {self._max_body} bytes")
        else:
            self.complete = True
