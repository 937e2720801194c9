from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tunnelkit.config import KIB, MIB
from tunnelkit.core.budget import Budget
from tunnelkit.core.company import LASTS
from tunnelkit.core.events import Data, GoAway, HeadBlock, Opened, Progress, Reset, Room
from tunnelkit.core.failures import GoingAway, NoRoom
from tunnelkit.core.frames import (
    DATA,
    DATA_FIN,
    HEAD_FIN,
    HEADER_SIZE,
    OPEN,
    FrameDecoder,
    ResetCode,
    StreamKind,
    encode_goaway,
)
from tunnelkit.core.multiplexer import Multiplexer
from tunnelkit.errors import LocalProtocolError

from .mux_pair import SMALL, Pair, credit, frame, join, make, opening, reset_frame

HTTP = StreamKind.HTTP


def codes(flow: bytes) -> list[tuple[int, int]]:
    return [(code, stream_id) for code, stream_id, _payload in FrameDecoder().feed(flow)]


# -- exchanges ---------------------------------------------------------------------------------


def test_a_small_exchange() -> None:
    pair = Pair()
    stream = pair.server.open_stream(HTTP, {3: b"field"})
    pair.server.send_head(stream, b"GET", fin=True)
    message = join(pair.server.frames_to_send(64 * KIB))
    assert codes(message) == [(OPEN, stream), (HEAD_FIN, stream)]
    assert pair.client.receive_data(message, 0.0) == [
        Opened(stream, HTTP, {3: b"field"}),
        HeadBlock(stream, b"GET", True),
    ]
    pair.client.send_head(stream, b"200")
    pair.client.send_data(stream, b"body", fin=True)
    assert pair.to_server() == [HeadBlock(stream, b"200", False), Data(stream, b"body", True)]
    assert (pair.client.active_streams, pair.server.active_streams) == (0, 1)
    pair.server.consume(stream, 4)
    assert not pair.server.streams
    assert not pair.server.has_output
    assert not pair.client.has_output
    assert pair.server_budget.used == pair.client_budget.used == 0


def test_both_ends_may_open() -> None:
    pair = Pair()
    ours, theirs = pair.server.open_stream(HTTP), pair.client.open_stream(StreamKind.BYTES)
    assert (ours % 2, theirs % 2) == (0, 1)
    assert pair.to_client() == [Opened(ours, HTTP, {})]
    assert pair.to_server() == [Opened(theirs, StreamKind.BYTES, {})]
    pair.client.send_data(ours, b"up")
    pair.server.send_data(theirs, b"down")
    assert pair.settle() == [Data(theirs, b"down", False), Data(ours, b"up", False)]
    assert sorted(pair.server.streams) == sorted(pair.client.streams) == sorted([ours, theirs])


def test_the_opener_sends_within_the_floor_and_the_acceptor_within_the_first_limit() -> None:
    pair = Pair()
    stream = pair.opened()
    for end in (pair.server, pair.client):
        for _ in range(4):
            end.send_data(stream, bytes(64 * KIB))
    up = sum(len(event.data) for event in pair.settle() if isinstance(event, Data))
    assert up == SMALL.stream_floor + SMALL.stream_first_window


def test_a_head_larger_than_the_window_comes_through() -> None:
    pair = Pair()
    stream = pair.opened()
    block = bytes(range(256)) * 300
    pair.server.send_head(stream, block)
    assert [event for event in pair.settle() if not isinstance(event, Progress)] == [HeadBlock(stream, block, False)]
    assert pair.client_budget.used == pair.client.active_streams * 32 * KIB + _above(pair.client)


def _above(end: Multiplexer) -> int:
    return end._table.pool.above


