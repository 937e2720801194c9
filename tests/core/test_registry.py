from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from tunnelkit.config import Limits
from tunnelkit.core.decisions import (
    Admitted,
    Dispatch,
    Expired,
    Full,
    Move,
    Queued,
    Recall,
    Rejected,
    Unlisted,
)
from tunnelkit.core.policies import POLICIES, POOL, POOLS, Policies
from tunnelkit.core.queueing import PlaceState
from tunnelkit.core.registry import FULL_RETRY, REFUSED_RETRY_CAP, RETRY_AFTER, Registry
from tunnelkit.errors import LocalProtocolError

TOKEN = b"\x01" * 32
OTHER = b"\x02" * 32
NOW = 1000.0  # long after the start
LIMITS = Limits(max_requests_per_tunnel=3, max_streams=2)


def make(
    limits: Limits = LIMITS,
    *,
    listed: Iterable[bytes] = (TOKEN,),
    listed_only: bool = False,
    policies: Policies = POOLS,
) -> Registry:
    return Registry(
        limits,
        started_at=0.0,
        pick=lambda n: 0,
        listed=frozenset(listed),
        listed_only=listed_only,
        policies=policies,
    )


def code(outcome: object) -> tuple[int, str]:
    assert isinstance(outcome, Rejected)
    return outcome.status, outcome.code


# -- dispatch ------------------------------------------------------------------------------------


def test_an_exchange_opens_on_an_attached_session() -> None:
    registry = make()
    assert registry.attach(TOKEN, "s", NOW) == []
    assert registry.submit(TOKEN, "a", NOW) == Dispatch("a", "s")
    assert registry.queued(TOKEN) == 0
    registry.sent("a")
    assert registry.finished("a", NOW) == []
    assert registry.next_timer() is None


def test_one_that_was_answered_before_it_was_told_as_sent_is_finished_too() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW)
    assert registry.finished("a", NOW) == []


def test_without_a_session_it_waits_and_the_first_session_takes_all_in_order() -> None:
    registry = make()
    for name in "abc":
        assert registry.submit(TOKEN, name, NOW) == Queued()
    assert registry.queued(TOKEN) == 3
    assert registry.attach(TOKEN, "s", NOW, max_streams=10) == [Dispatch(name, "s") for name in "abc"]
    assert registry.queued(TOKEN) == 0


def test_with_all_streams_in_use_it_waits_for_one() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    for name in "ab":
        registry.submit(TOKEN, name, NOW)
        registry.sent(name)
    assert registry.submit(TOKEN, "c", NOW) == Queued()
    assert registry.submit(TOKEN, "d", NOW) == Queued()
    assert registry.finished("b", NOW) == [Dispatch("c", "s")]
    assert registry.cancel("a", NOW) == [Dispatch("d", "s")]


NAME = b"\x03" * 32  # what stands for a name


def test_what_waited_for_a_name_in_start_up_is_adopted_by_its_owner() -> None:
    registry = make(listed=[])
    assert registry.submit(NAME, "a", 0.0) == Queued()
    assert registry.submit(TOKEN, "b", 0.0) == Queued()
    assert registry.submit(NAME, "c", 0.0) == Queued()
    assert registry.attach(TOKEN, "s", 1.0) == [Dispatch("b", "s")]
    assert registry.adopt(NAME, TOKEN, 1.0) == [Dispatch("a", "s")]
    assert registry.queued(NAME) == 0
    assert registry.queued(TOKEN) == 1  # it has two streams
    assert registry.expire(LIMITS.startup_wait) == []  # the name is known now: their own deadlines count
    registry.sent("b")
    assert registry.finished("b", 31.0) == [Dispatch("c", "s")]
    for name in "ac":
        registry.sent(name)
        registry.finished(name, 31.0)
    assert registry.remove("s", 31.0) == []
    assert "tokens=0" in repr(registry)


def test_with_listed_tokens_only_names_are_waited_for_alone() -> None:
    registry = make(listed_only=True)
    assert code(registry.submit(OTHER, "a", 0.0)) == (404, "no_tunnel")
    assert registry.submit(NAME, "b", 0.0, named=True) == Queued()
    assert code(registry.submit(NAME, "c", LIMITS.startup_wait, named=True)) == (404, "no_tunnel")
    registry.attach(TOKEN, "s", 1.0)
    assert registry.adopt(NAME, TOKEN, 1.0) == [Dispatch("b", "s")]


