"""Whether exchanges come beside others in a session."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.company import LASTS, Company
from tunnelkit.core.frames import StreamKind

from .mux_pair import Pair

HTTP = StreamKind.HTTP


def test_there_is_none_at_first_and_what_moves_brings_none() -> None:
    company = Company()
    assert not company.present
    company.moved(LASTS)
    assert not company.present


@given(st.lists(st.integers(0, LASTS // 4), max_size=20))
def test_it_lasts_until_so_many_bytes_moved_since_the_last_that_came(sizes: list[int]) -> None:
    company = Company()
    company.moved(5)  # of before: it does not count
    company.joined(alone=False)
    company.moved(LASTS - 1)
    company.joined(alone=False)
    moved = 0
    for size in sizes:
        company.moved(size)
        moved += size
        assert company.present is (moved < LASTS)


def test_a_stream_by_itself_has_none_nor_have_those_that_follow_one_another() -> None:
    pair = Pair()
    for _ in range(3):
        stream = pair.opened()
        assert not pair.client.in_company
        assert not pair.server.in_company
        pair.client.reset(stream, 1)
        pair.to_server()


def test_a_stream_beside_another_is_company_at_both_ends() -> None:
    """Whoever opened it: each end counts those of the other too."""
    pair = Pair()
    pair.opened()
    second = pair.opened()
    assert pair.client.in_company
    assert pair.server.in_company
    pair.client.reset(second, 1)
    pair.to_server()
    assert pair.client.in_company  # not only while it is there: a caller leaves gaps
    assert pair.server.in_company


def test_who_comes_when_all_others_are_gone_is_alone() -> None:
    pair = Pair()
    for stream in (pair.opened(), pair.opened()):
        pair.client.reset(stream, 1)
    pair.to_server()
    before = pair.client.in_company, pair.server.in_company
    pair.opened()
    assert (before, pair.client.in_company, pair.server.in_company) == ((True, True), False, False)
