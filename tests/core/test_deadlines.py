from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.deadlines import MAX_GARBAGE, Deadlines


def test_nothing_is_due_at_first() -> None:
    deadlines = Deadlines()
    assert deadlines.next() is None
    assert deadlines.expire(1e9) == []
    assert len(deadlines) == 0
    assert "a" not in deadlines


def test_expires_earliest_first_and_equal_ones_as_they_were_added() -> None:
    deadlines = Deadlines()
    for when, key in [(2.0, "c"), (1.0, "b"), (1.0, "a"), (3.0, "d")]:
        deadlines.add(when, key)
    assert deadlines.next() == 1.0
    assert deadlines.expire(0.9) == []
    assert deadlines.expire(2.0) == ["b", "a", "c"]
    assert deadlines.next() == 3.0


def test_adding_again_replaces() -> None:
    deadlines = Deadlines()
    deadlines.add(1.0, "a")
    deadlines.add(5.0, "a")
    assert len(deadlines) == 1
    assert deadlines.next() == 5.0
    assert deadlines.expire(4.0) == []
    deadlines.add(2.0, "a")
    assert deadlines.expire(10.0) == ["a"]


def test_cancelling() -> None:
    deadlines = Deadlines()
    deadlines.add(1.0, "a")
    assert "a" in deadlines
    assert deadlines.cancel("a")
    assert not deadlines.cancel("a")
    assert deadlines.expire(2.0) == []


def test_keys_need_no_order() -> None:
    deadlines = Deadlines()
    keys = [object() for _ in range(10)]
    for key in keys:
        deadlines.add(1.0, key)
    assert deadlines.expire(1.0) == keys


def test_repr_tells_its_state() -> None:
    deadlines = Deadlines()
    deadlines.add(1.5, "a")
    assert repr(deadlines) == "<Deadlines live=1 next=1.5>"


def test_garbage_is_bounded() -> None:
    deadlines = Deadlines()
    for key in range(10):
        deadlines.add(1.0, key)
    for number in range(10_000):
        deadlines.add(60.0 + number, "late")
        deadlines.add(60.0 + number, number + 10)
        assert deadlines.next() == 1.0
        deadlines.cancel(number + 10)
        assert len(deadlines._heap) <= 2 * len(deadlines) + MAX_GARBAGE


def test_what_is_cancelled_before_anybody_asks_leaves_no_trace() -> None:
    deadlines = Deadlines()
    for number in range(10):
        deadlines.add(1.0, number)
        assert deadlines.cancel(number)
    assert deadlines.next() is None
    assert not deadlines._heap


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 5), st.integers(0, 20)),
            st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0)),
            st.tuples(st.just("expire"), st.just(0), st.integers(0, 20)),
        )
    )
)
def test_like_a_dict(steps: list[tuple[str, int, int]]) -> None:
    deadlines = Deadlines()
    model: dict[int, int] = {}
    for step, key, when in steps:
        if step == "add":
            deadlines.add(when, key)
            model[key] = when
        elif step == "cancel":
            assert deadlines.cancel(key) == (model.pop(key, None) is not None)
        else:
            due = deadlines.expire(when)
            assert [model[key] for key in due] == sorted(model[key] for key in due)
            assert set(due) == {key for key, at in model.items() if at <= when}
            model = {key: at for key, at in model.items() if at > when}
        assert deadlines.next() == min(model.values(), default=None)
        assert len(deadlines) == len(model)