def test_what_is_adopted_keeps_its_order() -> None:
    registry = make(listed=[])
    registry.submit(NAME, "a", 0.0)
    registry.submit(TOKEN, "b", 0.0)
    registry.attach(TOKEN, "full", 1.0, max_streams=0)
    registry.adopt(NAME, TOKEN, 1.0)
    assert registry.attach(TOKEN, "s", 1.0) == [Dispatch("a", "s"), Dispatch("b", "s")]


def test_nothing_waits_for_most_names() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    assert registry.adopt(NAME, TOKEN, NOW) == []


def test_a_token_with_sessions_is_not_adopted() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.attach(OTHER, "t", NOW)
    with pytest.raises(LocalProtocolError):
        registry.adopt(OTHER, TOKEN, NOW)
    assert registry.attached(OTHER) == ["t"]


def test_another_session_that_could_take_an_exchange() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW)
    assert not registry.others("a", "s")
    registry.attach(TOKEN, "t", NOW)
    assert registry.others("a", "s")
    registry.detach("t", NOW)
    assert not registry.others("a", "s")


def test_tokens_do_not_mix() -> None:
    registry = make(listed=[TOKEN, OTHER])
    registry.attach(OTHER, "s", NOW)
    assert registry.submit(TOKEN, "a", NOW) == Queued()
    assert registry.attached(TOKEN) == []
    assert registry.attached(OTHER) == ["s"]
    assert registry.attached(b"\x03" * 32) == []
    assert registry.queued(OTHER) == registry.queued(b"\x03" * 32) == 0


def test_the_least_loaded_session_is_taken_and_ties_are_broken_at_random() -> None:
    asked: list[int] = []

    def pick(n: int) -> int:
        asked.append(n)
        return n - 1

    registry = Registry(LIMITS, started_at=0.0, pick=pick, listed=frozenset({TOKEN}))
    for session in ("s", "t", "u"):
        registry.attach(TOKEN, session, NOW)
    taken = [registry.submit(TOKEN, name, NOW) for name in "abc"]
    assert taken == [Dispatch("a", "u"), Dispatch("b", "t"), Dispatch("c", "s")]
    assert asked == [3, 2]


# -- limits and deadlines ------------------------------------------------------------------------


def test_a_full_queue_rejects() -> None:
    registry = make()
    for name in "abc":
        registry.submit(TOKEN, name, NOW)
    rejected = registry.submit(TOKEN, "d", NOW)
    assert code(rejected) == (503, "queue_full")
    assert isinstance(rejected, Rejected)
    assert rejected.retry_after == RETRY_AFTER
    # It has left: the same may be submitted once there is room.
    registry.cancel("a", NOW)
    assert registry.submit(TOKEN, "d", NOW) == Queued()


def test_what_a_detached_session_holds_counts_as_queued() -> None:
    registry = make(replace(LIMITS, max_streams=10))
    registry.attach(TOKEN, "s", NOW)
    assert registry.detach("s", NOW) == []
    for name in "abc":
        assert registry.submit(TOKEN, name, NOW) == Dispatch(name, "s")
    assert registry.queued(TOKEN) == 3
    assert code(registry.submit(TOKEN, "d", NOW)) == (503, "queue_full")
    assert registry.attach(TOKEN, "s", NOW) == []
    assert registry.queued(TOKEN) == 0


def test_a_burst_beyond_the_queue_is_no_queue_while_there_are_streams() -> None:
    registry = make(replace(LIMITS, max_streams=100))
    registry.attach(TOKEN, "s", NOW)
    for number in range(64):
        assert registry.submit(TOKEN, str(number), NOW) == Dispatch(str(number), "s")


