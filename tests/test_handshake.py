from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.errors import LocalProtocolError, RegistrationRefused, RemoteProtocolError
from tunnelkit.handshake import (
    VERSION,
    Grant,
    Handshake,
    Refusal,
    Resume,
    from_bytes,
    from_fields,
    grant_from_fields,
    grant_to_fields,
    refusal_from_problem,
    refusal_of,
    refusal_to_problem,
    to_bytes,
    to_fields,
)
from tunnelkit.heads import Fields

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "vectors" / "handshakes.json").read_text()
)
TOKEN = "vector-token-0123456789"


def vectors(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[kind], ids=lambda vector: vector["name"])


def fields_of(vector: dict[str, Any]) -> Fields:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in vector["fields"]]


def resume_of(value: dict[str, Any] | None) -> Resume | None:
    return None if value is None else Resume(**{**value, "proof": bytes.fromhex(value["proof"])})


def handshake_of(value: dict[str, Any]) -> Handshake:
    parts = {name: resume_of(value[name]) for name in ("resume", "gives_up")}
    return Handshake(**{**value, **parts, "features": frozenset(value["features"])})


def grant_of(value: dict[str, Any]) -> Grant:
    key = value["resume_key"]
    return Grant(
        **{
            **value,
            "resume_key": None if key is None else bytes.fromhex(key),
            "features": frozenset(value["features"]),
        }
    )


# -- vectors -------------------------------------------------------------------------------------


@vectors("handshakes")
def test_handshakes(vector: dict[str, Any]) -> None:
    handshake = handshake_of(vector["value"])
    assert to_fields(handshake) == fields_of(vector)
    assert from_fields(fields_of(vector)) == handshake
    assert to_bytes(handshake).hex() == vector["binary"]
    assert from_bytes(bytes.fromhex(vector["binary"])) == handshake


@vectors("grants")
def test_grants(vector: dict[str, Any]) -> None:
    grant = grant_of(vector["value"])
    assert grant_to_fields(grant) == fields_of(vector)
    assert grant_from_fields(fields_of(vector)) == grant
    assert to_bytes(grant).hex() == vector["binary"]
    assert from_bytes(bytes.fromhex(vector["binary"])) == grant


@vectors("refusals")
def test_refusals(vector: dict[str, Any]) -> None:
    refusal = Refusal(**vector["value"])
    fields, body = refusal_to_problem(refusal)
    assert fields == fields_of(vector)
    assert body == vector["body"].encode()
    assert refusal_from_problem(vector["status"], fields, body) == refusal
    assert to_bytes(refusal).hex() == vector["binary"]
    assert from_bytes(bytes.fromhex(vector["binary"])) == refusal


@vectors("also_accepted")
def test_fields_that_are_also_accepted(vector: dict[str, Any]) -> None:
    assert from_fields(fields_of(vector)) == handshake_of(vector["value"])


@vectors("binary_also_accepted")
def test_bytes_that_are_also_accepted(vector: dict[str, Any]) -> None:
    assert from_bytes(bytes.fromhex(vector["binary"])) == handshake_of(vector["value"])


@vectors("refused_handshakes")
def test_handshakes_that_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        from_fields(fields_of(vector))
    assert caught.value.code == vector["code"]
    assert str(caught.value).startswith(vector["problem"])
    refusal = refusal_of(caught.value)
    assert (refusal.status, refusal.code) == (400, vector["code"])
    assert refusal.detail == str(caught.value)
    assert RegistrationRefused(refusal.status, refusal.code, refusal.detail).terminal


@vectors("refused_grants")
def test_grants_that_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        grant_from_fields(fields_of(vector))
    assert caught.value.code == "bad_grant"
    assert str(caught.value).startswith(vector["problem"])


@vectors("refused_binary")
def test_bytes_that_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        from_bytes(bytes.fromhex(vector["binary"]))
    assert caught.value.code == vector["code"]


