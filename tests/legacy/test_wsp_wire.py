"""wsp's messages against bytes of the running programs, and everything that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunnelkit.core.allowlist import parse_x_host
from tunnelkit.errors import HeadError, LocalProtocolError, RemoteProtocolError
from tunnelkit.handshake import Refusal
from tunnelkit.heads import Fields, RequestHead, ResponseHead, field_values
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
    "text", ['{"URL":"http://a/"}', '{"Method":"GET"}', '{"Method":1,"URL":""}', '{"Method":"GET","URL":"http://ü/"}']
)
def test_what_is_no_request(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="none of wsp's"):
        wire.read_request(text.encode())


# -- requests and heads ----------------------------------------------------------------------------


def test_a_request_names_the_whole_url_and_neither_host_nor_hops() -> None:
    fields = [
        (b"Host", b"127.0.0.1:27181"),
        (b"Accept", b"*/*"),
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Expect", b"100-continue"),
        (b"Content-Length", b"10"),
    ]
    head = RequestHead(b"POST", b"/echo?x=1", fields)
    request = wire.request_from(head, HERE, has_body=True)
    assert (request.url, request.length) == (b"http://127.0.0.1:27181/echo?x=1", 10)
    assert [name for name, _ in request.fields] == [b"Accept", b"Content-Length"]


@pytest.mark.parametrize(("has_body", "length"), [(True, None), (False, 0)])
def test_a_body_without_a_length_is_of_unknown_length(has_body: bool, length: int | None) -> None:
    assert wire.request_from(RequestHead(b"GET", b"/", []), HERE, has_body=has_body).length == length


def test_a_request_without_a_path_has_no_url() -> None:
    with pytest.raises(HeadError, match="asked by URL"):
        wire.request_from(RequestHead(b"OPTIONS", b"*", []), HERE, has_body=False)


def test_a_request_of_theirs_becomes_a_head() -> None:
    request = wire.read_request(VECTORS["request"]["text"].encode())
    origin, head = wire.request_head(request)
    assert origin == HERE
    assert (head.method, head.target) == (b"GET", b"/echo?x=1")
    assert head.fields[0] == (b"Host", b"127.0.0.1:27181")
    assert not field_values(head.fields, b"content-length")


@pytest.mark.parametrize(
    ("method", "length", "told"),
    [(b"POST", 10, [b"10"]), (b"POST", 0, [b"0"]), (b"GET", 0, []), (b"POST", None, []), (b"DELETE", 3, [b"3"])],
)
def test_the_length_of_a_request_is_the_messages(method: bytes, length: int | None, told: list[bytes]) -> None:
    fields = [(b"Content-Length", b"7"), (b"Transfer-Encoding", b"chunked")]
    _, head = wire.request_head(wire.Request(method=method, url=b"http://a/", fields=fields, length=length))
    assert field_values(head.fields, b"content-length") == told
    assert not field_values(head.fields, b"transfer-encoding")


@pytest.mark.parametrize(
    ("method", "url", "fields"),
    [
        (b"GET", b"/path", []),
        (b"GET", b"ftp://a/", []),
        (b"CONNECT", b"http://a/", []),
        (b"G T", b"http://a/", []),
        (b"GET", b"http://a/", [(b"A\n", b"b")]),
        (b"GET", b"http://a/", [(b"A", b"b\r\nC: d")]),
    ],
)
def test_requests_that_must_not_be_made(method: bytes, url: bytes, fields: Fields) -> None:
    with pytest.raises(HeadError):
        wire.request_head(wire.Request(method=method, url=url, fields=fields, length=0))


# -- responses and heads ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "head", "length"),
    [
        (b"GET", ResponseHead(200, [(b"Content-Length", b"5")]), 5),
        (b"GET", ResponseHead(200, []), None),
        (b"HEAD", ResponseHead(200, [(b"Content-Length", b"5")]), 5),
        (b"HEAD", ResponseHead(200, []), 0),
        (b"GET", ResponseHead(204, []), 0),
    ],
)
def test_a_response_tells_its_length(method: bytes, head: ResponseHead, length: int | None) -> None:
    assert wire.response_from(head, method).length == length


def test_a_response_loses_its_hops() -> None:
    head = ResponseHead(200, [(b"Connection", b"close"), (b"A", b"b"), (b"Transfer-Encoding", b"chunked")])
    assert wire.response_from(head, b"GET").fields == [(b"A", b"b")]


def test_the_captured_response_becomes_a_head() -> None:
    head = wire.response_head(wire.read_response(VECTORS["response"]["text"].encode()), b"GET")
    assert (head.status, head.reason) == (200, b"OK")
    assert field_values(head.fields, b"set-cookie") == [b"a=1", b"b=2"]
    assert field_values(head.fields, b"content-length") == [b"173"]


@pytest.mark.parametrize(
    ("method", "status", "told", "length", "passed_on"),
    [
        (b"GET", 200, [], 4, [b"4"]),
        (b"GET", 200, [b"4"], None, []),  # they undid gzip, say
        (b"GET", 200, [b" 4 ", b"4"], 4, [b"4"]),
        (b"HEAD", 200, [b"4"], 4, [b"4"]),
        (b"HEAD", 200, [b"4"], 0, []),
        (b"GET", 204, [], 0, []),
        (b"GET", 304, [b"4"], 0, []),
        (b"GET", 590, [], 0, [b"0"]),
    ],
)
def test_one_length_frames_a_response(
    method: bytes, status: int, told: list[bytes], length: int | None, passed_on: list[bytes]
) -> None:
    fields = [(b"Content-Length", value) for value in told]
    head = wire.response_head(wire.Response(status=status, fields=fields, length=length), method)
    assert field_values(head.fields, b"content-length") == passed_on


@pytest.mark.parametrize(
    ("status", "fields", "length"),
    [
        (0, [], 0),
        (100, [], 0),
        (101, [], 0),
        (600, [], 0),
        (200, [(b"Content-Length", b"5")], 4),
        (200, [(b"Content-Length", b"4, 4")], 4),
        (200, [(b"A B", b"")], 0),
        (200, [(b"A", b"b\nc")], 0),
    ],
)
def test_responses_that_cannot_be_passed_on(status: int, fields: Fields, length: int) -> None:
    with pytest.raises(HeadError) as caught:
        wire.response_head(wire.Response(status=status, fields=fields, length=length), b"GET")
    assert caught.value.status == 502


# -- failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["failures"], ids=lambda vector: vector["body"][:40].strip())
def test_what_their_client_says_of_a_failure(vector: dict[str, Any]) -> None:
    response = wire.Response(status=wire.CLIENT_FAILED, fields=[], length=len(vector["body"]))
    failure = wire.read_failure(response, vector["body"].encode())
    assert failure is not None
    assert (failure.status, failure.code) == (vector["status"], vector["code"])
    assert "127.0.0.1" not in failure.detail


def test_an_origins_527_is_its_own() -> None:
    assert wire.read_failure(wire.Response(status=527, fields=[(b"A", b"b")], length=0), b"") is None
    assert wire.read_failure(wire.Response(status=526, fields=[], length=0), b"") is None


def test_a_failure_of_ours_reads_as_theirs() -> None:
    response, body = wire.failed_response("dial tcp 10.0.0.1:80: connection refused")
    assert response.length == len(body)
    failure = wire.read_failure(wire.read_response(wire.write_response(response)), body)
    assert failure is not None
    assert failure.code == "origin_unreachable"
