"""The way up at the server: each message handed up once, whatever is repeated, and only so much held."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tunnelkit.errors import LocalProtocolError
from tunnelkit.transports.longpoll import posts as longpoll_posts
from tunnelkit.transports.longpoll.posts import Post, Posts, State
from tunnelkit.transports.longpoll.wire import POST_WINDOW, refused

GONE = refused(410, "unknown_connection", "gone")


class Up:
    """The posts of a connection, and their wakes."""

    def __init__(self, limit: int = 100) -> None:
        self.posts = Posts(limit)
        self.woken: list[int] = []

    def arrive(self, number: int, length: int = 10) -> Post:
        post = self.posts.arrive(number, length, lambda: self.woken.append(number))
        assert post is not None
        return post

    def whole(self, post: Post, *, hungry: bool = False) -> None:
        self.posts.whole(post, message(post.number, post.length), hungry=hungry)


def state(post: Post) -> State:
    return post.state


def reading(up: Up) -> bool:
    return up.posts.reading


def message(number: int, length: int = 10) -> bytes:
    return (b"%d|" % number).ljust(length, b".")[:length]


def test_a_post_is_answered_once_its_message_was_taken() -> None:
    up = Up()
    post = up.arrive(1)
    assert state(post) is State.READING
    up.whole(post)
    assert state(post) is State.WAITING
    assert up.posts.next_message() == message(1)
    assert post.settled
    assert up.woken[-1] == 1
    assert up.posts.next_message() is None
    assert up.posts.held == 0


def test_what_somebody_waits_for_is_as_good_as_taken() -> None:
    up = Up()
    post = up.arrive(1)
    up.whole(post, hungry=True)
    assert state(post) is State.TAKEN
    assert up.posts.held == 10
    assert up.posts.next_message() == message(1)
    assert up.posts.held == 0


def test_messages_are_handed_up_as_they_come_whole() -> None:
    up = Up()
    for number in (3, 1, 2):
        up.whole(up.arrive(number))
    assert [up.posts.next_message() for _ in range(3)] == [message(3), message(1), message(2)]


def test_an_empty_post_is_a_sign_of_life() -> None:
    up = Up()
    assert state(up.arrive(1, 0)) is State.TAKEN
    assert up.posts.next_message() is None
    assert state(up.arrive(1, 0)) is State.TAKEN


@pytest.mark.parametrize("hungry", [False, True])
def test_a_repeat_of_what_was_taken_is_answered_and_not_handed_up(hungry: bool) -> None:
    up = Up()
    post = up.arrive(1)
    up.whole(post, hungry=hungry)
    up.posts.next_message()
    up.posts.leave(post)
    again = up.arrive(1)
    assert state(again) is State.TAKEN
    assert again.reserved == 10  # its body is read, so that the connection goes on
    up.whole(again)
    assert up.posts.next_message() is None
    assert up.posts.held == 0


def test_a_repeat_of_what_waits_is_answered_with_it() -> None:
    up = Up()
    first = up.arrive(1)
    up.whole(first)
    again = up.arrive(1)
    assert state(again) is State.WAITING
    up.whole(again)
    up.posts.next_message()
    assert state(first) is state(again) is State.TAKEN
    assert up.posts.next_message() is None


def test_a_repeat_is_read_in_place_of_one_that_is_stuck() -> None:
    up = Up(limit=10)
    stuck = up.arrive(1)
    again = up.arrive(1)
    assert state(again) is State.READING  # in the room of the other
    assert state(stuck) is State.WAITING
    assert not stuck.reserved
    up.whole(stuck)  # too late
    assert up.posts.next_message() is None
    up.whole(again)
    assert up.posts.next_message() == message(1)
    assert state(stuck) is state(again) is State.TAKEN


def test_bodies_wait_for_room() -> None:
    up = Up(limit=25)
    one, two, three, four = (up.arrive(number) for number in (1, 2, 3, 4))
    assert [post.state for post in (one, two, three, four)] == [State.READING] * 2 + [State.QUEUED] * 2
    up.posts.leave(three)  # its caller went
    up.whole(two)
    assert state(four) is State.QUEUED
    assert up.posts.next_message() == message(2)
    assert state(four) is State.READING
    assert up.woken[-1] == 4
    assert up.posts.held == 20


def test_one_body_is_always_read() -> None:
    up = Up(limit=5)
    post, queued = up.arrive(1), up.arrive(2)
    assert state(post) is State.READING
    assert state(queued) is State.QUEUED
    up.posts.leave(post)
    assert state(queued) is State.READING


def test_a_queued_one_is_replaced_too() -> None:
    up = Up(limit=10)
    up.arrive(1)
    queued = up.arrive(2)
    again = up.arrive(2)
    assert state(queued) is State.WAITING
    assert state(again) is State.QUEUED
    up.posts.leave(queued)
    assert state(again) is State.QUEUED


@pytest.mark.parametrize("leave", [False, True])
def test_the_queue_is_no_longer_than_the_window_however_often_posts_come(leave: bool) -> None:
    up = Up(limit=10)
    up.arrive(1)
    up.arrive(2)
    for _ in range(3 * POST_WINDOW):
        post = up.arrive(3)
        if leave:
            up.posts.leave(post)
    assert len(up.posts._queue) == (1 if leave else 2)


@pytest.mark.parametrize("queued", [False, True])
def test_what_was_answered_empty_is_not_handed_up_behind_it(queued: bool) -> None:
    up = Up(limit=10)
    if queued:
        up.arrive(1)
    post = up.arrive(2)
    assert state(up.arrive(2, 0)) is State.TAKEN
    assert post.settled
    assert not post.reserved
    up.whole(post)  # its body was nearly there
    assert up.posts.next_message() is None
    assert up.posts.held == (10 if queued else 0)


def test_repeats_are_read_over_only_while_there_is_room() -> None:
    up = Up(limit=25)
    up.whole(up.arrive(1))
    repeat = up.arrive(1)
    assert not repeat.reserved  # half of the room is for what is new
    up.posts.next_message()
    assert up.arrive(1).reserved


def test_a_caller_that_left_may_come_again() -> None:
    up = Up()
    up.posts.leave(up.arrive(1))
    assert up.posts.held == 0
    assert not reading(up)
    post = up.arrive(1)
    assert reading(up)
    up.whole(post)
    assert not reading(up)
    up.posts.leave(post)
    assert up.posts.next_message() == message(1)


def test_the_window_begins_at_the_lowest_that_was_not_taken() -> None:
    up = Up(limit=1000)
    assert up.posts.arrive(1 + POST_WINDOW, 1, lambda: None) is None
    for number in range(2, 1 + POST_WINDOW):
        up.whole(up.arrive(number), hungry=True)
    assert up.posts.arrive(1 + POST_WINDOW, 1, lambda: None) is None
    up.whole(up.arrive(1), hungry=True)
    assert state(up.arrive(2 * POST_WINDOW)) is State.READING
    assert up.posts.arrive(1 + 2 * POST_WINDOW, 1, lambda: None) is None
    assert state(up.arrive(1)) is State.TAKEN  # however old


@pytest.mark.parametrize("keep", [False, True])
def test_the_end(keep: bool) -> None:
    up = Up(limit=20)
    whole, reading, queued = up.arrive(1), up.arrive(2), up.arrive(3)
    up.whole(whole)
    taken = up.arrive(4, 0)
    up.posts.end(GONE, keep=keep)
    assert [post.state for post in (whole, reading, queued, taken)] == [State.REFUSED] * 3 + [State.TAKEN]
    assert whole.refusal is GONE
    up.posts.end(GONE, keep=keep)
    up.whole(reading)  # came too late
    assert up.posts.next_message() == (message(1) if keep else None)
    assert up.posts.next_message() is None
    assert up.posts.held == 0
    assert up.arrive(5).refusal is GONE
    assert state(up.arrive(4)) is State.REFUSED


def test_a_body_is_not_read_twice() -> None:
    up = Up()
    post = up.arrive(1)
    up.whole(post)
    up.whole(post)
    assert up.posts.next_message() is not None
    assert up.posts.next_message() is None


def test_a_move_that_is_none_is_a_bug_of_ours() -> None:
    up = Up()
    post = up.arrive(1)
    with pytest.raises(LocalProtocolError):
        post.move(longpoll_posts._Move.TAKE)


# -- any order -----------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """A client that repeats, leaves and overtakes itself: each message once, and no more held than may be."""

    LIMIT = 30

    def __init__(self) -> None:
        super().__init__()
        self.up = Up(self.LIMIT)
        self.open: list[Post] = []
        self.acknowledged: set[int] = set()
        self.taken: list[bytes] = []

    @property
    def lowest(self) -> int:
        return next(number for number in range(1, 10_000) if number not in self.acknowledged)

    @rule(ahead=st.integers(0, POST_WINDOW - 1), length=st.integers(1, 40))
    def post(self, ahead: int, length: int) -> None:
        number = self.lowest + ahead
        self.open.append(self.up.arrive(number, 4 + number * 7 % 20))

    @precondition(lambda self: any(post.reserved for post in self.open))
    @rule(index=st.integers(0, 20), hungry=st.booleans())
    def read(self, index: int, hungry: bool) -> None:
        reading = [post for post in self.open if post.reserved]
        self.up.whole(reading[index % len(reading)], hungry=hungry)

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 20))
    def leave(self, index: int) -> None:
        post = self.open.pop(index % len(self.open))
        if post.state is State.TAKEN:
            self.acknowledged.add(post.number)
        self.up.posts.leave(post)

    @rule()
    def take(self) -> None:
        found = self.up.posts.next_message()
        if found is not None:
            self.taken.append(found)

    @invariant()
    def each_is_handed_up_once(self) -> None:
        assert len(set(self.taken)) == len(self.taken)

    @invariant()
    def only_so_much_is_held(self) -> None:
        waiting = sum(len(message) for _, message in self.up.posts._arrived)
        assert self.up.posts.held == waiting + sum(post.reserved for post in self.open)
        assert self.up.posts.held <= self.LIMIT

    @invariant()
    def what_is_acknowledged_was_handed_up_or_will_be(self) -> None:
        numbers = {int(text.partition(b"|")[0]) for text in self.taken}
        numbers |= {number for number, _ in self.up.posts._arrived}
        assert self.acknowledged <= numbers

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        if any(post.state is State.QUEUED for post in self.open):
            assert self.up.posts.held


TestAnyOrder = AnyOrder.TestCase