# -- what goes in comes out ----------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
FEATURES = st.frozensets(st.from_regex(r"[a-z0-9_.-]{1,32}", fullmatch=True), max_size=32)
RESUMES = st.none() | st.builds(
    Resume, session_id=NAMES, epoch=st.integers(1, 2**32 - 1), proof=st.binary(min_size=32, max_size=32)
)
ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=60)
HANDSHAKES = st.builds(
    Handshake,
    token=st.from_regex(r"[!-+\--9;-~]{16,256}", fullmatch=True),
    password=st.none() | ANY_TEXT,
    authorization=st.none() | st.from_regex(r"[!-~]([ -~]{0,60}[!-~])?", fullmatch=True),
    version_min=st.integers(0, VERSION),
    version_max=st.integers(VERSION, 99999),
    features=FEATURES,
    client_version=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    instance=st.just("") | NAMES,
    name=st.none() | ANY_TEXT,
    policy=st.none() | st.from_regex(r"[a-z0-9_-]{1,32}", fullmatch=True),
    resume=RESUMES,
    gives_up=RESUMES,
)
GRANTS = st.builds(
    Grant,
    session_id=NAMES,
    resume_key=st.none() | st.binary(min_size=32, max_size=32),
    features=FEATURES,
    replay_window=st.integers(0, 10**15 - 1),
    stream_floor=st.integers(0, 10**15 - 1),
    max_streams=st.integers(0, 10**9 - 1),
    grace=st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000),
    public_url=st.from_regex(r"[!-~]{0,512}", fullmatch=True),
)
REFUSALS = st.builds(
    Refusal,
    status=st.integers(400, 599),
    code=st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True),
    detail=st.text(st.characters(exclude_categories=["C", "Z"]), max_size=500),
    retry_after=st.none() | st.integers(0, 10**9 - 1).map(float),
)


@given(HANDSHAKES)
def test_any_handshake(handshake: Handshake) -> None:
    assert from_fields(to_fields(handshake)) == handshake
    assert from_bytes(to_bytes(handshake)) == handshake
    for name, value in to_fields(handshake):
        assert name.isascii()
        assert value == value.strip()
        assert all(0x20 <= byte < 0x7F for byte in value)


@given(GRANTS)
def test_any_grant(grant: Grant) -> None:
    assert grant_from_fields(grant_to_fields(grant)) == grant
    assert from_bytes(to_bytes(grant)) == grant


@given(REFUSALS)
def test_any_refusal(refusal: Refusal) -> None:
    assert refusal_from_problem(refusal.status, *refusal_to_problem(refusal)) == refusal
    assert from_bytes(to_bytes(refusal)) == refusal


def read(data: bytes) -> object:
    """The message, or the code of the error."""
    try:
        return from_bytes(data)
    except RemoteProtocolError as error:
        return error.code


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x01\x00\x01\x00\x031-1" + tail))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    found = read(data)
    if isinstance(found, Handshake | Grant | Refusal):
        assert read(to_bytes(found)) == found
    else:
        assert found in {"bad_request", "version", "bad_grant", "bad_refusal"}


@given(st.data())
def test_any_cut_of_a_message_is_read_or_refused(data: st.DataObject) -> None:
    whole = to_bytes(data.draw(HANDSHAKES))
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert isinstance(read(cut), Handshake | str)
    assert read(cut) != read(whole)


def test_long_messages_are_refused() -> None:
    data = to_bytes(Handshake(token=TOKEN))
    filler = b"\x7f\x00\xff\xff" + bytes(65535)
    for kind, code in [(1, "bad_request"), (2, "bad_grant"), (3, "bad_refusal")]:
        with pytest.raises(RemoteProtocolError, match="longer than 16384") as caught:
            from_bytes(bytes([kind]) + data[1:] + filler)
        assert caught.value.code == code


# -- what cannot be sent -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handshake", "field"),
    [
        (Handshake(token="short"), "Tunnelkit-Token"),
        (Handshake(token="tökentökentökentöken"), "Tunnelkit-Token"),
        (Handshake(token="x" * 16 + "\r\nX: y"), "Tunnelkit-Token"),
        (Handshake(token=TOKEN, password="x" * 2049), "Tunnelkit-Password"),
        (Handshake(token=TOKEN, authorization="Basic x\r\nX: y"), "Authorization"),
        (Handshake(token=TOKEN, authorization="é"), "Authorization"),
        (Handshake(token=TOKEN, version_max=100_000), "Tunnelkit-Version"),
        (Handshake(token=TOKEN, features=frozenset({"A"})), "Tunnelkit-Features"),
        (Handshake(token=TOKEN, features=frozenset({"é"})), "Tunnelkit-Features"),
        (Handshake(token=TOKEN, instance="a b"), "Tunnelkit-Instance"),
        (Handshake(token=TOKEN, policy=""), "Tunnelkit-Policy"),
        (Handshake(token=TOKEN, resume=Resume(session_id="", epoch=1, proof=bytes(32))), "Tunnelkit-Session"),
        (Handshake(token=TOKEN, resume=Resume(session_id="n", epoch=-1, proof=bytes(32))), "Tunnelkit-Epoch"),
        (Handshake(token=TOKEN, gives_up=Resume(session_id="n", epoch=1, proof=b"")), "Tunnelkit-Gives-Up-Proof"),
        (Grant(session_id="é"), "Tunnelkit-Session"),
        (Grant(session_id="n", grace=float("inf")), "Tunnelkit-Grace"),
        (Grant(session_id="n", replay_window=-1), "Tunnelkit-Replay-Window"),
        (Grant(session_id="n", public_url="http://é"), "Tunnelkit-Public-Url"),
        (Refusal(status=200, code="forbidden", detail=""), "status"),
        (Refusal(status=403, code="No entry", detail=""), "code"),
    ],
)
def test_values_that_cannot_be_sent(handshake: Handshake | Grant | Refusal, field: str) -> None:
    with pytest.raises(LocalProtocolError, match=f"^{field} must be"):
        to_bytes(handshake)


