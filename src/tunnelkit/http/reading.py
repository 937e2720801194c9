"""Bytes in: where a head ends, and what is inside a chunked body.

Both are strict and the same whichever parser is installed: a message that two parsers would end at
different bytes is refused (RFC 9112 2.2, 7.1; smuggling lives on leniency here).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from ..config import Limits
from ..errors import HeadError
from ..heads import Fields

__all__ = ["CHUNK_EXCESS_LIMIT", "ChunkDecoder", "HeadScanner", "Input"]

CHUNK_LINE_LIMIT = 4096  # a chunk's size and its extensions, which are read over
# Of a whole body: what its size lines have beyond what is usual beside so much data. Extensions are nobody's bytes,
# and without a bound a body of none would keep its reader busy for ever.
CHUNK_EXCESS_LIMIT = 16 * 1024
CHUNK_LINE_USUAL = 16

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_EXTENSION = rb";[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?"
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:" + _EXTENSION + rb")*([ \t]*)")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FOLD = re.compile(rb"\n[ \t]")


class Input:
    """Bytes received and not yet understood. Its bound is the driver's: it reads no more while this is full."""

    __slots__ = ("_data", "_start", "size")

    def __init__(self) -> None:
        self._data = b""
        self._start = 0
        self.size = 0  # an attribute, because it is asked for several times a head

    def __len__(self) -> int:
        return self.size

    def feed(self, data: bytes) -> None:
        self._data = self._data[self._start :] + data if self.size else data
        self._start = 0
        self.size += len(data)

    def take(self, count: int) -> bytes:
        """The first ``count`` bytes, or all when there are fewer."""
        start = self._start
        data = self._data
        if start or count < len(data):  # else all of it, itself: compiled, a slice would be a copy
            data = data[start : start + count]
        self._start = start + len(data)
        self.size -= len(data)
        return data

    def take_through(self, piece: bytes, start: int) -> bytes | None:
        """Up to the end of the first ``piece`` at or behind ``start``; None where there is none."""
        found = self._data.find(piece, self._start + start)
        if found < 0:
            return None
        begin, self._start = self._start, found + len(piece)
        self.size -= self._start - begin
        return self._data[begin : self._start]

    def take_piece(self, piece: bytes) -> bool:
        """Whether ``piece`` comes next; it is taken then."""
        if not self._data.startswith(piece, self._start):
            return False
        self._start += len(piece)
        self.size -= len(piece)
        return True

    def peek(self) -> bytes:
        return self._data[self._start :]

    def find(self, piece: bytes, start: int = 0, end: int | None = None) -> int:
        """Where ``piece`` begins, counted from the first byte not taken; -1 when it is not there."""
        stop = len(self._data) if end is None else min(len(self._data), self._start + end)
        found = self._data.find(piece, self._start + start, stop)
        return found - self._start if found >= 0 else -1

    def startswith(self, piece: bytes) -> bool:
        return self._data.startswith(piece, self._start)

    def has_bare_lf(self, start: int) -> bool:
        return _BARE_LF.search(self._data, self._start + start) is not None


class HeadScanner:
    """Cuts one head (first line to empty line) out of the input, within the limits.

    What can be refused before the head is complete is refused then, so that nobody waits for its end.
    """

    __slots__ = ("_limits", "_may_skip", "_searched", "_skips", "_small")

    def __init__(self, limits: Limits, *, skips_empty_line: bool) -> None:
        self._limits = limits
        self._small = min(limits.request_line_limit, limits.head_limit)  # a head that can break neither
        self._skips = self._may_skip = skips_empty_line
        self._searched = 0

    def scan(self, source: Input, known: bytes = b"") -> bytes | None:
        """The head with its empty line, or None while it is incomplete. Raises ``HeadError``. ``known`` is one that
        was found good before: where it comes again, it is given back itself."""
        if known and source.take_piece(known):
            self._searched, self._may_skip = 0, self._skips
            return known
        if self._may_skip and source.startswith(b"\r\n"):
            source.take(2)  # RFC 9112 2.2: one empty line before a request is passed over
            self._may_skip, self._searched = False, 0
        block = source.take_through(b"\r\n\r\n", max(0, self._searched - 3))
        if block is None:
            self._check_partial(source)
            self._searched = len(source)
            return None
        self._searched, self._may_skip = 0, self._skips
        self._check_whole(block)
        return block

    def _check_partial(self, source: Input) -> None:
        if not self._searched and source.startswith(b"\x16"):
            raise HeadError(400, "tls_on_plain_port", "this port speaks plain HTTP, and got a TLS handshake")
        line_limit = self._limits.request_line_limit
        if len(source) > line_limit and source.find(b"\n", 0, line_limit + 2) < 0:
            raise HeadError(414, "uri_too_long", f"the first line is longer than {line_limit} bytes")
        if source.has_bare_lf(self._searched):
            raise HeadError(400, "bad_line_end", "a line of the head does not end with CR LF")
        if len(source) > self._limits.head_limit:
            raise HeadError(431, "head_too_large", f"the head is larger than {self._limits.head_limit} bytes")

    def _check_whole(self, block: bytes) -> None:
        if len(block) > self._small:
            self._check_size(block)
        lines = block.count(b"\n")
        if block.count(b"\r\n") != lines or block.count(b"\r") != lines:
            raise HeadError(400, "bad_line_end", "a line of the head does not end with CR LF")
        if _FOLD.search(block) is not None:
            raise HeadError(400, "folded_line", "a field is folded over several lines")  # RFC 9112 5.2
        if lines - 2 > self._limits.field_limit:
            limit = self._limits.field_limit
            raise HeadError(431, "head_too_large", f"the head has more than {limit} fields")

    def _check_size(self, block: bytes) -> None:
        limits = self._limits
        if block.find(b"\r\n") > limits.request_line_limit:
            raise HeadError(414, "uri_too_long", f"the first line is longer than {limits.request_line_limit} bytes")
        if len(block) > limits.head_limit:
            raise HeadError(431, "head_too_large", f"the head is larger than {limits.head_limit} bytes")


