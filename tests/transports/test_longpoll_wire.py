"""What long-poll requests and answers look like: the vectors, and what is made of everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.errors import AnsweredByOther, RemoteProtocolError
from tunnelkit.handshake import Grant, Handshake, refusal_from_problem
from tunnelkit.heads import Fields
from tunnelkit.proof import Prover
from tunnelkit.transports.answers import Answer, Target, judge_answer
from tunnelkit.transports.longpoll.wire import (
    PURPOSES,
    STREAM_ANSWER_FIELDS,
    Asked,
    Op,
    answer_fields,
    check_open,
    check_request,
    close_fields,
    closed_answer,
    closed_reason,
    is_own_answer,
    is_streamed,
    open_fields,
    opened_fields,
    parse_opened,
    poll_fields,
    refused,
    target_path,
)

from .stubs import request_fields

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "longpoll.json").read_text())
TARGET = Target.parse(VECTORS["url"])
PROVER = Prover(bytes.fromhex(VECTORS["resume_key"]), VECTORS["session_id"], VECTORS["epoch"])
ID: str = VECTORS["connection_id"]
HANDSHAKE = Handshake(token="0123456789abcdef", instance="i-1")
GRANT = Grant(
    session_id="n1-abcdef",
    resume_key=bytes(range(32)),
    replay_window=4194304,
    stream_floor=16384,
    max_streams=1000,
    grace=30.0,
)
MAX = 1 << 20

EXTRA: dict[str, Fields] = {
    "the first poll": poll_fields(25.0),
    "a poll to be streamed": poll_fields(4.75, stream=True),
    "a close": close_fields(1001, "restart"),
    "a close without a reason": close_fields(1000),
}


def by_name(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[kind], ids=lambda vector: str(vector["name"]))


def fields_of(vector: dict[str, Any]) -> Fields:
    return [(name.encode(), value.encode()) for name, value in vector["fields"]]


# -- requests ------------------------------------------------------------------------------------


@by_name("requests")
def test_requests_are_the_vectors(vector: dict[str, Any]) -> None:
    op = Op(vector["op"])
    assert target_path(TARGET, op) == vector["target"]
    if op is Op.OPEN:
        assert open_fields(TARGET, HANDSHAKE, "tunnelkit/1.0") == fields_of(vector)
        assert check_open(b"POST", fields_of(vector)) == HANDSHAKE
        return
    number, length = vector["number"], vector["length"]
    proof = PROVER.make(PURPOSES[op], number, length)
    fields = request_fields(TARGET, ID, number, proof, length=length)
    assert [*fields, *EXTRA.get(vector["name"], [])] == fields_of(vector)
    asked = check_request(b"POST", fields_of(vector), MAX)
    assert isinstance(asked, Asked)
    assert (asked.connection_id, asked.number, asked.length) == (ID, number, length)
    assert PROVER.check(asked.proof, PURPOSES[op], asked.number, asked.length)


def asked_of(fields: Fields) -> Asked:
    asked = check_request(b"POST", [*request_fields(TARGET, ID, 1, bytes(32)), *fields], MAX)
    assert isinstance(asked, Asked)
    return asked


def test_what_a_request_may_name_beside() -> None:
    asked = asked_of([])
    assert (asked.hold, asked.stream, asked.code, asked.reason) == (float("inf"), False, 1005, "")
    assert asked_of(poll_fields(0.5)).hold == 0.5
    assert asked_of(poll_fields(0.0, stream=True)).stream
    assert not asked_of([(b"Tunnelkit-Mode", b"later")]).stream
    assert asked_of([(b"tunnelkit-code", b"1001")]).code == 1001
    assert asked_of([(b"Tunnelkit-Later", b"any\xff")]) == asked


@given(st.text(max_size=300))
def test_any_reason_can_be_sent(reason: str) -> None:
    asked = asked_of(close_fields(1000, reason))
    assert asked.reason == asked.reason.strip()
    assert len(asked.reason) <= 123
    if reason.isascii() and reason.isprintable() and len(reason) <= 123:
        assert asked.reason == reason.strip()


def test_a_request_names_its_program_where_there_is_one() -> None:
    assert (b"User-Agent", b"x/1") in request_fields(TARGET, ID, 1, bytes(32), user_agent="x/1")


@pytest.mark.parametrize(
    "extra",
    [
        (b"Tunnelkit-Hold", b"-1"),
        (b"Tunnelkit-Hold", b"1e9"),
        (b"Tunnelkit-Hold", b"nan"),
        (b"Tunnelkit-Hold", b"1234567"),
        (b"Tunnelkit-Hold", b"1.0000"),
        (b"Tunnelkit-Mode", b"STREAM"),
        (b"Tunnelkit-Code", b"0999"),
        (b"Tunnelkit-Code", b"10000"),
        (b"Tunnelkit-Reason", b"r" * 124),
        (b"Tunnelkit-Reason", b"\xff"),
        (b"Tunnelkit-Number", b"1"),
        (b"TUNNELKIT-PROOF", b"0" * 64),
    ],
)
def test_what_is_malformed_or_stands_twice_is_refused(extra: tuple[bytes, bytes]) -> None:
    answer = check_request(b"POST", [*request_fields(TARGET, ID, 1, bytes(32)), extra], MAX)
    assert isinstance(answer, Answer)
    refusal = refusal_from_problem(answer.status, answer.fields, answer.body)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (400, "bad_request")
    assert extra[0].decode() in refusal.detail


@given(st.lists(st.tuples(st.sampled_from([n for n, _ in request_fields(TARGET, ID, 1, bytes(32))]), st.binary())))
def test_garbage_is_answered_in_our_name(fields: Fields) -> None:
    for answer in (check_request(b"POST", fields, MAX), check_open(b"POST", fields)):
        assert isinstance(answer, Answer)
        assert refusal_from_problem(answer.status, answer.fields, answer.body) is not None


def test_another_method_is_not_refused_in_our_name() -> None:
    for answer in (check_request(b"GET", [], MAX), check_open(b"PUT", [])):
        assert isinstance(answer, Answer)
        assert (b"Allow", b"POST") in answer.fields
        error = judge_answer(answer.status, answer.fields, answer.body, tls=False)
        assert isinstance(error, AnsweredByOther)


# -- answers -------------------------------------------------------------------------------------


@by_name("answers")
def test_answers_are_the_vectors(vector: dict[str, Any]) -> None:
    fields = fields_of(vector)
    if vector["name"] == "the grant":
        assert opened_fields(GRANT, ID) == fields
        assert parse_opened(fields) == (GRANT, ID)
        return
    streamed = "streamed" in vector["name"]
    assert [*answer_fields(vector["number"]), *(STREAM_ANSWER_FIELDS if streamed else ())] == fields
    assert is_own_answer(vector["status"], fields, vector["number"])
    assert is_streamed(fields) == streamed


def test_an_answer_is_only_the_servers_when_all_of_it_is() -> None:
    fields = answer_fields(7)
    assert not is_own_answer(200, fields, 8)
    assert not is_own_answer(206, fields, 7)
    assert not is_own_answer(200, [], 7)
    assert not is_own_answer(200, [(b"Content-Type", b"text/html"), *fields[1:]], 7)
    assert not is_own_answer(200, [*fields, (b"Tunnelkit-Number", b"7")], 7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Tunnelkit-Longpoll", None),
        (b"Tunnelkit-Longpoll", b"2"),
        (b"Tunnelkit-Connection", None),
        (b"Tunnelkit-Connection", b"../etc"),
        (b"Tunnelkit-Session", None),
    ],
)
def test_a_grant_that_is_none(name: bytes, value: bytes | None) -> None:
    fields = [field for field in opened_fields(GRANT, ID) if field[0] != name]
    with pytest.raises(RemoteProtocolError) as caught:
        parse_opened([*fields, *([(name, value)] if value else [])])
    assert caught.value.code == "bad_grant"


@pytest.mark.parametrize("vector", VECTORS["closed"])
def test_the_end_in_order(vector: dict[str, Any]) -> None:
    answer = closed_answer(vector["code"], vector["reason"])
    refusal = refusal_from_problem(answer.status, answer.fields, answer.body)
    assert refusal is not None
    assert (refusal.status, refusal.detail) == (410, vector["detail"])
    why = closed_reason(refusal)
    assert why is not None
    assert (why.clean, why.code) == (True, vector["code"])
    assert vector["reason"] in why.reason


def test_what_is_no_end_in_order() -> None:
    for answer in (refused(410, "unknown_connection", "1000 x"), refused(409, "out_of_window", "")):
        refusal = refusal_from_problem(answer.status, answer.fields, answer.body)
        assert refusal is not None
        assert closed_reason(refusal) is None
    odd = refused(410, "connection_closed", "for some reason")
    refusal = refusal_from_problem(odd.status, odd.fields, odd.body)
    assert refusal is not None
    why = closed_reason(refusal)
    assert why is not None
    assert (why.clean, why.code) == (True, 1000)
    assert "for some reason" in why.reason
