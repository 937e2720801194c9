"""Which engine matches the patterns of ``allow``: google-re2 where it is installed, else Python's."""

from __future__ import annotations

import sys

import pytest

from tunnelkit import TunnelClient
from tunnelkit.errors import ConfigError

from .tunnels import TOKEN

NESTED = r"http://([a-z0-9-]+\.?)+\.corp"


def client(*patterns: str) -> TunnelClient:
    return TunnelClient("ws://x", token=TOKEN, allow=patterns)


def test_with_re2_patterns_of_any_shape_are_safe() -> None:
    pytest.importorskip("re2", reason="google-re2 has no wheel for this Python")
    client(NESTED, r"tcp://db\.corp:\d+", ".*")


def test_what_re2_does_not_take_is_refused_at_start(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("re2", reason="google-re2 has no wheel for this Python")
    with pytest.raises(ConfigError, match=r"'http://\(\?=a\)a' is no regular expression: invalid perl operator"):
        client("http://(?=a)a")
    assert capfd.readouterr().err == "", "the engine writes no log of its own"


def test_without_re2_what_could_stall_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)  # as if it were not there
    with pytest.raises(ConfigError, match=r"rewrite it, or install tunnelkit\[re2\]"):
        client(NESTED)
    client(".*", "http://(?=a)a")
