"""Sessions and multiplexers together against plain byte strings: what applications wrote on each stream arrives as it
was, however the link between them cuts, reorders, repeats and swallows messages, and whatever is cancelled."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from tunnelkit.core.session import Session

from . import session_pair
from .link_rules import LinkRules
from .mux_model import LIMITS, MAY, WHO, End, StreamRules
from .session_pair import KIB

# Windows above the replay buffer's size, so that it is full while streams still have credit.
SMALL = replace(
    LIMITS,
    replay_limit=8 * KIB,
    control_reserve=2 * KIB,
    min_message=256,
    receive_budget=24 * KIB,
    stream_first_window=4 * KIB,
    stream_max_window=6 * KIB,
    send_buffer=6 * KIB,
    frame_payload=1500,
)


class StackEnd(session_pair.End):
    """One end: the session, which takes what it sends from the multiplexer, and the application above it."""

    def __init__(self, app: End) -> None:
        self.app = app
        self.session = Session(source=app.mux, limits=SMALL, peer_window=SMALL.replay_limit, budget=None)
        self.last_received = 0.0

    def receive(self, message: bytes, now: float) -> None:
        self.last_received = now
        for piece in self.session.receive_message(message, now):
            self.app.handle(self.app.mux.receive_data(piece, now))


class StackPair(session_pair.Pair):
    def __init__(self, server: End, client: End) -> None:
        super().__init__(SMALL)
        self.client, self.server = StackEnd(client), StackEnd(server)
        self.wires = {end: self.wires.popitem()[1] for end in (self.client, self.server)}


class Stack(StreamRules, LinkRules):
    @initialize(ordered=st.booleans())
    def begin(self, ordered: bool) -> None:
        self.ends = [End(client=False, limits=SMALL), End(client=True, limits=SMALL)]
        self.pair = StackPair(*self.ends)
        self.ordered = ordered
        self.pair.attach(ordered=ordered)

    @rule(who=WHO, which=MAY)
    def send_all_that_fits(self, who: bool, which: int) -> None:
        if (picked := self._pick(who, which)) and picked[1] not in picked[0].ended:
            end, stream = picked
            data = self._bytes(end.mux.send_room(stream))
            end.mux.send_data(stream, data)
            end.note_sent(stream, data)

    @rule()
    def rooms(self) -> None:
        for end in self.ends:
            end.mux.take_room_events()

    @rule()
    def everything_flows(self) -> None:
        """Now and then all is well for a while: windows rise, acknowledgements free the replay buffers."""
        self.resume(late=True)
        for end in self.ends:
            for stream in end.live():
                end.mux.consume(stream, end.unconsumed.pop(stream, 0))
        self.pair.advance(0.1)

    @invariant()
    def what_is_unacknowledged_is_bounded(self) -> None:
        for end in self.pair.ends if hasattr(self, "pair") else ():
            session, peer = end.session, self.pair.peer(end).session
            assert session.acked <= peer.received <= session.sent
            assert session.sent - session.acked <= SMALL.replay_limit + SMALL.control_reserve

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        self.pair.attach(ordered=self.ordered)
        for _ in range(1000):  # each turn moves at least a window; without the bound a stall would never end
            for end in self.ends:
                self.finish(end)
            self.pair.advance(0.1)
            if not any(end.mux.streams or end.mux.has_output for end in self.ends):
                break
        self.check_what_arrived()
        for stack in self.pair.ends:
            assert stack.session.acked == stack.session.sent == self.pair.peer(stack).session.received


TestStack = Stack.TestCase
TestStack.settings = settings(stateful_step_count=80)
