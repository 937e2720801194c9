"""Sessions whose place was taken."""

from __future__ import annotations

from tunnelkit.core.superseded import Superseded, Taken


def test_the_oldest_goes_first() -> None:
    superseded = Superseded(kept=2)
    for name in ("a", "b", "c"):
        superseded.add(name, Taken(b"token", name.encode()))
    assert superseded.find("a") is None
    assert superseded.find("b") == Taken(b"token", b"b")
    assert superseded.find("c") == Taken(b"token", b"c")


def test_no_key_is_shown() -> None:
    superseded = Superseded()
    superseded.add("session", Taken(b"token", b"secret"))
    assert "secret" not in repr(superseded.find("session"))
    assert repr(superseded) == "<Superseded sessions=1>"
