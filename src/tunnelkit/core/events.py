"""What the multiplexer tells its driver. Plain data; every one but ``GoAway`` names its stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .frames import StreamKind

__all__ = ["Data", "Event", "GoAway", "HeadBlock", "Opened", "Progress", "Reset", "Room"]


@dataclass(slots=True)
class Opened:
    """The peer opened a stream."""

    stream_id: int
    kind: StreamKind
    fields: dict[int, bytes]


@dataclass(slots=True)
class HeadBlock:
    """A whole head, trailer section or 1xx, joined from its frames. Its credit is granted again already."""

    stream_id: int
    block: bytes
    fin: bool


@dataclass(slots=True)
class Data:
    """Bytes of the stream; ``consume`` them when they are used. ``data`` may be empty when ``fin`` is set."""

    stream_id: int
    data: bytes
    fin: bool


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
