"""wsp's requests and responses against the heads that they become, and the words of their client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunnelkit.core.allowlist import parse_x_host
from tunnelkit.errors import HeadError
from tunnelkit.heads import Fields, RequestHead, ResponseHead, field_values
from tunnelkit.legacy import wsp_wire as wire
from tunnelkit.legacy.wsp_heads import (
    CLIENT_FAILED,
    failed_response,
    read_failure,
    request_from,
    request_head,
    response_from,
    response_head,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "wsp.json").read_text(encoding="utf-8"))
HERE = parse_x_host(b"http://127.0.0.1:27181")


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
    request = request_from(head, HERE, has_body=True)
    assert (request.url, request.length) == (b"http://127.0.0.1:27181/echo?x=1", 10)
    assert [name for name, _ in request.fields] == [b"Accept", b"Content-Length"]


@pytest.mark.parametrize(("has_body", "length"), [(True, None), (False, 0)])
def test_a_body_without_a_length_is_of_unknown_length(has_body: bool, length: int | None) -> None:
    assert request_from(RequestHead(b"GET", b"/", []), HERE, has_body=has_body).length == length


def test_a_request_without_a_path_has_no_url() -> None:
    with pytest.raises(HeadError, match="asked by URL"):
        request_from(RequestHead(b"OPTIONS", b"*", []), HERE, has_body=False)


def test_a_request_of_theirs_becomes_a_head() -> None:
    request = wire.read_request(VECTORS["request"]["text"].encode())
    origin, head = request_head(request)
    assert origin == HERE
    assert (head.method, head.target) == (b"GET", b"/echo?x=1")
    assert head.fields[0] == (b"Host", b"127.0.0.1:27181")
    assert not field_values(head.fields, b"content-length")


def test_a_query_that_is_not_ascii_comes_as_it_is_and_is_escaped() -> None:
    request = wire.read_request('{"Method":"GET","URL":"http://a/%C3%BC?q=ü"}'.encode())
    assert request_head(request)[1].target == b"/%C3%BC?q=%C3%BC"


@pytest.mark.parametrize(
    ("method", "length", "told"),
    [(b"POST", 10, [b"10"]), (b"POST", 0, [b"0"]), (b"GET", 0, []), (b"POST", None, []), (b"DELETE", 3, [b"3"])],
)
def test_the_length_of_a_request_is_the_messages(method: bytes, length: int | None, told: list[bytes]) -> None:
    fields = [(b"Content-Length", b"7"), (b"Transfer-Encoding", b"chunked")]
    _, head = request_head(wire.Request(method=method, url=b"http://a/", fields=fields, length=length))
    assert field_values(head.fields, b"content-length") == told
    assert not field_values(head.fields, b"transfer-encoding")


@pytest.mark.parametrize(
    ("method", "url", "fields"),
    [
        (b"GET", b"/path", []),
        (b"GET", b"ftp://a/", []),
        (b"GET", "http://ü/".encode(), []),
        (b"CONNECT", b"http://a/", []),
        (b"G T", b"http://a/", []),
        (b"GET", b"http://a/", [(b"A\n", b"b")]),
        (b"GET", b"http://a/", [(b"A", b"b\r\nC: d")]),
    ],
)
def test_requests_that_must_not_be_made(method: bytes, url: bytes, fields: Fields) -> None:
    with pytest.raises(HeadError):
        request_head(wire.Request(method=method, url=url, fields=fields, length=0))


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
    assert response_from(head, method).length == length


def test_a_response_loses_its_hops() -> None:
    head = ResponseHead(200, [(b"Connection", b"close"), (b"A", b"b"), (b"Transfer-Encoding", b"chunked")])
    assert response_from(head, b"GET").fields == [(b"A", b"b")]


def test_the_captured_response_becomes_a_head() -> None:
    head = response_head(wire.read_response(VECTORS["response"]["text"].encode()), b"GET")
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
    head = response_head(wire.Response(status=status, fields=fields, length=length), method)
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
        response_head(wire.Response(status=status, fields=fields, length=length), b"GET")
    assert caught.value.status == 502


# -- failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["failures"], ids=lambda vector: vector["body"][:40].strip())
def test_what_their_client_says_of_a_failure(vector: dict[str, Any]) -> None:
    response = wire.Response(status=CLIENT_FAILED, fields=[], length=len(vector["body"]))
    failure = read_failure(response, vector["body"].encode())
    assert failure is not None
    assert (failure.status, failure.code) == (vector["status"], vector["code"])
    assert "127.0.0.1" not in failure.detail


def test_an_origins_527_is_its_own() -> None:
    assert read_failure(wire.Response(status=527, fields=[(b"A", b"b")], length=0), b"") is None
    assert read_failure(wire.Response(status=526, fields=[], length=0), b"") is None


def test_a_failure_of_ours_reads_as_theirs() -> None:
    response, body = failed_response("dial tcp 10.0.0.1:80: connection refused")
    assert response.length == len(body)
    failure = read_failure(wire.read_response(wire.write_response(response)), body)
    assert failure is not None
    assert failure.code == "origin_unreachable"
