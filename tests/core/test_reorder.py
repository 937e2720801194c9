from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.reorder import PIECES_LIMIT, EarlyBytes
from tunnelkit.errors import RemoteProtocolError

DATA = bytes(range(200))


def add(early: EarlyBytes, start: int, end: int) -> None:
    early.add(start, DATA[start:end])


@pytest.mark.parametrize(
    ("pieces", "received", "ready"),
    [
        ([(10, 20)], 10, [(10, 20)]),
        ([(10, 20)], 15, [(15, 20)]),
        ([(10, 20)], 20, []),
        ([(10, 20)], 9, None),
        ([(10, 20), (10, 20)], 10, [(10, 20)]),
        ([(10, 20), (20, 30)], 10, [(10, 20), (20, 30)]),
        ([(20, 30), (10, 20)], 10, [(10, 20), (20, 30)]),
        ([(20, 30), (10, 40)], 10, [(10, 20), (20, 30), (30, 40)]),
        ([(10, 40), (20, 30)], 10, [(10, 40)]),
        ([(10, 20), (15, 30)], 10, [(10, 20), (20, 30)]),
        ([(15, 30), (10, 20)], 10, [(10, 15), (15, 30)]),
        ([(10, 20), (30, 40), (15, 35)], 10, [(10, 20), (20, 30), (30, 40)]),
        ([(10, 20), (30, 40), (5, 50)], 5, [(5, 10), (10, 20), (20, 30), (30, 40), (40, 50)]),
        ([(10, 20), (20, 30), (10, 30)], 25, [(25, 30)]),
    ],
)
def test_pieces(pieces: list[tuple[int, int]], received: int, ready: list[tuple[int, int]] | None) -> None:
    early = EarlyBytes(1000)
    for start, end in pieces:
        add(early, start, end)
    expected = [DATA[start:end] for start, end in ready or []]
    now_received, taken = early.take(received)
    assert taken == expected
    assert now_received == (ready[-1][1] if ready else received)
    assert bool(early) is (ready is None)
    assert early.size == (10 if ready is None else 0)


def test_a_gap_stays() -> None:
    early = EarlyBytes(1000)
    add(early, 10, 20)
    add(early, 30, 40)
    assert early.take(10) == (20, [DATA[10:20]])
    assert early
    assert early.size == 10
    assert early.take(30) == (40, [DATA[30:40]])


def test_pieces_are_copies() -> None:
    data = bytearray(b"abc")
    early = EarlyBytes(1000)
    early.add(5, memoryview(data))
    data[:] = b"xyz"
    assert early.take(5) == (8, [b"abc"])


def test_clear() -> None:
    early = EarlyBytes(10)
    add(early, 10, 20)
    early.clear()
    assert not early
    assert early.size == 0
    add(early, 50, 60)


def test_bytes_are_bounded() -> None:
    early = EarlyBytes(10)
    add(early, 10, 20)
    add(early, 10, 20)
    with pytest.raises(RemoteProtocolError) as caught:
        add(early, 30, 31)
    assert caught.value.code == "early_bytes"
    assert early.size == 10


def test_pieces_are_bounded() -> None:
    early = EarlyBytes(10 * PIECES_LIMIT)
    for index in range(PIECES_LIMIT):
        early.add(2 * index, b"x")
    with pytest.raises(RemoteProtocolError) as caught:
        early.add(2 * PIECES_LIMIT, b"x")
    assert caught.value.code == "early_bytes"


@given(st.lists(st.tuples(st.integers(0, 199), st.integers(1, 60)), max_size=30), st.integers(0, 200))
def test_any_pieces_in_any_order(pieces: list[tuple[int, int]], received: int) -> None:
    early = EarlyBytes(1000)
    here: set[int] = set()
    for start, size in pieces:
        end = min(start + size, 200)
        add(early, start, end)
        here.update(range(start, end))
        assert early.size == len(here)
    stop = received
    while stop in here:
        stop += 1
    now_received, ready = early.take(received)
    assert b"".join(ready) == DATA[received:stop]
    assert now_received == stop
    assert early.size == len([offset for offset in here if offset >= stop])
