"""Hazards and promises of the design's sections 2 and 5 at the core's level: stalls, pressure, fairness."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from tunnelkit.config import DEFAULT_LIMITS, KIB, MIB
from tunnelkit.core.budget import Budget
from tunnelkit.core.events import Data, HeadBlock, Progress
from tunnelkit.core.failures import NoRoom
from tunnelkit.core.frames import DATA, StreamKind
from tunnelkit.core.multiplexer import Multiplexer

from .mux_pair import SMALL, Pair, frame, join, make, opening

HTTP = StreamKind.HTTP
CHUNK = bytes(64 * KIB)


class Downloads(Pair):
    """The client answers every stream with an endless body; the server's applications read or do not."""

    def __init__(self) -> None:
        super().__init__(DEFAULT_LIMITS)
        self.endless: set[int] = set()
        self.stalled: set[int] = set()
        self.got: dict[int, int] = {}
        self.first_bytes = 40 * KIB  # what a caller reads before it stalls

    def start(self, count: int, *, stalled: bool) -> list[int]:
        streams = [self.opened() for _ in range(count)]
        for stream in streams:
            self.server.send_head(stream, b"GET", fin=True)
            self.got[stream] = 0
        self.endless.update(streams)
        if stalled:
            self.stalled.update(streams)
        return streams

    def step(self) -> None:
        for stream in self.endless:
            if room := self.client.send_room(stream):
                self.client.send_data(stream, CHUNK[:room])
        for event in self.to_server():
            if isinstance(event, Data):
                self.got[event.stream_id] += len(event.data)
                if event.stream_id not in self.stalled or self.got[event.stream_id] <= self.first_bytes:
                    self.server.consume(event.stream_id, len(event.data))
        self.to_client()
        self.client.take_room_events()

    def unread(self) -> int:
        return sum(stream.window.held for stream in self.server._table.active.values())


def test_300_stalled_callers_do_not_slow_50_others() -> None:
    pair = Downloads()
    pair.start(300, stalled=True)
    while pair.client.has_output or not any(pair.got.values()):
        pair.step()
        if pair.client._turns.size == 0:
            break
    assert pair.server.active_streams == 300
    assert pair.unread() <= DEFAULT_LIMITS.receive_budget
    fast = pair.start(50, stalled=False)
    size = 256 * KIB
    steps = 0
    while min(pair.got[stream] for stream in fast) < size:
        pair.step()
        steps += 1
        assert pair.unread() <= DEFAULT_LIMITS.receive_budget
        assert pair.server._table.pool.granted <= DEFAULT_LIMITS.receive_budget
    # 50 bodies of 256 KiB in messages of 64 KiB take 200, had nothing else been there.
    assert steps < 300
    sending = sum(stream.buffered for stream in pair.client._table.active.values())
    assert sending <= 350 * DEFAULT_LIMITS.send_buffer


def test_the_permitted_streams_all_work_though_all_are_stalled() -> None:
    """Every one of 1,000 has its floor, and the last of them transfers though 999 take all they can."""
    pair = Downloads()
    pair.start(DEFAULT_LIMITS.max_streams - 1, stalled=True)
    for _ in range(600):
        pair.step()
    assert pair.unread() <= DEFAULT_LIMITS.receive_budget
    (last,) = pair.start(1, stalled=False)
    while pair.got[last] < MIB:
        pair.step()
    with pytest.raises(NoRoom):
        pair.server.open_stream(HTTP)


def test_a_small_answer_passes_by_bulk() -> None:
    pair = Downloads()
    pair.start(20, stalled=False)
    for _ in range(100):
        pair.step()
    stream = pair.opened()
    pair.client.send_head(stream, b"200", fin=True)
    (head,) = [event for event in pair.to_server() if isinstance(event, HeadBlock)]
    assert head.stream_id == stream


def test_a_lone_download_gets_the_largest_window() -> None:
    pair = Downloads()
    (stream,) = pair.start(1, stalled=False)
    for _ in range(400):
        pair.step()
    window = pair.server._table.active[stream].window
    assert window.limit - window.consumed > 3 * MIB


