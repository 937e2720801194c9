"""The hazards of the design's section 5 that a session meets, each on two cores and a fake link."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tunnelkit.config import Limits
from tunnelkit.core.message import HEADER_SIZE, Kind, build
from tunnelkit.core.opening import ClientOpening, ServerOpening
from tunnelkit.core.session import State
from tunnelkit.errors import RemoteProtocolError
from tunnelkit.proof import attach_tag

from .session_pair import KIB, End, Pair

RESUME_KEY = bytes(range(32))
DATA = random.Random(1).randbytes(300_000)


def writing_pair(*, ordered: bool = True) -> Pair:
    pair = Pair()
    pair.attach(ordered=ordered)
    for end in pair.ends:
        end.write(DATA)
    return pair


class Opening:
    """A resume, step by step, so that each step can be lost, repeated or overtaken."""

    def __init__(self, pair: Pair, epoch: int) -> None:
        self.pair = pair
        self.epoch = epoch
        tag = attach_tag(RESUME_KEY, "n-1", epoch)
        self.client = ClientOpening(epoch, tag, pair.limits)
        self.server = ServerOpening(epoch, tag, pair.limits)

    def attach_message(self) -> bytes:
        return self.client.attach_message(self.pair.client.session.received)

    def serve(self, message: bytes) -> bytes:
        """The server reads ATTACH: it fences the old connection, then answers. Raises when the epoch is old."""
        attached = self.server.receive_message(message).attached
        assert attached is not None
        session = self.pair.server.session
        if attached.epoch <= session.epoch:
            raise RemoteProtocolError("an older epoch", code="bad_epoch")
        self._take(self.pair.server, attached.peer_ack)
        return self.server.attach_message(session.received)

    def finish(self, answer: bytes) -> None:
        attached = self.client.receive_message(answer).attached
        assert attached is not None
        self._take(self.pair.client, attached.peer_ack)

    def _take(self, end: End, peer_ack: int) -> None:
        if end.session.state is State.ATTACHED:
            end.session.detach(self.pair.now)
        end.session.attach(self.epoch, peer_ack, self.pair.now, max_message=64 * KIB)
        end.last_received = self.pair.now
        self.pair.wires[end].clear()


def test_two_full_pipes_do_not_wait_for_each_other() -> None:
    """Hazard 1, the session's part: with both replay buffers full, acks and control still get out."""
    pair = Pair(Limits(replay_limit=16 * KIB))
    pair.attach()
    for end in pair.ends:
        end.write(bytes(100_000))
        while pair.pull(end):
            pass
        assert not end.session.has_output
    pair.client.source.control += b"credit"
    pair.client.wrote[pair.client.session.sent : pair.client.session.sent] = b"credit"
    assert pair.pull(pair.client)
    for end in pair.ends:
        while pair.wires[end]:
            pair.deliver(end)
        assert end.session.has_output
    pair.settle()


def test_a_resume_while_the_writer_is_inside_send() -> None:
    """Hazard 2: what the old writer took is unacknowledged and goes out again; its late result changes nothing."""
    pair = writing_pair()
    taken = pair.client.session.data_to_send(pair.now, 64 * KIB)
    assert pair.client.session.sent == len(taken) - HEADER_SIZE
    pair.attach()
    pair.client.session.data_to_send(pair.now, 8 * KIB)
    pair.attach()
    again = pair.client.session.data_to_send(pair.now, 64 * KIB)
    assert again[HEADER_SIZE:] == taken[HEADER_SIZE : len(again)]
    pair.server.receive(again, pair.now)
    with pytest.raises(RemoteProtocolError) as caught:
        pair.server.session.receive_message(taken, pair.now)
    assert caught.value.code == "bad_epoch"
    pair.settle()


def test_a_late_result_where_order_is_not_kept() -> None:
    """Hazard 2: the old connection delivers after all, on a transport that may do so."""
    pair = writing_pair(ordered=False)
    taken = pair.client.session.data_to_send(pair.now, 64 * KIB)
    pair.attach(ordered=False)
    assert pair.server.session.receive_message(taken, pair.now) == []
    pair.settle()


@pytest.mark.parametrize("noticing", ["client", "server", "neither"])
def test_only_one_end_notices_the_loss(noticing: str) -> None:
    """Hazard 3: the other writes on into a dead connection, then is fenced by the resume."""
    pair = writing_pair()
    for _ in range(5):
        for end in pair.ends:
            pair.pull(end)
            pair.pull(end)
            pair.deliver(pair.peer(end))
        noticed = [end for end in pair.ends if getattr(pair, noticing, None) is end]
        pair.cut(noticed_by=noticed)
        for end in pair.ends:
            pair.pull(end)
            pair.wires[pair.peer(end)].clear()
        opening = Opening(pair, pair.epoch + 1)
        pair.epoch += 1
        opening.finish(opening.serve(opening.attach_message()))
    pair.settle()


def test_the_client_reads_its_old_connection_on_while_it_moves() -> None:
    """Hazard 3: the server begins again below what the client has by then."""
    pair = writing_pair()
    while pair.pull(pair.server):
        pass
    pair.deliver(pair.client)
    opening = Opening(pair, 2)
    attach = opening.attach_message()
    pair.deliver(pair.client)
    pair.deliver(pair.client)
    answer = opening.serve(attach)
    assert pair.server.session.acked < pair.client.session.received
    opening.finish(answer)
    pair.pull(pair.client)
    pair.deliver(pair.server)
    assert pair.server.session.acked == pair.client.session.received
    pair.settle()


