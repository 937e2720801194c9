from __future__ import annotations

from contextlib import ExitStack

from tunnelkit.net.crowd import Crowd

PROXY = "192.0.2.99"


def test_each_address_has_its_own_places() -> None:
    crowd = Crowd(2, exempt=lambda address: False)
    with ExitStack() as stack:
        assert [stack.enter_context(crowd.place("192.0.2.1")) for _ in range(3)] == [True, True, False]
        assert stack.enter_context(crowd.place("192.0.2.2"))
        assert len(crowd) == 2
    assert len(crowd) == 0
    with crowd.place("192.0.2.1") as there_is_one:
        assert there_is_one


def test_one_that_is_turned_away_takes_no_place_with_it() -> None:
    crowd = Crowd(1, exempt=lambda address: False)
    with crowd.place("192.0.2.1"):
        with crowd.place("192.0.2.1") as second:
            assert not second
        assert len(crowd) == 1
        with crowd.place("192.0.2.1") as third:
            assert not third


def test_some_are_not_counted() -> None:
    """No limit, a proxy, and streams without an address (unix, memory)."""
    for crowd, address in (
        (Crowd(0, exempt=lambda address: False), "192.0.2.1"),
        (Crowd(1, exempt=lambda address: address == PROXY), PROXY),
        (Crowd(1, exempt=lambda address: False), ""),
    ):
        with crowd.place(address) as first, crowd.place(address) as second:
            assert first
            assert second
            assert len(crowd) == 0