def test_an_exchange_that_was_not_sent_in_time_expires() -> None:
    registry = make()
    registry.submit(TOKEN, "a", NOW)
    registry.submit(TOKEN, "b", NOW, deadline=NOW + 5)
    assert registry.next_timer() == NOW + 5
    expired = registry.expire(NOW + 5)
    assert [(type(one), one.exchange) for one in expired] == [(Expired, "b")]
    assert isinstance(expired[0], Expired)
    assert code(expired[0].rejected) == (504, "queue_timeout")
    assert registry.next_timer() == NOW + LIMITS.queue_timeout
    assert registry.expire(NOW + 6) == []


@pytest.mark.parametrize(("wait", "until"), [(5.0, NOW + 5), (1000.0, NOW + 60), (None, NOW + 60)])
def test_a_caller_may_shorten_its_wait(wait: float | None, until: float) -> None:
    registry = make()
    registry.submit(TOKEN, "a", NOW, wait=wait)
    assert registry.next_timer() == until


def test_the_deadline_holds_on_an_attached_session_until_the_first_byte() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW)
    registry.submit(TOKEN, "b", NOW)
    registry.submit(TOKEN, "c", NOW, deadline=NOW + 999)
    registry.sent("b")
    decisions = registry.expire(NOW + 60)
    assert [decision.exchange for decision in decisions] == ["a", "c"]
    assert decisions[1] == Dispatch("c", "s")


def test_what_is_past_its_deadline_is_never_dispatched() -> None:
    registry = make()
    registry.submit(TOKEN, "a", NOW, deadline=NOW + 1)
    registry.submit(TOKEN, "b", NOW, deadline=NOW + 9)
    assert registry.attach(TOKEN, "s", NOW + 1) == [Dispatch("b", "s")]
    assert [one.exchange for one in registry.expire(NOW + 1)] == ["a"]


@pytest.mark.parametrize("wait", [0.0, -1.0])
def test_wait_0_needs_an_attached_session_at_once(wait: float) -> None:
    registry = make()
    assert code(registry.submit(TOKEN, "a", NOW, wait=wait)) == (503, "no_client")
    registry.attach(TOKEN, "s", NOW)
    registry.detach("s", NOW)
    assert code(registry.submit(TOKEN, "a", NOW, wait=wait)) == (503, "no_client")
    registry.attach(TOKEN, "s", NOW)
    assert registry.submit(TOKEN, "a", NOW, wait=wait) == Dispatch("a", "s")
    assert registry.next_timer() == NOW + LIMITS.queue_timeout
    registry.submit(TOKEN, "b", NOW)
    assert code(registry.submit(TOKEN, "c", NOW, wait=wait)) == (503, "no_client")


def test_wait_0_leaves_when_its_session_is_lost_before_it_was_sent() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW, wait=0)
    registry.submit(TOKEN, "b", NOW)
    registry.detach("s", NOW + 1)
    assert registry.next_timer() == NOW + 1
    (expired,) = registry.expire(NOW + 1)
    assert isinstance(expired, Expired)
    assert (expired.exchange, *code(expired.rejected)) == ("a", 503, "no_client")


@pytest.mark.parametrize("loss", ["detach", "retire", "remove"])
def test_wait_0_leaves_at_once_whatever_took_its_session(loss: str) -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW, wait=0)
    getattr(registry, loss)("s", NOW + 1)
    assert registry.next_timer() == NOW + 1


def test_wait_0_leaves_at_once_when_it_cannot_be_repeated() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW, wait=0)
    registry.sent("a")
    registry.remove("s", NOW + 1)
    assert registry.again("a", NOW + 1) == []
    assert registry.next_timer() == NOW + 1


def test_wait_0_expires_as_a_timeout_on_a_session_that_does_not_send() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW, wait=0)
    (expired,) = registry.expire(NOW + 60)
    assert isinstance(expired, Expired)
    assert code(expired.rejected) == (504, "queue_timeout")


# -- losses --------------------------------------------------------------------------------------


def test_what_was_not_sent_moves_in_order_to_another_session_that_attaches() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    for name in "ab":
        registry.submit(TOKEN, name, NOW)
    registry.sent("a")
    registry.detach("s", NOW)
    assert registry.submit(TOKEN, "c", NOW) == Queued()  # a's stream is still in use
    assert registry.attach(TOKEN, "t", NOW) == [Move("b", "t"), Dispatch("c", "t")]


