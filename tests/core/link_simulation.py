"""A link with a rate, a delay and a send queue, on a virtual clock, between two sessions."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from itertools import count

from tunnelkit.config import Limits

from .session_pair import KIB, End, Pair


class SimulatedLink:
    """Bulk from the client to the server, acks back. ``queue`` is what a socket takes before it is not ready;
    ``slots`` how many of the client's messages may be under way, where each waits for the answer to one before it."""

    def __init__(
        self,
        *,
        rate: float,
        one_way: float,
        queue: int = 128 * KIB,
        max_message: int = 64 * KIB,
        slots: int | None = None,
    ) -> None:
        self.pair = Pair(Limits())
        self.pair.attach(max_message=max_message)
        self.rate = rate
        self.one_way = one_way
        self.queue = queue
        self.slots = slots
        self._under_way = 0  # of the client's messages
        self.sizes: list[int] = []
        self._free_at = dict.fromkeys(self.pair.ends, 0.0)
        self._last_arrival = dict(self._free_at)  # order is kept, also when the delay falls
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    @property
    def now(self) -> float:
        return self.pair.now

    def at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        stop = self.now + seconds
        self._pump_all()
        while True:
            timer = min(end.session.next_timer() or stop for end in self.pair.ends)
            when = min(timer, self._events[0][0] if self._events else stop)
            if when >= stop:
                break
            self.pair.now = max(self.now, when)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            for end in self.pair.ends:
                if (end.session.next_timer() or stop) <= self.now:
                    end.session.handle_timer(self.now, end.last_received)
            self._pump_all()
        self.pair.now = stop

    def small_request_delays(self, requests: int, spacing: float) -> list[float]:
        """How long small frames take, that leave the multiplexer before the bulk that is waiting there."""
        delays: list[float] = []
        for _ in range(requests):
            self.run(spacing)
            client, server = self.pair.client, self.pair.server
            started = self.now
            client.source.control += bytes(300)
            stop = client.session.sent + 300
            while client.source.control:
                self.run(0.005)
            while server.session.received < stop:
                self.run(0.005)
            delays.append(self.now - started)
        return sorted(delays)

    def _pump_all(self) -> None:
        for end in self.pair.ends:
            self._pump(end)

    def _pump(self, end: End) -> None:
        while end.session.has_output:
            queued = (self._free_at[end] - self.now) * self.rate
            if queued >= self.queue:
                self.at(self.now + (queued - self.queue) / self.rate + 1e-9, lambda: None)
                return
            slots = self.slots if end is self.pair.client else None
            if slots is not None and self._under_way >= slots:
                return
            message = end.session.data_to_send(self.now, 1 << 20, slots)
            if not message:
                return
            if end is self.pair.client:
                self._under_way += 1
                self.sizes.append(len(message))
            self._free_at[end] = max(self._free_at[end], self.now) + len(message) / self.rate
            self._last_arrival[end] = max(self._last_arrival[end], self._free_at[end] + self.one_way)
            self.at(self._last_arrival[end], partial(self._arrive, self.pair.peer(end), message))

    def _arrive(self, end: End, message: bytes) -> None:
        if end is self.pair.server:
            self.at(self.now + self.one_way, self._answer)
        end.receive(message, self.now)

    def _answer(self) -> None:
        self._under_way -= 1
