from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import Limits
from tunnelkit.core.choice import (
    CHOICE_MOVES,
    RETRY_AFTER_LIMIT,
    Choice,
    ChoiceState,
    Failed,
    GiveUp,
    Kind,
    Probe,
    Try,
)
from tunnelkit.errors import (
    TERMINAL_CODES,
    AnsweredByOther,
    DialError,
    LocalProtocolError,
    ProxyError,
    RegistrationRefused,
)

LIMITS = Limits()
GRACE = 30.0
WAY = Failed(Kind.WAY)


def make(*transports: str) -> Choice:
    return Choice(LIMITS, transports=transports or ("websocket",))


def next_try(choice: Choice, now: float, jitter: float = 1.0) -> Try:
    found = choice.next(now, jitter)
    assert isinstance(found, Try)
    return found


def fail(choice: Choice, now: float, failure: Failed = WAY) -> float:
    """Dial as soon as may be, and fail at once; when that was."""
    when = max(now, next_try(choice, now).when)
    choice.dialling(when)
    choice.failed(failure, when)
    return when


def connect(choice: Choice, now: float) -> None:
    choice.dialling(now)
    choice.connected(GRACE, now)


# -- the table -----------------------------------------------------------------------------------

MOVES = {
    "dial": lambda choice: choice.dialling(0.0),
    "grant": lambda choice: choice.granted(GRACE, 0.0),
    "fail": lambda choice: choice.failed(WAY, 0.0),
    "connect": lambda choice: choice.connected(GRACE, 0.0),
    "probe": lambda choice: choice.probing(),
    "fail probe": lambda choice: choice.probe_failed(0.0),
    "begin to move": lambda choice: choice.moving(),
    "move": lambda choice: choice.moved(0.0),
    "lose": lambda choice: choice.lost(0.0, progressed=True),
    "end": lambda choice: choice.failed(Failed(Kind.REFUSED, "unauthorized"), 0.0),
}
WAYS_THERE = {
    ChoiceState.IDLE: [],
    ChoiceState.DIALLING: ["dial"],
    ChoiceState.CONNECTED: ["dial", "connect"],
    ChoiceState.PROBING: ["dial", "connect", "probe"],
    ChoiceState.MOVING: ["dial", "connect", "probe", "begin to move"],
    ChoiceState.OVER: ["dial", "end"],
}


@pytest.mark.parametrize(("state", "move"), list(product(ChoiceState, MOVES)))
def test_every_move(state: ChoiceState, move: str) -> None:
    choice = make()
    for step in WAYS_THERE[state]:
        MOVES[step](choice)
    if (state, move) in CHOICE_MOVES:
        MOVES[move](choice)
        assert CHOICE_MOVES[state, move].name in repr(choice)
    else:
        with pytest.raises(LocalProtocolError, match=f"cannot {move} while {state.name}"):
            MOVES[move](choice)
        assert state.name in repr(choice)


@pytest.mark.parametrize(
    "state", [state for state in ChoiceState if state not in (ChoiceState.IDLE, ChoiceState.OVER)]
)
def test_the_next_try_is_asked_for_when_idle(state: ChoiceState) -> None:
    choice = make()
    for step in WAYS_THERE[state]:
        MOVES[step](choice)
    with pytest.raises(LocalProtocolError, match=state.name):
        choice.next(0.0, 0.5)


@pytest.mark.parametrize("state", [state for state in ChoiceState if state is not ChoiceState.CONNECTED])
def test_the_next_probe_is_asked_for_when_connected(state: ChoiceState) -> None:
    choice = make()
    for step in WAYS_THERE[state]:
        MOVES[step](choice)
    with pytest.raises(LocalProtocolError, match=state.name):
        choice.next_probe(0.5)


