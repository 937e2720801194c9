from __future__ import annotations

from dataclasses import replace

import pytest

from tunnelkit.config import KIB, Limits
from tunnelkit.core.budget import Budget
from tunnelkit.core.events import Data, GoAway, HeadBlock, Opened, Progress, Reset
from tunnelkit.core.frames import (
    CREDIT,
    DATA,
    DATA_FIN,
    GOAWAY,
    HEAD,
    HEAD_FIN,
    HEAD_MORE,
    OPEN,
    RESET,
    ResetCode,
    StreamKind,
    encode_goaway,
    encode_open,
)
from tunnelkit.core.receiver import Receiver
from tunnelkit.core.streams import Half
from tunnelkit.core.table import StreamTable
from tunnelkit.errors import RemoteProtocolError

from .mux_pair import SMALL, credit, frame, opening, reset_frame

LIMITS = replace(SMALL, head_limit=40 * KIB, head_block_limit=40 * KIB, resets_before_answer=3, resets_window=10.0)
MAY_OWE = 4


class End:
    """The receiving half of a server whose peer, a client, is played by the test."""

    def __init__(self, limits: Limits = LIMITS, capacity: int = 1 << 24) -> None:
        self.table = StreamTable(client=False, limits=limits, budget=Budget(capacity))
        self.receiver = Receiver(self.table, MAY_OWE)

    def get(self, *flow: bytes, now: float = 0.0) -> list[object]:
        return list(self.receiver.receive(b"".join(flow), now))

    def fails(self, code: str, *flow: bytes, now: float = 0.0) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            self.get(*flow, now=now)
        assert caught.value.code == code

    def open_mine(self, *, sent: bool = True) -> int:
        window = self.table.pool.open_window(first=True)
        assert window is not None
        stream_id = self.table.add_mine(StreamKind.HTTP, b"", window, 100)
        if sent:
            self.table.turns.serve([], 64 * KIB, 16 * KIB)
            self.table.highest_sent = stream_id
        return stream_id

    def resets(self) -> list[bytes]:
        pieces: list[bytes | bytearray | memoryview] = []
        self.table.control.pull(pieces, 1 << 20)
        return [bytes(piece) for piece in pieces if piece[0] == RESET >> 8]


# -- opening -----------------------------------------------------------------------------------


def test_a_stream_opens() -> None:
    end = End()
    assert end.get(opening(1), opening(5, kind=StreamKind.BYTES)) == [
        Opened(1, StreamKind.HTTP, {}),
        Opened(5, StreamKind.BYTES, {}),
    ]
    assert end.table.highest_peer == 5
    assert end.table.active[1].send_limit == 64 * KIB
    assert end.table.active[1].window.limit == LIMITS.stream_floor


@pytest.mark.parametrize("stream_id", [0, 2, 1, 3], ids=["none", "ours", "repeated", "smaller"])
def test_ids_that_the_peer_may_not_open(stream_id: int) -> None:
    end = End()
    end.get(opening(3), frame(DATA_FIN, 3))
    end.table.active[3].local = Half.CLOSED
    end.get()
    end.fails("stream_id", opening(stream_id)) if stream_id != 3 else end.fails("stream_state", opening(3))


def test_an_id_is_not_used_again_after_its_stream() -> None:
    end = End()
    end.get(opening(3))
    end.table.remove(end.table.active[3])
    end.fails("stream_id", opening(3))


def test_malformed_fields() -> None:
    End().fails("bad_frame", encode_open(1, 1, 1, b"\0"))


def test_a_stream_of_an_unknown_kind_is_refused() -> None:
    end = End()
    assert end.get(opening(1, kind=99), frame(HEAD, 1, b"x"), opening(3)) == [Opened(3, StreamKind.HTTP, {})]
    assert end.resets() == [reset_frame(1, ResetCode.REFUSED)]


def test_streams_beyond_the_permitted_are_refused_then_it_is_enough() -> None:
    end = End()
    count = LIMITS.max_streams
    assert len(end.get(*[opening(2 * n + 1) for n in range(count)])) == count
    first = 2 * count + 1
    assert end.get(opening(first), frame(HEAD_FIN, first, b"GET")) == []
    assert end.resets() == [reset_frame(first, ResetCode.REFUSED)]
    excess = [opening(first + 2 * n) for n in range(1, MAY_OWE + 2)]
    assert end.get(*excess[:MAY_OWE]) == []
    end.fails("too_many_streams", excess[MAY_OWE])