def test_a_resume_is_lost() -> None:
    """Hazard 4: ATTACH arrives and its answer does not; the client tries again with the next epoch."""
    pair = writing_pair()
    pair.pull(pair.server)
    pair.deliver(pair.client)
    pair.cut()
    lost = Opening(pair, 2)
    lost.serve(lost.attach_message())
    pair.server.session.data_to_send(pair.now, 64 * KIB)
    assert pair.client.session.state is State.DETACHED
    again = Opening(pair, 3)
    again.finish(again.serve(again.attach_message()))
    pair.settle()


def test_a_resume_is_repeated() -> None:
    """Hazard 4: the same ATTACH once more, on its connection or on another."""
    pair = writing_pair()
    pair.cut()
    opening = Opening(pair, 2)
    attach = opening.attach_message()
    opening.finish(opening.serve(attach))
    with pytest.raises(RemoteProtocolError):
        pair.server.session.receive_message(attach, pair.now)
    with pytest.raises(RemoteProtocolError):
        Opening(pair, 2).serve(attach)
    assert pair.server.session.state is State.ATTACHED
    pair.settle()


def test_a_resume_is_overtaken_by_another() -> None:
    """Hazard 4: the older one arrives late, and changes nothing."""
    pair = writing_pair()
    pair.cut()
    slow, fast = Opening(pair, 2), Opening(pair, 3)
    late = slow.attach_message()
    fast.finish(fast.serve(fast.attach_message()))
    pair.exchange()
    with pytest.raises(RemoteProtocolError):
        slow.serve(late)
    assert pair.server.session.epoch == 3
    pair.settle()


def test_nothing_is_kept_of_a_cancelled_write() -> None:
    """Hazard 6: whichever message is dropped after it was pulled, the next connection carries its bytes."""
    pair = writing_pair()
    for index in range(30):
        for end in pair.ends:
            for _ in range(index % 3 + 1):
                pair.pull(end)
        for end in pair.ends:
            if pair.wires[end]:
                pair.deliver(end)
        pair.attach()
    pair.settle()


def cut_at_random(pair: Pair, choice: random.Random) -> None:
    """One connection of random length, cut at a random message, noticed by random ends."""
    for _ in range(choice.randrange(12)):
        end = choice.choice(pair.ends)
        pair.pull(end, choice.randrange(100, 20_000))
        if pair.wires[end] and choice.random() < 0.8:
            pair.deliver(end)
    noticed: Sequence[End] = choice.sample(pair.ends, choice.randrange(3))
    pair.cut(noticed_by=noticed)
    for end in pair.ends:
        pair.pull(end)
    pair.attach()


@pytest.mark.parametrize("seed", range(10))
def test_random_cuts(seed: int) -> None:
    """Hazards 2, 3 and 6 together."""
    choice = random.Random(seed)
    pair = writing_pair()
    for _ in range(100):
        cut_at_random(pair, choice)
    pair.settle()


class SlowLink:
    """One direction at a fixed rate: a message arrives when its last byte has passed. The writer waits its turn."""

    def __init__(self, pair: Pair, sender: End, rate: float) -> None:
        self.pair = pair
        self.sender = sender
        self.rate = rate
        self.message = b""
        self.done_at = 0.0

    def step(self) -> None:
        if self.message and self.pair.now >= self.done_at:
            self.pair.peer(self.sender).receive(self.message, self.pair.now)
            self.message = b""
        if not self.message:
            self.message = self.sender.session.data_to_send(self.pair.now, 64 * KIB)
            self.done_at = self.pair.now + len(self.message) / self.rate

    def cut(self) -> None:
        self.message = b""


@pytest.mark.parametrize("rate", [32_000, 8_000])
def test_one_cut_a_second_on_a_slow_link_still_makes_progress(rate: int) -> None:
    """Hazard 8: a message that no connection lives long enough for would be begun for ever."""
    pair = Pair()
    pair.attach()
    for end in pair.ends:
        end.write(DATA)
    links = [SlowLink(pair, end, rate) for end in pair.ends]
    seconds = 20
    for second in range(seconds):
        for _ in range(100):
            pair.now += 0.01
            for link in links:
                link.step()
            for end in pair.ends:
                end.session.handle_timer(pair.now, pair.now)
        for link in links:
            link.cut()
        if second % 3:
            pair.attach()
        else:
            opening = Opening(pair, pair.epoch + 1)
            pair.epoch += 1
            opening.finish(opening.serve(opening.attach_message()))
    for end in pair.ends:
        assert len(end.read) >= 0.4 * rate * seconds or end.read == DATA


def test_an_impossible_ack_ends_a_session_that_lost_its_memory() -> None:
    """Hazard 4, its limit: a server that started anew cannot resume, and says so rather than give wrong bytes."""
    pair = writing_pair()
    pair.settle()
    pair.cut()
    with pytest.raises(RemoteProtocolError) as caught:
        pair.client.session.attach(2, 0, pair.now, max_message=64 * KIB)
    assert caught.value.code == "bad_ack"
    assert pair.client.session.state is State.GONE
    assert pair.client.session.receive_message(build(Kind.DATA, 2, 0, 0, [b"x"]), pair.now) == []
