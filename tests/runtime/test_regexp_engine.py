"""The engine is google-re2 where it is installed (test_allow has what follows from that)."""

from __future__ import annotations

import sys

import pytest

from tunnelkit.regexp_engine import find_engine


def test_with_re2() -> None:
    pytest.importorskip("re2", reason="google-re2 has no wheel for this Python")
    engine = find_engine()
    assert engine.linear_time
    assert engine.compiler("a+").fullmatch("aa") is not None
    with pytest.raises(ValueError, match="missing"):
        engine.compiler("(")


def test_without_re2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    engine = find_engine()
    assert not engine.linear_time
    assert engine.compiler("a+").fullmatch("aa") is not None
