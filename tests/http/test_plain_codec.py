"""Heads taken apart by hand: what h11 reads, they read the same, and nothing more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import HeadError
from tunnelkit.heads import RequestHead, ResponseHead, validate_request, validate_response
from tunnelkit.http.codec import HeadParser
from tunnelkit.http.h11_codec import H11_PARSER
from tunnelkit.http.plain_codec import PLAIN_PARSER, PlainBelow
from tunnelkit.http.reading import HeadScanner, Input


def scanned(data: bytes) -> bytes:
    source = Input()
    source.feed(data)
    block = HeadScanner(DEFAULT_LIMITS, skips_empty_line=False).scan(source)
    assert block is not None
    return block


def request(parser: HeadParser, block: bytes) -> RequestHead:
    head = parser.parse_request(block)
    validate_request(head)
    return head


def response(parser: HeadParser, block: bytes) -> ResponseHead:
    head = parser.parse_response(block)
    validate_response(head)
    return head


def test_a_request() -> None:
    head = request(PLAIN_PARSER, scanned(b"GET /a?b HTTP/1.1\r\nHost: h\r\nX-Empty:\r\nX:\t a: b \t\r\n\r\n"))
    assert head == RequestHead(b"GET", b"/a?b", [(b"Host", b"h"), (b"X-Empty", b""), (b"X", b"a: b")], b"1.1")


@pytest.mark.parametrize(
    ("line", "status", "reason", "version"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK", b"1.1"),
        (b"HTTP/1.0 404 Not Found", 404, b"Not Found", b"1.0"),
        (b"HTTP/1.1 204 ", 204, b"", b"1.1"),
        (b"HTTP/1.1 204", 204, b"", b"1.1"),
        (b"HTTP/1.1 200 \xfcber", 200, b"\xfcber", b"1.1"),
    ],
)
def test_a_response(line: bytes, status: int, reason: bytes, version: bytes) -> None:
    head = response(PLAIN_PARSER, scanned(line + b"\r\nContent-Length: 0\r\n\r\n"))
    assert head == ResponseHead(status, [(b"Content-Length", b"0")], reason, version)


@pytest.mark.parametrize(
    "line",
    [b"", b"200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/11 200 OK", b"http/1.1 200"],
)
def test_no_status_line(line: bytes) -> None:
    with pytest.raises(HeadError, match="status line"):
        PLAIN_PARSER.parse_response(line + b"\r\n\r\n")


@pytest.mark.parametrize(
    "line", [b"", b"GET", b"GET /", b"GET  / HTTP/1.1", b"GET /a b HTTP/1.1", b"GET / HTTP/1.1 "]
)
def test_no_request_line(line: bytes) -> None:
    with pytest.raises(HeadError, match="request line"):
        PLAIN_PARSER.parse_request(line + b"\r\nHost: h\r\n\r\n")


@pytest.mark.parametrize("field", [b"no colon", b" X: folded", b"X : space", b": nameless", b"X: \0", b"X: \x7f"])
def test_no_field(field: bytes) -> None:
    with pytest.raises(HeadError):
        response(PLAIN_PARSER, b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n")


class Recorder:
    """Stands in for the other parser."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []

    def parse_request(self, block: bytes) -> RequestHead:
        self.blocks.append(block)
        return H11_PARSER.parse_request(block)

    def parse_response(self, block: bytes) -> ResponseHead:
        return H11_PARSER.parse_response(block)


def test_what_lies_below_the_path_but_is_passed_on_is_read_by_the_other() -> None:
    other = Recorder()
    parser = PlainBelow(b"/_tunnel/", other, passed_on=lambda head: (b"Host", b"app.example") in head.fields)
    ours = b"POST /_tunnel/x HTTP/1.1\r\nHost: example\r\n\r\n"
    passed_on = b"POST /_tunnel/x HTTP/1.1\r\nHost: app.example\r\n\r\n"
    elsewhere = b"POST /x HTTP/1.1\r\nHost: example\r\n\r\n"
    for block in (ours, passed_on, elsewhere):
        assert parser.parse_request(block) == H11_PARSER.parse_request(block)
    assert other.blocks == [passed_on, elsewhere]


def outcome(parse: Callable[[HeadParser, bytes], object], parser: HeadParser, block: bytes) -> object:
    try:
        return parse(parser, block)
    except HeadError:
        return None


LINES = st.lists(
    st.one_of(
        st.sampled_from([b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: close", b"Host: a"]),
        st.binary(max_size=12).filter(lambda line: not set(line) & set(b"\r\n")),
        st.text("aB-:\t ~\x7f\x00", max_size=8).map(str.encode),
    ),
    max_size=5,
)


@given(st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 500", b"HTTP/1.1 103 Early"]), LINES)
def test_what_it_reads_h11_reads_the_same(line: bytes, lines: list[bytes]) -> None:
    try:
        block = scanned(b"\r\n".join([line, *lines, b"", b""]))
    except HeadError:
        return
    ours = outcome(response, PLAIN_PARSER, block)
    if ours is not None:
        assert outcome(response, H11_PARSER, block) == ours


@given(st.sampled_from([b"POST /_tunnel/longpoll/up HTTP/1.1", b"POST /_tunnel/ HTTP/1.0"]), LINES)
def test_the_requests_that_it_reads_h11_reads_the_same(line: bytes, lines: list[bytes]) -> None:
    try:
        block = scanned(b"\r\n".join([line, b"Host: a", *lines, b"", b""]))
    except HeadError:
        return
    ours = outcome(request, PLAIN_PARSER, block)
    if ours is not None:
        assert outcome(request, H11_PARSER, block) == ours


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        (b"POST /base/_tunnel/longpoll/up", True),
        (b"GET /base/_tunnel/longpoll/up", False),
        (b"POST /_tunnel/longpoll/up", False),
        (b"POST /base/_tunnels", False),
    ],
)
def test_only_requests_below_a_path(line: bytes, plain: bool) -> None:
    class Other:
        def parse_request(self, block: bytes) -> RequestHead:
            return RequestHead(b"OTHER", b"/", [])

        def parse_response(self, block: bytes) -> ResponseHead:
            return ResponseHead(299, [])

    parser = PlainBelow(b"/base/_tunnel/", Other())
    block = line + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert parser.parse_request(block) == (PLAIN_PARSER.parse_request(block) if plain else Other().parse_request(b""))
    assert parser.parse_response(b"HTTP/1.1 200 OK\r\n\r\n").status == 299
