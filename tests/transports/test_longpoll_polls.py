"""The way down at the server: which poll is answered with what, and what is kept for a repeat."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import LocalProtocolError
from tunnelkit.transports.longpoll import polls as longpoll_polls
from tunnelkit.transports.longpoll.polls import Poll, Polls, State
from tunnelkit.transports.longpoll.wire import KEEP_ALIVE_IDLE, STREAM_BYTES, STREAM_TIME, refused

LIMITS = DEFAULT_LIMITS
FAREWELL = refused(410, "connection_closed", "1000")
GONE = refused(410, "unknown_connection", "gone")


class Down:
    """The polls of a connection, and their wakes."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.polls = Polls(limits, 0.0)
        self.now = 0.0
        self.woken: list[int] = []

    def arrive(self, number: int, hold: float = inf, *, stream: bool = False) -> Poll:
        poll = self.try_arrive(number, hold, stream=stream)
        assert poll is not None
        return poll

    def try_arrive(self, number: int, hold: float = inf, *, stream: bool = False) -> Poll | None:
        return self.polls.arrive(number, hold, self.now, stream=stream, wake=lambda: self.woken.append(number))

    def leave(self, poll: Poll, *, complete: bool = True) -> None:
        self.polls.leave(poll, self.now, complete=complete)

    def at(self, now: float) -> None:
        self.now = now
        self.polls.expire(now)

    def ready(self) -> bool:
        return self.polls.ready

    def lost(self) -> bool:
        return self.polls.lost is not None

    @property
    def state(self) -> State:
        return self.polls.state


def code(poll: Poll) -> str:
    assert poll.refusal is not None
    return poll.refusal.body.decode().partition('"code": "')[2].partition('"')[0]


def has_output(poll: Poll) -> bool:
    return poll.has_output


# -- strict --------------------------------------------------------------------------------------


def test_a_poll_is_held_until_there_is_a_message() -> None:
    down = Down()
    assert not down.ready()
    poll = down.arrive(1)
    assert down.ready()
    assert down.woken == []
    down.polls.answer(b"message")
    assert poll.answer == b"message"
    assert down.woken == [1]
    assert not down.ready()
    with pytest.raises(LocalProtocolError):
        down.polls.answer(b"another")


def test_without_a_poll_there_is_nothing_to_answer() -> None:
    with pytest.raises(LocalProtocolError):
        Down().polls.answer(b"message")


def test_a_move_that_is_none_is_a_bug_of_ours() -> None:
    with pytest.raises(LocalProtocolError):
        Down().polls._move(longpoll_polls._Move.END)


@pytest.mark.parametrize("answer", [b"message", b""])
def test_an_answer_is_repeated_until_the_next_poll_comes(answer: bytes) -> None:
    down = Down()
    first = down.arrive(1)
    if answer:
        down.polls.answer(answer)
    else:
        down.at(LIMITS.poll_hold_idle)
    down.leave(first, complete=False)  # it was lost on its way
    for _ in range(3):
        again = down.arrive(1)
        assert again.answer == answer
        down.leave(again)
    assert not down.arrive(2).settled
    assert down.try_arrive(1) is None


def test_a_repeat_takes_the_place_of_the_one_that_waits() -> None:
    down = Down()
    older, newer = down.arrive(1), down.arrive(1)
    assert code(older) == "poll_replaced"
    assert not newer.settled
    down.leave(older)
    down.polls.answer(b"message")
    assert newer.answer == b"message"
    assert older.answer is None


def test_the_next_poll_releases_the_one_that_waits() -> None:
    down = Down()
    older, newer = down.arrive(1), down.arrive(2)
    assert older.answer == b""
    down.polls.answer(b"message")
    assert newer.answer == b"message"
    assert older.answer == b""


def test_a_poll_whose_caller_left_takes_no_message() -> None:
    down = Down()
    down.leave(down.arrive(1), complete=False)
    assert down.state is State.ABSENT
    assert not down.ready()
    again = down.arrive(1)
    down.polls.answer(b"message")
    assert again.answer == b"message"


@pytest.mark.parametrize("number", [2, 3, 10**17])
def test_a_number_too_far_ahead_is_out_of_the_window(number: int) -> None:
    assert Down().try_arrive(number) is None


def test_an_old_number_is_out_of_the_window() -> None:
    down = Down()
    for number in (1, 2, 3):
        down.arrive(number)
    for number in (1, 2, 5):
        assert down.try_arrive(number) is None
    assert down.ready()  # nothing was changed by them


