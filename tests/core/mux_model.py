"""One end of streams as its application sees them, and the moves that applications make, for stateful models."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tunnelkit.config import KIB, Limits
from tunnelkit.core.budget import Budget
from tunnelkit.core.events import Data, Event, GoAway, HeadBlock, Opened, Reset
from tunnelkit.core.failures import GoingAway, NoRoom
from tunnelkit.core.frames import StreamKind
from tunnelkit.core.multiplexer import Multiplexer
from tunnelkit.core.streams import Half

from .mux_pair import SMALL, make

__all__ = ["LIMITS", "MAY", "WHO", "End", "StreamRules"]

# Windows of a few hundred bytes: every bound is reached within a few steps.
LIMITS = replace(
    SMALL,
    max_streams=4,
    receive_budget=4 * KIB,
    stream_floor=200,
    stream_first_window=500,
    stream_max_window=600,
    send_buffer=600,
    frame_payload=150,
    head_limit=500,
    head_block_limit=500,
    max_buffered_bytes=16 * KIB,
)
MAY = st.integers(0, 3)
WHO = st.booleans()


class End:
    """One multiplexer, what its application did on every stream, and the bytes on their way to it."""

    def __init__(self, client: bool, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.budget = Budget(limits.max_buffered_bytes)
        self.mux: Multiplexer = make(client=client, limits=limits, budget=self.budget)
        self.incoming = bytearray()
        self.sent: dict[int, list[Any]] = defaultdict(list)
        self.received: dict[int, list[Any]] = defaultdict(list)
        self.unconsumed: dict[int, int] = defaultdict(int)
        self.ended: set[int] = set()  # our half
        self.peer_ended: set[int] = set()
        self.opened: set[int] = set()
        self.reset: set[int] = set()  # by whomever
        self.resets_told: set[int] = set()
        self.going = False

    def live(self) -> list[int]:
        return sorted(self.mux.streams)

    def may_open(self) -> bool:
        """No GOAWAY came, and there is room among the peer's streams, in the session's memory and in the process'."""
        pool, table = self.mux._table.pool, self.mux._table
        mine = sum(stream % 2 == table.parity for stream in table.active)
        memory = (pool.open + 1) * pool.floor + pool.above <= pool.size and self.budget.free >= pool.per_stream
        return not self.going and mine < self.limits.max_streams and memory

    def note_sent(self, stream: int, item: Any) -> None:
        _append(self.sent[stream], item)

    def handle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Opened):
                assert event.stream_id not in self.opened
                self.opened.add(event.stream_id)
            elif isinstance(event, HeadBlock):
                self._receive(event.stream_id, ("head", event.block), event.fin)
            elif isinstance(event, Data):
                self.unconsumed[event.stream_id] += len(event.data)
                self._receive(event.stream_id, event.data, event.fin)
            elif isinstance(event, Reset):
                assert event.stream_id not in self.resets_told
                self.resets_told.add(event.stream_id)
                self.reset.add(event.stream_id)
            elif isinstance(event, GoAway):
                self.going = True

    def _receive(self, stream: int, item: Any, fin: bool) -> None:
        assert stream in self.opened
        assert stream not in self.peer_ended
        assert stream not in self.reset
        _append(self.received[stream], item)
        if fin:
            self.peer_ended.add(stream)

    def check(self) -> None:
        table = self.mux._table
        pool = table.pool
        assert pool.granted <= self.limits.receive_budget
        assert pool.open == len(table.active)
        for stream in table.active.values():
            window = stream.window
            assert window.limit - window.consumed <= self.limits.stream_max_window
            assert stream.sent <= stream.send_limit
            assert stream.buffered == sum(len(data) for _code, data in stream.out)
            assert stream.queued == stream.sendable
            assert window.ended == (stream.remote is Half.CLOSED)
            assert not (window.ended and stream.id in table.control._credits)
            assert stream.id not in table.starved or stream.buffered
            assert Half.GONE not in (stream.local, stream.remote)
        windows = [stream.window for stream in table.active.values()]
        outstanding = [(w.received if w.ended else w.limit) - w.consumed for w in windows]
        assert pool.above >= sum(max(0, size - self.limits.stream_floor) for size in outstanding)
        floors = pool.open * pool.per_stream
        buffered = sum(max(0, stream.buffered - self.limits.frame_payload) for stream in table.active.values())
        heads = sum(map(len, table.heads.values()))
        assert self.budget.used == floors + pool.above + buffered + heads
        assert self.budget.used <= self.budget.capacity
        assert self.mux.has_output == bool(table.control.waiting or table.turns.size)


def _append(items: list[Any], item: Any) -> None:
    """Data has no borders, head blocks have."""
    if isinstance(item, bytes) and items and isinstance(items[-1], bytes):
        items[-1] += item
    elif item != b"":
        items.append(item)