def test_progress_and_credit() -> None:
    pair = Pair()
    stream = pair.opened()
    pair.server.send_data(stream, bytes(20 * KIB))
    events = pair.to_client()
    assert [len(event.data) for event in events if isinstance(event, Data)] == [16 * KIB]
    pair.client.consume(stream, 1)
    waiting = [pair.client.has_control]
    pair.client.consume(stream, 16 * KIB - 1)
    waiting.append(pair.client.has_control)
    assert waiting == [False, True]
    (progress,) = pair.to_server()
    assert isinstance(progress, Progress)
    assert progress.limit > 32 * KIB
    assert pair.to_client() == [Data(stream, bytes(4 * KIB), False)]


# -- opening -----------------------------------------------------------------------------------


def test_streams_beyond_what_the_peer_permits() -> None:
    end = make(peer_max_streams=2)
    first = end.open_stream(HTTP)
    end.open_stream(HTTP)
    with pytest.raises(NoRoom, match="all 2 streams") as caught:
        end.open_stream(HTTP)
    assert caught.value.code == "no_room"
    end.withdraw(first)
    assert end.open_stream(HTTP) == 6


def test_no_stream_without_memory_for_its_floor() -> None:
    budget = Budget(40 * KIB)
    end = make(budget=budget)
    end.open_stream(HTTP)
    with pytest.raises(NoRoom, match="no memory"):
        end.open_stream(HTTP)


def test_fields_that_do_not_fit_cost_nothing() -> None:
    budget = Budget(1 << 20)
    end = make(budget=budget)
    with pytest.raises(LocalProtocolError, match="too many"):
        end.open_stream(HTTP, {1: bytes(5000)})
    assert (budget.used, end.active_streams) == (0, 0)


def test_withdraw() -> None:
    pair = Pair()
    stream = pair.server.open_stream(HTTP)
    pair.server.send_head(stream, b"GET", fin=True)
    assert not pair.server.was_sent(stream)
    assert pair.server.withdraw(stream)
    assert not pair.server.has_output
    assert pair.server_budget.used == 0
    assert not pair.server.was_sent(stream)
    assert not pair.server.withdraw(stream)
    assert pair.server.last_sent < stream
    stream = pair.opened()
    assert pair.server.was_sent(stream)
    assert pair.server.last_sent == stream
    assert not pair.server.withdraw(stream)
    assert pair.server.active_streams == 1


def test_a_stream_reset_before_its_open_left_vanishes_without_trace() -> None:
    pair = Pair()
    gone, kept = pair.server.open_stream(HTTP), pair.server.open_stream(HTTP)
    pair.server.reset(gone, ResetCode.CANCEL)
    assert pair.settle() == [Opened(kept, HTTP, {})]


# -- reset -------------------------------------------------------------------------------------


def test_reset_drops_what_waits_and_tells_the_peer() -> None:
    pair = Pair()
    stream = pair.opened()
    pair.client.send_data(stream, bytes(200 * KIB))
    pair.to_server()
    pair.client.reset(stream, ResetCode.TIMEOUT)
    assert pair.client.active_streams == 0
    assert pair.client_budget.used == 0
    assert pair.settle() == [Reset(stream, ResetCode.TIMEOUT)]
    assert pair.server_budget.used == 0


def test_a_reset_of_both_sides_at_once() -> None:
    pair = Pair()
    stream = pair.opened()
    pair.server.reset(stream, ResetCode.CANCEL)
    pair.client.reset(stream, ResetCode.INTERNAL)
    assert pair.settle() == []
    assert not pair.server.streams
    assert not pair.client.streams


def test_a_stream_over_but_not_consumed_is_reset_silently() -> None:
    pair = Pair()
    stream = pair.opened()
    pair.server.send_fin(stream)
    pair.client.send_data(stream, b"x", fin=True)
    pair.settle()
    pair.server.reset(stream, ResetCode.CANCEL)
    assert not pair.server.has_output
    assert pair.server_budget.used == 0


CALLS: list[Callable[[Multiplexer, int], object]] = [
    lambda end, stream: end.send_head(stream, b"x"),
    lambda end, stream: end.send_data(stream, b"x"),
    lambda end, stream: end.send_data(stream, b"", fin=True),
    lambda end, stream: end.send_fin(stream),
    lambda end, stream: end.send_room(stream),
    lambda end, stream: end.consume(stream, 1),
    lambda end, stream: end.reset(stream, 1),
    lambda end, stream: end.withdraw(stream),
]


