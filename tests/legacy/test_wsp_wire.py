"""wsp's messages against bytes of the running programs, and everything that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunnelkit.core.allowlist import parse_x_host
from tunnelkit.errors import HeadError, LocalProtocolError, RemoteProtocolError
from tunnelkit.handshake import Refusal
from tunnelkit.heads import Fields
from tunnelkit.legacy import wsp_wire as wire
from tunnelkit.transports.answers import Target

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "wsp.json").read_text(encoding="utf-8"))
HERE = parse_x_host(b"http://127.0.0.1:27181")


def fields_of(vector: dict[str, Any]) -> Fields:
    return [(name.encode(), value.encode()) for name, value in vector["fields"]]


def lines_of(head: str) -> Fields:
    lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
    return [(name.encode(), value.encode()) for name, _, value in lines]


# -- handshake and greeting ----------------------------------------------------------------------


def test_the_handshake_is_theirs_but_for_the_name_of_the_program() -> None:
    fields = lines_of(VECTORS["handshake"]["request"])
    assert wire.secret_of(fields) == "ThisIsASecret"
    target = Target.parse("http://127.0.0.1:27179")
    made = wire.handshake_fields(target, b"j4tE8nKsBryU5KmonbSGkA==", "ThisIsASecret")
    assert made == [field for field in fields if field[0] != b"User-Agent"]


def test_no_secret_is_an_empty_field_or_none() -> None:
    assert wire.secret_of([(b"X-Secret-Key", b"")]) is None
    assert wire.secret_of([]) is None
    assert (b"X-SECRET-KEY", b"") in wire.handshake_fields(Target.parse("http://a"), b"key", None)


def test_two_secrets_are_refused() -> None:
    with pytest.raises(HeadError, match="more than one"):
        wire.secret_of([(b"X-SECRET-KEY", b"a"), (b"x-secret-key", b"b")])


def test_a_wrong_key_is_told_as_theirs_tells_it() -> None:
    vector = VECTORS["refused_key"]
    answer = wire.refusal_answer(Refusal(status=401, code="unauthorized", detail="wrong"))
    assert (answer.status, answer.body) == (vector["status"], vector["body"].encode())
    assert (b"X-Content-Type-Options", b"nosniff") in answer.fields
    assert wire.is_wrong_key(answer.status, answer.body)


def test_other_refusals_keep_their_status() -> None:
    answer = wire.refusal_answer(Refusal(status=429, code="rate_limited", detail="too many", retry_after=0.2))
    assert (answer.status, answer.body) == (429, b"too many\n")
    assert (b"Retry-After", b"1") in answer.fields
    assert not wire.is_wrong_key(answer.status, answer.body)


def test_the_captured_greeting() -> None:
    vector = VECTORS["greeting"]
    greeting = wire.Greeting(vector["id"], vector["size"])
    assert wire.write_greeting(greeting) == vector["text"].encode()
    assert wire.read_greeting(vector["text"].encode()) == greeting


def test_an_id_may_hold_what_their_server_refuses() -> None:
    assert wire.read_greeting("büro_2_10".encode()) == wire.Greeting("büro_2", 10)
    with pytest.raises(LocalProtocolError):
        wire.write_greeting(wire.Greeting("a_b", 10))


@pytest.mark.parametrize(
    "data", [b"", b"_", b"id", b"id_", b"_1", b"id_x", b"id_-1", b"id_+1", b"id_1234567", b"\xff_1", b"a\nb_1"]
)
def test_what_is_no_greeting(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="greeting"):
        wire.read_greeting(data)


@pytest.mark.parametrize("data", [b"a" * 129 + b"_1", b"a_" + b"0" * 300])
def test_a_greeting_has_a_bound(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="greeting"):
        wire.read_greeting(data)


# -- the messages --------------------------------------------------------------------------------


def test_the_captured_request() -> None:
    vector = VECTORS["request"]
    request = wire.read_request(vector["text"].encode())
    assert (request.method, request.url, request.length) == (
        vector["method"].encode(),
        vector["url"].encode(),
        vector["length"],
    )
    assert request.fields == fields_of(vector)
    assert wire.write_request(request) == vector["text"].encode()
    assert f"817e{len(vector['text']):04x}" == vector["head"]


def test_the_captured_response() -> None:
    vector = VECTORS["response"]
    response = wire.read_response(vector["text"].encode())
    assert (response.status, response.fields, response.length) == (200, fields_of(vector), vector["length"])
    assert wire.write_response(response) == vector["text"].encode()
    assert f"81fe{len(vector['text']):04x}" == vector["head"]


def test_names_are_gos_and_sorted_and_values_stay_together() -> None:
    fields = [(b"x-b", b"1"), (b"ACCEPT", b"2"), (b"X-B", b"3")]
    request = wire.Request(method=b"GET", url=b"http://a/", fields=fields, length=None)
    assert json.loads(wire.write_request(request)) == {
        "Method": "GET",
        "URL": "http://a/",
        "Header": {"Accept": ["2"], "X-B": ["1", "3"]},
        "ContentLength": -1,
    }


def test_html_is_escaped_as_go_does_and_read_back() -> None:
    value = "<a>&\u2028\u2029ü".encode()
    written = wire.write_response(wire.Response(status=200, fields=[(b"X-A", value)], length=0))
    assert rb'"\u003ca\u003e\u0026\u2028\u2029' in written
    assert wire.read_response(written).fields == [(b"X-A", value)]


def test_bytes_that_are_no_utf_8_are_replaced_as_theirs_are() -> None:
    written = wire.write_response(wire.Response(status=200, fields=[(b"X-A", b"caf\xe9")], length=0))
    assert wire.read_response(written).fields == [(b"X-A", "caf\ufffd".encode())]


@pytest.mark.parametrize(
    "text",
    [
        '{"statuscode":204,"HEADER":null,"contentLENGTH":-1}',
        '{"StatusCode":204}',
        '{"StatusCode":204,"Header":{"A":null},"ContentLength":null,"More":[{}]}',
        ' {"StatusCode":200,"Header":{},"ContentLength":-1,"STATUSCODE":204}\n',
    ],
)
def test_go_reads_names_in_any_case_and_null_for_nothing(text: str) -> None:
    assert wire.read_response(text.encode()) == wire.Response(status=204, fields=[], length=None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ok",
        "null",
        "[]",
        "{}",
        '"text"',
        '{"StatusCode":"200"}',
        '{"StatusCode":200.0}',
        '{"StatusCode":true}',
        '{"StatusCode":NaN}',
        '{"StatusCode":200,"Header":[]}',
        '{"StatusCode":200,"Header":{"A":"b"}}',
        '{"StatusCode":200,"Header":{"A":[1]}}',
        '{"StatusCode":200,"Header":{"A":["\\ud800"]}}',
        '{"StatusCode":200,"ContentLength":-2}',
        '{"StatusCode":200,"ContentLength":"1"}',
        '{"StatusCode":200,"ContentLength":true}',
        '{"StatusCode":200,"ContentLength":9223372036854775808}',
        '{"StatusCode":200} {}',
        "[" * 100_000,
        '{"StatusCode":' + "1" * 5_000 + "}",
    ],
)
def test_what_is_no_response(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="none of wsp's"):
        wire.read_response(text.encode())


@pytest.mark.parametrize("data", [b"\xff", b"{" + b" " * wire.JSON_LIMIT + b"}"])
def test_what_cannot_even_be_text(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="none of wsp's"):
        wire.read_response(data)


@pytest.mark.parametrize(
    "text",
    ['{"URL":"http://a/"}', '{"Method":"GET"}', '{"Method":1,"URL":""}', r'{"Method":"GET","URL":"http://a/\ud800"}'],
)
def test_what_is_no_request(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="none of wsp's"):
        wire.read_request(text.encode())