def test_streams_that_are_reset_one_by_one_are_too_many_as_well() -> None:
    # Whoever is told of them refuses each at once; the peer never reads that, and opens more.
    end = End()
    for number in range(MAY_OWE):
        stream_id = 2 * number + 1
        assert end.get(opening(stream_id)) == [Opened(stream_id, StreamKind.HTTP, {})]
        end.table.abandon(end.table.active[stream_id], ResetCode.REFUSED)
    end.fails("too_many_streams", opening(2 * MAY_OWE + 1))


def test_our_own_streams_do_not_count_as_the_peers() -> None:
    end = End()
    end.open_mine()
    assert len(end.get(*[opening(2 * n + 1) for n in range(LIMITS.max_streams)])) == LIMITS.max_streams


def test_without_room_for_a_floor_a_stream_is_refused() -> None:
    end = End(capacity=40 * KIB)
    assert end.get(opening(1), opening(3)) == [Opened(1, StreamKind.HTTP, {})]
    assert end.resets() == [reset_frame(3, ResetCode.REFUSED)]


def test_after_our_goaway_streams_are_refused() -> None:
    end = End()
    end.get(opening(1))
    end.receiver.refusing = True
    assert end.get(opening(3), frame(DATA, 1, b"x")) == [Data(1, b"x", False)]
    assert end.resets() == [reset_frame(3, ResetCode.REFUSED)]


# -- frames for no stream ----------------------------------------------------------------------

LATE = [frame(HEAD_FIN, 1, b"x"), frame(DATA, 1, b"x"), credit(1, 1 << 40), reset_frame(1, 1)]


@pytest.mark.parametrize("late", LATE)
def test_what_comes_late_for_a_stream_that_is_over_is_ignored(late: bytes) -> None:
    end = End()
    end.get(opening(1))
    end.table.abandon(end.table.active[1], ResetCode.CANCEL)
    assert end.get(late) == []
    mine = end.open_mine()
    end.table.remove(end.table.active[mine])
    assert end.get(late.replace((1).to_bytes(8, "big"), mine.to_bytes(8, "big"), 1)) == []


@pytest.mark.parametrize("code", [HEAD, HEAD_FIN, HEAD_MORE, DATA, DATA_FIN])
@pytest.mark.parametrize("stream_id", [0, 3, 2])
def test_what_comes_for_a_stream_that_never_was(code: int, stream_id: int) -> None:
    end = End()
    end.get(opening(1))
    end.fails("stream_id", frame(code, stream_id))


@pytest.mark.parametrize("flow", [credit(3, 1), reset_frame(3, 1), reset_frame(0, 1)])
def test_control_for_a_stream_that_never_was(flow: bytes) -> None:
    End().fails("stream_id", flow)


@pytest.mark.parametrize("flow", [frame(HEAD, 2), frame(DATA, 2), credit(2, 9), reset_frame(2, 1)])
def test_the_peer_cannot_know_a_stream_before_its_open_is_sent(flow: bytes) -> None:
    end = End()
    assert end.open_mine(sent=False) == 2
    end.fails("stream_state", flow)


@pytest.mark.parametrize("code", [HEAD, HEAD_FIN, HEAD_MORE, DATA, DATA_FIN])
def test_nothing_follows_the_end(code: int) -> None:
    end = End()
    end.get(opening(1), frame(DATA_FIN, 1, b"x"))
    end.fails("stream_state", frame(code, 1))


@pytest.mark.parametrize("code", [DATA, DATA_FIN])
def test_only_heads_follow_a_piece_of_a_head(code: int) -> None:
    end = End()
    end.get(opening(1), frame(HEAD_MORE, 1, b"x"))
    end.fails("stream_state", frame(code, 1, b"y"))


# -- data --------------------------------------------------------------------------------------


def test_data() -> None:
    end = End()
    flow = [opening(1), frame(DATA, 1, bytes(KIB)), frame(DATA, 1), frame(DATA, 1, bytes(KIB)), frame(DATA_FIN, 1)]
    assert end.get(*flow)[1:] == [Data(1, bytes(KIB), False), Data(1, bytes(KIB), False), Data(1, b"", True)]
    assert end.table.active[1].window.held == 2 * KIB


def test_small_payloads_of_one_stream_are_joined() -> None:
    """An event costs its handler far more than a few bytes cost their sender."""
    end = End()
    flow = [opening(1), opening(3)] + [frame(DATA, 1, b"x")] * 2000 + [frame(DATA, 3, b"y"), frame(DATA_FIN, 1, b"z")]
    assert end.get(*flow)[2:] == [
        Data(1, b"x" * KIB, False),
        Data(1, b"x" * (2000 - KIB), False),
        Data(3, b"y", False),
        Data(1, b"z", True),
    ]
    assert end.get(frame(DATA, 3, b"1"), frame(DATA_FIN, 3, b"2")) == [Data(3, b"12", True)]
    assert [stream.window.held for stream in end.table.active.values()] == [2001, 3]


