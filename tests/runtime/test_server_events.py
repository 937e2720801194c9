"""The server's events of sessions: which is told when a connection takes over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tunnelkit.event_stream import Events
from tunnelkit.server_events import (
    Ended,
    Moved,
    Registered,
    Resumed,
    Superseded,
    tell_attached,
    tell_ended,
    tell_lost,
)

pytestmark = pytest.mark.anyio

WHOSE = {"session": "public", "tunnel": "a-token-...#123456", "name": ""}


def session(**facts: object) -> Any:
    known = {
        "public_id": "public",
        "tag": WHOSE["tunnel"],
        "name": "",
        "address": "192.0.2.1:7",
        "epoch": 1,
        "transport": "",
        "attached": False,
        "lost_at": None,
    }
    return SimpleNamespace(**known | facts)


@pytest.mark.parametrize(
    ("facts", "event"),
    [
        ({"epoch": 0}, Registered(**WHOSE, address="192.0.2.1:7", transport="websocket")),
        ({"lost_at": 3.0}, Resumed(**WHOSE, transport="websocket", away=2.0)),
        # Its client noticed a loss that the server had not seen yet; the loss before that is long over.
        (
            {"transport": "websocket", "attached": True, "lost_at": 1.0},
            Resumed(**WHOSE, transport="websocket", away=0.0),
        ),
        ({"transport": "longpoll", "attached": True}, Moved(**WHOSE, transport="websocket", before="longpoll")),
    ],
)
async def test_what_an_attachment_is(facts: dict[str, object], event: object) -> None:
    events = Events()
    listener = events.listen()
    tell_attached(events, session(**facts), "websocket", now=5.0)
    assert await anext(listener) == event


@pytest.mark.parametrize(
    ("code", "event"), [("superseded", Superseded(**WHOSE)), ("grace_expired", Ended(**WHOSE, code="grace_expired"))]
)
async def test_what_an_end_is(code: str, event: object) -> None:
    events = Events()
    listener = events.listen()
    tell_ended(events, session(), code)
    assert await anext(listener) == event


async def test_nothing_is_made_while_nobody_listens() -> None:
    """A session without facts would fail if it were asked for any."""
    nobody: Any = None
    tell_attached(Events(), nobody, "websocket", now=0.0)
    tell_lost(Events(), nobody, "cut")
    tell_ended(Events(), nobody, "superseded")