@pytest.mark.parametrize("call", CALLS)
def test_calls_for_a_stream_that_is_over_do_nothing(call: Callable[[Multiplexer, int], object]) -> None:
    pair = Pair()
    stream = pair.opened()
    pair.client.receive_data(reset_frame(stream, 1), 0.0)
    assert not call(pair.client, stream)
    assert not pair.client.has_output


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("stream", [0, 1, 2])
def test_calls_for_a_stream_that_never_was(call: Callable[[Multiplexer, int], object], stream: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"stream {stream} was never opened"):
        call(make(), stream)


@pytest.mark.parametrize("call", CALLS[:4])
def test_nothing_is_sent_after_the_end(call: Callable[[Multiplexer, int], object]) -> None:
    pair = Pair()
    stream = pair.opened()
    pair.server.send_fin(stream)
    for _ in range(2):  # before FIN has left, and after
        with pytest.raises(LocalProtocolError, match=r"whose own half is (ENDING|CLOSED)"):
            call(pair.server, stream)
        assert pair.server.send_room(stream) == 0
        pair.to_client()


# -- goaway ------------------------------------------------------------------------------------


def test_goaway() -> None:
    pair = Pair()
    kept = pair.opened()
    crossed = pair.server.open_stream(HTTP)
    pair.client.goaway(9)
    pair.client.goaway(10)
    assert pair.to_client() == []
    assert pair.to_server() == [Reset(crossed, ResetCode.REFUSED), GoAway(kept, 9)]
    assert not pair.client.has_output
    with pytest.raises(GoingAway) as caught:
        pair.server.open_stream(HTTP)
    assert caught.value.code == "going_away"
    assert pair.client.open_stream(HTTP) == 1  # the other direction goes on
    pair.settle()
    assert sorted(pair.server.streams) == [1, kept]


# -- sending -----------------------------------------------------------------------------------


def test_send_room_and_room_events() -> None:
    pair = Pair()
    stream = pair.opened()
    assert pair.client.send_room(stream) == SMALL.send_buffer
    pair.client.send_data(stream, bytes(SMALL.send_buffer - 10))
    assert pair.client.send_room(stream) == 10
    pair.client.send_data(stream, bytes(10))
    assert pair.client.send_room(stream) == 0
    pair.to_server(20 * KIB)
    assert pair.client.take_room_events() == []
    pair.to_server(20 * KIB)
    assert pair.client.take_room_events() == [Room(stream)]
    assert pair.client.take_room_events() == []
    assert pair.client.send_room(stream) > 30 * KIB


def test_no_room_event_for_a_stream_that_is_over() -> None:
    pair = Pair()
    stream = pair.opened()
    pair.client.send_data(stream, bytes(SMALL.send_buffer))
    assert pair.client.send_room(stream) == 0
    pair.to_server()
    pair.client.reset(stream, 1)
    assert pair.client.take_room_events() == []


def test_no_room_event_for_a_stream_whose_half_ended() -> None:
    pair = Pair()
    stream = pair.opened()
    pair.client.send_data(stream, bytes(SMALL.send_buffer))
    assert pair.client.send_room(stream) == 0
    pair.client.send_fin(stream)
    pair.to_server()
    assert pair.client.take_room_events() == []


def test_no_room_event_while_memory_is_short() -> None:
    pair = Pair()
    stream = pair.opened()
    pair.client.send_data(stream, bytes(SMALL.send_buffer))
    assert pair.client.send_room(stream) == 0
    pair.client_budget.charge(pair.client_budget.capacity)
    seen = []
    for _ in range(3):
        pair.to_server(16 * KIB)
        seen.append((pair.client.take_room_events(), pair.client.send_room(stream)))
    assert seen == [([], 0), ([], 0), ([], 0)]
    pair.to_server(16 * KIB)
    assert pair.client.take_room_events() == [Room(stream)]


