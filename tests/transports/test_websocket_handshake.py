"""The opening handshake's decisions: what is asked, what is granted, what every other answer means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.errors import AnsweredByOther, DialError
from tunnelkit.handshake import Grant, Handshake, Refusal, to_fields
from tunnelkit.heads import Fields, field_values
from tunnelkit.transports.answers import Answer, Target, judge_answer, refusal_answer
from tunnelkit.transports.websocket.handshake import (
    Opening,
    accept_fields,
    check_request,
    check_switched,
    request_fields,
)

# RFC 6455 1.3
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

TOKEN = "0123456789abcdef"
HANDSHAKE = Handshake(token=TOKEN, instance="i-1", client_version="1.0")
GRANT = Grant(
    session_id="n-1", resume_key=bytes(32), replay_window=4096, stream_floor=1024, max_streams=10, grace=30.0
)


def value(fields: Fields, name: bytes) -> bytes:
    (found,) = field_values(fields, name)
    return found


def changed(fields: Fields, name: bytes, new: bytes | None) -> Fields:
    """``fields`` with another value for ``name``, or without it."""
    rest = [field for field in fields if field[0].lower() != name.lower()]
    return rest if new is None else [*rest, (name, new)]


# -- the client's request ------------------------------------------------------------------------


def test_the_request_asks_for_the_subprotocol_and_bears_no_origin() -> None:
    fields = request_fields(Target.parse("http://example.org"), KEY, HANDSHAKE, "tunnelkit/1.0")
    assert fields[0] == (b"Host", b"example.org")
    assert value(fields, b"user-agent") == b"tunnelkit/1.0"
    assert value(fields, b"sec-websocket-protocol") == b"tunnelkit.v1"
    assert value(fields, b"sec-websocket-version") == b"13"
    assert value(fields, b"tunnelkit-token") == TOKEN.encode()
    assert not field_values(fields, b"origin")
    assert not field_values(fields, b"sec-websocket-extensions")
    assert not field_values(request_fields(Target.parse("http://h"), KEY, HANDSHAKE, ""), b"user-agent")


def test_the_server_grants_what_the_client_asks() -> None:
    opening = check_request(b"GET", request_fields(Target.parse("http://h"), KEY, HANDSHAKE, ""))
    assert isinstance(opening, Opening)
    assert opening.key == KEY
    assert opening.handshake == HANDSHAKE
    fields = accept_fields(opening.key, GRANT)
    assert value(fields, b"sec-websocket-accept") == ACCEPT
    assert check_switched(fields, KEY) == GRANT


# -- the answer 101 ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "new", "text"),
    [
        (b"Upgrade", None, "switch"),
        (b"Upgrade", b"h2c", "switch"),
        (b"Connection", b"keep-alive", "switch"),
        (b"Sec-WebSocket-Accept", None, "Accept"),
        (b"Sec-WebSocket-Accept", b"c3BvaWx0", "Accept"),
        (b"Sec-WebSocket-Accept", ACCEPT.lower(), "Accept"),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate", "extension"),
        (b"Sec-WebSocket-Protocol", None, "another websocket server"),
        (b"Sec-WebSocket-Protocol", b"chat", "another websocket server"),
        (b"Tunnelkit-Session", None, "grant"),
    ],
)
def test_a_wrong_101_is_no_connection(name: bytes, new: bytes | None, text: str) -> None:
    with pytest.raises(DialError, match=text) as caught:
        check_switched(changed(accept_fields(KEY, GRANT), name, new), KEY)
    assert caught.value.stage == "handshake"


def test_the_101s_tokens_are_lists_in_any_case() -> None:
    fields = changed(accept_fields(KEY, GRANT), b"Upgrade", b"WebSocket")
    assert check_switched(changed(fields, b"Connection", b"keep-alive, UPGRADE"), KEY) == GRANT


def test_an_accept_key_twice_is_none() -> None:
    with pytest.raises(DialError):
        check_switched([*accept_fields(KEY, GRANT), (b"Sec-WebSocket-Accept", ACCEPT)], KEY)


# -- requests that are not granted ---------------------------------------------------------------

GOOD = request_fields(Target.parse("http://h"), KEY, HANDSHAKE, "")


def refused(fields: Fields, method: bytes = b"GET") -> tuple[int, str, Answer]:
    answer = check_request(method, fields)
    assert isinstance(answer, Answer)
    assert not field_values(answer.fields, b"content-length")  # whoever carries it adds that
    is_problem = value(answer.fields, b"content-type") == b"application/problem+json"
    code = str(json.loads(answer.body)["code"]) if is_problem else ""
    return answer.status, code, answer


@pytest.mark.parametrize(
    ("name", "new", "status", "code"),
    [
        (b"Upgrade", None, 426, ""),
        (b"Upgrade", b"h2c", 426, ""),
        (b"Connection", b"close", 426, ""),
        (b"Sec-WebSocket-Version", None, 426, ""),
        (b"Sec-WebSocket-Version", b"8", 426, ""),
        (b"Sec-WebSocket-Key", None, 400, ""),
        (b"Sec-WebSocket-Key", b"c2hvcnQ=", 400, ""),
        (b"Sec-WebSocket-Key", b"no base64!", 400, ""),
        (b"Sec-WebSocket-Key", b"\xff" * 24, 400, ""),
        (b"Origin", b"https://evil.example", 403, "forbidden"),
        (b"Origin", b"null", 403, "forbidden"),
        (b"Sec-WebSocket-Protocol", None, 400, "version"),
        (b"Sec-WebSocket-Protocol", b"chat, tunnelkit.v9", 400, "version"),
        (b"Tunnelkit-Token", None, 400, "bad_request"),
        (b"Tunnelkit-Token", b"with space", 400, "bad_request"),
    ],
)
def test_a_wrong_request_is_answered_by_kind(name: bytes, new: bytes | None, status: int, code: str) -> None:
    got, got_code, answer = refused(changed(GOOD, name, new))
    assert (got, got_code) == (status, code)
    if status == 426:
        assert value(answer.fields, b"sec-websocket-version") == b"13"
        assert value(answer.fields, b"upgrade") == b"websocket"


def test_only_get_opens_a_websocket() -> None:
    status, code, answer = refused(GOOD, b"POST")
    assert (status, code) == (405, "")
    assert value(answer.fields, b"allow") == b"GET"


def test_what_spoils_a_handshake_in_between_does_not_look_like_our_decision() -> None:
    _, _, answer = refused(changed(GOOD, b"Upgrade", None))
    error = judge_answer(answer.status, answer.fields, answer.body, tls=False)
    assert isinstance(error, AnsweredByOther)
    assert "reverse proxy" in error.hint


def test_wstunnels_client_is_told_what_it_met() -> None:
    """It sends its token in Origin, and no subprotocol."""
    fields = changed(changed(GOOD, b"Sec-WebSocket-Protocol", None), b"Origin", b"my_b!g_$secret!!")
    status, code, answer = refused(fields)
    assert (status, code) == (400, "version")
    assert b"WStunnel" in answer.body
    assert b"my_b" not in answer.body


def test_another_version_of_tunnelkit_is_refused_as_such() -> None:
    future = [*changed(GOOD, b"Tunnelkit-Version", None), (b"Tunnelkit-Version", b"7-9")]
    status, code, answer = refused(future)
    assert (status, code) == (400, "version")
    assert not field_values(answer.fields, b"upgrade")  # the client offered all that could be upgraded to


def test_401_bears_a_challenge() -> None:
    answer = refusal_answer(Refusal(status=401, code="unauthorized", detail="wrong password"))
    assert value(answer.fields, b"www-authenticate").startswith(b"Basic ")


def test_a_subprotocol_among_others_is_found() -> None:
    fields = changed(GOOD, b"Sec-WebSocket-Protocol", b"chat, tunnelkit.v1")
    assert isinstance(check_request(b"GET", fields), Opening)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([name for name, _ in GOOD] + [b"Origin", *(name for name, _ in to_fields(HANDSHAKE))]),
            st.one_of(st.binary(max_size=30), st.sampled_from([value for _, value in GOOD])),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_any_request_gets_an_answer(fields: Fields, on_top: bool) -> None:
    assert isinstance(check_request(b"GET", [*(GOOD if on_top else []), *fields]), Opening | Answer)
