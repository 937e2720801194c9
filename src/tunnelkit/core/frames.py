"""The frames of the multiplexer: their bytes, and nothing about what they mean for a stream.

A frame is a 12-byte header and a payload of at most 65,535 bytes. The header is type u8, flags u8, length
u16, stream id u64, all big-endian. Type and flags are handled as one number, the frame's *code*: a table of
the legal codes then checks both at once, and the code is the input of the stream's state table.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, TypeAlias

from ..errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "CREDIT",
    "CREDIT_SIZE",
    "DATA",
    "DATA_FIN",
    "FIN",
    "GOAWAY",
    "HEAD",
    "HEADER_SIZE",
    "HEAD_FIN",
    "HEAD_MORE",
    "IGNORABLE",
    "MAX_PAYLOAD",
    "MORE",
    "OPEN",
    "OPEN_PAYLOAD_LIMIT",
    "RESET",
    "RESET_SIZE",
    "Buffer",
    "Frame",
    "FrameDecoder",
    "ResetCode",
    "StreamKind",
    "encode_credit",
    "encode_fields",
    "encode_goaway",
    "encode_open",
    "encode_reset",
    "pack_header",
    "parse_number",
    "parse_open",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

# What the decoder gives: code, stream id, payload.
Frame: TypeAlias = tuple[int, int, bytes]

# Flags.
FIN: Final = 0x01  # HEAD, DATA: the sender's half of the stream ends here
MORE: Final = 0x02  # HEAD: the block goes on in the stream's next HEAD
IGNORABLE: Final = 0x80  # who does not know the type skips the frame

# Codes: type << 8 | flags.
OPEN: Final = 0x0100
HEAD: Final = 0x0200
HEAD_FIN: Final = HEAD | FIN
HEAD_MORE: Final = HEAD | MORE
DATA: Final = 0x0300
DATA_FIN: Final = DATA | FIN
CREDIT: Final = 0x0400
RESET: Final = 0x0500
GOAWAY: Final = 0x0600

MAX_PAYLOAD: Final = 0xFFFF
# OPEN is not under credit, and it must fit into the smallest message: hence a bound of its own.
OPEN_PAYLOAD_LIMIT: Final = 2048

_HEADER = struct.Struct("!HHQ")
_OPEN_FRAME = struct.Struct("!HHQBBQ")
_CREDIT_FRAME = struct.Struct("!HHQQ")
_CODE_FRAME = struct.Struct("!HHQH")  # RESET, GOAWAY
_OPEN_PAYLOAD = struct.Struct("!BBQ")  # kind, flags (sent as 0, ignored on receipt), first limit
_FIELD = struct.Struct("!HH")

HEADER_SIZE: Final = _HEADER.size
CREDIT_SIZE: Final = _CREDIT_FRAME.size
RESET_SIZE: Final = _CODE_FRAME.size

# The legal codes: those with a payload of any length, and the smallest and largest payload of the others.
_ANY_LENGTH: Final = frozenset({HEAD, HEAD_FIN, HEAD_MORE, DATA, DATA_FIN})
_LENGTHS: Final[dict[int, tuple[int, int]]] = {
    OPEN: (_OPEN_PAYLOAD.size, OPEN_PAYLOAD_LIMIT),
    CREDIT: (8, 8),
    RESET: (2, 2),
    GOAWAY: (2, 2),
}
_PLAIN_OPEN: Final = _OPEN_PAYLOAD.size  # of an OPEN without fields
_TYPES: Final = frozenset(code >> 8 for code in [*_ANY_LENGTH, *_LENGTHS])
_NOT_IGNORABLE: Final = ~IGNORABLE
_SKIP: Final = 0  # in place of a code: the frame is to be skipped


class StreamKind(IntEnum):
    """What a stream carries; it stands in OPEN."""

    HTTP = 1
    UPGRADE = 2
    BYTES = 3


class ResetCode(IntEnum):
    """Why a stream was reset. Other numbers are accepted from the peer as plain ``int``."""

    CANCEL = 1  # whoever wanted it has gone
    REFUSED = 2  # promises that no byte of the stream reached an origin
    PROTOCOL = 3
    INTERNAL = 4
    LIMIT = 5
    TIMEOUT = 6
    UNREACHABLE = 7
    SESSION_GONE = 8
    BROKEN_OFF = 9  # an answer had begun, though its head may have been dropped with all else that waited


# ``pack_header(code, length, stream_id)``: bound once, it is the most called function of the sending side.
pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from
_pack_open = _OPEN_FRAME.pack
_unpack_open = _OPEN_PAYLOAD.unpack_from


def encode_fields(fields: Mapping[int, bytes]) -> bytes:
    """The fields of an OPEN. Raises ``LocalProtocolError`` when they are too large for one."""
    encoded = b"".join(_FIELD.pack(key, len(value)) + value for key, value in fields.items())
    if _OPEN_PAYLOAD.size + len(encoded) > OPEN_PAYLOAD_LIMIT:
        raise LocalProtocolError(
            f"the fields of an OPEN take {len(encoded)} bytes, too many for {OPEN_PAYLOAD_LIMIT}"
        )
    return encoded


def encode_open(stream_id: int, kind: int, limit: int, fields: bytes = b"") -> bytes:
    """OPEN; ``limit`` is the opener's first receive limit, ``fields`` come from ``encode_fields``."""
    return _pack_open(OPEN, _PLAIN_OPEN + len(fields), stream_id, kind, 0, limit) + fields


