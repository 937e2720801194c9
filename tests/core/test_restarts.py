"""Whether a request waits for an origin that refuses connections."""

from __future__ import annotations

import pytest

from tunnelkit.core.restarts import PAUSE, Restarts


def test_an_origin_that_was_there_is_tried_until_patience_ends() -> None:
    restarts = Restarts(5.0)
    restarts.reached()
    assert restarts.refused(10.0) == PAUSE
    assert restarts.refused(14.95) == pytest.approx(0.05)
    assert restarts.refused(15.0) is None
    assert restarts.refused(99.0) is None  # gone for good: those that come later do not wait
    restarts.reached()
    assert restarts.refused(100.0) == PAUSE


def test_one_that_never_was_is_not_waited_for() -> None:
    assert Restarts(5.0).refused(0.0) is None


def test_none_is_waited_for_without_patience() -> None:
    restarts = Restarts(0.0)
    restarts.reached()
    assert restarts.refused(0.0) is None


def test_many_that_wait_dial_no_more_often() -> None:
    restarts = Restarts(60.0)
    restarts.reached()
    restarts.waiting = 1000
    assert restarts.refused(0.0) == 10.0
