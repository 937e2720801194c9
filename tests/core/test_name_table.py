from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.core.name_table import NameTable
from tunnelkit.errors import LocalProtocolError

ONE, TWO = b"1" * 32, b"2" * 32
HOUR = DEFAULT_LIMITS.known_token_time


def test_a_name_is_whose_claim_came_first() -> None:
    names = NameTable(DEFAULT_LIMITS)
    assert names.owner("app", 0) is None
    assert names.claim("app", ONE, 0)
    assert names.owner("app", 0) == ONE
    assert not names.claim("app", TWO, 0)
    assert names.claim("app", ONE, 0)
    assert "names=1" in repr(names)


def test_a_name_outlives_its_sessions_for_as_long_as_its_token_is_known() -> None:
    names = NameTable(DEFAULT_LIMITS)
    names.claim("app", ONE, 0)
    names.serve("app")
    names.release("app", 10)
    assert not names.claim("app", TWO, 10 + HOUR - 1)
    assert names.owner("app", 10 + HOUR - 1) == ONE
    assert names.owner("app", 10 + HOUR) is None
    assert names.claim("app", TWO, 10 + HOUR)
    assert names.owner("app", 10 + HOUR) == TWO


def test_its_owner_has_it_again_at_once() -> None:
    names = NameTable(DEFAULT_LIMITS)
    names.claim("app", ONE, 0)
    names.serve("app")
    names.release("app", 0)
    assert names.claim("app", ONE, 1)
    names.release("app", 2)  # it never had a connection this time, but before
    assert not names.claim("app", TWO, 2)


def test_a_claim_that_came_to_nothing_leaves_nothing() -> None:
    names = NameTable(DEFAULT_LIMITS)
    names.claim("app", ONE, 0)
    names.release("app", 1)
    assert names.owner("app", 1) is None
    assert names.claim("app", TWO, 1)


def test_a_name_is_claimed_until_the_last_of_its_sessions_ends() -> None:
    names = NameTable(DEFAULT_LIMITS)
    names.claim("app", ONE, 0)
    names.claim("app", ONE, 0)
    names.serve("app")
    names.release("app", 0)
    assert names.owner("app", 10 * HOUR) == ONE


def test_names_that_were_left_are_forgotten_in_time() -> None:
    names = NameTable(DEFAULT_LIMITS)
    for name, at in (("one", 0.0), ("two", HOUR)):
        names.claim(name, ONE, at)
        names.serve(name)
        names.release(name, at)
    assert "names=1" in repr(names)


def test_of_names_that_were_left_only_so_many_are_kept() -> None:
    names, three = NameTable(replace(DEFAULT_LIMITS, known_tokens=2)), b"3" * 32
    for name, token in (("one", ONE), ("two", TWO), ("three", three)):
        names.claim(name, token, 0)
        names.serve(name)
        names.release(name, 0)
    assert [names.owner(name, 0) for name in ("one", "two", "three")] == [None, TWO, three]


def test_of_the_names_that_a_token_had_the_last_is_kept() -> None:
    names = NameTable(DEFAULT_LIMITS)
    for name in ("one", "two"):
        names.claim(name, ONE, 0)
        names.serve(name)
        names.release(name, 0)
    assert [names.owner(name, 0) for name in ("one", "two")] == [None, ONE]
    names.claim("three", ONE, 0)
    assert names.owner("two", 0) == ONE  # this one may come to nothing
    names.release("three", 0)
    assert names.owner("two", 0) == ONE
    assert names.claim("one", TWO, 0)


def test_a_name_whose_session_is_in_grace_while_its_token_took_another_is_not_kept() -> None:
    names = NameTable(DEFAULT_LIMITS)
    for name in ("one", "two"):
        names.claim(name, ONE, 0)
        names.serve(name)
    assert [names.owner(name, 0) for name in ("one", "two")] == [ONE, ONE]
    names.release("one", 0)
    names.release("two", 0)
    assert [names.owner(name, 0) for name in ("one", "two")] == [None, ONE]


def test_a_name_made_from_a_token_costs_it_no_other() -> None:
    names, made = NameTable(DEFAULT_LIMITS), "t-" + "a" * 16
    for name in ("one", made):
        names.claim(name, ONE, 0)
        names.serve(name)
        names.release(name, 0)
    assert [names.owner(name, 0) for name in ("one", made)] == [ONE, ONE]


def test_a_bound_name_is_never_anothers() -> None:
    names = NameTable(DEFAULT_LIMITS, bound={"app": ONE})
    assert names.owner("app", 0) == ONE
    assert not names.claim("app", TWO, 0)
    assert names.claim("app", ONE, 0)
    names.release("app", 0)
    assert names.owner("app", 100 * HOUR) == ONE


def test_which_name_is_bound_to_a_token() -> None:
    names = NameTable(DEFAULT_LIMITS, bound={"one": ONE, "app": TWO, "other": TWO})
    assert (names.bound_to(ONE), names.bound_to(TWO), names.bound_to(b"3" * 32)) == ("one", "app", None)


def test_names_are_bound_anew() -> None:
    names = NameTable(DEFAULT_LIMITS)
    names.claim("app", ONE, 0)
    names.serve("app")
    names.bind({"app": TWO})
    assert names.owner("app", 0) == TWO
    assert not names.claim("app", TWO, 0)  # as long as the other's sessions are there
    assert not names.claim("app", ONE, 0)
    names.release("app", 0)
    assert names.claim("app", TWO, 0)
    names.bind({})
    assert names.owner("app", 0) == TWO


def test_a_token_that_is_withdrawn_leaves_its_names_free() -> None:
    names = NameTable(DEFAULT_LIMITS)
    for name, token in (("one", ONE), ("two", TWO)):
        names.claim(name, token, 0)
        names.serve(name)
        names.release(name, 0)
    names.withdraw(ONE)
    assert names.owner("one", 0) is None
    assert names.owner("two", 0) == TWO


def test_what_was_never_claimed_cannot_be_released() -> None:
    names = NameTable(DEFAULT_LIMITS)
    with pytest.raises(LocalProtocolError):
        names.release("app", 0)
    names.claim("app", ONE, 0)
    names.serve("app")
    names.release("app", 0)
    with pytest.raises(LocalProtocolError):
        names.serve("app")


class Names(RuleBasedStateMachine):
    """A name never has two owners, and what hangs on it is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.names = NameTable(replace(DEFAULT_LIMITS, known_tokens=2))
        self.now = 0.0
        self.claims: list[tuple[str, bytes]] = []

    @rule(name=st.sampled_from("abc"), token=st.sampled_from([ONE, TWO]), serve=st.booleans())
    def claim(self, name: str, token: bytes, serve: bool) -> None:
        others = [claim for claim in self.claims if claim[0] == name and claim[1] != token]
        got = self.names.claim(name, token, self.now)
        assert not (got and others)
        if got:
            self.claims.append((name, token))
            if serve:
                self.names.serve(name)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.claims:
            index = data.draw(st.integers(0, len(self.claims) - 1))
            self.names.release(self.claims.pop(index)[0], self.now)

    @rule(seconds=st.sampled_from([1.0, HOUR]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def of_each_token_one_is_kept(self) -> None:
        for token in (ONE, TWO):
            kept = {name for name in "abc" if self.names.owner(name, self.now) == token}
            assert len(kept - {name for name, owner in self.claims if owner == token}) <= 1

    @invariant()
    def whoever_claims_owns(self) -> None:
        for name, token in self.claims:
            assert self.names.owner(name, self.now) == token


TestNames = Names.TestCase
