from __future__ import annotations

import pytest

from tunnelkit.core.events import Data, Event, GoAway, HeadBlock, Opened, Progress, Reset, Room
from tunnelkit.core.frames import StreamKind

EVENTS: list[Event] = [
    Opened(1, StreamKind.HTTP, {}),
    HeadBlock(1, b"", True),
    Data(1, b"", True),
    Reset(1, 2),
    Room(1),
    Progress(1, 5),
    GoAway(1, 0),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_are_plain_values(event: Event) -> None:
    assert not hasattr(event, "__dict__")
    values = [getattr(event, field) for field in type(event).__match_args__]
    assert type(event)(*values) == event


def test_every_event_but_goaway_names_its_stream() -> None:
    assert [type(event) for event in EVENTS if not hasattr(event, "stream_id")] == [GoAway]
