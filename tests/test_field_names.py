"""What is told from names alone, and that it is remembered within limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.field_names import KEPT_SIZE, FieldNames, field_names, names_of
from tunnelkit.heads import Fields


def fields(*names: bytes) -> Fields:
    return [(name, b"%d" % index) for index, name in enumerate(names)]


def test_names_are_found_whatever_their_case() -> None:
    names = field_names(fields(b"Host", b"X-a", b"x-A", b"Accept"))
    assert names.lowered == (b"host", b"x-a", b"x-a", b"accept")
    assert names.at == {b"host": 0, b"x-a": 1, b"accept": 3}
    assert names.repeated == {b"x-a"}


def test_values() -> None:
    given_fields = fields(b"Host", b"X-a", b"x-A")
    names = field_names(given_fields)
    assert names.values(given_fields, b"host") == [b"0"]
    assert names.values(given_fields, b"x-a") == [b"1", b"2"]
    assert names.values(given_fields, b"accept") == []


def test_no_fields() -> None:
    names = field_names([])
    assert (names.lowered, names.at, names.repeated, names.well_formed) == ((), {}, frozenset(), True)


@pytest.mark.parametrize("joined", [b"", b"A\n", b"\nA", b"A\n\nB", b"A B", b"A:", b"\xe4", b"A\r", b"A\0"])
def test_what_is_no_token(joined: bytes) -> None:
    assert not names_of(joined).well_formed


@given(st.lists(st.text("aB-_!", min_size=1, max_size=3).map(str.encode), min_size=1))
def test_any_tokens(given_names: list[bytes]) -> None:
    names = field_names(fields(*given_names))
    lowered = [name.lower() for name in given_names]
    assert names.well_formed
    assert list(names.lowered) == lowered
    assert names.at == {name: lowered.index(name) for name in lowered}
    assert names.repeated == {name for name in lowered if lowered.count(name) > 1}


def test_the_same_names_are_worked_out_once() -> None:
    assert field_names(fields(b"Host", b"Accept")) is field_names(fields(b"Host", b"Accept"))
    assert field_names(fields(b"Host", b"Accept")) is not field_names(fields(b"host", b"Accept"))


def test_long_lists_are_not_kept() -> None:
    name = b"A" * KEPT_SIZE
    assert field_names(fields(name)) is field_names(fields(name))
    assert field_names(fields(name + b"B")) is not field_names(fields(name + b"B"))


def test_a_plan_is_made_once() -> None:
    made: list[FieldNames] = []

    def plan(names: FieldNames) -> int:
        made.append(names)
        return len(names.lowered)

    names = FieldNames(b"Host\nAccept")
    assert names.plan(plan) == names.plan(plan) == 2
    assert made == [names]
