"""How long a message's body is and whether its connection lives on: decisions from validated heads (RFC 9112, 6
and 9). They are ours, not the parser's, so that a message ends at the same byte whichever parser is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from ..field_names import FieldNames, field_names
from ..heads import Fields, RequestHead, ResponseHead, connection_options

__all__ = [
    "CHUNKED",
    "CODING_FIELDS",
    "LENGTH_FIELDS",
    "UNTIL_CLOSE",
    "FramingFields",
    "Length",
    "framing_fields",
    "lacks_body",
    "persists",
    "request_length",
    "response_length",
    "without",
]

# The length of a body in bytes, or one of these two.
Length: TypeAlias = int
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

# What a message must not carry twice, or at all, once its framing is chosen by whoever writes it.
CODING_FIELDS = frozenset({b"transfer-encoding"})
LENGTH_FIELDS = frozenset({b"transfer-encoding", b"content-length"})


@dataclass(slots=True)
class FramingFields:
    """What the fields of one head say about its message and its connection."""

    content_length: int | None = None
    chunked: bool = False
    close: bool = False
    keep_alive: bool = False
    upgrade: bool = False
    expects_continue: bool = False


def framing_fields(fields: Fields, names: FieldNames | None = None) -> FramingFields:
    """What ``fields`` say; ``names`` are theirs, where somebody has them. Not to be changed: heads that say nothing,
    which are most, share one."""
    if names is None:
        names = field_names(fields)
    readers = names.plan(_readers)
    if not readers:
        return _NOTHING
    found = FramingFields()
    for index, read in readers:
        read(found, fields[index][1])
    return found


_NOTHING = FramingFields()


def _content_length(found: FramingFields, value: bytes) -> None:
    found.content_length = int(value)


def _transfer_encoding(found: FramingFields, value: bytes) -> None:
    found.chunked = True


def _connection(found: FramingFields, value: bytes) -> None:
    options = connection_options(value)
    found.close |= b"close" in options
    found.keep_alive |= b"keep-alive" in options
    found.upgrade |= b"upgrade" in options


def _expect(found: FramingFields, value: bytes) -> None:
    found.expects_continue |= value.lower() == b"100-continue"


_FIELDS = {
    b"content-length": _content_length,
    b"transfer-encoding": _transfer_encoding,
    b"connection": _connection,
    b"expect": _expect,
}


def _readers(names: FieldNames) -> list[tuple[int, Callable[[FramingFields, bytes], None]]]:
    """Which fields are to be read, and how."""
    return [(index, _FIELDS[name]) for index, name in enumerate(names.lowered) if name in _FIELDS]


def lacks_body(status: int, method: bytes) -> bool:
    """RFC 9112 6.3: these responses end with their head, whatever their fields say."""
    return method == b"HEAD" or status < 200 or status in (204, 304)


def request_length(found: FramingFields) -> Length:
    """How the body of a request is read."""
    return CHUNKED if found.chunked else found.content_length or 0


def response_length(head: ResponseHead, found: FramingFields, method: bytes) -> Length:
    """How the body of the response to a ``method`` request is read."""
    if lacks_body(head.status, method):
        return 0
    if found.chunked:
        return CHUNKED
    return UNTIL_CLOSE if found.content_length is None else found.content_length


def persists(head: RequestHead | ResponseHead, found: FramingFields) -> bool:
    """Whether the sender of ``head`` would keep its connection (RFC 9112 9.3)."""
    return not found.close and (head.version != b"1.0" or found.keep_alive)


def without(fields: Fields, names: frozenset[bytes]) -> Fields:
    return [field for field in fields if field[0].lower() not in names]