def test_data_beyond_the_credit_ends_the_session() -> None:
    end = End()
    end.get(opening(1), frame(DATA, 1, bytes(16 * KIB)))
    end.fails("flow_control", frame(DATA, 1, b"x"))


def test_a_stream_leaves_when_its_last_half_ends_and_all_is_consumed() -> None:
    end = End()
    end.get(opening(1))
    end.table.active[1].local = Half.CLOSED
    assert end.get(frame(DATA_FIN, 1)) == [Data(1, b"", True)]
    assert not end.table.active
    end.get(opening(3))
    end.table.active[3].local = Half.CLOSED
    assert end.get(frame(DATA_FIN, 3, b"x")) == [Data(3, b"x", True)]
    assert list(end.table.active) == [3]


def test_after_the_end_no_credit_waits_to_be_sent() -> None:
    end = End()
    end.get(opening(1), frame(DATA, 1, bytes(16 * KIB)))
    stream = end.table.active[1]
    assert stream.window.consume(16 * KIB)
    end.table.control.add_credit(stream)
    end.get(frame(DATA_FIN, 1))
    assert not end.table.control.waiting


# -- heads -------------------------------------------------------------------------------------


def test_heads_are_joined() -> None:
    end = End()
    flow = [
        frame(HEAD, 1, b"one"),
        frame(HEAD_MORE, 1, b"t"),
        frame(HEAD_MORE, 1, b"w"),
        frame(HEAD, 1, b"o"),
        frame(HEAD_MORE, 1),
        frame(HEAD_FIN, 1),
    ]
    assert end.get(opening(1), *flow)[1:] == [
        HeadBlock(1, b"one", False),
        HeadBlock(1, b"two", False),
        HeadBlock(1, b"", True),
    ]
    assert end.table.heads == {}


def test_heads_are_consumed_as_they_come() -> None:
    end = End()
    end.get(opening(1), frame(HEAD, 1, bytes(10 * KIB)))
    assert end.table.active[1].window.held == 0
    assert end.table.control.waiting
    end.get(frame(HEAD_MORE, 1, bytes(20 * KIB)), frame(HEAD_FIN, 1, bytes(20 * KIB)))
    assert end.table.active[1].window.held == 0
    assert not end.table.control.waiting


def test_a_head_beyond_the_limit_costs_its_stream() -> None:
    end = End()
    end.get(opening(1), frame(HEAD_MORE, 1, bytes(16 * KIB)))
    assert end.get(frame(HEAD_MORE, 1, bytes(24 * KIB))) == []
    assert end.get(frame(HEAD_FIN, 1, b"x"), frame(DATA, 1, b"late")) == [Reset(1, ResetCode.LIMIT)]
    assert end.resets() == [reset_frame(1, ResetCode.LIMIT)]
    assert end.table.budget.used == 0


def test_a_head_beyond_the_limit_in_one_frame() -> None:
    end = End(replace(LIMITS, head_limit=KIB, head_block_limit=KIB))
    end.get(opening(1), opening(3))
    assert end.get(frame(HEAD, 1, bytes(KIB)), frame(HEAD, 3, bytes(KIB + 1)), frame(DATA, 3, b"x")) == [
        HeadBlock(1, bytes(KIB), False),
        Reset(3, ResetCode.LIMIT),
    ]


def test_a_head_beyond_the_credit_ends_the_session() -> None:
    end = End()
    end.fails("flow_control", opening(1), frame(HEAD, 1, bytes(16 * KIB + 1)))


# -- credit ------------------------------------------------------------------------------------


def test_credit_rises_only() -> None:
    end = End()
    end.get(opening(1, limit=5))
    stream = end.table.active[1]
    stream.out.append((DATA, b"0123456789"))
    stream.sent = 5
    assert end.get(credit(1, 8), credit(1, 7), credit(1, 8)) == [Progress(1, 8)]
    assert stream.send_limit == 8
    assert end.table.turns.size == 1


# -- reset -------------------------------------------------------------------------------------


def test_reset() -> None:
    end = End()
    end.get(opening(1))
    assert end.get(reset_frame(1, 700)) == [Reset(1, 700)]
    assert (end.table.active, end.table.budget.used) == ({}, 0)
    assert end.resets() == []


