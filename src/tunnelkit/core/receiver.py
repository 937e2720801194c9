"""The receiving half of the multiplexer: frames in, events out."""

from __future__ import annotations

from collections import deque
from typing import Final

from ..errors import RemoteProtocolError
from .company import LARGE
from .events import Data, Event, GoAway, HeadBlock, Opened, Progress, Reset
from .frames import (
    CREDIT,
    DATA,
    DATA_FIN,
    GOAWAY,
    HEAD_MORE,
    OPEN,
    RESET,
    FrameDecoder,
    ResetCode,
    StreamKind,
    parse_number,
    parse_open,
)
from .streams import CLOSED, REMOTE_MOVES, Half, Stream
from .table import StreamTable

__all__ = ["Receiver"]

_KINDS: Final = {int(kind): kind for kind in StreamKind}
# Payloads below this size are joined: an event costs its handler far more than a few bytes cost their sender.
_SMALL: Final = 1024
_IN_HEAD: Final = Half.IN_HEAD


class Receiver:
    """``may_owe`` bounds the resets that may wait to be sent when the peer opens a stream."""

    __slots__ = (
        "_call_began",
        "_decoder",
        "_early_resets",
        "_may_owe",
        "_peer_last",
        "_stillborn",
        "_table",
        "peer_going",
        "refusing",
    )

    def __init__(self, table: StreamTable, may_owe: int) -> None:
        self._table = table
        self._may_owe = may_owe
        self._decoder = FrameDecoder()
        self._call_began = 0  # highest_peer when the present call of receive began
        self._stillborn: set[int] | None = None  # opened and reset within the present call
        self._early_resets: deque[float] | None = None  # when they came; made for the first
        self.refusing = False  # set once we sent GOAWAY
        self.peer_going = False  # the peer sent GOAWAY,
        self._peer_last = 0  # whose lowest last stream was this

    def receive(self, data: bytes | memoryview, now: float) -> list[Event]:
        events: list[Event] = []
        table = self._table
        self._call_began = table.highest_peer
        active = table.active
        for code, stream_id, payload in self._decoder.feed(data):
            stream = active.get(stream_id)
            if stream is None or code == GOAWAY:  # whose header names a stream, but is not for it
                if code == OPEN:
                    self._receive_open(stream_id, payload, events)
                else:
                    self._receive_for_none(code, stream_id, payload, events)
                continue
            before = stream.remote
            after = REMOTE_MOVES[before].get(code)
            if after is None:
                raise _illegal(code, stream)
            stream.remote = after
            if code == DATA or code == DATA_FIN:  # noqa: SIM109 (the hottest line: twice as fast)
                size = len(payload)
                stream.window.receive(size)
                if size >= LARGE:
                    table.company.pieces += 1
                fin = after is CLOSED
                last = events[-1] if events else None
                small = size < _SMALL
                if small and type(last) is Data and last.stream_id == stream_id and len(last.data) < _SMALL:
                    last.data += payload
                    last.fin = fin
                elif payload or fin:
                    events.append(Data(stream_id, payload, fin))
                if fin:
                    self._receive_end(stream)
            elif code == CREDIT:
                self._receive_credit(stream, parse_number(payload), events)
            elif code == RESET:
                self._receive_reset(stream, before, parse_number(payload), now, events)
            else:
                self._receive_head(stream, before, code, payload, events)
        return events if self._stillborn is None else self._without_stillborn(events, self._stillborn)

    # -- streams come --------------------------------------------------------------------------

    def _receive_for_none(self, code: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        """A frame for no stream in the table: GOAWAY, or something late for a stream that is over."""
        if code == GOAWAY:
            self._receive_goaway(stream_id, parse_number(payload), events)
        elif not self._table.was_sent(stream_id):
            raise RemoteProtocolError(f"frame {code:#06x} for stream {stream_id}, never opened", code="stream_id")

    def _receive_open(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        table = self._table
        if stream_id & 1 == table.parity or stream_id <= table.highest_peer:
            raise RemoteProtocolError(f"the peer may not open stream {stream_id}", code="stream_id")
        table.highest_peer = stream_id
        # A stream too many is a race, and whoever refuses one by itself resets it too. But a peer that keeps its
        # limit never makes us owe it more resets than there may be streams: to it, one lasts until it reads that.
        if table.control.waiting and table.control.resets >= self._may_owe:
            raise RemoteProtocolError("far too many streams", code="too_many_streams")
        number, limit, fields = parse_open(payload)
        kind = _KINDS.get(number)
        if kind is None or self.refusing or len(table.active) - table.mine >= table.limits.max_streams:
            return self._refuse(stream_id)
        window = table.pool.open_window(first=False)
        if window is None:
            return self._refuse(stream_id)
        table.add_peers(stream_id, window, limit)
        events.append(Opened(stream_id, kind, fields))
        return None

    def _refuse(self, stream_id: int) -> None:
        # One stream too many: it counts here until what it brought is consumed.
        self._table.control.add_reset(stream_id, ResetCode.REFUSED)

    # -- and bring -----------------------------------------------------------------------------

    def _receive_head(self, stream: Stream, before: Half, code: int, payload: bytes, events: list[Event]) -> None:
        grants = stream.window.pass_on(len(payload))
        if code == HEAD_MORE or before is _IN_HEAD:
            fits = self._table.keep_head(stream.id, payload)
        else:
            fits = len(payload) <= self._table.limits.head_block_limit
        if not fits:
            self._table.abandon(stream, ResetCode.LIMIT)
            self._tell_reset(stream, ResetCode.LIMIT, events)
            return
        if before is _IN_HEAD and code != HEAD_MORE:
            payload = self._table.drop_head(stream.id)
        ended = stream.remote is CLOSED
        if code != HEAD_MORE:
            events.append(HeadBlock(stream.id, payload, ended))
        if ended:
            self._receive_end(stream)
        elif grants:
            self._table.control.add_credit(stream)

    def _receive_end(self, stream: Stream) -> None:
        window = stream.window
        window.end()
        if self._table.control.waiting:
            self._table.control.drop_credit(stream)
        if stream.local is CLOSED and window.consumed == window.received:
            self._table.finish(stream)

    def _receive_credit(self, stream: Stream, limit: int, events: list[Event]) -> None:
        if limit > stream.send_limit:
            stream.send_limit = limit
            events.append(Progress(stream.id, limit))
            self._table.turns.add(stream)

    # -- and go --------------------------------------------------------------------------------

    def _receive_reset(self, stream: Stream, before: Half, code: int, now: float, events: list[Event]) -> None:
        if not stream.mine and not stream.sent and stream.local is not CLOSED:
            self._count_early_reset(now)
        self._table.remove(stream)
        self._tell_reset(stream, code, events)

    def _count_early_reset(self, now: float) -> None:
        """Opening and resetting costs the peer little and us much (CVE-2023-44487): it is rationed."""
        if self._early_resets is None:
            self._early_resets = deque(maxlen=self._table.limits.resets_before_answer)
        early = self._early_resets
        if len(early) == early.maxlen and now - early[0] <= self._table.limits.resets_window:
            raise RemoteProtocolError("too many streams reset before any answer", code="reset_flood")
        early.append(now)

    def _tell_reset(self, stream: Stream, code: int, events: list[Event]) -> None:
        if not stream.mine and stream.id > self._call_began:
            if self._stillborn is None:
                self._stillborn = set()
            self._stillborn.add(stream.id)
        else:
            events.append(Reset(stream.id, code))

    def _without_stillborn(self, events: list[Event], stillborn: set[int]) -> list[Event]:
        self._stillborn = None
        return [event for event in events if isinstance(event, GoAway) or event.stream_id not in stillborn]

    def _receive_goaway(self, last: int, code: int, events: list[Event]) -> None:
        table = self._table
        if last and (last & 1 != table.parity or last > table.highest_sent):
            raise RemoteProtocolError(f"goaway names stream {last}, which was never opened", code="stream_id")
        if self.peer_going and last >= self._peer_last:
            return
        self.peer_going, self._peer_last = True, last
        for stream in [stream for stream in table.active.values() if stream.mine and stream.id > last]:
            table.remove(stream)
            events.append(Reset(stream.id, ResetCode.REFUSED))
        events.append(GoAway(last, code))


def _illegal(code: int, stream: Stream) -> RemoteProtocolError:
    return RemoteProtocolError(f"frame {code:#06x} on {stream!r}", code="stream_state")