def test_it_moves_at_once_where_another_is_attached_already() -> None:
    registry = make()
    for session in ("s", "t"):
        registry.attach(TOKEN, session, NOW)
    registry.submit(TOKEN, "a", NOW)
    assert registry.detach("s", NOW) == [Move("a", "t")]


def test_a_session_that_is_gone_gives_back_what_it_did_not_send() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    for name in "ab":
        registry.submit(TOKEN, name, NOW)
    registry.sent("a")
    assert registry.remove("s", NOW) == [Recall("b")]
    assert registry.queued(TOKEN) == 1
    assert registry.attach(TOKEN, "t", NOW) == [Dispatch("b", "t")]
    assert registry.finished("a", NOW) == []


def test_an_exchange_is_dispatched_again_before_those_that_came_later() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    for name in "abc":
        registry.submit(TOKEN, name, NOW)
    registry.sent("a")
    registry.sent("b")
    assert registry.again("a", NOW) == [Dispatch("a", "s")]
    registry.sent("a")
    registry.remove("s", NOW)
    registry.attach(TOKEN, "t", NOW, max_streams=1)
    assert registry.again("b", NOW) == []
    assert registry.cancel("c", NOW) == [Dispatch("b", "t")]
    # Sent once, its deadline is the one of its arrival again.
    assert registry.next_timer() == NOW + LIMITS.queue_timeout


def test_an_exchange_that_is_repeated_too_late_expires() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW)
    registry.sent("a")
    registry.remove("s", NOW + 70)
    assert registry.again("a", NOW + 70) == []
    assert [one.exchange for one in registry.expire(NOW + 70)] == ["a"]


def test_a_session_without_room_is_tried_again_later() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW)
    assert registry.again("a", NOW, full=True) == []
    assert registry.submit(TOKEN, "b", NOW) == Queued()
    assert registry.next_timer() == NOW + FULL_RETRY
    assert registry.expire(NOW + FULL_RETRY) == [Dispatch("a", "s"), Dispatch("b", "s")]
    assert registry.again("a", NOW + 1, full=True) == []
    assert registry.room("s", NOW + 1) == [Dispatch("a", "s")]
    assert registry.next_timer() == NOW + LIMITS.queue_timeout


def refuse_all(registry: Registry, now: float) -> None:
    for exchange in ("a", "b"):
        registry.sent(exchange)
    for exchange in ("a", "b"):
        assert registry.again(exchange, now, refused=True) == []


def test_a_client_that_refuses_is_asked_ever_more_rarely() -> None:
    """Each round asks once for all that wait, and the rounds double apart."""
    registry = make(replace(LIMITS, queue_timeout=3600.0))
    registry.attach(TOKEN, "s", NOW)
    now = NOW
    for exchange in ("a", "b"):
        registry.submit(TOKEN, exchange, now)
    delays = []
    for _ in range(9):
        refuse_all(registry, now)
        assert registry.cancel("nobody", now) == []
        due = registry.next_timer()
        assert due is not None
        delays.append(round(due - now, 3))
        now = due
        assert registry.expire(now) == [Dispatch("a", "s"), Dispatch("b", "s")]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert delays[0] == FULL_RETRY
    assert delays[-1] == REFUSED_RETRY_CAP
    now += 2 * REFUSED_RETRY_CAP  # taken, as it seems: it begins anew
    refuse_all(registry, now)
    assert registry.next_timer() == now + FULL_RETRY


def test_a_client_that_refuses_is_asked_no_sooner_for_an_end_or_a_lack_of_room() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW, max_streams=4)
    for exchange in ("a", "b", "c", "d"):
        registry.submit(TOKEN, exchange, NOW)
    for exchange in ("a", "b"):
        registry.sent(exchange)
    assert registry.again("a", NOW, refused=True) == []
    assert registry.cancel("b", NOW) == []
    assert registry.again("c", NOW + 0.05, full=True) == []
    assert registry.next_timer() == NOW + FULL_RETRY
    assert registry.expire(NOW + FULL_RETRY) == [Dispatch("a", "s"), Dispatch("c", "s")]