def test_a_reset_of_both_sides_at_once() -> None:
    end = End()
    end.get(opening(1))
    end.table.abandon(end.table.active[1], ResetCode.CANCEL)
    assert end.get(reset_frame(1, 1)) == []


def test_a_stream_opened_and_reset_within_one_call_was_never_there() -> None:
    end = End()
    flow = [
        opening(1),
        opening(3),
        frame(HEAD_MORE, 1, b"G"),
        frame(DATA, 3, b"x"),
        reset_frame(1, 1),
        frame(DATA, 1),
    ]
    assert end.get(*flow) == [Opened(3, StreamKind.HTTP, {}), Data(3, b"x", False)]
    assert end.get(reset_frame(3, 1)) == [Reset(3, 1)]


def test_several_opened_and_reset_within_one_call() -> None:
    end = End()
    flow = [opening(1), opening(3), opening(5), reset_frame(5, 1), reset_frame(1, 1)]
    assert end.get(*flow) == [Opened(3, StreamKind.HTTP, {})]
    assert end.get(opening(7), reset_frame(3, 1)) == [Opened(7, StreamKind.HTTP, {}), Reset(3, 1)]


def test_a_goaway_survives_what_is_taken_out() -> None:
    end = End()
    assert end.get(opening(1), encode_goaway(0, 4), reset_frame(1, 1)) == [GoAway(0, 4)]


def flood(end: End, count: int, now: float, first: int = 1) -> None:
    for n in range(count):
        end.get(opening(first + 2 * n), reset_frame(first + 2 * n, 1), now=now)


def test_a_flood_of_resets_ends_the_session() -> None:
    end = End()
    flood(end, 3, now=5.0)
    end.fails("reset_flood", opening(99), reset_frame(99, 1), now=15.0)


def test_slower_resets_are_fine() -> None:
    end = End()
    for round_ in range(10):
        flood(end, 3, now=round_ * 10.1, first=1 + round_ * 6)


@pytest.mark.parametrize("answer", ["sent", "ended"])
def test_resets_after_an_answer_are_fine(answer: str) -> None:
    end = End()
    for stream_id in range(1, 20, 2):
        end.get(opening(stream_id))
        stream = end.table.active[stream_id]
        if answer == "sent":
            stream.sent = 1
        else:
            stream.local = Half.CLOSED
        end.get(reset_frame(stream_id, 1))


def test_the_peer_may_refuse_our_streams_as_often_as_it_likes() -> None:
    end = End()
    for _ in range(10):
        stream_id = end.open_mine()
        assert end.get(reset_frame(stream_id, ResetCode.REFUSED)) == [Reset(stream_id, ResetCode.REFUSED)]


# -- goaway ------------------------------------------------------------------------------------


def test_goaway_ends_our_later_streams() -> None:
    end = End()
    end.get(opening(5))
    first, second = end.open_mine(), end.open_mine()
    third = end.open_mine(sent=False)
    assert end.get(encode_goaway(first, 7)) == [
        Reset(second, ResetCode.REFUSED),
        Reset(third, ResetCode.REFUSED),
        GoAway(first, 7),
    ]
    assert sorted(end.table.active) == [first, 5]
    assert end.receiver.peer_going
    assert end.resets() == []


def test_goaway_may_name_a_live_stream_or_none() -> None:
    end = End()
    first = end.open_mine()
    assert end.get(encode_goaway(first, 0)) == [GoAway(first, 0)]
    assert end.get(encode_goaway(0, 0)) == [Reset(first, ResetCode.REFUSED), GoAway(0, 0)]


def test_a_goaway_that_says_nothing_new_is_passed_over() -> None:
    """Each looks at all streams: a flood of them would cost much more than it takes to send."""
    end = End()
    first, second = end.open_mine(), end.open_mine()
    assert end.get(encode_goaway(second, 7)) == [GoAway(second, 7)]
    assert end.get(encode_goaway(second, 8)) == []
    assert end.get(encode_goaway(first, 8)) == [Reset(second, ResetCode.REFUSED), GoAway(first, 8)]
    assert end.get(encode_goaway(second, 9)) == []


@pytest.mark.parametrize("last", [1, 4])
def test_goaway_names_a_stream_that_we_opened(last: int) -> None:
    end = End()
    end.get(opening(1))
    end.open_mine()
    end.open_mine(sent=False)
    end.fails("stream_id", encode_goaway(last, 0))


def test_codes_are_distinct() -> None:
    assert len({OPEN, HEAD, DATA, CREDIT, RESET, GOAWAY}) == 6
