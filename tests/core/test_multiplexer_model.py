"""Two multiplexers against a model of plain byte strings: any operations, any pulls, any splits of the flow."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from .mux_model import MAY, WHO, End, StreamRules
from .mux_pair import join


class TwoEnds(StreamRules):
    @initialize()
    def begin(self) -> None:
        self.ends = [End(client=False), End(client=True)]

    @rule(who=WHO, limit=st.one_of(st.integers(0, 60), st.integers(100, 5000)), turn=st.integers(0, 2000))
    def pull(self, who: bool, limit: int, turn: int = 0) -> None:
        message = join(self.ends[who].mux.frames_to_send(limit, turn))
        assert len(message) <= limit
        self.ends[not who].incoming += message
        for event in self.ends[who].mux.take_room_events():
            assert self.ends[who].mux.send_room(event.stream_id) > 0

    @rule(who=WHO, limit=st.integers(0, 100))
    def pull_control(self, who: bool, limit: int) -> None:
        message = join(self.ends[who].mux.control_to_send(limit))
        assert len(message) <= limit
        self.ends[not who].incoming += message

    @rule(who=WHO, share=st.floats(0, 1))
    def deliver(self, who: bool, share: float) -> None:
        end = self.ends[who]
        size = round(len(end.incoming) * share)
        part = bytes(end.incoming[:size])
        del end.incoming[:size]
        end.handle(end.mux.receive_data(part, 0.0))

    @rule(who=WHO, stalled=MAY)
    def flow(self, who: bool, stalled: int) -> None:
        """All streams but one move on: windows rise only where much is read."""
        self.pull(who, 5000)
        self.deliver(not who, 1.0)
        end = self.ends[not who]
        for stream in end.live():
            if stream % 4 != stalled:
                end.mux.consume(stream, end.unconsumed.pop(stream, 0))

    def teardown(self) -> None:
        if not hasattr(self, "ends"):
            return
        for end in self.ends:
            self.finish(end)
        while self._move():
            pass
        self.check_what_arrived()

    def _move(self) -> bool:
        """Both ends read all they are given, and send all they may."""
        moved = False
        for who in (False, True):
            self.finish(self.ends[who])
            if self.ends[who].mux.has_output:
                self.pull(who, 5000)
                moved = True
            if self.ends[not who].incoming:
                self.deliver(not who, 1.0)
                moved = True
            self.finish(self.ends[not who])  # what was just opened
        return moved


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(stateful_step_count=60)