def test_another_client_is_asked_at_once() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW)
    registry.sent("a")
    registry.attach(TOKEN, "t", NOW)
    assert registry.again("a", NOW, refused=True) == [Dispatch("a", "t")]
    registry.sent("a")
    assert registry.again("a", NOW, refused=True) == []  # both have refused


def test_a_session_without_room_that_is_gone_is_not_tried_again() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW)
    registry.submit(TOKEN, "b", NOW)
    registry.sent("b")
    registry.again("a", NOW, full=True)
    assert registry.remove("s", NOW) == []
    assert registry.again("b", NOW, full=True) == []
    assert registry.next_timer() == NOW + LIMITS.queue_timeout
    registry.attach(TOKEN, "t", NOW)
    assert registry.expire(NOW + 1) == []


def test_a_retired_session_takes_nothing_new() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    for name in "ab":
        registry.submit(TOKEN, name, NOW)
    registry.sent("a")
    assert registry.retire("s", NOW) == [Recall("b")]
    assert registry.submit(TOKEN, "c", NOW) == Queued()
    assert registry.attached(TOKEN) == []
    registry.detach("s", NOW)
    assert registry.attach(TOKEN, "s", NOW) == []
    assert registry.retire("s", NOW) == []
    assert registry.attach(TOKEN, "t", NOW) == [Dispatch("b", "t"), Dispatch("c", "t")]


# -- illegal moves -------------------------------------------------------------------------------


def test_illegal_moves() -> None:
    registry = make()
    of_exchanges: list[Callable[[str], object]] = [
        registry.sent,
        lambda exchange: registry.finished(exchange, NOW),
        lambda exchange: registry.again(exchange, NOW),
    ]
    for call in of_exchanges:
        with pytest.raises(LocalProtocolError, match="never submitted"):
            call("a")
    for of_session in (registry.detach, registry.retire, registry.remove, registry.room):
        with pytest.raises(LocalProtocolError, match="never attached"):
            of_session("s", NOW)
    registry.submit(TOKEN, "a", NOW)
    with pytest.raises(LocalProtocolError, match="submitted before"):
        registry.submit(TOKEN, "a", NOW)
    for call in of_exchanges:
        with pytest.raises(LocalProtocolError, match="QUEUED"):
            call("a")
    registry.attach(TOKEN, "s", NOW)
    with pytest.raises(LocalProtocolError, match="token"):
        registry.attach(OTHER, "s", NOW)
    registry.sent("a")
    with pytest.raises(LocalProtocolError, match="SENT"):
        registry.sent("a")
    registry.detach("s", NOW)
    with pytest.raises(LocalProtocolError, match="DETACHED"):
        registry.detach("s", NOW)
    registry.submit(TOKEN, "b", NOW)
    with pytest.raises(LocalProtocolError, match="HELD"):
        registry.finished("b", NOW)


def test_cancelling_what_has_left_changes_nothing() -> None:
    registry = make()
    assert registry.cancel("never", NOW) == []
    registry.submit(TOKEN, "a", NOW)
    assert registry.cancel("a", NOW) == registry.cancel("a", NOW) == []


# -- known tokens --------------------------------------------------------------------------------


def test_unknown_tokens_are_refused_after_the_start() -> None:
    registry = make(listed=())
    assert code(registry.submit(TOKEN, "a", NOW)) == (404, "no_tunnel")
    assert not registry.is_known(TOKEN, NOW)


def test_a_token_is_known_for_a_while_after_its_last_session() -> None:
    registry = make(listed=())
    registry.attach(TOKEN, "s", NOW)
    registry.attach(TOKEN, "t", NOW)
    registry.remove("s", NOW)
    registry.remove("t", NOW)
    assert registry.known_tokens(NOW) == {TOKEN}
    until = NOW + LIMITS.known_token_time
    assert registry.is_known(TOKEN, until - 1)
    assert not registry.is_known(TOKEN, until)
    assert registry.known_tokens(until) == set()
    assert registry.submit(TOKEN, "a", until - 1) == Queued()
    assert code(registry.submit(TOKEN, "b", until)) == (404, "no_tunnel")
    # A new session, and it is known again, beyond that hour too.
    registry.attach(TOKEN, "u", until)
    assert registry.is_known(TOKEN, until + LIMITS.known_token_time)
    assert registry.known_tokens(until) == {TOKEN}


