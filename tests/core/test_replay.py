from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import MIB
from tunnelkit.core.budget import Budget
from tunnelkit.core.replay import SHARE_SLACK, SMALL_CHUNK, ReplayBuffer, ReplayShare

DATA = bytes(range(256)) * 40


def filled(*sizes: int, limit: int = 100_000) -> ReplayBuffer:
    replay = ReplayBuffer(limit)
    for size in sizes:
        replay.append(memoryview(DATA[replay.end : replay.end + size]))
    return replay


def taken(replay: ReplayBuffer, limit: int) -> bytes:
    return b"".join(replay.take(limit))


def test_what_was_sent_is_not_pending() -> None:
    replay = filled(10, 20)
    assert (replay.acked, replay.pointer, replay.end) == (0, 30, 30)
    assert not replay.pending
    assert replay.take(100) == []


def test_room_counts_what_is_not_acknowledged() -> None:
    replay = filled(10, 20, limit=1000)
    assert replay.room == 970
    replay.acknowledge(15)
    assert replay.room == 985


def test_a_flood_of_tiny_chunks_costs_little_more_than_its_bytes() -> None:
    replay = ReplayBuffer(MIB)
    for _ in range(20_000):
        replay.append(memoryview(DATA[:14]))
    assert replay.room == MIB - 280_000
    replay.acknowledge(7000)
    replay.rewind()
    pieces = replay.take(MIB)
    assert len(pieces) <= 273_000 // SMALL_CHUNK + 1
    assert b"".join(pieces) == (DATA[:14] * 20_000)[7000:]


def test_a_chunk_before_and_after_bulk_stays_itself() -> None:
    replay = filled(10, SMALL_CHUNK, 10)
    replay.rewind()
    assert [len(piece) for piece in replay.take(10_000)] == [10, SMALL_CHUNK, 10]


def test_after_a_rewind_everything_goes_out_again_from_the_ack() -> None:
    replay = filled(10, 20, 30)
    replay.acknowledge(15)
    replay.rewind()
    assert replay.pending
    assert replay.pointer == 15
    assert taken(replay, 100) == DATA[15:60]
    assert not replay.pending


@pytest.mark.parametrize("limit", range(1, 61))
def test_chunks_are_cut_to_the_limit(limit: int) -> None:
    replay = filled(10, 20, 30)
    replay.rewind()
    output = bytearray()
    while replay.pending:
        piece = taken(replay, limit)
        assert len(piece) == min(limit, 60 - len(output))
        output += piece
    assert output == DATA[:60]


def test_a_share_may_hold_what_it_has() -> None:
    share = ReplayShare(Budget(MIB), 1000)
    assert share.bound(100_000) == 1000
    assert share.allow(0, 5000) == 5000
    assert share.bound(100_000) == 5000
    assert share.bound(2000) == 2000
    assert ReplayShare(None, 1000).bound(100_000) == 100_000


def test_whole_chunks_are_not_copied() -> None:
    chunk = memoryview(DATA[:10])
    replay = ReplayBuffer(1000)
    replay.append(chunk)
    replay.rewind()
    assert replay.take(10)[0] is chunk


def test_a_second_rewind_in_the_middle_of_the_first() -> None:
    replay = filled(10, 20, 30)
    replay.rewind()
    assert taken(replay, 25) == DATA[:25]
    replay.acknowledge(12)
    replay.rewind()
    assert taken(replay, 100) == DATA[12:60]


def test_an_ack_beyond_the_pointer_moves_it() -> None:
    """The peer read its old connection on after it had told us what it has."""
    replay = filled(10, 20, 30)
    replay.rewind()
    assert taken(replay, 5) == DATA[:5]
    replay.acknowledge(33)
    assert taken(replay, 100) == DATA[33:60]
    replay.acknowledge(60)
    assert not replay.pending


def test_an_ack_beyond_the_pointer_lets_go_of_whole_chunks() -> None:
    replay = filled(SMALL_CHUNK, SMALL_CHUNK)
    replay.rewind()
    replay.acknowledge(SMALL_CHUNK + 5)
    assert taken(replay, 2 * SMALL_CHUNK) == DATA[SMALL_CHUNK + 5 : 2 * SMALL_CHUNK]
    assert not replay.pending


def test_clear_lets_go_of_everything() -> None:
    replay = filled(10, 20)
    replay.rewind()
    taken(replay, 10)
    replay.clear()
    assert not replay.pending
    assert (replay.acked, replay.pointer, replay.end) == (30, 30, 30)
    assert replay.take(10) == []


@given(st.data())
def test_any_order_of_moves_gives_the_same_bytes(data: st.DataObject) -> None:
    replay = ReplayBuffer(10_000)
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["append", "acknowledge", "rewind", "take"])):
            case "append" if not replay.pending and replay.end < 9_000:
                size = data.draw(st.integers(1, 300))
                replay.append(memoryview(DATA[replay.end : replay.end + size]))
            case "acknowledge":
                replay.acknowledge(data.draw(st.integers(replay.acked, replay.end)))
            case "rewind":
                replay.rewind()
                assert replay.pointer == replay.acked
            case _:
                start = replay.pointer
                assert taken(replay, data.draw(st.integers(1, 500))) == DATA[start : replay.pointer]
        assert replay.acked <= replay.pointer <= replay.end
    start = replay.acked
    replay.rewind()
    assert taken(replay, 10_000) == DATA[start : replay.end]


class TestShare:
    def test_without_a_budget_all_is_allowed(self) -> None:
        share = ReplayShare(None, 100)
        assert share.allow(10_000, 5_000) == 5_000
        share.settle(0)
        assert share.held == 0

    def test_the_floor_costs_nothing(self) -> None:
        budget = Budget(800)
        share = ReplayShare(budget, 100)
        assert share.allow(40, 60) == 60
        assert budget.used == 0

    def test_what_is_above_the_floor_is_reserved_once(self) -> None:
        budget = Budget(800)
        share = ReplayShare(budget, 100)
        assert share.allow(40, 160) == 160
        assert share.allow(100, 100) == 100
        assert budget.used == share.held == 100

    def test_a_full_budget_leaves_the_floor(self) -> None:
        budget = Budget(800)
        budget.reserve(700)
        share = ReplayShare(budget, 100)
        assert share.allow(40, 160) == 60
        assert share.allow(100, 50) == 0
        assert share.allow(130, 50) == 0
        assert share.held == 0

    def test_an_idle_buffer_gives_everything_back(self) -> None:
        budget = Budget(800)
        share = ReplayShare(budget, 100)
        share.allow(0, 300)
        share.settle(150)
        assert share.held == 200
        share.settle(100)
        assert share.held == budget.used == 0
        share.settle(0)

    def test_a_busy_buffer_gives_back_in_large_steps(self) -> None:
        budget = Budget(100 * SHARE_SLACK)
        share = ReplayShare(budget, 100)
        share.allow(100, 3 * SHARE_SLACK)
        share.settle(100 + 2 * SHARE_SLACK + 1)
        assert share.held == 3 * SHARE_SLACK
        share.settle(100 + 2 * SHARE_SLACK)
        assert share.held == budget.used == 2 * SHARE_SLACK