def test_a_session_without_grace_is_neither_resumed_nor_moved() -> None:
    choice = make("websocket", "longpoll")
    fail(choice, 0.0, Failed(Kind.HANDSHAKE))
    choice.dialling(1.0)
    choice.granted(0.0, 1.0)
    choice.connected(0.0, 1.0)
    assert choice.next_probe(0.5) is None
    choice.lost(9.0, progressed=True)
    assert choice.next(9.0, 0.0) == Try("longpoll", 9.0, resume=False, brief=True)


def test_a_mere_guess_hurries_nobody() -> None:
    choice = Choice(LIMITS, transports=("websocket", "longpoll", "other"), guessed=frozenset({"other"}))
    tries = []
    for _ in range(3):
        tries.append(next_try(choice, 0.0))
        fail(choice, 0.0, Failed(Kind.HANDSHAKE))
    assert [(each.transport, each.brief) for each in tries] == [
        ("websocket", True),
        ("longpoll", False),
        ("other", False),
    ]


def test_there_must_be_a_transport() -> None:
    with pytest.raises(ValueError, match="transport"):
        Choice(LIMITS, transports=())


# -- backoff -------------------------------------------------------------------------------------


def test_the_first_dial_is_at_once() -> None:
    assert make().next(5.0, 1.0) == Try("websocket", 5.0, resume=False)


def test_delays_double_to_the_cap() -> None:
    choice = make()
    now, bounds = 0.0, []
    for _ in range(12):
        failed_at = fail(choice, now)
        now = next_try(choice, failed_at, 1.0).when
        bounds.append(round(now - failed_at, 6))
    assert bounds == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15, 15, 15, 15]


def test_many_failures_do_not_overflow() -> None:
    choice = make()
    now = 0.0
    for _ in range(2000):
        now = fail(choice, now)
    assert next_try(choice, now, 1.0).when == now + LIMITS.retry_cap


def test_jitter_is_full_and_dials_stay_apart() -> None:
    choice = make()
    now = 0.0
    for _ in range(10):
        now = fail(choice, now)
    assert next_try(choice, now, 0.5).when == now + LIMITS.retry_cap / 2
    assert next_try(choice, now, 0.0).when == now + LIMITS.retry_first  # the last dial was at now


def test_a_lost_connection_that_made_progress_is_dialled_again_at_once() -> None:
    choice = make()
    for _ in range(5):
        fail(choice, 0.0)
    connect(choice, 100.0)
    choice.lost(200.0, progressed=True)
    assert choice.next(200.0, 1.0) == Try("websocket", 200.0, resume=True)


def test_the_hundredth_resume_is_as_quick_as_the_first() -> None:
    choice = make()
    now = 0.0
    for _ in range(100):
        now = next_try(choice, now, 1.0).when
        connect(choice, now)
        choice.lost(now + 0.01, progressed=True)
        assert next_try(choice, now + 0.01, 1.0).when == now + LIMITS.retry_first


def test_while_the_session_can_be_resumed_the_cap_is_low() -> None:
    choice = make()
    connect(choice, 0.0)
    choice.lost(10.0, progressed=True)
    now = 10.0
    tries: list[Try] = []
    while now < 60:
        tries.append(next_try(choice, now, 1.0))
        now = fail(choice, now)
    gaps = [(one.when, two.when - one.when) for one, two in pairwise(tries)]
    assert max(gap for when, gap in gaps if when < 10 + GRACE) == pytest.approx(LIMITS.retry_cap_resumable)
    assert max(gap for when, gap in gaps if when >= 10 + GRACE) == pytest.approx(LIMITS.retry_cap)
    assert all(one.resume == (one.when < 10 + GRACE) for one in tries)


def test_a_connection_without_progress_is_a_failure() -> None:
    choice = make()
    now = 0.0
    for _ in range(6):
        connect(choice, now)
        choice.lost(now, progressed=False)
        now = next_try(choice, now, 1.0).when
    connect(choice, now)
    choice.lost(now, progressed=False)
    assert next_try(choice, now, 1.0).when - now == pytest.approx(LIMITS.retry_cap_resumable)