@pytest.mark.parametrize(
    ("asked", "active", "due"),
    [(inf, False, 25.0), (inf, True, 5.0), (7.0, False, 7.0), (7.0, True, 5.0), (0.0, False, 0.0)],
)
def test_the_hold_is_the_shorter_of_both_ends(asked: float, active: bool, due: float) -> None:
    down = Down()
    down.polls.set_active(active, 0.0)
    poll = down.arrive(1, asked)
    assert down.polls.due == due
    down.at(due - 0.001)
    assert not down.woken
    down.at(due)
    assert poll.answer == b""
    assert down.polls.due == inf  # it is being written


def test_a_client_without_a_poll_is_lost() -> None:
    down = Down()
    assert down.polls.due == LIMITS.poll_absence
    poll = down.arrive(1)
    down.polls.answer(b"message")
    down.now = 100.0
    down.leave(poll)
    down.at(100.0 + LIMITS.poll_absence - 0.001)
    assert not down.lost()
    down.at(100.0 + LIMITS.poll_absence)
    assert down.polls.lost == "no poll came"
    assert down.polls.due == inf
    down.at(1000.0)


def test_an_answer_that_is_being_written_is_a_poll_too() -> None:
    down = Down()
    down.arrive(1)
    down.polls.answer(b"message")
    down.at(1000.0)
    assert down.polls.lost is None


# -- streamed ------------------------------------------------------------------------------------


def test_a_streamed_answer_carries_message_after_message() -> None:
    down = Down()
    poll = down.arrive(1, stream=True)
    assert not has_output(poll)
    for message in (b"one", b"two"):
        assert down.ready()
        down.polls.answer(message)
        assert not down.ready()  # until it is with the socket
        assert poll.message == message
        assert has_output(poll)
        down.polls.written(poll, 7, down.now)
        assert not has_output(poll)
    assert down.woken == [1, 1]


@pytest.mark.parametrize(("active", "after"), [(False, KEEP_ALIVE_IDLE), (True, LIMITS.poll_hold_active)])
def test_a_quiet_stream_is_kept_alive(active: bool, after: float) -> None:
    down = Down()
    down.polls.set_active(active, 0.0)
    poll = down.arrive(1, stream=True)
    assert down.polls.due == after
    down.at(after)
    assert poll.keep_alive
    assert down.polls.due > after  # until it is written
    down.polls.written(poll, 4, after)
    assert down.polls.due == min(2 * after, after + LIMITS.poll_absence)


def test_a_stream_that_becomes_active_is_watched_closer_from_then_on() -> None:
    down = Down()
    poll = down.arrive(1, stream=True)
    down.now = 19.0
    down.polls.set_active(True, 19.0)
    down.at(20.0)
    assert poll.keep_alive  # it was due anyway
    assert down.polls.lost is None
    assert down.polls.due == 19.0 + LIMITS.poll_hold_active + LIMITS.poll_absence


@pytest.mark.parametrize(("active", "after"), [(False, KEEP_ALIVE_IDLE), (True, LIMITS.poll_hold_active)])
def test_a_client_that_falls_silent_beside_a_stream_is_lost(active: bool, after: float) -> None:
    down = Down()
    down.polls.set_active(active, 0.0)
    down.arrive(1, stream=True)
    down.polls.heard(50.0)
    down.at(50.0 + after + LIMITS.poll_absence - 0.001)
    assert down.polls.lost is None
    down.at(50.0 + after + LIMITS.poll_absence)
    assert down.polls.lost == "the client fell silent"


def test_a_stream_ends_after_its_time() -> None:
    down = Down()
    poll = down.arrive(1, stream=True)
    down.polls.heard(STREAM_TIME)
    down.at(STREAM_TIME)
    assert poll.end
    assert down.state is State.STREAMED
    assert not down.ready()
    down.leave(poll)
    assert down.polls.lost is None
    assert not down.arrive(2, stream=True).settled


def test_a_stream_ends_after_so_many_bytes() -> None:
    down = Down()
    poll = down.arrive(1, stream=True)
    down.polls.answer(b"message")
    down.polls.written(poll, STREAM_BYTES, 0.0)
    assert poll.end
    assert not down.ready()


