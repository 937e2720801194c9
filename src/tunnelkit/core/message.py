"""The message: what a connection carries, a 24-byte header and bytes (design, section 4).

A message is the only thing a transport sees of a session, and it sees it as opaque bytes. ``split_header`` is
called for every message received and ``build`` for every one sent, so both are thin over ``struct``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, TypeAlias

from ..errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "BYE_CODE_LIMIT",
    "CONTROL_ALLOWANCE",
    "HEADER_SIZE",
    "IGNORABLE",
    "MAX_EPOCH",
    "Buffer",
    "Header",
    "Kind",
    "build",
    "check_known",
    "decode_bye",
    "encode_bye",
    "split_header",
]

Buffer: TypeAlias = bytes | bytearray | memoryview
Header: TypeAlias = tuple[int, int, int, int, int, int]

_HEADER: Final = struct.Struct("!BBHIQQ")  # kind, flags, reserved, epoch, offset, ack
HEADER_SIZE: Final = _HEADER.size
IGNORABLE: Final = 0x80  # a receiver that does not know the kind skips the message
MAX_EPOCH: Final = 0xFFFF_FFFF
BYE_CODE_LIMIT: Final = 64
# How far beyond the agreed window control frames may go, so that credit and resets get out though it is full.
CONTROL_ALLOWANCE: Final = 64 * 1024


class Kind(IntEnum):
    """What a message is. Others are skipped when they carry ``IGNORABLE``, and an error otherwise."""

    DATA = 1
    ACK = 2
    PING = 3
    PONG = 4
    ATTACH = 5
    BYE = 6


_KINDS: Final = frozenset(int(kind) for kind in Kind)


def build(kind: int, epoch: int, offset: int, ack: int, payload: Iterable[Buffer] = ()) -> bytes:
    """One whole message, in one copy of the payload's pieces. Flags and the reserved field are 0 in version 1."""
    return b"".join((_HEADER.pack(kind, 0, 0, epoch, offset, ack), *payload))


def split_header(message: Buffer) -> Header:
    """``(kind, flags, reserved, epoch, offset, ack)``; the payload begins at ``HEADER_SIZE``."""
    if len(message) < HEADER_SIZE:
        raise RemoteProtocolError(f"a message of {len(message)} bytes has no whole header", code="short_message")
    return _HEADER.unpack_from(message)


def check_known(header: Header) -> bool:
    """Whether the message is to be handled; False: it is to be skipped.

    Flags and the reserved field of a message that is skipped belong to its kind, so they are not looked at. In a
    known kind, a set bit would be a feature that was not agreed.
    """
    kind, flags, reserved, _, offset, _ = header
    if kind not in _KINDS:
        if flags & IGNORABLE:
            return False
        raise RemoteProtocolError(f"unknown kind of message {kind}", code="unknown_message")
    if flags & ~IGNORABLE or reserved:
        raise RemoteProtocolError(f"reserved bits are set in a {Kind(kind).name} message", code="reserved_bits")
    if offset and kind != Kind.DATA:
        raise RemoteProtocolError(f"{Kind(kind).name} carries no stream bytes, so no offset", code="bad_offset")
    return True


def encode_bye(code: str) -> bytes:
    """The payload of BYE: a code for programs and logs, not a sentence."""
    if not _is_code(code):
        raise LocalProtocolError(f"not a code for BYE: {code!r}", code="bad_bye")
    return code.encode("ascii")


def decode_bye(payload: Buffer) -> str:
    """The peer's code. It goes to logs, so nothing but visible ASCII passes."""
    code = bytes(payload[: BYE_CODE_LIMIT + 1]).decode("latin-1")
    if not _is_code(code):
        raise RemoteProtocolError("BYE without a readable code", code="bad_bye")
    return code


def _is_code(text: str) -> bool:
    return 1 <= len(text) <= BYE_CODE_LIMIT and all("!" <= character <= "~" for character in text)