def test_tls_failures_are_retried_slowly() -> None:
    choice = make()
    fail(choice, 0.0, Failed(Kind.TLS))
    assert next_try(choice, 0.0, 0.0).when == LIMITS.retry_tls / 2
    assert next_try(choice, 0.0, 1.0).when == LIMITS.retry_tls


def test_a_tls_handshake_that_is_cut_does_not_cost_the_session() -> None:
    choice = make()
    connect(choice, 0.0)
    choice.lost(1.0, progressed=True)
    failed_at = fail(choice, 1.0, Failed(Kind.TLS))
    again = next_try(choice, failed_at, 1.0)
    assert again.resume
    assert again.when <= failed_at + LIMITS.retry_cap_resumable


@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.HANDSHAKE])
def test_retry_after_is_honoured_and_scattered(kind: Kind) -> None:
    choice = make()
    fail(choice, 0.0, Failed(kind, retry_after=20.0))
    assert next_try(choice, 0.0, 0.0).when == 20.0
    assert next_try(choice, 0.0, 1.0).when == 20.0 + LIMITS.retry_first


def test_retry_after_is_believed_within_limits() -> None:
    choice = make()
    fail(choice, 0.0, Failed(Kind.HANDSHAKE, retry_after=1e9))
    assert next_try(choice, 0.0, 0.0).when == RETRY_AFTER_LIMIT


# -- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(TERMINAL_CODES))
def test_terminal_codes_end_a_client(code: str) -> None:
    choice = make()
    choice.dialling(0.0)
    choice.failed(Failed(Kind.REFUSED, code), 0.0)
    assert choice.next(0.0, 0.5) == GiveUp(code)


@pytest.mark.parametrize("code", sorted(TERMINAL_CODES))
def test_terminal_codes_end_a_session_and_its_client(code: str) -> None:
    choice = make()
    connect(choice, 0.0)
    choice.lost(0.0, progressed=True, bye=code)
    assert choice.next(0.0, 0.5) == GiveUp(code)


@pytest.mark.parametrize("code", ["too_many_clients", "draining", "too_many_sessions", "unknown_session", "anything"])
def test_other_codes_do_not(code: str) -> None:
    choice = make()
    fail(choice, 0.0, Failed(Kind.REFUSED, code))
    assert next_try(choice, 0.0, 0.0).when == LIMITS.retry_first


def test_an_unknown_session_is_replaced_by_a_fresh_one_at_once() -> None:
    choice = make()
    connect(choice, 0.0)
    choice.lost(10.0, progressed=True)
    choice.dialling(10.0)
    choice.failed(Failed(Kind.REFUSED, "unknown_session"), 10.5)
    assert choice.next(10.5, 1.0) == Try("websocket", 10.5, resume=False)
    # Said of a fresh one, it is a failure like any other.
    choice.dialling(10.5)
    choice.failed(Failed(Kind.REFUSED, "unknown_session"), 11.0)
    assert next_try(choice, 11.0, 1.0).when == 11.0 + LIMITS.retry_first


def test_a_session_whose_first_attaching_was_not_answered_is_resumed() -> None:
    choice = make()
    choice.dialling(0.0)
    choice.granted(GRACE, 0.0)
    choice.failed(Failed(Kind.HANDSHAKE), 1.0)
    assert next_try(choice, 1.0).resume
    fail(choice, 2.0, Failed(Kind.REFUSED, "unknown_session"))  # ATTACH itself was lost
    assert next_try(choice, 3.0) == Try("websocket", 2.1, resume=False)


def test_a_session_that_the_server_ended_is_not_resumed() -> None:
    choice = make()
    connect(choice, 0.0)
    choice.lost(10.0, progressed=True, bye="draining")
    assert choice.next(10.0, 1.0) == Try("websocket", 10.0, resume=False)


# -- transports ----------------------------------------------------------------------------------


