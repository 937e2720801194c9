"""HTTP/1.1 messages over bytes, sans-IO: what the server's and the client's end of a connection share.

A parser (``parsers`` has the choice) only turns one complete head into fields, behind ``HeadParser``. Where messages
begin and end, what may follow what, and what is too large is decided here, the same for every parser.

Call order: ``receive_data`` what the stream gave (``b""`` for its end), then ``next_event`` until it gives a
``Signal``. What ``encode_*`` returns is sent at once, in order. After both messages are complete ``keep_alive``
tells whether ``start_next_cycle`` may be called.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from ..config import Limits
from ..errors import HeadError, LocalProtocolError
from ..heads import Fields, RequestHead, ResponseHead, validate_trailers
from ..net.stream import READ_AHEAD, Buffer
from .codec_moves import AFTER_CYCLE, AFTER_DATA, AFTER_END, AFTER_EOF, AFTER_FAIL, Signal, State
from .framing import CHUNKED, Length
from .reading import ChunkDecoder, HeadScanner, Input
from .repeats import Repeats
from .writing import BodyWriter

__all__ = ["Body", "Codec", "End", "Event", "HeadParser"]


@dataclass(slots=True)
class Body:
    data: bytes


@dataclass(slots=True)
class End:
    trailers: Fields


# Of the two heads a role reads only one.
Event: TypeAlias = RequestHead | ResponseHead | Body | End | Signal


class HeadParser(Protocol):
    """All that is left to the parser. ``block`` is one head with its empty line, CR LF at the end of every line,
    nothing folded. Raises ``HeadError`` with the status that a caller is told."""

    def parse_request(self, block: bytes) -> RequestHead: ...

    def parse_response(self, block: bytes) -> ResponseHead: ...


# Looking a member up in its enum takes twice as long as calling a function (CPython 3.11): hence names.
_HEAD: Final = State.HEAD
_BODY: Final = State.BODY
_DONE: Final = State.DONE
_NEED_DATA: Final = Signal.NEED_DATA


class Codec:
    """What both roles share: reading one message after another, and framing what is written.

    ``reading`` and ``writing`` are only ever set to what those tables give. ``fault`` is the status and code that all
    mistakes of the peer are told with, if they have them in common: what is wrong with an answer must not be told as
    if it were the request's fault.
    """

    def __init__(
        self,
        parser: HeadParser,
        limits: Limits,
        *,
        skips_empty_line: bool = False,
        padded_chunks: bool = False,
        fault: tuple[int, str] | None = None,
    ) -> None:
        self._fault = fault
        self._parser = parser
        self._limits = limits
        self._input = Input()
        self._scanner = HeadScanner(limits, skips_empty_line=skips_empty_line)
        self._repeats = Repeats(limits)
        self._chunks: ChunkDecoder | None = None
        self._padded_chunks = padded_chunks
        self._left: Length = 0  # of the body being read
        self.reading = _HEAD
        self.writing = _HEAD
        self._writer = BodyWriter(None)
        self._persists = True
        self.eof = False  # the peer's end was received

    def __repr__(self) -> str:
        return f"<{type(self).__name__} reading {self.reading.name}, writing {self.writing.name}>"

    # -- reading -------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes received and not yet given out."""
        return self._input.size

    @property
    def mid_head(self) -> bool:
        """Part of a head is here, and the rest is not."""
        return self.reading is _HEAD and self._input.size > 0

    @property
    def awaits_head(self) -> bool:
        """No byte of the next head is here."""
        return self.reading is _HEAD and not self._input.size

    @property
    def body_left(self) -> int | None:
        """Bytes of the body being read that ``next_event`` has not given yet; None when only its end will tell."""
        return self._left if self._left >= 0 else None

    @property
    def trailing_data(self) -> bytes:
        """What follows a complete message: the next request, or after an upgrade the other protocol's first bytes."""
        return self._input.peek() if self.reading in (_DONE, State.SWITCHED) else b""

    def forget(self) -> None:
        """The connection is another protocol's now: let go of all that HTTP needed."""
        self._input = Input()
        self._repeats = Repeats(self._limits)

    def receive_data(self, data: bytes) -> None:
        if data:
            self._input.feed(data)
        else:
            self.eof = True

    def next_event(self, max_data: int = READ_AHEAD) -> Event:
        """The next event; ``Body`` holds at most ``max_data`` bytes. Raises ``HeadError``, after which nothing more
        can be read."""
        state = self.reading
        try:
            if state is _HEAD:
                return self._next_head()
            if state is _BODY:
                return self._next_body(max_data) if self._left else self._end([])
        except HeadError as error:
            self.reading = AFTER_FAIL[self.reading]
            fault = self._fault
            if fault is None or error.status == fault[0]:
                raise
            raise _blamed(fault, error)  # noqa: B904 - which names the cause
        return Signal.CLOSED if state is State.CLOSED else Signal.PAUSED

    def end_empty(self) -> bool:
        """Whether the message whose head was given last has no body. It is complete then, without another event."""
        if self._left or self.reading is not _BODY:
            return False
        self.reading = AFTER_END[_BODY]
        return True

    def _next_head(self) -> Event:
        held = self._input.size
        block = self._scanner.scan(self._input, self._repeats.block) if held else None
        if block is not None:
            return self._begin(block)
        if not self.eof:
            return _NEED_DATA
        if held:
            raise self._truncated("head")
        return self._closed()

    def _next_body(self, max_data: int) -> Body | End | Signal:
        left = self._left
        if left > 0:
            data = self._input.take(left if left < max_data else max_data)
            if not data:
                return self._starved()
            self._left = left - len(data)
            return Body(data)
        if left == CHUNKED:
            return self._next_of_chunks(max_data)
        data = self._input.take(max_data)
        if data:
            return Body(data)
        return self._end([]) if self.eof else _NEED_DATA

    def _next_of_chunks(self, max_data: int) -> Body | End | Signal:
        chunks = self._chunks
        if chunks is None:
            chunks = self._chunks = ChunkDecoder(self._limits, padded=self._padded_chunks)
        data = chunks.decode(self._input, max_data)
        if data:
            return Body(data)
        if not chunks.done:
            return self._starved()
        self._chunks = None
        return self._end(validate_trailers(chunks.trailers, self._limits))

    def _starved(self) -> Signal:
        if self.eof:
            raise self._truncated("body")
        return _NEED_DATA

    def _end(self, trailers: Fields) -> End:
        self.reading = AFTER_END[self.reading]
        return End(trailers)

    def _closed(self) -> Signal:
        self.reading = AFTER_EOF[self.reading]
        return Signal.CLOSED

    @abstractmethod
    def _begin(self, block: bytes) -> RequestHead | ResponseHead:
        """Parse and validate a head, and choose how its body is read."""

    @abstractmethod
    def _truncated(self, part: str) -> HeadError: ...

    # -- writing -------------------------------------------------------------------------------

    def encode_body(self, data: Buffer) -> list[Buffer]:
        """The pieces to send for ``data``; none for a message without a body. Raises ``LocalProtocolError`` when
        it exceeds Content-Length."""
        self.writing = AFTER_DATA[self.writing]
        return self._writer.data(data)

    def encode_end(self, trailers: Fields | None = None) -> bytes:
        """Raises ``LocalProtocolError`` when the body is shorter than Content-Length."""
        end = self._writer.end(trailers)
        self.writing = AFTER_END[self.writing]
        return end

    # -- the connection ------------------------------------------------------------------------

    @property
    def persists(self) -> bool:
        """Whether nothing said so far ends the connection after these two messages."""
        return self._persists

    @property
    def keep_alive(self) -> bool:
        """Whether both messages are complete and the connection may carry the next ones."""
        return self._persists and self.reading is _DONE and self.writing is _DONE

    @property
    def complete(self) -> bool:
        """Whether both messages are complete."""
        return self.reading is _DONE and self.writing is _DONE

    def is_idle(self) -> bool:
        """``keep_alive``, and nothing more came."""
        done = self._persists and self.reading is _DONE and self.writing is _DONE
        return done and not self.eof and not self._input.size

    def start_next_cycle(self) -> None:
        """Raises ``LocalProtocolError`` unless ``keep_alive``."""
        if not self._persists:
            raise LocalProtocolError("the connection cannot be used again")
        # Both or none; what is not complete has no such move.
        self.reading, self.writing = AFTER_CYCLE[self.reading], AFTER_CYCLE[self.writing]


def _blamed(fault: tuple[int, str], error: HeadError) -> HeadError:
    blamed = HeadError(fault[0], fault[1], error.detail)
    blamed.__cause__ = error  # which "raise from" loses where this is compiled (mypyc 2.4)
    return blamed