def test_the_oldest_known_token_goes_when_there_are_too_many() -> None:
    registry = make(replace(LIMITS, known_tokens=2), listed=())
    tokens = [bytes([number]) * 32 for number in range(3)]
    for number, token in enumerate(tokens):
        registry.attach(token, str(number), NOW)
    for number in range(3):
        registry.remove(str(number), NOW + number)
    assert registry.known_tokens(NOW + 3) == set(tokens[1:])


def test_a_token_that_came_back_is_no_old_one() -> None:
    registry = make(replace(LIMITS, known_tokens=2), listed=())
    third = b"\x03" * 32
    for now, token in enumerate([TOKEN, OTHER, TOKEN, third]):
        registry.attach(token, "s", NOW + now)
        registry.remove("s", NOW + now)
    assert registry.known_tokens(NOW + 4) == {TOKEN, third}


def test_known_tokens_are_forgotten_in_time() -> None:
    registry = make(listed=())
    for number, token in enumerate([TOKEN, OTHER]):
        registry.attach(token, str(number), NOW)
        registry.remove(str(number), NOW + number)
    registry.expire(NOW + LIMITS.known_token_time)
    assert set(registry._recent) == {OTHER}
    registry.expire(NOW + LIMITS.known_token_time + 1)
    assert not registry._recent


def test_in_startup_unknown_tokens_wait_to_its_end() -> None:
    registry = make(listed=())
    assert registry.submit(TOKEN, "a", 1.0) == Queued()
    assert registry.submit(TOKEN, "b", 1.0, wait=5) == Queued()
    assert registry.submit(OTHER, "c", 2.0) == Queued()
    assert code(registry.submit(TOKEN, "d", 2.0, wait=0)) == (503, "no_client")
    (early,) = registry.expire(6.0)
    assert isinstance(early, Expired)
    assert (early.exchange, *code(early.rejected)) == ("b", 504, "queue_timeout")
    # A client comes back: those of its token wait for their own deadline now.
    registry.attach(TOKEN, "s", 10.0)
    late = registry.expire(LIMITS.startup_wait)
    assert [(one.exchange, *code(one.rejected)) for one in late if isinstance(one, Expired)] == [
        ("c", 404, "no_tunnel")
    ]
    assert registry.next_timer() == 1.0 + LIMITS.queue_timeout
    assert code(registry.submit(OTHER, "e", LIMITS.startup_wait)) == (404, "no_tunnel")


def test_in_startup_only_so_many_wait_for_unknown_tokens() -> None:
    registry = make(replace(LIMITS, startup_waiting=2), listed=[OTHER])
    registry.submit(TOKEN, "a", 1.0)
    registry.submit(b"\x03" * 32, "b", 1.0)
    assert code(registry.submit(TOKEN, "c", 1.0)) == (503, "queue_full")
    assert registry.submit(OTHER, "d", 1.0) == Queued()
    registry.cancel("b", 1.0)
    assert registry.submit(TOKEN, "c", 1.0) == Queued()


def test_with_listed_tokens_only_others_are_refused_at_once() -> None:
    registry = make(listed=[TOKEN], listed_only=True)
    assert code(registry.submit(OTHER, "a", 1.0)) == (404, "no_tunnel")
    assert registry.submit(TOKEN, "a", 1.0) == Queued()
    assert registry.may_register(OTHER) == Unlisted()
    assert registry.may_register(TOKEN) == Admitted()


def test_a_reload_changes_the_list() -> None:
    registry = make(listed=[TOKEN], listed_only=True)
    registry.attach(TOKEN, "s", NOW)
    registry.relist(frozenset({OTHER}), listed_only=True)
    assert not registry.is_known(TOKEN, NOW)
    assert registry.is_known(OTHER, NOW)
    registry.relist(frozenset({OTHER}), listed_only=False)
    assert registry.is_known(TOKEN, NOW)