def test_a_transport_that_is_blocked_is_changed_at_once() -> None:
    choice = make("websocket", "longpoll")
    choice.dialling(0.0)
    choice.failed(Failed(Kind.HANDSHAKE), 1.0)
    assert choice.next(1.0, 1.0) == Try("longpoll", 1.0, resume=False)
    assert not next_try(choice, 1.0).brief  # no other is left in this round
    choice.dialling(1.0)
    choice.failed(Failed(Kind.HANDSHAKE), 2.0)
    # Only a whole round is a failure.
    assert choice.next(2.0, 1.0) == Try("websocket", 2.0 + LIMITS.retry_first, resume=False, brief=True)


def test_a_transport_that_connects_and_lets_nothing_pass_is_changed() -> None:
    choice = make("websocket", "longpoll")
    connect(choice, 0.0)
    choice.lost(10.0, progressed=False)
    assert choice.next(10.0, 1.0) == Try("longpoll", 10.0, resume=True)


def test_the_transport_that_worked_is_kept() -> None:
    choice = make("websocket", "longpoll")
    choice.dialling(0.0)
    choice.failed(Failed(Kind.HANDSHAKE), 0.0)
    connect(choice, 1.0)
    choice.lost(2.0, progressed=True)
    assert choice.transport == "longpoll"
    fail(choice, 2.0)  # the way is gone, whatever the transport
    assert choice.transport == "longpoll"


def test_a_broken_transport_gives_way_to_the_next_one_at_once() -> None:
    choice = make("websocket", "longpoll")
    fail(choice, 0.0, Failed(Kind.BROKEN))
    assert next_try(choice, 0.0, 1.0) == Try("longpoll", LIMITS.retry_first, resume=False)


def test_a_broken_transport_without_another_is_tried_slowly() -> None:
    choice = make()
    fail(choice, 0.0, Failed(Kind.BROKEN))
    assert next_try(choice, 0.0, 0.0).when == LIMITS.retry_tls / 2
    assert next_try(choice, 0.0, 1.0).when == LIMITS.retry_tls


def test_a_server_without_this_transport_may_have_another() -> None:
    choice = make("websocket", "longpoll")
    choice.dialling(0.0)
    choice.failed(Failed(Kind.REFUSED, "unknown_transport"), 0.0)
    assert choice.transport == "longpoll"


def test_what_one_transport_is_told_to_wait_does_not_hold_back_the_next() -> None:
    choice = make("websocket", "longpoll")
    choice.dialling(0.0)
    choice.failed(Failed(Kind.HANDSHAKE, retry_after=60.0), 0.5)
    assert next_try(choice, 0.5) == Try("longpoll", 0.5, resume=False)
    choice.dialling(0.5)
    choice.failed(Failed(Kind.HANDSHAKE, retry_after=60.0), 1.0)
    assert next_try(choice, 1.0).when > 60.0


def test_three_transports_are_tried_in_order_from_the_trusted_one_on() -> None:
    choice = make("one", "two", "three")
    order = []
    for now in range(4):
        order.append(next_try(choice, now))
        fail(choice, now, Failed(Kind.HANDSHAKE))
    assert [(found.transport, found.brief) for found in order] == [
        ("one", True),
        ("two", True),
        ("three", False),
        ("one", True),
    ]


# -- probes and moves ----------------------------------------------------------------------------


def fallen(*transports: str, at: float = 0.0) -> Choice:
    """Connected by the last transport, because the others did not pass."""
    choice = make(*(transports or ("websocket", "longpoll")))
    for _ in transports[1:] or "x":
        fail(choice, at, Failed(Kind.HANDSHAKE))
    connect(choice, at)
    return choice


def wait(choice: Choice, now: float, jitter: float = 1.0) -> float:
    """How long it is to the next probe."""
    probe = choice.next_probe(jitter)
    assert probe is not None
    return probe.when - now


def move(choice: Choice, now: float) -> None:
    choice.probing()
    choice.moving()
    choice.moved(now)