def encode_credit(stream_id: int, limit: int) -> bytes:
    return _CREDIT_FRAME.pack(CREDIT, 8, stream_id, limit)


def encode_reset(stream_id: int, code: int) -> bytes:
    return _CODE_FRAME.pack(RESET, 2, stream_id, code)


def encode_goaway(last_stream_id: int, code: int) -> bytes:
    return _CODE_FRAME.pack(GOAWAY, 2, last_stream_id, code)


def parse_open(payload: bytes) -> tuple[int, int, dict[int, bytes]]:
    """Kind, first limit and fields of an OPEN. Raises ``RemoteProtocolError`` when the fields are malformed."""
    kind, _flags, limit = _unpack_open(payload)
    return kind, limit, _parse_fields(payload) if len(payload) > _PLAIN_OPEN else {}


def _parse_fields(payload: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    position = _OPEN_PAYLOAD.size
    while position < len(payload):
        start = position + _FIELD.size
        if start > len(payload):
            raise RemoteProtocolError("a field of an OPEN is cut short", code="bad_frame")
        key, length = _FIELD.unpack_from(payload, position)
        position = start + length
        if position > len(payload) or key in fields:
            raise RemoteProtocolError("a field of an OPEN is cut short or repeated", code="bad_frame")
        fields[key] = payload[start:position]
    return fields


def parse_number(payload: bytes) -> int:
    """The payload of CREDIT, RESET and GOAWAY, whose length the decoder has checked."""
    return int.from_bytes(payload, "big")


class FrameDecoder:
    """Cuts a byte stream into frames, however it comes split.

    It holds at most one incomplete frame. What a header declares is checked before the payload is there.
    """

    __slots__ = ("_held", "_need")

    def __init__(self) -> None:
        self._held = bytearray()
        self._need = 0  # the length at which _held can be read further

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """The frames that ``data`` completes. Raises ``RemoteProtocolError``; the decoder is of no use then."""
        if self._held:
            self._held += data
            if len(self._held) < self._need:
                return []
            data = bytes(self._held)
            self._held = bytearray()
        frames: list[Frame] = []
        start = HEADER_SIZE  # of the payload
        end = len(data)
        while start <= end:
            code, length, stream_id = _unpack_header(data, start - HEADER_SIZE)
            if code not in _ANY_LENGTH and (code != OPEN or length != _PLAIN_OPEN):
                code = _check(code, length)
            stop = start + length
            if stop > end:
                break
            if code:
                payload = data[start:stop] if isinstance(data, bytes) else bytes(data[start:stop])  # one copy
                frames.append((code, stream_id, payload))
            start = stop + HEADER_SIZE
        position = start - HEADER_SIZE
        if position < end:
            self._held += data[position:]
            self._need = HEADER_SIZE if start > end else HEADER_SIZE + length
        return frames


def _check(code: int, length: int) -> int:
    """The code without IGNORABLE, or ``_SKIP``. Raises ``RemoteProtocolError`` for what is not legal."""
    known = code & _NOT_IGNORABLE
    if known in _ANY_LENGTH:
        return known
    bounds = _LENGTHS.get(known)
    if bounds is not None:
        if not bounds[0] <= length <= bounds[1]:
            raise RemoteProtocolError(f"a frame of type {code >> 8} has {length} bytes", code="bad_frame")
        return known
    if code >> 8 in _TYPES:
        raise RemoteProtocolError(
            f"flags {code & 0xFF:#04x} mean nothing on frame type {code >> 8}", code="bad_frame"
        )
    if not code & IGNORABLE:
        raise RemoteProtocolError(f"unknown frame type {code >> 8}", code="unknown_frame")
    return _SKIP