def test_errors_and_reprs_show_no_secret() -> None:
    secret = "hunter2hunter2hunter2"
    resume = Resume(session_id="n-1", epoch=1, proof=secret.encode())
    handshake = Handshake(token=secret, password=secret, authorization=secret, resume=resume, gives_up=resume)
    assert "hunter" not in repr(handshake)
    assert "hunter" not in repr(Grant(session_id="n", resume_key=secret.encode()))
    for field in (b"Tunnelkit-Token", b"Tunnelkit-Password", b"Authorization"):
        with pytest.raises(RemoteProtocolError) as caught:
            from_fields([(field, secret.encode() + b"\x00")])
        assert "hunter" not in str(caught.value)


def test_times_are_sent_in_milliseconds() -> None:
    assert (b"Tunnelkit-Grace", b"0.333") in grant_to_fields(Grant(session_id="n", grace=1 / 3))


# -- refusals over HTTP --------------------------------------------------------------------------

PROBLEM = b"application/problem+json"


def problem(**members: object) -> bytes:
    return json.dumps({"type": "urn:tunnelkit:error:forbidden", "code": "forbidden", **members}).encode()


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ([], problem()),
        ([(b"Content-Type", b"text/html")], problem()),
        ([(b"Content-Type", b"application/json")], problem()),
        ([(b"Content-Type", PROBLEM)], b""),
        ([(b"Content-Type", PROBLEM)], b"\xff"),
        ([(b"Content-Type", PROBLEM)], b"<html>"),
        ([(b"Content-Type", PROBLEM)], b"[]"),
        ([(b"Content-Type", PROBLEM)], b"[" * 10_000),
        ([(b"Content-Type", PROBLEM)], problem(code=None)),
        ([(b"Content-Type", PROBLEM)], problem(code=403)),
        # Another gateway's problem: its "unauthorized" must not end a tunnel client.
        ([(b"Content-Type", PROBLEM)], problem(type="about:blank")),
        ([(b"Content-Type", PROBLEM)], problem(code="unauthorized")),
        ([(b"Content-Type", PROBLEM)], problem(detail="x" * 20_000)),
        # A code goes to logs and errors as it is.
        *[
            ([(b"Content-Type", PROBLEM)], problem(type=f"urn:tunnelkit:error:{code}", code=code))
            for code in ("", "a\x1b[2J", "a\nb", "a\u202eb", "a\ud800", "x" * 65, "For")
        ],
    ],
)
def test_other_answers_are_not_the_servers(fields: Fields, body: bytes) -> None:
    assert refusal_from_problem(403, fields, body) is None


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [(b"5", 5.0), (b"0", 0.0), (b"", None), (b"-1", None), (b"1.5", None), (b"Sat, 21 Nov 2026 00:00:00 GMT", None)],
)
def test_retry_after(retry_after: bytes, seconds: float | None) -> None:
    fields = [(b"content-type", PROBLEM + b"; charset=utf-8"), (b"RETRY-AFTER", retry_after)]
    refusal = refusal_from_problem(503, fields, problem())
    assert refusal == Refusal(status=503, code="forbidden", detail="", retry_after=seconds)


def test_retry_after_is_rounded_up() -> None:
    fields, _ = refusal_to_problem(Refusal(status=503, code="draining", detail="", retry_after=0.2))
    assert (b"Retry-After", b"1") in fields
    fields, _ = refusal_to_problem(Refusal(status=503, code="draining", detail="", retry_after=-3))
    assert (b"Retry-After", b"0") in fields


def test_details_end_in_logs_and_on_terminals() -> None:
    refusal = refusal_from_problem(
        403, [(b"Content-Type", PROBLEM)], problem(detail="a\x1b[31m\nb\u202e" + "x" * 600)
    )
    assert refusal is not None
    assert refusal.detail.startswith("a?[31m?b?x")
    assert len(refusal.detail) == 500
    sent = from_bytes(to_bytes(Refusal(status=403, code="forbidden", detail="\x1b" + "é" * 600)))
    assert isinstance(sent, Refusal)
    assert sent.detail == "?" + "é" * 499


@pytest.mark.parametrize("detail", [None, 5, ["x"]])
def test_a_detail_that_is_no_text_is_left_out(detail: object) -> None:
    refusal = refusal_from_problem(403, [(b"Content-Type", PROBLEM)], problem(detail=detail))
    assert refusal == Refusal(status=403, code="forbidden", detail="")