def _is_prefix(items: list[Any], whole: list[Any]) -> bool:
    if not items:
        return True
    head, last = items[:-1], items[-1]
    if len(items) > len(whole) or head != whole[: len(head)]:
        return False
    other = whole[len(head)]
    return bool(last == other or (isinstance(last, bytes) and isinstance(other, bytes) and other.startswith(last)))


class StreamRules(RuleBasedStateMachine):
    """What applications do with the streams of two multiplexers, at any time."""

    ends: list[End]  # server, client
    counter = 0

    def _pick(self, who: bool, which: int) -> tuple[End, int] | None:
        end = self.ends[who]
        live = end.live()
        return (end, live[which % len(live)]) if live else None

    def _bytes(self, size: int) -> bytes:
        self.counter += 1
        return (self.counter.to_bytes(4, "big") * (size // 4 + 1))[:size]

    @rule(who=WHO)
    def open(self, who: bool) -> None:
        end = self.ends[who]
        could = end.may_open()
        try:
            stream = end.mux.open_stream(StreamKind.BYTES)
        except (NoRoom, GoingAway):
            assert not could
        else:
            assert could
            end.opened.add(stream)

    @rule(who=WHO, which=MAY, size=st.integers(0, 500), fin=st.booleans())
    def send_head(self, who: bool, which: int, size: int, fin: bool) -> None:
        if (picked := self._pick(who, which)) and picked[1] not in picked[0].ended:
            end, stream = picked
            block = self._bytes(size)
            if end.mux.send_room(stream) >= size:
                end.mux.send_head(stream, block, fin=fin)
                end.note_sent(stream, ("head", block))
                self._note_end(end, stream, fin)

    @rule(who=WHO, which=MAY, size=st.integers(0, 700), fin=st.booleans())
    def send_data(self, who: bool, which: int, size: int, fin: bool) -> None:
        if (picked := self._pick(who, which)) and picked[1] not in picked[0].ended:
            end, stream = picked
            data = self._bytes(min(size, end.mux.send_room(stream)))
            end.mux.send_data(stream, data, fin=fin)
            end.note_sent(stream, data)
            self._note_end(end, stream, fin)

    @rule(who=WHO, which=MAY)
    def send_fin(self, who: bool, which: int) -> None:
        if (picked := self._pick(who, which)) and picked[1] not in picked[0].ended:
            picked[0].mux.send_fin(picked[1])
            self._note_end(*picked, True)

    def _note_end(self, end: End, stream: int, fin: bool) -> None:
        if fin:
            end.ended.add(stream)

    @rule(who=WHO, which=MAY, share=st.floats(0, 1))
    def consume(self, who: bool, which: int, share: float) -> None:
        if picked := self._pick(who, which):
            end, stream = picked
            size = round(end.unconsumed[stream] * share)
            end.unconsumed[stream] -= size
            end.mux.consume(stream, size)

    @rule(who=WHO, which=MAY, code=st.integers(1, 9))
    def reset(self, who: bool, which: int, code: int) -> None:
        if picked := self._pick(who, which):
            end, stream = picked
            end.reset.add(stream)
            end.mux.reset(stream, code)
            assert stream not in end.mux.streams

    @rule(who=WHO, which=MAY)
    def withdraw(self, who: bool, which: int) -> None:
        if picked := self._pick(who, which):
            end, stream = picked
            sent = end.mux.was_sent(stream)
            assert end.mux.withdraw(stream) is not sent
            if not sent:
                end.reset.add(stream)

    @rule(who=WHO, chance=st.integers(0, 19))
    def goaway(self, who: bool, chance: int) -> None:
        if chance == 0:
            self.ends[who].mux.goaway()

    @invariant()
    def everything_adds_up(self) -> None:
        for end in getattr(self, "ends", []):
            end.check()

    def check_what_arrived(self) -> None:
        """In the end: every stream's bytes, and nothing is left."""
        for end, other in (self.ends, reversed(self.ends)):
            end.check()
            # Whatever the order in which streams ended, nothing is left of them, and no memory is counted.
            assert not end.mux.streams
            assert end.budget.used == 0
            for stream in end.opened | other.opened:
                if stream in end.reset | other.reset:
                    assert _is_prefix(end.received[stream], other.sent[stream])
                else:
                    assert end.received[stream] == other.sent[stream]
                    assert stream in end.peer_ended

    def finish(self, end: End) -> None:
        """The application has read all it was given, and ends its half of every stream."""
        for stream in end.live():
            end.mux.consume(stream, end.unconsumed.pop(stream, 0))
        for stream in end.live():
            if stream not in end.ended:
                end.mux.send_fin(stream)
                end.ended.add(stream)