def test_the_best_has_nothing_to_probe() -> None:
    choice = make("websocket", "longpoll")
    connect(choice, 0.0)
    assert choice.next_probe(0.5) is None


def test_waits_for_probes_double_to_their_cap() -> None:
    choice = fallen()
    assert choice.next_probe(1.0) == Probe("websocket", LIMITS.probe_first)
    assert wait(choice, 0.0, 0.0) == LIMITS.probe_first / 2
    now, waits = 0.0, []
    for _ in range(9):
        waits.append(wait(choice, now))
        now += 1000
        choice.probing()
        choice.probe_failed(now)
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600, 600]


def test_each_better_transport_is_probed_before_the_next_wait() -> None:
    choice = fallen("one", "two", "three")
    assert choice.next_probe(1.0) == Probe("one", 10.0)
    choice.probing()
    choice.probe_failed(12.0)
    probe = choice.next_probe(1.0)
    assert probe is not None
    assert probe.transport == "two"
    assert probe.when <= 12.0
    choice.probing()
    choice.probe_failed(14.0)
    assert choice.next_probe(1.0) == Probe("one", 14.0 + 20.0)


def test_a_move_to_the_second_best_goes_on_looking() -> None:
    choice = fallen("one", "two", "three")
    choice.probing()
    choice.probe_failed(10.0)
    move(choice, 10.0)
    assert choice.transport == "two"
    assert choice.next_probe(1.0) == Probe("one", 20.0)


def test_losses_do_not_put_the_probe_off() -> None:
    choice = fallen()
    for now in (2.0, 4.0, 6.0):
        choice.lost(now, progressed=True)
        connect(choice, now)
    assert choice.transport == "longpoll"
    assert choice.next_probe(1.0) == Probe("websocket", LIMITS.probe_first)


def test_a_probe_that_a_loss_made_void_says_nothing_about_the_transport() -> None:
    choice = fallen()
    choice.probing()
    choice.lost(10.0, progressed=True)
    connect(choice, 10.0)
    assert wait(choice, 10.0) == LIMITS.probe_first


def test_after_a_move_the_best_is_in_use() -> None:
    choice = fallen()
    move(choice, 10.0)
    assert choice.transport == "websocket"
    assert choice.next_probe(0.5) is None


def test_an_attach_that_was_not_answered_is_a_probe_that_failed() -> None:
    choice = fallen()
    choice.probing()
    choice.moving()
    choice.lost(10.0, progressed=False)
    assert choice.next(10.0, 1.0) == Try("longpoll", 10.0, resume=True)
    connect(choice, 10.0)
    assert wait(choice, 10.0) == 2 * LIMITS.probe_first


@pytest.mark.parametrize("progressed", [True, False])
def test_a_transport_that_fails_soon_after_the_move_is_left_at_once(progressed: bool) -> None:
    choice = fallen()
    move(choice, 10.0)
    choice.lost(19.0, progressed=progressed)
    assert choice.next(19.0, 1.0) == Try("longpoll", 19.0, resume=True, brief=True)
    connect(choice, 19.0)
    assert wait(choice, 19.0) == 2 * LIMITS.probe_first


def test_a_transport_that_lasted_longer_than_the_wait_before_it_is_dialled_again() -> None:
    choice = fallen()
    move(choice, 10.0)
    choice.lost(20.0, progressed=True)
    assert choice.next(20.0, 1.0) == Try("websocket", 20.0, resume=True, brief=True)
    connect(choice, 20.0)
    choice.lost(21.0, progressed=True)  # what counts is how long it was in use, over any number of connections
    assert choice.transport == "websocket"


def test_one_that_cannot_be_dialled_again_counts_as_a_move_in_vain() -> None:
    choice = fallen()
    move(choice, 10.0)
    choice.lost(60.0, progressed=True)
    fail(choice, 60.0, Failed(Kind.HANDSHAKE))
    connect(choice, 64.0)
    assert choice.transport == "longpoll"
    assert wait(choice, 64.0) == 2 * LIMITS.probe_first