class _Stage(IntEnum):
    SIZE = 0
    DATA = 1
    DATA_END = 2
    TRAILERS = 3
    DONE = 4


class ChunkDecoder:
    """One chunked body (RFC 9112 7.1), with its trailers once it is ``done``. ``padded``: old origins fill the line
    of a size up with spaces, which their callers never see; in a request nothing may stand there."""

    __slots__ = ("_excess", "_left", "_limits", "_padded", "_stage", "trailers")

    def __init__(self, limits: Limits, *, padded: bool = False) -> None:
        self._limits = limits
        self._padded = padded
        self._stage = _Stage.SIZE
        self._left = 0
        self._excess = 0
        self.trailers: Fields = []

    @property
    def done(self) -> bool:
        return self._stage is _Stage.DONE

    def decode(self, source: Input, max_bytes: int) -> bytes:
        """The next bytes of the body, from as many chunks as are there. Raises ``HeadError``."""
        pieces: list[bytes] = []
        while max_bytes > 0 and self._stage is not _Stage.DONE:
            if self._stage is _Stage.DATA:
                piece = source.take(min(self._left, max_bytes))
                if not piece:
                    break
                pieces.append(piece)
                max_bytes -= len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._stage = _Stage.DATA_END
            elif not _STEPS[self._stage](self, source):
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_size(self, source: Input) -> bool:
        end = source.find(b"\r\n", 0, CHUNK_LINE_LIMIT)
        if end < 0:
            if len(source) >= CHUNK_LINE_LIMIT or source.has_bare_lf(0):
                raise HeadError(400, "bad_chunk", "a chunk's size line has no end")
            return False
        match = _CHUNK_LINE.fullmatch(source.take(end + 2)[:-2])
        if match is None or (match[2] and not self._padded):
            raise HeadError(400, "bad_chunk", "a chunk's size is not a hexadecimal number")
        self._left = int(match[1], 16)
        self._excess = max(0, self._excess + end - CHUNK_LINE_USUAL - 2 * self._left)
        if self._excess > CHUNK_EXCESS_LIMIT:
            raise HeadError(400, "bad_chunk", "the chunks have more extensions than data")
        self._stage = _Stage.DATA if self._left else _Stage.TRAILERS
        return True

    def _read_data_end(self, source: Input) -> bool:
        if not source.startswith(b"\r\n"):
            if len(source) >= 2 or (source and not source.startswith(b"\r")):
                raise HeadError(400, "bad_chunk", "a chunk is longer than its size")
            return False
        source.take(2)
        self._stage = _Stage.SIZE
        return True

    def _read_trailers(self, source: Input) -> bool:
        if source.startswith(b"\r\n"):
            source.take(2)
        else:
            end = source.find(b"\r\n\r\n")
            if max(end, len(source) if end < 0 else 0) > self._limits.head_limit:
                raise HeadError(431, "head_too_large", "the trailer section is too large")
            if end < 0:
                return False
            self.trailers = self._parse_trailers(source.take(end + 4)[:-4])
        self._stage = _Stage.DONE
        return True

    def _parse_trailers(self, section: bytes) -> Fields:
        lines = section.split(b"\r\n")
        if len(lines) > self._limits.field_limit:
            raise HeadError(431, "head_too_large", f"there are more than {self._limits.field_limit} trailers")
        fields = [line.partition(b":") for line in lines]
        if not all(colon for _, colon, _ in fields):
            raise HeadError(400, "bad_trailer", "a trailer is not a field line")
        return [(name, value.strip(b" \t")) for name, _, value in fields]  # judged by heads.validate_trailers


_STEPS: Final[dict[_Stage, Callable[[ChunkDecoder, Input], bool]]] = {
    _Stage.SIZE: ChunkDecoder._read_size,
    _Stage.DATA_END: ChunkDecoder._read_data_end,
    _Stage.TRAILERS: ChunkDecoder._read_trailers,
}