def fill(mux: Multiplexer, stream: int) -> int:
    """Buffer whatever there is room for, as a driver does; how much that was."""
    filled = 0
    while room := mux.send_room(stream):
        mux.send_data(stream, bytes(min(room, 64 * KIB)))
        filled += min(room, 64 * KIB)
    return filled


def test_few_streams_fill_a_message_of_any_transport_and_many_keep_their_own() -> None:
    limits = replace(SMALL, send_share=MIB)
    mux = make(limits=limits)
    streams = [mux.open_stream(StreamKind.HTTP) for _ in range(8)]
    first, *others = [fill(mux, stream) for stream in streams]
    assert first == 512 * KIB  # half of it
    assert others[:2] == [256 * KIB, 128 * KIB]
    assert others[-1] == limits.send_buffer
    for stream in streams[:7]:
        mux.reset(stream, 1)
    assert fill(mux, streams[7]) == first - limits.send_buffer  # what they held is there for the one that is left


def test_what_streams_share_bounds_their_sum() -> None:
    mux = make(limits=replace(SMALL, send_share=256 * KIB))
    held = [fill(mux, mux.open_stream(StreamKind.HTTP)) for _ in range(8)]
    assert sum(held) <= 256 * KIB + 8 * SMALL.send_buffer


def test_a_rest_of_the_share_cuts_up_nothing() -> None:
    mux = make(limits=replace(SMALL, send_share=MIB))
    stream = mux.open_stream(StreamKind.HTTP)
    while (room := mux.send_room(stream)) > 2 * SMALL.send_buffer:
        mux.send_data(stream, bytes(1000))
    mux.send_data(stream, bytes(room - SMALL.send_buffer))
    assert mux.send_room(stream) == SMALL.send_buffer
    mux.send_data(stream, b"x")
    assert mux.send_room(stream) == 0


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


@pytest.mark.parametrize("considerate", [True, False])
def test_who_waits_for_room_as_the_share_changes_is_told_once(considerate: bool) -> None:
    pair = Pair(limits=replace(SMALL, send_share=MIB, send_share_beside=256 * KIB))
    stream = pair.opened()
    pair.client.considerate = not considerate
    sent = fill(pair.client, stream)
    pair.client.considerate = considerate
    assert bool(pair.client.send_room(stream)) is not considerate  # the smaller share is full
    arrived, told = 0, []
    while (events := pair.to_server(16 * KIB)) or pair.client.has_output:
        for event in events:
            if isinstance(event, Data):
                arrived += len(event.data)
                pair.server.consume(stream, len(event.data))
        told += pair.client.take_room_events()
        pair.to_client()
    assert arrived == sent
    assert told == [Room(stream)]


def test_all_that_is_received_and_sent_counts() -> None:
    mux = make()
    for stream in (1, 3, 5):
        mux.receive_data(opening(stream), 0.0)
    mux.receive_data(frame(DATA, 1, bytes(16 * KIB)) + frame(DATA, 3, bytes(16 * KIB)), 0.0)  # a large piece
    for stream in (1, 3):
        mux.consume(stream, 16 * KIB)
    told = [mux.in_company]
    mux.receive_data(frame(DATA_FIN, 5, b""), 0.0)
    mux.send_fin(5)
    mux.frames_to_send(64 * KIB)  # a small one is over, which was there before those pieces
    left = LASTS
    while left > 0:
        assert mux.in_company
        assert mux.in_company_of_few
        mux.receive_data(piece := frame(DATA, 1, bytes(16 * KIB)), 0.0)
        mux.consume(1, 16 * KIB)
        mux.send_data(3, bytes(1000))
        left -= len(piece) + sum(map(len, mux.frames_to_send(64 * KIB)))
    assert [*told, mux.in_company, mux.in_company_of_few] == [False, False, False]