@pytest.mark.parametrize("lifetime", [1.0, 15.0, 100.0, 599.0])
def test_one_that_flaps_is_not_probed_fast_for_ever(lifetime: float) -> None:
    choice = fallen()
    now = 0.0
    for _ in range(20):
        now += wait(choice, now)
        move(choice, now)
        now += lifetime
        choice.lost(now, progressed=True)
        while choice.transport == "websocket":
            now = fail(choice, now, Failed(Kind.HANDSHAKE))
        connect(choice, now)
    assert wait(choice, now) == LIMITS.probe_cap


def test_the_best_one_starts_the_waits_over_once_it_lasted() -> None:
    choice = fallen()
    for now in range(20):
        choice.probing()
        choice.probe_failed(now)
    move(choice, 100.0)
    choice.lost(100.0 + LIMITS.probe_cap, progressed=True)
    fail(choice, 701.0, Failed(Kind.HANDSHAKE))
    connect(choice, 702.0)
    assert choice.transport == "longpoll"
    assert wait(choice, 702.0) == LIMITS.probe_first


def test_a_lesser_one_that_lasts_does_not() -> None:
    choice = fallen()
    for now in range(20):
        choice.probing()
        choice.probe_failed(now)
    choice.lost(5000.0, progressed=True)
    connect(choice, 5000.0)
    assert wait(choice, 19.0) == LIMITS.probe_cap


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (DialError("resolve", "no such host"), Failed(Kind.WAY)),
        (DialError("connect", "refused"), Failed(Kind.WAY)),
        (ProxyError("no", status=403), Failed(Kind.HANDSHAKE)),  # of CONNECT: it may pass plain requests on
        (ProxyError("no such host"), Failed(Kind.WAY)),
        (DialError("tls", "not trusted"), Failed(Kind.TLS)),
        (DialError("handshake", "cut"), Failed(Kind.HANDSHAKE)),
        (DialError("transport", "ZeroDivisionError"), Failed(Kind.BROKEN)),
        (AnsweredByOther(503, "nginx", retry_after=3.0), Failed(Kind.HANDSHAKE, retry_after=3.0)),
        (
            RegistrationRefused(429, "too_many_clients", "full", retry_after=5.0),
            Failed(Kind.REFUSED, "too_many_clients", 5.0),
        ),
    ],
)
def test_errors_are_told_apart(error: DialError | RegistrationRefused, failed: Failed) -> None:
    assert Failed.of(error) == failed


# -- any story -----------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(
        st.just("fail"),
        st.builds(
            Failed,
            st.sampled_from(Kind),
            st.sampled_from(["", "too_many_clients", "unknown_session"]),
            st.one_of(st.none(), st.floats(0, 1e6)),
        ),
    ),
    st.tuples(st.just("connect"), st.booleans()),
)


@given(st.lists(st.tuples(STEPS, st.floats(0, 1), st.floats(0, 20)), max_size=30))
def test_never_gives_up_never_hurries_never_sleeps_for_days(
    steps: list[tuple[tuple[str, object], float, float]],
) -> None:
    choice = make("websocket", "longpoll")
    now, last_dial = 0.0, float("-inf")
    for (step, what), jitter, duration in steps:
        found = next_try(choice, now, jitter)
        assert found.when >= max(now, last_dial + LIMITS.retry_first)
        assert found.when - now <= RETRY_AFTER_LIMIT + LIMITS.retry_tls
        now = last_dial = found.when
        choice.dialling(now)
        now += duration
        if step == "fail":
            assert isinstance(what, Failed)
            choice.failed(what, now)
        else:
            choice.connected(GRACE, now)
            choice.lost(now, progressed=bool(what))
            if what:
                assert next_try(choice, now, 1.0).when == max(now, last_dial + LIMITS.retry_first)