# -- hazard 9 ----------------------------------------------------------------------------------


class Greedy:
    """A session whose peer sends all that it may, and whose application reads it at once."""

    def __init__(self, budget: Budget) -> None:
        self.mux = make(limits=DEFAULT_LIMITS, budget=budget)
        self.mux.receive_data(opening(1), 0.0)
        self.got = 0

    def step(self) -> None:
        window = self.mux._table.active[1].window
        size = min(len(CHUNK) - 1, window.limit - window.received)
        self.mux.receive_data(frame(DATA, 1, CHUNK[:size]), 0.0)
        self.mux.consume(1, size)
        self.mux.frames_to_send(KIB)
        self.got += size


def test_1000_sessions_that_all_want_their_budget() -> None:
    budget = Budget(DEFAULT_LIMITS.max_buffered_bytes)
    sessions = [Greedy(budget) for _ in range(1000)]
    for _ in range(6):
        for session in sessions:
            session.step()
        assert budget.used <= budget.capacity
    # Greed stopped at the reserve for floors: every session still opens streams, and moves at least a floor a turn.
    assert budget.used > budget.capacity // 2
    for session in sessions:
        session.mux.open_stream(HTTP)
        before = session.got
        for _ in range(3):
            session.step()
        assert session.got - before >= DEFAULT_LIMITS.stream_floor
    assert budget.used <= budget.capacity
    for session in sessions:
        session.mux.close()
    assert budget.used == 0


def test_floors_are_refused_before_memory_is_exceeded() -> None:
    per_stream = DEFAULT_LIMITS.stream_floor + DEFAULT_LIMITS.frame_payload
    budget = Budget(100 * per_stream)
    sessions: list[Multiplexer] = [make(limits=DEFAULT_LIMITS, budget=budget) for _ in range(20)]
    opened = 0
    for _ in range(10):
        for mux in sessions:
            with suppress(NoRoom):
                mux.open_stream(HTTP)
                opened += 1
    assert 25 <= opened <= 100  # the last quarter is for floors alone
    assert budget.used <= budget.capacity


def test_under_pressure_two_full_pipes_do_not_wait_for_each_other() -> None:
    """Hazard 1 with nothing above the floors: both directions of all streams still complete."""
    pair = Pair(replace(SMALL, receive_budget=8 * SMALL.stream_floor))
    pair.server_budget.charge(pair.server_budget.spare - 8 * 32 * KIB)
    pair.client_budget.charge(pair.client_budget.spare - 8 * 32 * KIB)
    streams = [pair.opened() for _ in range(8)]
    size = 100 * KIB
    ends = (pair.server, pair.client)
    left = {(end, stream): size for end in ends for stream in streams}
    got = dict.fromkeys(left, 0)
    while min(got.values()) < size:
        for end, deliver in ((pair.server, pair.to_client), (pair.client, pair.to_server)):
            other = ends[end is pair.server]
            for stream in streams:
                room = min(end.send_room(stream), left[end, stream])
                end.send_data(stream, CHUNK[:room])
                left[end, stream] -= room
            events = deliver()
            assert not [event for event in events if not isinstance(event, (Data, Progress))]
            for event in events:
                if isinstance(event, Data):
                    other.consume(event.stream_id, len(event.data))
                    got[end, event.stream_id] += len(event.data)
    assert not left or set(left.values()) == {0}


# -- control stays small -----------------------------------------------------------------------


def test_a_link_that_does_not_write_never_piles_up_control() -> None:
    """Whatever the peer sends while nothing can be sent, what waits is bounded by the streams it may have."""
    mux = make(client=False)
    stream_id = 1
    for _ in range(SMALL.max_streams):
        mux.receive_data(opening(stream_id), 0.0)
        for _ in range(50):
            window = mux._table.active[stream_id].window
            size = min(60 * KIB, window.limit - window.received)
            mux.receive_data(frame(DATA, stream_id, CHUNK[:size]), 0.0)
            mux.consume(stream_id, size)
        stream_id += 2
    assert len(join(mux.control_to_send(1 << 20))) == SMALL.max_streams * 20