def test_the_next_poll_ends_a_stream_behind_its_message() -> None:
    down = Down()
    older = down.arrive(1, stream=True)
    down.polls.answer(b"message")
    newer = down.arrive(2)
    assert older.end
    assert older.message == b"message"
    assert down.ready()
    down.polls.written(older, STREAM_BYTES, 0.0)
    down.leave(older)
    assert down.polls.lost is None
    assert not newer.settled


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_streamed_answer_cannot_be_repeated(ended: bool, stream: bool) -> None:
    """The client may have lost what it carried: the connection fails as a whole."""
    down = Down()
    poll = down.arrive(1, stream=True)
    if ended:
        down.polls.heard(STREAM_TIME)
        down.at(STREAM_TIME)
        down.leave(poll)
    down.arrive(1, stream=stream)
    assert down.polls.lost == "a streamed answer was asked for again"
    assert not down.ready()
    down.arrive(2)
    down.leave(poll, complete=False)
    assert down.state is State.LOST


@pytest.mark.parametrize("released", [False, True])
def test_a_stream_that_breaks_off_costs_the_connection(released: bool) -> None:
    down = Down()
    poll = down.arrive(1, stream=True)
    if released:
        down.arrive(2)
    down.leave(poll, complete=False)
    assert down.polls.lost == "a streamed answer broke off"


def test_a_strict_answer_is_repeated_to_who_would_have_it_streamed() -> None:
    down = Down()
    down.arrive(1)
    down.polls.answer(b"message")
    again = down.arrive(1, stream=True)
    assert again.answer == b"message"
    down.leave(again, complete=False)
    assert down.polls.lost is None


# -- the end -------------------------------------------------------------------------------------


def test_who_waits_is_told_of_a_close_at_once() -> None:
    down = Down()
    poll = down.arrive(1)
    down.polls.close(FAREWELL)
    assert poll.refusal is FAREWELL
    assert not down.ready()
    assert not down.polls.told
    down.leave(poll)
    assert down.polls.told


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_poll_is_told_of_a_close_behind_the_last_message(stream: bool) -> None:
    down = Down()
    poll = down.arrive(1, stream=stream)
    down.polls.answer(b"message")
    down.polls.close(FAREWELL)
    if stream:
        assert poll.end
        down.leave(poll)
    else:
        down.leave(poll, complete=False)
        assert down.arrive(1).answer == b"message"
    assert not down.polls.told
    assert down.arrive(2, stream=stream).refusal is FAREWELL


def test_a_close_finds_nobody() -> None:
    down = Down()
    down.polls.close(FAREWELL)
    assert not down.polls.told
    down.arrive(1)
    assert down.polls._told


def test_the_end_is_told_to_all_who_wait() -> None:
    down = Down()
    stream = down.arrive(1, stream=True)
    answered = down.arrive(2)
    down.polls.answer(b"message")
    waiting = down.arrive(3)
    down.polls.end(GONE)
    assert stream.refusal is waiting.refusal is GONE
    assert answered.refusal is None


# -- any order -----------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """A client that repeats, leaves and goes on as it likes: no message is lost, and none becomes another."""

    def __init__(self) -> None:
        super().__init__()
        self.down = Down()
        self.number = 0
        self.sent: list[bytes] = []
        self.answers: dict[int, bytes] = {}
        self.open: list[Poll] = []

    @rule()
    def go_on(self) -> None:
        # Only with an answer, as the contract has it: so n+1 acknowledges n.
        if self.number == 0 or self.number in self.answers:
            self.number += 1
            self.open.append(self.down.arrive(self.number))

    @precondition(lambda self: self.number)
    @rule()
    def repeat(self) -> None:
        self.open.append(self.down.arrive(self.number))

    @rule(ahead=st.integers(-3, 3))
    def stray(self, ahead: int) -> None:
        if ahead not in (0, 1):
            assert self.down.try_arrive(self.number + ahead) is None

    @precondition(lambda self: self.down.ready())
    @rule()
    def send(self) -> None:
        message = b"%d" % len(self.sent)
        self.sent.append(message)
        self.down.polls.answer(message)

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        if self.open:
            self.down.at(self.down.now + seconds)

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 5), arrives=st.booleans())
    def finish(self, index: int, arrives: bool) -> None:
        poll = self.open.pop(index % len(self.open))
        if poll.answer is not None and arrives:
            assert self.answers.setdefault(poll.number, poll.answer) == poll.answer
        self.down.leave(poll, complete=arrives)

    @invariant()
    def what_arrived_is_what_was_sent(self) -> None:
        arrived = [answer for _, answer in sorted(self.answers.items()) if answer]
        assert arrived == self.sent[: len(arrived)]
        assert len(self.sent) - len(arrived) <= 1

    @invariant()
    def nobody_waits_without_a_time(self) -> None:
        assert any(poll.settled for poll in self.open) or self.down.polls.due < inf


TestAnyOrder = AnyOrder.TestCase