def test_a_withdrawn_token_takes_those_that_wait_for_it_along() -> None:
    registry = make(listed=[])
    registry.attach(TOKEN, "s", NOW)
    for name in "ab":
        registry.submit(TOKEN, name, NOW)
    registry.sent("a")
    with pytest.raises(LocalProtocolError, match="sessions"):
        registry.withdraw(TOKEN, NOW)
    registry.remove("s", NOW)
    withdrawn = registry.withdraw(TOKEN, NOW)
    assert [(one.exchange, *code(one.rejected)) for one in withdrawn] == [("b", 404, "no_tunnel")]
    assert not registry.is_known(TOKEN, NOW)
    assert registry.withdraw(OTHER, NOW) == []
    registry.finished("a", NOW)
    assert repr(registry) == "<Registry tokens=0 sessions=0 exchanges=0>"


# -- registrations -------------------------------------------------------------------------------


def test_detached_and_retired_sessions_never_count_as_clients() -> None:
    registry = make(replace(LIMITS, max_clients_per_token=1))
    assert registry.may_register(TOKEN) == Admitted()
    registry.attach(TOKEN, "s", NOW)
    assert registry.may_register(TOKEN) == Full(("s",), POOL)
    assert registry.may_register(OTHER) == Admitted()
    registry.detach("s", NOW)
    assert registry.may_register(TOKEN) == Admitted()
    registry.attach(TOKEN, "s", NOW)
    registry.retire("s", NOW)
    assert registry.may_register(TOKEN) == Admitted()


def test_clients_that_are_about_to_attach_count() -> None:
    registry = make(replace(LIMITS, max_clients_per_token=2))
    assert registry.may_register(TOKEN, opening=1) == Admitted()
    assert registry.may_register(TOKEN, opening=2) == Full((), POOL)
    registry.attach(TOKEN, "s", NOW)
    assert registry.may_register(TOKEN, opening=1) == Full(("s",), POOL)


def test_clients_are_unlimited_by_default() -> None:
    registry = make()
    for number in range(50):
        registry.attach(TOKEN, str(number), NOW)
    assert registry.may_register(TOKEN) == Admitted()


def test_no_secret_is_shown() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW)
    registry.submit(TOKEN, "a", NOW)
    queue = registry._queues[TOKEN]
    assert queue.sessions(PlaceState.ATTACHED) == ["s"]
    for shown in (registry, queue.places["s"], registry._entries["a"]):
        assert repr(TOKEN) not in repr(shown)


# -- policies ------------------------------------------------------------------------------------


def test_a_policy_decides_who_registers_and_who_replaces() -> None:
    registry = make(policies=Policies(POLICIES["replace"], {OTHER: POLICIES["reject"]}))
    registry.attach(TOKEN, "s", NOW)
    assert registry.may_register(TOKEN, secret=True) == Admitted(replaces=True)
    assert registry.may_register(TOKEN) == Full(("s",), POLICIES["replace"])
    assert registry.may_register(TOKEN, policy=POOL) == Admitted()


def test_a_policy_that_was_granted_holds_for_the_token() -> None:
    registry = make()
    registry.attach(TOKEN, "s", NOW, policy=POLICIES["reject"])
    assert registry.may_register(TOKEN) == Full(("s",), POLICIES["reject"])
    assert registry.follow(Policies(POLICIES["standby"]), NOW) == []
    assert registry.may_register(TOKEN) == Admitted()
    registry.attach(TOKEN, "t", NOW)
    assert registry.submit(TOKEN, "x", NOW) == Dispatch("x", "s")
    assert registry.submit(TOKEN, "y", NOW) == Dispatch("y", "s")


def test_a_token_with_a_policy_of_its_own_keeps_it_when_the_default_changes() -> None:
    own = {TOKEN: POLICIES["standby"]}
    registry = make(policies=Policies(None, own))
    registry.attach(TOKEN, "s", NOW)
    assert registry.follow(Policies(POLICIES["reject"], own), NOW) == []
    assert isinstance(registry.may_register(TOKEN), Admitted)
    assert isinstance(registry.may_register(OTHER), Admitted)


def test_the_lengths_of_queues() -> None:
    registry = make(listed=[TOKEN, OTHER])
    for name in "ab":
        registry.submit(TOKEN, name, NOW)
    registry.attach(OTHER, "s", NOW)
    registry.submit(OTHER, "c", NOW)
    assert registry.queue_lengths() == [2]
