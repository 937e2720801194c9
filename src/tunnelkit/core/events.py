"""What the multiplexer tells its driver. Plain data; every one but ``GoAway`` names its stream.

Those that come with every request have an ``__init__`` that is written out: what ``dataclass`` makes is not compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .frames import StreamKind

__all__ = ["Data", "Event", "GoAway", "HeadBlock", "Opened", "Progress", "Reset", "Room"]


@dataclass(slots=True, init=False)
class Opened:
    """The peer opened a stream."""

    stream_id: int
    kind: StreamKind
    fields: dict[int, bytes]

    def __init__(self, stream_id: int, kind: StreamKind, fields: dict[int, bytes]) -> None:
        self.stream_id = stream_id
        self.kind = kind
        self.fields = fields


@dataclass(slots=True, init=False)
class HeadBlock:
    """A whole head, trailer section or 1xx, joined from its frames. Its credit is granted again already."""

    stream_id: int
    block: bytes
    fin: bool

    def __init__(self, stream_id: int, block: bytes, fin: bool) -> None:
        self.stream_id = stream_id
        self.block = block
        self.fin = fin


@dataclass(slots=True, init=False)
class Data:
    """Bytes of the stream; ``consume`` them when they are used. ``data`` may be empty when ``fin`` is set."""

    stream_id: int
    data: bytes
    fin: bool

    def __init__(self, stream_id: int, data: bytes, fin: bool) -> None:
        self.stream_id = stream_id
        self.data = data
        self.fin = fin


@dataclass(slots=True)
class Reset:
    """The stream is gone, in both directions. ``code`` is a ``ResetCode`` or a later version's number."""

    stream_id: int
    code: int


@dataclass(slots=True)
class Room:
    """The stream's send buffer, once full, takes bytes again."""

    stream_id: int


@dataclass(slots=True)
class Progress:
    """The peer may now be sent bytes up to offset ``limit``: its application consumed some."""

    stream_id: int
    limit: int


@dataclass(slots=True)
class GoAway:
    """The peer takes no new streams; those of ours above ``last_stream_id`` got a ``Reset`` just before."""

    last_stream_id: int
    code: int


Event: TypeAlias = Opened | HeadBlock | Data | Reset | Room | Progress | GoAway
