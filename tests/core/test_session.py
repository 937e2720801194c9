from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tunnelkit.config import MIB, Limits
from tunnelkit.core.budget import Budget
from tunnelkit.core.failures import ConnectionFailed
from tunnelkit.core.inbound import ACK_BESIDE
from tunnelkit.core.inflight import AMPLE, AMPLE_BESIDE
from tunnelkit.core.liveness import LIVE_PING_LIMIT
from tunnelkit.core.message import HEADER_SIZE, IGNORABLE, MAX_EPOCH, Kind, build, split_header
from tunnelkit.core.session import TRANSITIONS, Input, Session, State
from tunnelkit.errors import LocalProtocolError, RemoteProtocolError

from .session_pair import ByteSource, End, Pair

LIMITS = Limits()
ROOM = 64 * 1024


def make(*, ordered: bool = True, pings: bool = True, sent: bytes = b"") -> Session:
    """A session that was attached at second 0 with epoch 2, and has sent ``sent``."""
    source = ByteSource()
    source.bulk += sent
    session = Session(source=source, limits=LIMITS, peer_window=LIMITS.replay_limit, budget=None)
    session.attach(2, 0, 0.0, max_message=ROOM, ordered=ordered, pings=pings)
    if sent:
        assert session.data_to_send(0.0, ROOM)[HEADER_SIZE:] == sent
    return session


# Functions, because the type checker would remember an attribute's value over the calls that change it.
def ready(session: Session) -> bool:
    return session.has_output


def round_trip(session: Session) -> float | None:
    return session.round_trip


def progressed(session: Session) -> bool:
    return session.progressed


def refused(session: Session, message: bytes) -> str:
    before = repr(session)
    with pytest.raises(RemoteProtocolError) as caught:
        session.receive_message(message, 0.0)
    assert repr(session) == before
    return caught.value.code


# -- the table -----------------------------------------------------------------------------------


def detached() -> Session:
    session = make(sent=b"0123456789")
    session.detach(0.0)
    return session


def closing() -> Session:
    session = make()
    session.close("shutdown", 0.0)
    return session


def gone() -> Session:
    session = closing()
    session.data_to_send(0.0, ROOM)
    return session


def attach(session: Session) -> None:
    session.attach(3, session.acked, 1.0, max_message=ROOM)


def refuse(session: Session) -> None:
    with pytest.raises(RemoteProtocolError):
        session.attach(3, 1000, 1.0, max_message=ROOM)


def send_bye(session: Session) -> None:
    message = session.data_to_send(1.0, ROOM)
    if not message or split_header(message)[0] != Kind.BYE:
        raise LocalProtocolError("no BYE")


def receive_bye(session: Session) -> None:
    session.receive_message(build(Kind.BYE, 2, 0, 0, [b"over"]), 1.0)
    if session.peer_bye != "over":
        raise LocalProtocolError("BYE was ignored")


