"""Whether exchanges come beside others in a session, and how a multiplexer counts it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import KIB, MIB
from tunnelkit.core.company import LASTS, Company
from tunnelkit.core.frames import DATA, StreamKind

from .mux_pair import SMALL, Pair, frame, make, opening

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
    company.came()
    company.moved(LASTS - 1)
    company.came()
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


def test_a_considerate_multiplexer_buffers_less_than_one_by_itself() -> None:
    mux = make(limits=replace(SMALL, send_share=MIB, send_share_beside=256 * KIB))
    stream = mux.open_stream(HTTP)
    assert mux.send_room(stream) == 512 * KIB  # half of it
    mux.considerate = True
    assert mux.send_room(stream) == 128 * KIB
    mux.considerate = False
    assert mux.send_room(stream) == 512 * KIB


def test_it_never_buffers_more() -> None:
    mux = make(limits=replace(SMALL, send_share=0, send_share_beside=MIB))
    mux.considerate = True
    assert mux.send_room(mux.open_stream(HTTP)) == SMALL.send_buffer


def test_what_was_buffered_before_stays_and_leaves() -> None:
    mux = make(limits=replace(SMALL, send_share=MIB, send_share_beside=256 * KIB))
    stream = mux.open_stream(HTTP)
    mux.send_data(stream, bytes(512 * KIB))
    mux.considerate = True
    assert mux.send_room(stream) == 0
    mux.frames_to_send(MIB)
    assert mux._active[stream].sent == SMALL.stream_floor  # what the peer granted


def test_all_that_is_received_and_sent_counts() -> None:
    mux = make()
    mux.receive_data(opening(1), 0.0)
    mux.receive_data(opening(3), 0.0)
    assert mux.in_company
    left = LASTS
    while left > 0:
        assert mux.in_company
        mux.receive_data(piece := frame(DATA, 1, bytes(16 * KIB)), 0.0)
        mux.consume(1, 16 * KIB)
        mux.send_data(3, bytes(1000))
        left -= len(piece) + sum(map(len, mux.frames_to_send(64 * KIB)))
    assert not mux.in_company
