"""httptools and h11 behind our rules: the same heads pass, and the same are refused with the same words."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import HeadError
from tunnelkit.heads import RequestHead, ResponseHead
from tunnelkit.http.client_codec import ClientCodec
from tunnelkit.http.codec import HeadParser
from tunnelkit.http.codec_moves import Signal
from tunnelkit.http.h11_codec import H11_PARSER
from tunnelkit.http.server_codec import ServerCodec

from ..oracle.hostile_requests import CASES, Case
from ..oracle.hostile_responses import ANSWERS, Answer

httptools_codec = pytest.importorskip("tunnelkit.http.httptools_codec", reason="httptools is not installed")
HTTPTOOLS_PARSER: HeadParser = httptools_codec.HTTPTOOLS_PARSER
HttptoolsParser = httptools_codec.HttptoolsParser

Outcome: TypeAlias = "RequestHead | ResponseHead | Signal | tuple[int, str, str]"


def of_codec(codec: ServerCodec | ClientCodec, data: bytes) -> Outcome:
    codec.receive_data(data)
    try:
        event = codec.next_event()
    except HeadError as error:
        return error.status, error.code, error.detail
    assert isinstance(event, (RequestHead, ResponseHead, Signal))
    if not isinstance(event, Signal):  # h11 gives the one coding that there is in lower case
        event.fields = [(n, v.lower() if n.lower() == b"transfer-encoding" else v) for n, v in event.fields]
    return event


def of_request(parser: HeadParser, data: bytes) -> Outcome:
    return of_codec(ServerCodec(parser, DEFAULT_LIMITS), data)


def of_response(parser: HeadParser, data: bytes) -> Outcome:
    codec = ClientCodec(parser, DEFAULT_LIMITS)
    codec.encode_head(RequestHead(b"GET", b"/", [(b"Host", b"a"), (b"Connection", b"upgrade"), (b"Upgrade", b"x")]))
    codec.encode_end()
    return of_codec(codec, data)


class Never:
    """In the place of h11, where llhttp is to do."""

    def parse_request(self, block: bytes) -> RequestHead:
        raise AssertionError(block)

    def parse_response(self, block: bytes) -> ResponseHead:
        raise AssertionError(block)


ALONE = HttptoolsParser(Never())

# -- requests --------------------------------------------------------------------------------------

BY_LLHTTP = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a?b HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PROPFIND / HTTP/1.1\r\nHOST:a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 \r\nExpect: 100-continue\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-B: 1\r\nx-a:\t 2\xff\t3 \t\r\nX-B:\r\nConnection:\r\nX-b:  \r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 5\r\n\r\n",
]


@pytest.mark.parametrize("block", BY_LLHTTP)
def test_heads_that_llhttp_reads(block: bytes) -> None:
    ours = of_request(ALONE, block)
    assert isinstance(ours, RequestHead)
    assert ours == of_request(H11_PARSER, block)


# What llhttp refuses though it is right, and what it lets pass though it is not.
BY_H11 = [
    b"QUACK / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"!#$%&'*+-.^_`|~09 / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"DESCRIBE / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"SOURCE / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.9\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\n",
    b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET /\r\nHost: a\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
    b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/11\r\nHost: a\r\n\r\n",
    b"GET / http/1.1\r\nHost: a\r\n\r\n",
    b"DESCRIBE / RTSP/1.0\r\nHost: a\r\n\r\n",
    b"SOURCE / ICE/1.0\r\nHost: a\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT  HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT  HTTP/11\r\nHost: a\r\n\r\n",
    b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX\xff: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1234567890123456789\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
]
PASS = BY_H11[:7]


@pytest.mark.parametrize("block", BY_H11)
def test_requests_on_which_the_two_disagree_by_nature(block: bytes) -> None:
    ours = of_request(HTTPTOOLS_PARSER, block)
    assert ours == of_request(H11_PARSER, block)
    assert isinstance(ours, RequestHead if block in PASS else tuple)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_hostile_request(case: Case) -> None:
    data = case.wire
    assert of_request(HTTPTOOLS_PARSER, data) == of_request(H11_PARSER, data)


METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"MKCOL", b"SOURCE", b"QUACK", b"CONNECT", b"PRI"])
TARGETS = st.sampled_from([b"/", b"/a?b=c", b"//", b"*", b"http://a/b", b"a", b"/\x80", b"/ ", b"a:1"])
VERSIONS = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"ICE/1.0", b"HTTP/1.1 ", b"HTTP/1"])
NAMES = st.sampled_from(
    b"X x-y Content-Length content-length Transfer-Encoding Connection Upgrade Host Expect Proxy-Connection".split()
)
TEXT = st.text("aA0 \t,:;=-\x01\x7f\x80\xff", max_size=6).map(lambda text: text.encode("latin-1"))
VALUES = st.one_of(TEXT, st.sampled_from(b"5 0 chunked Chunked upgrade close keep-alive websocket h2c".split()))
SPACE = st.sampled_from([b"", b" ", b"\t", b"  ", b" \t "])
LINES = st.one_of(
    st.tuples(NAMES, st.just(b":"), SPACE, VALUES, SPACE).map(b"".join),
    st.tuples(TEXT, st.just(b":"), TEXT).map(b"".join),
    st.binary(max_size=8),
)


def heads(*first: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    start = st.tuples(*first).map(b" ".join)
    lines = st.lists(st.one_of(st.just(b"Host: a"), LINES), max_size=5)
    return st.tuples(start, lines).map(lambda parts: b"\r\n".join([parts[0], *parts[1], b"", b""]))


@given(heads(METHODS, TARGETS, VERSIONS))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: b\r\n\r\n")
def test_any_request(data: bytes) -> None:
    assert of_request(HTTPTOOLS_PARSER, data) == of_request(H11_PARSER, data)


# -- responses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200\r\nX:\r\nY: \xff \r\n\r\n",
        b"HTTP/1.0 404 Not  \xfcberall\t\r\n\r\n",
        b"HTTP/1.1 204 \r\nX: y\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\nLink: b\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
def test_answers_that_llhttp_reads(block: bytes) -> None:
    ours = of_response(ALONE, block)
    assert isinstance(ours, ResponseHead)
    assert ours == of_response(H11_PARSER, block)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_every_hostile_answer(answer: Answer) -> None:
    data = answer.data
    assert of_response(HTTPTOOLS_PARSER, data) == of_response(H11_PARSER, data)


STATUSES = st.sampled_from(
    [b"200", b"100", b"101", b"103", b"204", b"304", b"599", b"600", b"099", b"20", b"2000", b""]
)
REASONS = st.one_of(TEXT, st.sampled_from([b"OK", b" OK", b"Not Found"]))


@given(heads(VERSIONS, STATUSES, REASONS))
@example(b"HTTP/1.1  200 OK\r\n\r\n")
@example(b"HTTP/1.1 200OK\r\n\r\n")
@example(b"HTTP/1.1 101 S\r\n\r\n")
@example(b"RTSP/1.0 200 OK\r\n\r\n")
def test_any_response(data: bytes) -> None:
    assert of_response(HTTPTOOLS_PARSER, data) == of_response(H11_PARSER, data)
