"""Two sessions against plain byte strings: any sends, splits, cuts, repetitions and reordering."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from tunnelkit.config import Limits

from .link_rules import ENDS, LinkRules
from .session_pair import KIB, Pair

LIMITS = Limits(replay_limit=16 * KIB, control_reserve=2 * KIB, min_message=256)


class SessionModel(LinkRules):
    """What one end wrote is, at all times, a continuation of what the other has read; and in the end equal."""

    @initialize(ordered=st.booleans())
    def start(self, ordered: bool) -> None:
        self.pair = Pair(LIMITS)
        self.ordered = ordered
        self.pair.attach(ordered=ordered)
        self.written = 0

    @rule(name=ENDS, size=st.integers(1, 3000), copies=st.integers(1, 6))
    def write(self, name: str, size: int, copies: int) -> None:
        self.written += 1
        self.end(name).write((self.written.to_bytes(4) * (size // 4 + 1))[:size] * copies)

    @invariant()
    def nothing_is_lost_repeated_or_reordered(self) -> None:
        for end in self.pair.ends:
            peer = self.pair.peer(end)
            assert end.session.received == len(end.read)
            assert peer.wrote.startswith(end.read)
            assert end.session.acked <= peer.session.received <= end.session.sent
            unacknowledged = end.session.sent - end.session.acked
            assert unacknowledged <= LIMITS.replay_limit + LIMITS.control_reserve
            assert end.session.sent + len(end.source.bulk) == len(end.wrote)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.attach(ordered=self.ordered)
            self.pair.settle()


TestSessionModel = SessionModel.TestCase