@pytest.mark.parametrize(("turn", "first"), [(0, 1_000), (5_000, 5_000)])
def test_how_long_a_turn_is_comes_with_the_call_and_is_no_less_than_the_limit(turn: int, first: int) -> None:
    mux = make(limits=replace(SMALL, frame_payload=1_000))
    streams = [mux.open_stream(HTTP) for _ in range(2)]
    mux.frames_to_send(64 * KIB)
    for stream in streams:
        mux.receive_data(credit(stream, MIB), 0.0)
        mux.send_data(stream, bytes(10_000))
    (_code, _stream_id, payload), *_later = FrameDecoder().feed(join(mux.frames_to_send(64 * KIB, turn)))
    assert len(payload) == first


def test_control_keeps_no_piece_waiting() -> None:
    """There may be some in each message: credits of others' streams, say."""
    mux = make(limits=replace(SMALL, max_streams=40, send_share=MIB))
    bulk, *others = (mux.open_stream(HTTP) for _ in range(30))
    mux.frames_to_send(64 * KIB)
    mux.receive_data(credit(bulk, MIB), 0.0)
    mux.send_data(bulk, bytes(64 * KIB - 2 * HEADER_SIZE))  # as much as a message of its own carries
    for other in others:
        mux.reset(other, ResetCode.CANCEL)
    assert codes(join(mux.frames_to_send(64 * KIB)))[-1] == (DATA, bulk)


def test_the_share_too_ends_near_exhaustion() -> None:
    budget = Budget(SMALL.max_buffered_bytes)
    mux = make(limits=replace(SMALL, send_share=MIB), budget=budget)
    stream = mux.open_stream(StreamKind.HTTP)
    budget.charge(budget.spare - 100 * KIB)
    assert fill(mux, stream) <= SMALL.frame_payload + 100 * KIB


def test_near_exhaustion_a_turn_may_still_be_buffered() -> None:
    pair = Pair()
    stream = pair.opened()
    pair.client_budget.charge(pair.client_budget.spare - 5)
    assert pair.client.send_room(stream) == SMALL.frame_payload + 5
    pair.client_budget.charge(5)
    assert pair.client.send_room(stream) == SMALL.frame_payload
    pair.client.send_data(stream, bytes(SMALL.frame_payload - 7))
    assert pair.client.send_room(stream) == 7
    pair.client.send_data(stream, bytes(7))
    assert pair.client.send_room(stream) == 0
    pair.to_server()
    assert pair.client.take_room_events() == [Room(stream)]


def test_what_is_buffered_is_counted_until_it_leaves() -> None:
    pair = Pair()
    stream = pair.opened()
    used = pair.client_budget.used
    pair.client.send_data(stream, bytes(40 * KIB))
    assert pair.client_budget.used == used + 24 * KIB
    pair.to_server()
    assert pair.client_budget.used == used


def test_data_of_nothing_sends_nothing() -> None:
    pair = Pair()
    stream = pair.opened()
    pair.server.send_data(stream, b"")
    assert not pair.server.has_output
    pair.server.send_data(stream, b"", fin=True)
    assert pair.settle() == [Data(stream, b"", True)]


def test_small_sends_that_wait_are_joined() -> None:
    """Kept as they came, they would take a hundred times their bytes, and cost a frame each."""
    pair = Pair()
    stream_id = pair.opened()
    pair.server.send_head(stream_id, b"a head")
    for byte in range(250):
        pair.server.send_data(stream_id, bytes([byte]))
    pair.server.send_data(stream_id, bytes(2 * KIB))
    pair.server.send_data(stream_id, b"fin", fin=True)
    assert pair.to_client() == [
        HeadBlock(stream_id, b"a head", False),
        Data(stream_id, bytes(range(250)), False),
        Data(stream_id, bytes(2 * KIB), False),
        Data(stream_id, b"fin", True),
    ]


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"xabc")[1:]])
def test_any_buffer_may_be_sent(data: bytes | bytearray | memoryview) -> None:
    pair = Pair()
    stream = pair.opened()
    pair.server.send_data(stream, data)
    assert pair.settle() == [Data(stream, b"abc", False)]


