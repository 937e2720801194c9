"""Bodies that are held: where they are, and that all room comes back."""

from __future__ import annotations

import pytest

from tunnelkit.config import DEFAULT_LIMITS, KIB
from tunnelkit.errors import HeadError
from tunnelkit.legacy.holding import IN_MEMORY, Store


@pytest.fixture
def store() -> Store:
    return Store(DEFAULT_LIMITS)


def test_what_is_written_at_one_end_is_read_at_the_other(store: Store) -> None:
    with store.body() as body:
        body.write(b"abc")
        assert body.read(2) == b"ab"
        body.write(b"def")
        assert (body.left, body.size) == (4, 6)
        assert body.read(100) == b"cdef"
        assert (body.left, body.read(1)) == (0, b"")


def test_small_ones_are_in_memory_and_large_ones_in_a_file(store: Store) -> None:
    with store.body() as small, store.body() as large:
        small.write(b"x" * IN_MEMORY)
        assert store.memory.used == IN_MEMORY
        large.write(b"y" * 100)
        large.write(b"y" * IN_MEMORY)
        assert store.memory.used == IN_MEMORY  # of the small one alone
        assert large.read(IN_MEMORY + 100) == b"y" * (IN_MEMORY + 100)
    assert store.memory.used == 0


def test_without_memory_a_small_one_is_in_a_file(store: Store) -> None:
    taken = store.memory.spare
    assert store.memory.reserve_spare(taken)
    with store.body() as body:
        body.write(b"abc")
        assert store.memory.used == taken
        assert body.read(3) == b"abc"


def test_room_comes_back_when_all_was_read_or_nobody_wants_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.legacy.holding.BODIES_LIMIT", 64 * KIB)
    body = store.body()
    for _ in range(5):
        body.write(b"x" * 64 * KIB)
        with pytest.raises(HeadError) as caught:
            body.write(b"x")
        assert (caught.value.status, caught.value.code) == (503, "overloaded")
        body.read(KIB)
        body.forget_read()  # not all of it
        assert body.left == 63 * KIB
        body.read(64 * KIB)
        body.forget_read()
    body.write(b"x" * 64 * KIB)
    body.close()
    body.close()
    with store.body() as another:
        another.write(b"x" * 64 * KIB)
