"""What every answer to a poll or a post means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.heads import Fields
from tunnelkit.transports.longpoll.client_answers import Judgement, Reply, Verdict, judge_reply
from tunnelkit.transports.longpoll.wire import answer_fields, closed_answer, refused

HTML = [(b"Content-Type", b"text/html")]


def by_the_server(status: int, code: str, *, retry_after: float | None = None) -> Judgement:
    answer = refused(status, code, "so it is", retry_after=retry_after)
    return judge_reply(Reply(answer.status, answer.fields, answer.body), 7)


def test_the_servers_own_answer_is_the_answer() -> None:
    assert judge_reply(Reply(200, answer_fields(7), b"message"), 7).verdict is Verdict.DONE


@pytest.mark.parametrize(
    "fields",
    [
        HTML,
        [],
        answer_fields(6),
        [*answer_fields(7), *answer_fields(7)],
        [(b"Content-Type", b"application/octet-stream")],
    ],
)
def test_a_page_with_status_200_is_none(fields: Fields) -> None:
    judgement = judge_reply(Reply(200, fields, b"<h1>Log in</h1>"), 7)
    assert judgement.verdict is Verdict.REPEAT
    assert "status 200" in judgement.reason


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *[(status, Verdict.CUT) for status in (502, 504)],
        *[(status, Verdict.REPEAT) for status in (204, 206, 408, 429, 500, 503, 520, 599)],
        *[(status, Verdict.LOST) for status in (301, 302, 400, 401, 403, 404, 405, 407, 410, 411, 413, 418)],
    ],
)
def test_everybody_elses_answers(status: int, verdict: Verdict) -> None:
    judgement = judge_reply(Reply(status, HTML, b"<h1>Sorry</h1>"), 7)
    assert judgement.verdict is verdict
    text = judgement.reason or str(judgement.lost)
    assert f"status {status}" in text
    assert (judgement.lost is None) == (verdict is not Verdict.LOST)


def test_a_wait_that_somebody_asks_for_is_kept() -> None:
    assert judge_reply(Reply(503, [(b"Retry-After", b"3")], b""), 7).retry_after == 3.0
    assert by_the_server(503, "overloaded", retry_after=2).retry_after == 2.0


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        (409, "poll_replaced", Verdict.REPEAT),
        (503, "overloaded", Verdict.REPEAT),
        (500, "internal_error", Verdict.REPEAT),
        (429, "rate_limited", Verdict.REPEAT),
        (409, "out_of_window", Verdict.LOST),
        (410, "unknown_connection", Verdict.LOST),
        (403, "bad_proof", Verdict.LOST),
        (400, "bad_request", Verdict.LOST),
        (411, "length_required", Verdict.LOST),
        (413, "too_large", Verdict.LOST),
    ],
)
def test_the_servers_refusals(status: int, code: str, verdict: Verdict) -> None:
    judgement = by_the_server(status, code)
    assert judgement.verdict is verdict
    assert code in (judgement.reason or str(judgement.lost))
    assert judgement.lost is None or not judgement.lost.clean


def test_the_servers_close_is_a_clean_end() -> None:
    answer = closed_answer(1001, "going away")
    lost = judge_reply(Reply(answer.status, answer.fields, answer.body), 7).lost
    assert lost is not None
    assert (lost.clean, lost.code) == (True, 1001)
    assert "going away" in lost.reason


@given(
    st.integers(200, 999),
    st.lists(st.sampled_from([*answer_fields(7), *HTML, (b"Retry-After", b"1"), (b"Tunnelkit-Number", b"x")])),
    st.binary(max_size=50),
)
def test_any_answer_has_a_meaning(status: int, fields: Fields, body: bytes) -> None:
    judgement = judge_reply(Reply(status, fields, body), 7)
    if judgement.verdict is Verdict.DONE:
        assert status == 200
    else:
        assert bool(judgement.reason) != bool(judgement.lost)