def test_a_head_too_large_is_our_own_mistake() -> None:
    end = make()
    stream = end.open_stream(HTTP)
    end.send_head(stream, bytes(SMALL.head_block_limit))
    with pytest.raises(LocalProtocolError, match="too large"):
        end.send_head(stream, bytes(SMALL.head_block_limit + 1))


# -- pulling -----------------------------------------------------------------------------------


def test_control_leaves_first_and_alone_when_asked() -> None:
    pair = Pair()
    stream, other = pair.opened(), pair.opened()
    pair.client.send_data(stream, b"data")
    pair.client.reset(other, 1)
    assert codes(join(pair.client.control_to_send(100))) == [(0x500, other)]
    assert (pair.client.has_control, pair.client.has_output) == (False, True)
    pair.client.goaway()
    assert codes(join(pair.client.frames_to_send(2000))) == [(0x600, other), (DATA, stream)]
    assert not pair.client.has_output


@pytest.mark.parametrize("limit", [2100, 4072, 5000, 65_512, 1 << 20])
def test_a_pull_keeps_its_limit_and_always_progresses(limit: int) -> None:
    pair = Pair()
    streams = [pair.opened() for _ in range(8)]
    for stream in streams:
        pair.client.send_head(stream, bytes(300))
        pair.client.send_data(stream, bytes(50 * KIB), fin=True)
    total = 0
    while pair.client.has_output:
        size = len(join(pair.client.frames_to_send(limit)))
        assert 0 < size <= limit
        total += size
    assert total > 8 * 50 * KIB


def test_a_pull_with_too_little_room_gives_nothing() -> None:
    end = make()
    end.open_stream(HTTP)
    assert end.frames_to_send(21) == []
    assert end.has_output


def test_the_end_of_a_message_is_not_filled_with_crumbs() -> None:
    pair = Pair()
    first, second = pair.opened(), pair.opened()
    pair.client.send_data(first, bytes(3000))
    pair.client.send_head(second, bytes(2000))
    assert codes(join(pair.client.frames_to_send(3500))) == [(DATA, first)]


# -- consuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, 6])
def test_only_what_is_held_can_be_consumed(size: int) -> None:
    pair = Pair()
    stream = pair.opened()
    pair.server.send_data(stream, b"hello")
    pair.settle()
    with pytest.raises(LocalProtocolError, match="which holds 5"):
        pair.client.consume(stream, size)


# -- the whole ---------------------------------------------------------------------------------


def test_close_gives_everything_back() -> None:
    pair = Pair()
    for _ in range(4):
        stream = pair.opened()
        pair.client.send_data(stream, bytes(60 * KIB))
        pair.client.reset(pair.opened(), 1)
    pair.client.goaway()
    pair.client.close()
    assert (pair.client.active_streams, pair.client_budget.used, pair.client.has_output) == (0, 0, False)
    pair.client.close()


def test_repr() -> None:
    assert repr(make(client=True)).startswith("Multiplexer(client, streams=0, pool=")
    assert repr(make()).startswith("Multiplexer(server, ")


def test_memoryviews_may_be_received() -> None:
    end = make()
    flow = memoryview(opening(1) + frame(DATA_FIN, 1, b"x") + credit(1, 1 << 20) + encode_goaway(0, 0))
    assert [type(event) for event in end.receive_data(flow, 0.0)] == [Opened, Data, Progress, GoAway]


def test_limits_of_both_ends_may_differ() -> None:
    server = make(limits=replace(SMALL, stream_floor=4 * KIB), peer_floor=20 * KIB)
    client = make(client=True, limits=replace(SMALL, stream_floor=20 * KIB), peer_floor=4 * KIB)
    stream = server.open_stream(HTTP)
    server.send_data(stream, bytes(64 * KIB))
    events = client.receive_data(join(server.frames_to_send(1 << 20)), 0.0)
    assert sum(len(event.data) for event in events if isinstance(event, Data)) == 20 * KIB