STATES: dict[State, Callable[[], Session]] = {
    State.DETACHED: detached,
    State.ATTACHED: make,
    State.CLOSING: closing,
    State.GONE: gone,
}
MOVES: dict[Input, Callable[[Session], None]] = {
    Input.ATTACH: attach,
    Input.REFUSE: refuse,
    Input.DETACH: lambda session: session.detach(1.0),
    Input.CLOSE: lambda session: session.close("again", 1.0),
    Input.SEND_BYE: send_bye,
    Input.RECEIVE_BYE: receive_bye,
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("move", Input)
def test_every_pair_of_state_and_input(state: State, move: Input) -> None:
    session = STATES[state]()
    assert session.state is state
    if (state, move) in TRANSITIONS:
        MOVES[move](session)
        assert session.state is TRANSITIONS[state, move]
    else:
        with pytest.raises(LocalProtocolError):
            MOVES[move](session)
        assert session.state is state


@pytest.mark.parametrize("state", [state for state in State if state is not State.ATTACHED])
def test_late_calls_change_nothing(state: State) -> None:
    """The link's tasks may still hold a message or a timer of a connection that is over."""
    session = STATES[state]()
    before = repr(session)
    for message in (build(Kind.DATA, 2, 0, 0, [b"late"]), b"garbage"):
        assert session.receive_message(message, 1.0) == []
    session.handle_timer(1e9, 0.0)
    session.active = True
    assert repr(session) == before
    assert session.next_timer() is None
    if state is not State.CLOSING:
        assert not ready(session)
        assert session.data_to_send(1.0, ROOM) == b""


# -- attach --------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 1, 2, MAX_EPOCH + 1])
def test_epochs_rise(epoch: int) -> None:
    session = detached()
    with pytest.raises(LocalProtocolError) as caught:
        session.attach(epoch, 0, 1.0, max_message=ROOM)
    assert caught.value.code == "bad_epoch"
    assert session.state is State.DETACHED
    session.attach(MAX_EPOCH, 0, 1.0, max_message=ROOM)
    assert session.epoch == MAX_EPOCH


def test_a_session_that_cannot_resume_is_gone() -> None:
    budget = Budget(1 << 20)
    source = ByteSource()
    source.bulk += bytes(20_000)
    session = Session(source=source, limits=LIMITS, peer_window=LIMITS.replay_limit, budget=budget)
    session.attach(1, 0, 0.0, max_message=ROOM)
    while session.data_to_send(0.0, ROOM):
        pass
    assert budget.used
    session.detach(0.0)
    with pytest.raises(RemoteProtocolError) as caught:
        session.attach(2, 20_001, 1.0, max_message=ROOM)
    assert caught.value.code == "bad_ack"
    assert session.state is State.GONE
    assert budget.used == 0


def test_what_was_not_received_goes_out_again() -> None:
    session = make(sent=b"0123456789")
    session.detach(1.0)
    assert session.sent == 10
    session.attach(3, 4, 2.0, max_message=ROOM)
    assert ready(session)
    message = session.data_to_send(2.0, ROOM)
    assert split_header(message) == (Kind.DATA, 0, 0, 3, 4, 0)
    assert message[HEADER_SIZE:] == b"456789"
    assert not ready(session)


def test_progress_is_an_offset_that_moved() -> None:
    session = make(sent=b"0123456789")
    assert not progressed(session)
    session.receive_message(build(Kind.ACK, 2, 0, 1), 0.0)
    assert progressed(session)
    session.detach(1.0)
    session.attach(3, 10, 1.0, max_message=ROOM)
    assert not progressed(session)
    session.receive_message(build(Kind.DATA, 3, 0, 10, [b"x"]), 1.0)
    assert progressed(session)


# -- receiving -----------------------------------------------------------------------------------


def test_bytes_come_out_and_offsets_move() -> None:
    session = make(sent=b"0123456789")
    assert session.receive_message(build(Kind.DATA, 2, 0, 4, [b"abc"]), 0.0) == [b"abc"]
    assert (session.received, session.sent, session.acked) == (3, 10, 4)
    assert repr(session) == "<Session ATTACHED epoch 2 received 3 sent 10 acked 4>"


def test_a_lower_ack_is_ignored() -> None:
    session = make(sent=b"0123456789")
    for ack in (5, 3):
        session.receive_message(build(Kind.ACK, 2, 0, ack), 0.0)
    assert session.acked == 5


def test_an_ack_beyond_what_was_sent() -> None:
    assert refused(make(sent=b"0123456789"), build(Kind.ACK, 2, 0, 11)) == "bad_ack"
    assert refused(make(sent=b"0123456789"), build(Kind.DATA, 2, 0, 11, [b"x"])) == "bad_ack"


def test_an_offset_beyond_the_window() -> None:
    assert refused(make(ordered=False), build(Kind.DATA, 2, 1 << 40, 0, [b"x"])) == "bad_offset"


def test_a_gap_where_order_is_kept() -> None:
    assert refused(make(), build(Kind.DATA, 2, 1, 0, [b"x"])) == "gap"


def test_a_gap_where_order_is_not_kept() -> None:
    session = make(ordered=False)
    assert session.receive_message(build(Kind.DATA, 2, 1, 0, [b"bc"]), 0.0) == []
    assert session.receive_message(build(Kind.DATA, 2, 0, 0, [b"a"]), 0.0) == [b"a", b"bc"]
    assert session.next_timer() == LIMITS.ack_delay


def test_an_unfilled_gap_fails_the_connection() -> None:
    session = make(ordered=False, pings=False)
    session.receive_message(build(Kind.DATA, 2, 1, 0, [b"bc"]), 0.0)
    session.handle_timer(LIMITS.ack_delay, 0.0)
    assert session.next_timer() == LIMITS.gap_timeout
    with pytest.raises(ConnectionFailed) as caught:
        session.handle_timer(LIMITS.gap_timeout, LIMITS.gap_timeout)
    assert caught.value.code == "gap_timeout"
    session.detach(LIMITS.gap_timeout)
    assert session.received == 0


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_older_epoch_is_a_straggler_only_without_order(epoch: int) -> None:
    message = build(Kind.DATA, epoch, 0, 0, [b"x"])
    assert refused(make(), message) == "bad_epoch"
    session = make(ordered=False)
    assert session.receive_message(message, 0.0) == []
    assert session.received == 0


@pytest.mark.parametrize("ordered", [True, False])
def test_a_later_epoch_is_an_error(ordered: bool) -> None:
    assert refused(make(ordered=ordered), build(Kind.DATA, 3, 0, 0, [b"x"])) == "bad_epoch"


def test_an_unknown_kind_is_skipped_when_it_may_be() -> None:
    later = bytearray(build(99, 2, 5, 1000, [b"x"]))
    assert refused(make(), bytes(later)) == "unknown_message"
    later[1] = IGNORABLE
    assert make().receive_message(bytes(later), 0.0) == []


def test_reserved_bits_and_short_messages() -> None:
    data = bytearray(build(Kind.DATA, 2, 0, 0, [b"x"]))
    data[1] = 1
    assert refused(make(), bytes(data)) == "reserved_bits"
    data[1:4] = b"\0\0\1"
    assert refused(make(), bytes(data)) == "reserved_bits"
    assert refused(make(), bytes(data[:23])) == "short_message"


def test_data_with_the_ignorable_flag_is_data() -> None:
    data = bytearray(build(Kind.DATA, 2, 0, 0, [b"x"]))
    data[1] = IGNORABLE
    assert make().receive_message(bytes(data), 0.0) == [b"x"]


def test_what_the_kinds_may_carry() -> None:
    assert refused(make(), build(Kind.DATA, 2, 0, 0)) == "empty_data"
    assert refused(make(), build(Kind.ACK, 2, 0, 0, [b"x"])) == "bad_ack"
    assert refused(make(), build(Kind.BYE, 2, 0, 0)) == "bad_bye"
    too_long = bytes(LIVE_PING_LIMIT + 1)
    assert refused(make(), build(Kind.PING, 2, 0, 0, [too_long])) == "ping_too_long"
    assert refused(make(), build(Kind.PONG, 2, 0, 0, [too_long])) == "ping_too_long"


def test_a_second_attach_is_a_repetition_only_without_order() -> None:
    message = build(Kind.ATTACH, 2, 0, 0)
    assert refused(make(), message) == "unexpected_attach"
    assert make(ordered=False).receive_message(message, 0.0) == []


# -- sending -------------------------------------------------------------------------------------


def test_acks_ride_on_every_message() -> None:
    session = make()
    session.receive_message(build(Kind.DATA, 2, 0, 0, [b"abc"]), 0.0)
    assert not ready(session)
    assert session.data_to_send(0.0, ROOM) == b""
    session = make(sent=b"xyz")
    session.receive_message(build(Kind.DATA, 2, 0, 0, [b"abc"]), 0.0)
    session.receive_message(build(Kind.PING, 2, 0, 0, [b"?"]), 0.0)
    assert session.data_to_send(0.0, ROOM) == build(Kind.PONG, 2, 0, 3, [b"?"])
    session.handle_timer(1.0, 1.0)
    assert not ready(session)


def test_an_ack_goes_alone_after_its_delay() -> None:
    session = make()
    session.receive_message(build(Kind.DATA, 2, 0, 0, [b"abc"]), 1.0)
    assert session.next_timer() == 1.0 + LIMITS.ack_delay
    session.handle_timer(1.0 + LIMITS.ack_delay, 1.0)
    assert ready(session)
    assert session.data_to_send(1.1, ROOM) == build(Kind.ACK, 2, 0, 3)
    assert not ready(session)


def test_an_ack_goes_alone_after_an_eighth_of_the_window() -> None:
    session = make()
    piece = bytes(LIMITS.replay_limit // 8)
    session.receive_message(build(Kind.DATA, 2, 0, 0, [piece]), 1.0)
    assert session.data_to_send(1.0, ROOM) == build(Kind.ACK, 2, 0, len(piece))


def test_the_answer_to_the_last_ping_only() -> None:
    session = make()
    for payload in (b"first", b"second"):
        session.receive_message(build(Kind.PING, 2, 0, 0, [payload]), 0.0)
    assert ready(session)
    assert session.data_to_send(0.0, ROOM) == build(Kind.PONG, 2, 0, 0, [b"second"])
    assert session.data_to_send(0.0, ROOM) == b""


def test_silence_is_asked_about_and_the_answer_measured() -> None:
    session = make()
    assert round_trip(session) is None
    assert session.next_timer() == LIMITS.ping_idle_silence
    session.handle_timer(20.0, 0.0)
    assert ready(session)
    ping = session.data_to_send(20.0, ROOM)
    assert split_header(ping) == (Kind.PING, 0, 0, 2, 0, 0)
    session.receive_message(build(Kind.PONG, 2, 0, 0, [b"another"]), 20.1)
    assert round_trip(session) is None
    assert not progressed(session)
    session.receive_message(build(Kind.PONG, 2, 0, 0, [ping[HEADER_SIZE:]]), 20.25)
    assert round_trip(session) == 0.25
    assert progressed(session)  # an idle connection is worth something too
    session.handle_timer(30.0, 20.25)
    assert session.next_timer() == 40.25


def test_silence_ends_the_connection() -> None:
    session = make()
    session.active = True
    assert session.active
    assert session.next_timer() == 5.0
    session.handle_timer(5.0, 0.0)
    assert session.next_timer() == 10.0
    with pytest.raises(ConnectionFailed) as caught:
        session.handle_timer(10.0, 0.0)
    assert caught.value.code == "ping_timeout"
    session.detach(10.0)
    assert session.next_timer() is None


def test_setting_active_again_moves_no_timer() -> None:
    session = make()
    session.active = False
    assert session.next_timer() == LIMITS.ping_idle_silence


def test_a_connection_with_its_own_liveness_gets_no_pings() -> None:
    session = make(pings=False)
    assert session.next_timer() is None
    session.active = True
    session.handle_timer(1e6, 0.0)
    assert not ready(session)
    assert session.next_timer() is None


def test_asking_for_a_sign_of_life() -> None:
    """A silent client is asked before a newcomer is refused."""
    session = make(pings=False)
    session.ask()
    assert ready(session)
    assert split_header(session.data_to_send(0.0, ROOM))[0] == Kind.PING
    assert not ready(session)
    session.detach(0.0)
    session.ask()
    session.attach(3, 0, 1.0, max_message=ROOM)
    assert not ready(session)


def on_a_short_way() -> Pair:
    pair = Pair()
    pair.attach()
    for end in pair.ends:
        end.write(b"x")
        pair.pull(end)
        pair.now += 0.00001
        pair.deliver(pair.peer(end))
    return pair


def passes(pair: Pair, *, at: Callable[[End], None]) -> Iterator[Kind]:
    """The client's bytes, a message in each moment: what is sent meanwhile. ``at`` hears who was told something. By
    itself a peer acknowledges an eighth of its window, 512 KiB."""
    while pair.server.read != pair.client.wrote:
        for end in pair.ends:
            while message := pair.pull(end):
                yield Kind(message[0])
        pair.now += 0.0001
        assert any(pair.wires.values())  # nothing waits for a timer
        for end in pair.ends:
            if pair.wires[end]:
                pair.deliver(end)
                at(end)


@pytest.mark.parametrize(
    ("little", "soon", "least", "most", "messages"),
    [
        (True, True, ACK_BESIDE, AMPLE_BESIDE, 3),
        (True, False, AMPLE_BESIDE, AMPLE, 9),
        (False, True, AMPLE_BESIDE, AMPLE, 3),
        (False, False, AMPLE_BESIDE, AMPLE, 9),
    ],
)
def test_considerate_ends_have_little_on_its_way_and_no_end_waits_for_an_ack(
    little: bool, soon: bool, least: int, most: int, messages: int
) -> None:
    pair = on_a_short_way()
    client, server = pair.client.session, pair.server.session
    client.sends_little, server.acks_soon = little, soon
    pair.client.write(bytes(10 * MIB))
    under_way: list[int] = []
    kinds: list[Kind] = []
    for kind in passes(pair, at=lambda end: None):
        if client.acked > 2 * MIB:
            under_way.append(client.sent - client.acked)
            kinds.append(kind)
    assert least < max(under_way) <= most
    assert kinds.count(Kind.DATA) / kinds.count(Kind.ACK) == pytest.approx(messages, rel=0.2)
    assert (client.sends_little, server.acks_soon) == (little, soon)


@pytest.mark.parametrize("ahead", [0, 1])
def test_no_end_waits_for_an_ack_when_they_change_their_minds_one_after_the_other(ahead: int) -> None:
    """Each where the bytes are that far, when it is told something. Who receives has acks for longer, or as long."""
    pair = on_a_short_way()
    client, server = pair.client.session, pair.server.session
    pair.client.write(bytes(64 * MIB))
    seen = set()

    def consider(end: End) -> None:
        if end is pair.client:
            client.sends_little = client.sent // MIB % 8 < 4
        elif server.acks_soon is not (soon := (server.received // MIB - ahead) % 8 < 4 + ahead):
            server.acks_soon = soon

    for _ in passes(pair, at=consider):
        seen.add((client.sends_little, server.acks_soon))
    assert {(False, False), (False, True), (True, True)} <= seen


def test_two_idle_ends_exchange_nothing_but_pings() -> None:
    pair = Pair()
    pair.attach()
    pair.client.write(b"question")
    pair.server.write(b"answer")
    pair.settle()
    pair.cut()
    pair.attach()
    kinds = []
    for _ in range(100):
        pair.advance(1.0)
        pair.client.session.handle_timer(pair.now, pair.client.last_received)
        pair.server.session.handle_timer(pair.now, pair.server.last_received)
        for end in pair.ends:
            while message := pair.pull(end):
                kinds.append(split_header(message)[0])
        pair.exchange()
    assert set(kinds) <= {Kind.PING, Kind.PONG}
    assert pair.advance(600.0) <= 4 * 600 / LIMITS.ping_idle_silence


def test_one_write_costs_one_message_and_one_ack() -> None:
    pair = Pair()
    pair.attach(pings=False)
    pair.client.write(b"x" * 1000)
    assert pair.advance(10.0) == 2
    assert pair.advance(1000.0) == 0


# -- the end -------------------------------------------------------------------------------------


def test_bye_is_the_last_message() -> None:
    session = make()
    session.receive_message(build(Kind.PING, 2, 0, 0, [b"?"]), 0.0)
    session.close("shutdown", 0.0)
    assert ready(session)
    assert session.next_timer() is None
    assert session.data_to_send(0.0, ROOM) == build(Kind.BYE, 2, 0, 0, [b"shutdown"])
    assert session.data_to_send(0.0, ROOM) == b""


def test_the_first_code_stands() -> None:
    session = make()
    session.close("first", 0.0)
    session.close("second", 0.0)
    assert session.data_to_send(0.0, ROOM)[HEADER_SIZE:] == b"first"


def test_a_code_that_cannot_be_sent() -> None:
    session = make()
    with pytest.raises(LocalProtocolError):
        session.close("two words", 0.0)
    assert session.state is State.ATTACHED


def test_the_peer_says_bye() -> None:
    session = make(sent=b"0123456789")
    assert session.receive_message(build(Kind.BYE, 2, 0, 4, [b"superseded"]), 0.0) == []
    assert session.state is State.GONE
    assert session.peer_bye == "superseded"
    assert not ready(session)
    assert session.next_timer() is None
