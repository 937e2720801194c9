from __future__ import annotations

import pytest

from tunnelkit.core.decisions import (
    Admitted,
    Dispatch,
    Expired,
    Full,
    Move,
    Queued,
    Recall,
    Rejected,
    Unlisted,
)
from tunnelkit.core.policies import POOL

REJECTED = Rejected(503, "queue_full", "too many requests wait for this tunnel", 1.0)
DECISIONS: list[object] = [
    Dispatch("exchange", "session"),
    Move("exchange", "session"),
    Recall("exchange"),
    Queued(),
    REJECTED,
    Expired("exchange", REJECTED),
    Admitted(replaces=True),
    Unlisted(),
    Full(("session",), POOL),
]


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: type(decision).__name__)
def test_decisions_are_plain_values(decision: object) -> None:
    assert not hasattr(decision, "__dict__")
    values = [getattr(decision, field) for field in type(decision).__match_args__]  # type: ignore[attr-defined]
    assert type(decision)(*values) == decision


def test_dispatching_and_moving_are_told_apart() -> None:
    move: object = Move("exchange", "session")
    assert Dispatch("exchange", "session") != move


def test_a_client_that_may_register_replaces_nobody_unless_that_is_said() -> None:
    assert not Admitted().replaces
