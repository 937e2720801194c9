"""What a long-poll client has out: when it repeats, when it gives up, how long it asks to be held."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS, KIB
from tunnelkit.transports.longpoll.client_state import LESSON_TIME, Lessons, Pending, Polls, Posts
from tunnelkit.transports.longpoll.wire import POST_WINDOW

LIMITS = DEFAULT_LIMITS  # holds of 25 s and 5 s, 5 s more for an answer, 4 posts


# -- one request ---------------------------------------------------------------------------------


def test_the_first_repeat_goes_at_once_and_the_others_at_random_times_up_to_a_second() -> None:
    pending = Pending(1, 100.0, 1000.0)
    delays = []
    for _ in range(8):
        pending.attempt(100.0, 5.0)
        when = pending.failed(100.0, 0.5)
        assert when is not None
        delays.append(round(2 * (when - 100.0), 6))
        assert pending.quiet_until == inf
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_a_retry_after_is_waited_for_within_the_patience() -> None:
    pending = Pending(1, 100.0, 10.0)
    pending.attempt(100.0, 5.0)
    assert pending.failed(101.0, 0.0, 7.0) == 108.0
    assert pending.failed(101.0, 0.0, 9.0) is None
    assert pending.failed(110.0, 0.0) is None


def test_no_attempt_is_patient_beyond_the_request() -> None:
    pending = Pending(1, 100.0, 10.0)
    pending.attempt(107.0, 5.0)
    assert pending.quiet_until == 110.0
    assert pending.failed(110.0, 0.0) is None


def test_bytes_that_pass_are_life_and_what_breaks_off_behind_them_is_repeated() -> None:
    """However late they came: a message that takes longer than the patience may be cut in its last piece."""
    pending = Pending(1, 100.0, 10.0)
    pending.attempt(100.0, 5.0)
    pending.progress(109.0, 5.0)
    assert pending.quiet_until == 114.0  # a silence behind them
    assert pending.failed(114.0, 0.0) == 114.0
    pending.attempt(114.0, 5.0)
    assert pending.quiet_until == 116.5  # and half as long for the repeat


def test_an_answer_that_breaks_off_again_and_again_is_given_up() -> None:
    """Something on the way may cut each at the same byte."""
    pending, now = Pending(1, 100.0, 10.0), 100.0
    while True:
        pending.attempt(now, 5.0)
        pending.progress(now + 0.5, 5.0)
        when = pending.failed(now + 1.0, 0.999)
        if when is None:
            break
        now = when
    assert now < 120.0


def test_attempts_that_found_no_way_do_not_count_among_those_on_which_bytes_passed() -> None:
    pending = Pending(1, 100.0, 10.0)
    for _ in range(5):
        pending.attempt(101.0, 5.0)
        assert pending.failed(101.0, 0.0) == 101.0
    pending.attempt(101.0, 5.0)
    for when in (103.0, 106.0, 109.0):  # once for each attempt
        pending.progress(when, 5.0)
    assert pending.failed(114.0, 0.0) == 114.0


def test_bytes_do_not_shorten_the_patience() -> None:
    pending = Pending(1, 100.0, 15.0)
    pending.attempt(100.0, 5.0)
    pending.progress(100.5, 5.0)
    assert (pending.quiet_until, pending.failed(114.9, 0.0)) == (105.5, 114.9)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 0.999), st.floats(0, 3)), min_size=1, max_size=30))
def test_whatever_happens_every_repeat_lies_before_the_end_of_patience(
    failures: list[tuple[float, float, float]],
) -> None:
    pending, now = Pending(1, 0.0, 15.0), 0.0
    for took, chance, retry_after in failures:
        pending.attempt(now, 5.0)
        assert now < pending.quiet_until <= 15.0
        now += took
        when = pending.failed(now, chance, retry_after)
        if when is None:
            assert now + max(retry_after, 1.0) >= 15.0
            return
        assert now + retry_after <= when < 15.0
        now = when


# -- polls ---------------------------------------------------------------------------------------


def polls(lessons: Lessons | None = None, now: float = 100.0) -> Polls:
    return Polls(LIMITS, lessons or Lessons(), now)


def test_polls_are_counted_from_one() -> None:
    ours = polls()
    assert [ours.begin(100.0 + i).number for i in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("active", "data", "hold"), [(False, False, 25.0), (True, False, 5.0), (False, True, 5.0), (True, True, 5.0)]
)
def test_the_hold_is_short_while_something_runs_or_came(active: bool, data: bool, hold: float) -> None:
    ours = polls()
    ours.begin(100.0)
    ours.answered(empty=not data)
    ours.active = active
    ours.begin(101.0)
    assert ours.hold == hold
    assert ours.pending.give_up == 101.0 + hold + 5.0


def test_a_repeat_asks_for_what_is_left_of_the_hold_and_comes_early_enough() -> None:
    ours = polls()
    pending = ours.begin(100.0)
    ours.attempt(100.0)
    assert (ours.left(100.0), pending.quiet_until) == (25.0, 127.5)
    ours.attempt(120.0)
    assert (ours.left(120.0), pending.quiet_until) == (5.0, 127.5)
    ours.attempt(127.5)
    assert (ours.left(127.5), pending.quiet_until) == (0.0, 130.0)


def test_bytes_of_an_answer_buy_time() -> None:
    ours = polls()
    pending = ours.begin(100.0)
    ours.attempt(100.0)
    ours.progress(126.0)
    assert pending.quiet_until == 131.0


def test_exchanges_that_begin_are_no_bytes() -> None:
    ours = polls()
    pending = ours.begin(100.0, streamed=True)
    ours.attempt(100.0)
    ours.active = True
    ours.hurry(120.0)
    assert (pending.quiet_until, pending.moved) == (130.0, False)


def test_polls_that_are_cut_wait_for_half_as_long_down_to_the_shortest() -> None:
    lessons = Lessons()
    ours = polls(lessons)
    holds = []
    now = 100.0
    for _ in range(5):
        ours.begin(now)
        ours.attempt(now)
        holds.append(ours.hold)
        now += 6.0
        ours.cut(now)
        ours.answered(empty=True)
    assert holds == [25.0, 12.5, 6.25, 5.0, 5.0]
    assert polls(lessons, now).longest_hold == 5.0
    assert polls(lessons, now + LESSON_TIME).longest_hold == 25.0  # networks change


def test_a_poll_that_dies_young_was_not_cut_for_waiting() -> None:
    ours = polls()
    ours.begin(100.0)
    ours.attempt(100.0)
    assert not ours.cut(104.9)
    ours.attempt(104.9)
    assert not ours.cut(109.0)  # nor was its repeat
    assert ours.cut(109.9)
    assert ours.longest_hold == 12.5


def test_a_limit_below_the_active_hold_is_the_shortest() -> None:
    ours = Polls(replace(LIMITS, poll_hold_idle=3.0), Lessons(), 100.0)
    ours.active = True
    ours.begin(100.0)
    assert ours.hold == 3.0


def test_a_streamed_answer_may_be_quiet_between_two_keep_alives() -> None:
    ours = polls()
    pending = ours.begin(100.0, streamed=True)
    ours.attempt(100.0)
    assert pending.quiet_until == 125.0
    ours.progress(110.0)
    assert pending.quiet_until == 135.0
    ours.active = True
    ours.progress(111.0)
    assert pending.quiet_until == 121.0


# -- posts ---------------------------------------------------------------------------------------


def test_the_first_post_goes_at_once_and_a_small_one_gathers_company_for_the_next() -> None:
    posts = Posts(LIMITS, 40.0)
    assert posts.next_at == -inf
    post = posts.begin(100, 50.0)
    assert post.number == 1
    assert 50.0 < posts.next_at < 50.02
    posts.answered(post)
    assert posts.next_at == -inf


def test_behind_a_large_post_the_next_need_not_wait_until_as_many_are_out_as_may_be() -> None:
    posts = Posts(LIMITS, 40.0)
    out = []
    for _ in range(LIMITS.poll_posts):
        assert posts.next_at == -inf
        out.append(posts.begin(64 * KIB, 50.0))
    assert [post.number for post in out] == [1, 2, 3, 4]
    assert posts.next_at == inf
    posts.answered(out[2])
    assert posts.next_at == -inf


def test_no_post_goes_beyond_the_servers_window_behind_one_that_is_not_answered() -> None:
    posts = Posts(LIMITS, 40.0)
    first = posts.begin(64 * KIB, 50.0)
    for number in range(2, POST_WINDOW + 1):
        assert posts.next_at == -inf
        post = posts.begin(64 * KIB, 50.0)
        assert post.number == number
        posts.answered(post)
    assert posts.next_at == inf
    posts.answered(first)
    assert posts.next_at == -inf


def test_a_post_is_tried_three_times_in_silence() -> None:
    posts = Posts(LIMITS, 40.0)
    post = posts.begin(10, 50.0)
    for now in (50.0, 55.0, 60.0):
        posts.attempt(post, now)
        assert post.quiet_until == now + 5.0
        assert (post.failed(now + 5.0, 0.0) is None) == (now == 60.0)


def test_bytes_taken_of_a_post_buy_time() -> None:
    posts = Posts(LIMITS, 40.0)
    post = posts.begin(10, 50.0)
    posts.attempt(post, 50.0)
    posts.progress(post, 70.0)
    assert post.quiet_until == 75.0


def test_a_sign_of_life_is_due_when_nothing_was_sent_for_a_while() -> None:
    posts = Posts(LIMITS, 40.0)
    assert posts.ping_at(active=True) == 45.0  # the opening was one
    post = posts.begin(0, 50.0)
    assert posts.ping_at(active=False) == inf  # what is out is one
    posts.answered(post)
    assert posts.ping_at(active=True) == 55.0
    # Polls of 240 s and these are less than three requests a minute, and the server waits for 30 s.
    assert 60 / (posts.ping_at(active=False) - 50.0) + 60 / 240 < 3
    assert posts.ping_at(active=False) < 80.0


def test_the_close_is_a_request_of_its_own_count() -> None:
    posts = Posts(LIMITS, 40.0)
    posts.begin(10, 50.0)
    closing = posts.close(51.0, 1.0)
    assert (closing.number, closing.give_up, posts.out) == (1, 52.0, 2)


# -- lessons -------------------------------------------------------------------------------------


def test_a_way_that_cannot_stream_is_asked_again_after_ten_minutes() -> None:
    lessons = Lessons()
    assert lessons.may_stream(100.0)
    lessons.stay_strict(100.0)
    assert not lessons.may_stream(699.0)
    assert lessons.may_stream(700.0)
