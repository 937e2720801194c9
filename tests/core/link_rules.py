"""What a link does to two sessions, for stateful models: messages are pulled, lost, cut, repeated and reordered."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tunnelkit.core.session import State

from .session_pair import KIB, End, Pair

__all__ = ["ENDS", "LinkRules"]

ENDS = st.sampled_from(["client", "server"])


class LinkRules(RuleBasedStateMachine):
    pair: Pair
    ordered: bool

    def end(self, name: str) -> End:
        return self.pair.client if name == "client" else self.pair.server

    def attached(self, name: str) -> bool:
        return self.end(name).session.state is State.ATTACHED

    @rule(name=ENDS, limit=st.integers(25, 8000))
    def pull(self, name: str, limit: int) -> None:
        message = self.pair.pull(self.end(name), limit)
        assert len(message) <= limit or not self.attached(name)

    @rule(name=ENDS, limit=st.integers(25, 8000))
    def pull_what_is_never_sent(self, name: str, limit: int) -> None:
        """Hazards 2 and 6: a message that was pulled, and its connection died with it."""
        end = self.end(name)
        if end.session.data_to_send(self.pair.now, limit):
            self.pair.cut()

    @rule(name=ENDS, count=st.integers(1, 10))
    def deliver(self, name: str, count: int) -> None:
        end = self.end(name)
        for _ in range(min(count, len(self.pair.wires[end]))):
            self.pair.deliver(end)

    @rule(name=ENDS)
    def flush(self, name: str) -> None:
        end = self.end(name)
        while self.pair.pull(end):
            pass

    @precondition(lambda self: not self.ordered)
    @rule(name=ENDS, data=st.data())
    def deliver_out_of_turn(self, name: str, data: st.DataObject) -> None:
        end = self.end(name)
        wire = self.pair.wires[end]
        if wire:
            index = data.draw(st.integers(0, len(wire) - 1))
            end.receive(wire[index], self.pair.now)
            if data.draw(st.booleans()):
                del wire[index]

    @rule(name=ENDS)
    def only_one_end_notices(self, name: str) -> None:
        """Hazard 3: the other writes on, into the void."""
        self.pair.cut(noticed_by=[self.end(name)])

    @rule()
    def both_ends_notice(self) -> None:
        self.pair.cut()

    @rule(late=st.booleans())
    def resume(self, late: bool) -> None:
        """The answer to ATTACH says what the server has. The client may have read its old connection on meanwhile."""
        pair = self.pair
        told = pair.client.session.received
        if late:
            self.deliver("client", 3)
        for end in pair.ends:
            if end.session.state is State.ATTACHED:
                end.session.detach(pair.now)
        for wire in pair.wires.values():
            wire.clear()
        pair.epoch += 1
        peer_acks = {pair.server: told, pair.client: pair.server.session.received}
        for end, ack in peer_acks.items():
            end.session.attach(pair.epoch, ack, pair.now, max_message=64 * KIB, ordered=self.ordered)
            end.last_received = pair.now

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.5]))
    def wait(self, seconds: float) -> None:
        pair = self.pair
        pair.now += seconds
        for end in pair.ends:
            end.last_received = pair.now
            end.session.handle_timer(pair.now, end.last_received)
