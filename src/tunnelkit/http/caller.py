"""One caller's connection, and one request on it: the implementation of ``CallerRequest`` on a byte stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import anyio.lowlevel

from ..config import Limits
from ..errors import HeadError, StreamBroken
from ..heads import Fields, RequestHead, ResponseHead
from ..net.loop import loop_clock
from ..net.peer import Peer
from ..net.prefixed import prefixed
from ..net.stream import READ_AHEAD, RELAY_READ, Buffer, ByteStream, Taker
from ..net.timers import Timers
from .clocks import Deadline, Pace
from .codec import Body, End, HeadParser
from .codec_moves import State
from .dates import Dates
from .server_codec import ServerCodec
from .writing import GATHER, Outgoing

__all__ = ["Begun", "CallerConnection", "FrontRequest"]

T = TypeVar("T")

# Looked up once: see codec.
_HEAD: Final = State.HEAD
_BODY: Final = State.BODY
_DONE: Final = State.DONE

# Body pieces below this are joined to the next: a body that comes byte by byte must not cost an object a byte.
SMALL_PIECE = 1024


class Begun(Protocol):
    """A request that was begun without waiting. Once it rests nothing is left to do; else ``finish`` is awaited or
    ``drop`` called."""

    async def finish(self) -> None: ...
    def drop(self) -> None: ...


class CallerConnection:
    """Stream, codec, what waits to be written, and the clocks. All of it synchronous but ``drain_output``."""

    def __init__(
        self,
        stream: ByteStream,
        peer: Peer,
        *,
        limits: Limits,
        timers: Timers,
        parser: HeadParser,
        answers_half_close: bool,
        dates: Dates | None = None,
    ) -> None:
        self.stream = stream
        self.peer = peer
        self.scheme = "https" if stream.tls else "http"
        self.now = loop_clock()
        self.limits = limits
        self.codec = ServerCodec(parser, limits)
        self.answers_half_close = answers_half_close
        self._dates = dates
        self.closing = False  # the server drains: no further request on this connection
        self.may_ask = False  # it came while the server drained: one request, so that it can be told
        self.upgraded = False  # who upgraded it knows when it is over
        self.is_link = False  # its last request was a transport's, which may wait for as long as it likes
        self.fresh = True  # it has asked for nothing yet
        self.in_head: bool | None = None  # what the read clock runs for while a head is waited for: that, or idleness
        # The request that was begun where its bytes came, by ``taker``, and has not been the task's so far.
        self.taker: Taker | None = None
        self.request: FrontRequest | None = None
        self.begun: Begun | None = None
        self.dead = False  # failed or broken off: nothing can be read or written
        self.gone = False  # dead, or it ended its sending half and so has left
        self.late = False  # the read clock struck
        self.received = 0  # bytes, ever
        self.read_clock = Deadline(timers, self._read_late)
        self.write_clock = Deadline(timers, self._write_late)
        self._out = Outgoing()
        self._write_pace = Pace(limits)
        self._stalled = False  # the last flush left something

    def dated(self, head: ResponseHead) -> ResponseHead:
        """A final head as it is written: with a Date, where dates are kept."""
        return head if self._dates is None else self._dates.on(head)

    @property
    def unfinished(self) -> bool:
        """Whether a drain waits for it."""
        return not (self.upgraded or self.may_ask or self.is_link)

    def may_idle(self) -> bool:
        """Nothing is left to do on it before its next request."""
        return not (self.closing or self.gone or self._out.size) and self.codec.is_idle()

    def let_go(self) -> bool:
        """Let go of the request before, if it has come to rest. False while one is under way."""
        request = self.request
        if request is None:
            return True
        if not request.rested or self.gone:
            return False
        self.request = self.begun = None
        self.codec.start_next_cycle()
        return True

    def forget_request(self) -> None:
        """Nobody comes back for what was begun."""
        if self.begun is not None:
            self.begun.drop()
        self.request = self.begun = self.taker = None

    @property
    def blocked(self) -> bool:
        """What was flushed last is not all taken: nothing more may be added."""
        return self._out.blocked

    # -- reading -------------------------------------------------------------------------------

    def read(self, max_bytes: int) -> bool:
        """Move what the socket has into the codec. False when there was nothing new."""
        if self.dead or self.codec.eof or max_bytes <= 0:
            return False
        try:
            data = self.stream.receive_nowait(max_bytes)
        except StreamBroken:
            self.break_off()
            return True
        if data is None:
            return False
        if data:
            self.received += len(data)
        elif not self.answers_half_close:
            self.gone = True
        self.codec.receive_data(data)
        return True

    # -- writing -------------------------------------------------------------------------------

    def add(self, *pieces: Buffer) -> None:
        """Gather; much is flushed at once."""
        out = self._out
        for piece in pieces:
            out.add(piece)
        if out.size >= GATHER:
            self.flush()

    def flush(self) -> bool:
        """True when nothing is left to write (also because there is nobody to write to)."""
        out = self._out
        if not out.size:  # so too when it is dead
            return True
        before = out.taken
        try:
            done = out.flush(self.stream)
        except StreamBroken:
            self.break_off()
            return True
        if not done or self._stalled:
            self._watch_writing(out.taken - before, done)
        return done

    def _watch_writing(self, taken: int, done: bool) -> None:
        """A caller that takes nothing for ``write_timeout``, or too little, is broken off (slow reading)."""
        now = self.now()
        self._write_pace.moved(taken)
        if not self._write_pace.waited(now):
            self.break_off()
        elif done:
            self._stalled = False
            self.write_clock.clear()
        else:
            self._write_pace.wait(now)
            if taken or not self._stalled:
                self.write_clock.set(now + self.limits.write_timeout)
            self._stalled = True

    async def drain_output(self) -> None:
        """Write everything, or fail."""
        while not self.flush():
            await self.stream.wait(writable=True)

    # -- the end -------------------------------------------------------------------------------

    def break_off(self) -> None:
        """RST rather than an end: what was written is seen to be incomplete."""
        self.dead = self.gone = True
        self._out.clear()
        self.close_clocks()
        self.stream.abort()

    def close_clocks(self) -> None:
        self.read_clock.close()
        self.write_clock.close()

    def _read_late(self) -> None:
        self.late = True
        self.stream.wake()

    def _write_late(self) -> None:
        self.break_off()


class FrontRequest:
    """One ``CallerRequest``. Its body is decoded as it is read, ``Limits.read_ahead`` bytes ahead of its reader at
    most."""

    byte_stream = False
    inside = False
    mounted = False

    def __init__(self, connection: CallerConnection, head: RequestHead) -> None:
        codec = connection.codec
        self.head = head
        self.peer = connection.peer
        self.scheme = connection.scheme
        self.has_body = not codec.end_empty()
        self.expects_continue = codec.expects_continue
        self.trailers: Fields = []
        self.upgraded = False
        self._connection = connection
        self._body: list[bytes] = []  # few pieces: small ones are joined, and they are bounded
        self._held = 0  # bytes in _body
        # What a HeadError is made of: one that was raised has this request in its frames.
        self._failure: tuple[int, str, str] | None = None
        self._pace: Pace | None = None
        self._reads = False  # a task waits for bytes
        self.rested = False  # nothing is left to do but to wait for the next one
        self._news = self.has_body  # since the last wait for reading
        if self.has_body:
            self._decode()

    def __repr__(self) -> str:
        return f"<FrontRequest {self._connection.codec!r}>"

    def plan(self, key: object, make: Callable[[], T]) -> T:
        again = self._connection.codec.again
        return make() if again is None else again.plan(self.head, key, make)

    def be_link(self) -> None:
        """It carries no caller's exchange but a tunnel client's: a drain has nothing to wait for here, and does not
        end the connection."""
        self._connection.is_link = True
        self._connection.closing = False
        self._connection.taker = None  # what else comes on it is a tunnel client's, too

    # -- the request's body --------------------------------------------------------------------

    @property
    def received(self) -> bool:
        """The request came whole."""
        return self._connection.codec.reading is not _BODY and self._failure is None

    @property
    def gone(self) -> bool:
        return self._connection.gone

    def receive_body_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        if not self._body and not self._settled:
            self._read_ahead()
        if self._body:
            return self._take(max_bytes)
        if self._failure is not None:
            raise HeadError(*self._failure)
        if self.received:
            return b""
        self._news = False
        return None

    async def discard_rest(self) -> bool:
        """Read over what is left of the request, within the limits of lingering. True when it then came whole."""
        connection = self._connection
        self._drop_body()
        if self.received:
            return True
        connection.read_clock.set(connection.now() + connection.limits.linger_time)
        left = connection.limits.linger_bytes
        while not self._settled and left >= 0 and not connection.gone:
            if not self._read_ahead():
                if connection.late:  # and what came in time was read
                    break
                await connection.stream.wait(readable=True)
            left -= self._drop_body()
        connection.read_clock.clear()
        connection.late = False
        return self.received

    def _drop_body(self) -> int:
        dropped, self._held = self._held, 0
        self._body.clear()
        return dropped

    def _take(self, max_bytes: int) -> bytes:
        piece = self._body[0]
        if len(piece) > max_bytes:
            self._body[0] = piece[max_bytes:]
            piece = piece[:max_bytes]
        else:
            del self._body[0]
        self._held -= len(piece)
        return piece

    @property
    def _settled(self) -> bool:
        """No more of the body will come."""
        return self._failure is not None or self._connection.codec.reading is not _BODY

    @property
    def _room(self) -> int:
        """Bytes that may be read."""
        codec, most = self._connection.codec, self._connection.limits.read_ahead
        if self._settled:  # the next request's, or the end, which tells that the caller left
            return most - codec.buffered
        # Where nothing is held, only framing is buffered: the codec has a limit for that, and must see it passed.
        return most - self._held - codec.buffered if self._held else most

    def _read_ahead(self) -> bool:
        """Read what the socket has and there is room for. True when there was news."""
        connection = self._connection
        before, news = connection.received, False
        while connection.read(min(self._room, RELAY_READ)):
            news = True
            if not self._settled:
                self._decode()
            # Whoever takes what is held comes back: bulk that filled the rest would be cut into small pieces.
            if self._held * 2 > connection.limits.read_ahead:
                break
        if self._pace is not None:  # framing counts: its bytes are no body, but they are not silence
            self._pace.moved(connection.received - before)
        return news

    def _decode(self) -> None:
        codec = self._connection.codec
        try:
            while type(event := codec.next_event()) is Body:
                self._hold(event.data)
        except HeadError as error:
            self._failure = error.status, error.code, error.detail
        else:
            if type(event) is End:
                self.trailers = event.trailers

    def _hold(self, data: bytes) -> None:
        self._held += len(data)
        if self._body and len(self._body[-1]) < SMALL_PIECE:
            self._body[-1] += data
        else:
            self._body.append(data)

    # -- the response --------------------------------------------------------------------------

    @property
    def answered(self) -> bool:
        """A final head was given."""
        return self._connection.codec.writing is not _HEAD

    @property
    def complete(self) -> bool:
        """The response was given whole."""
        return self._connection.codec.writing is _DONE

    def send_info(self, head: ResponseHead) -> None:
        connection = self._connection
        # To a caller that takes nothing they are of no use, and kept for it they would have no bound.
        if not connection.gone and (not connection.blocked or connection.flush()):
            connection.add(connection.codec.encode_info(head))
            connection.flush()

    def send_head(self, head: ResponseHead) -> None:
        connection = self._connection
        if not connection.gone:
            codec = connection.codec
            close = connection.closing or (codec.reading is not _DONE and not self._rest_is_small)
            connection.add(codec.encode_head(connection.dated(head), close=close))

    @property
    def _rest_is_small(self) -> bool:
        """Whether what is missing of the request may be waited for after its answer, for the connection's sake.
        Who waits for 100 may never send it (RFC 9110 10.1.1)."""
        connection = self._connection
        if self.received:
            return True
        left = connection.codec.body_left
        small = left is not None and left <= connection.limits.linger_bytes
        return small and self._failure is None and not connection.codec.expects_continue

    def try_send_body(self, data: Buffer) -> bool:
        connection = self._connection
        if connection.gone:
            return True
        if connection.blocked and not connection.flush():
            return False
        connection.add(*connection.codec.encode_body(data))
        return True

    def send_end(self, trailers: Fields | None = None) -> None:
        connection = self._connection
        if not connection.gone:
            if end := connection.codec.encode_end(trailers):
                connection.add(end)
            connection.flush()

    def flush(self) -> bool:
        return self._connection.flush()

    def abort(self) -> None:
        self._connection.break_off()

    # -- waiting -------------------------------------------------------------------------------

    async def wait(self, *, readable: bool = False, writable: bool = False) -> None:
        """Readable means news: bytes that came since the last return, the end, or failure. So first take what
        ``receive_body_nowait`` has."""
        connection = self._connection
        if readable and (self._take_news() or connection.gone):
            await anyio.lowlevel.checkpoint()
            return
        reads = readable and not connection.codec.eof and self._room > 0
        expects_body = reads and not self._settled
        before = connection.received
        if expects_body:
            self._expect_body()
        self._reads = reads
        try:
            await connection.stream.wait(readable=reads, writable=writable)
        finally:
            self._reads = False
            connection.read_clock.clear()
        if reads and not self.complete:  # once it is, what comes next is not this request's
            self._read_ahead()
        if expects_body:
            self._judge_pace(silent=connection.received == before)
        self._news = False

    def _take_news(self) -> bool:
        news, self._news = self._news, False
        return news

    def _expect_body(self) -> None:
        """The caller is what is waited for."""
        connection = self._connection
        now = connection.now()
        if self._pace is None:
            self._pace = Pace(connection.limits)
        self._pace.wait(now)
        # Being woken for another reason gives the caller no more time.
        connection.read_clock.set(now + connection.limits.body_idle_timeout - self._pace.silence)

    def _judge_pace(self, *, silent: bool) -> None:
        """Called after ``_expect_body`` and the wait for it. ``silent``: nothing came meanwhile."""
        connection = self._connection
        # Where the clock is heard first, what came in time is there too; and the next wait has a time of its own.
        late, connection.late = connection.late and silent, False
        if self._pace is not None and not self._pace.waited(connection.now()):
            late = True
        if late and not self._settled:
            self._failure = 408, "request_timeout", "the request's body stopped coming, or came too slowly"

    def wake(self) -> None:
        self._connection.stream.wake()

    def rest(self) -> bool:
        connection = self._connection
        waits = self._reads or connection.request is self
        self.rested = waits and connection.may_idle()
        if self.rested:
            connection.read_clock.set(connection.now() + connection.limits.keep_alive_idle)
        return self.rested

    # -- upgrade -------------------------------------------------------------------------------

    async def upgrade(self, head: ResponseHead) -> ByteStream:
        """Raises ``StreamBroken`` when the caller is gone. Cancelled, the connection is broken off."""
        connection = self._connection
        connection.add(connection.codec.encode_switch(head))
        self.upgraded = True
        await connection.drain_output()
        if connection.dead:
            raise StreamBroken("the caller is gone")
        connection.upgraded = True
        connection.forget_request()
        connection.close_clocks()  # none of them for upgraded connections (design, section 10)
        early = connection.codec.trailing_data
        connection.codec.forget()  # it may be a tunnel client's, and stay for days
        self.head.fields.clear()
        return prefixed(connection.stream, early)
