"""Codec against reader on bytes that nobody thought of: what the codec lets pass, the reader reads the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import HeadError
from tunnelkit.heads import RequestHead, ResponseHead
from tunnelkit.http.client_codec import ClientCodec
from tunnelkit.http.codec import Body, End, HeadParser
from tunnelkit.http.codec_moves import Signal
from tunnelkit.http.parsers import find_parser
from tunnelkit.http.plain_codec import PLAIN_PARSER
from tunnelkit.http.server_codec import ServerCodec

from ..parsers import NAMES
from .hostile_requests import CASES
from .hostile_responses import ANSWERS
from .reader import Request, Response, read_requests, read_responses
from .recorder import Then

# Pieces of which messages are made, good and bad: of these the strategies make what no table holds.
LINES = [b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"PUT //b?c HTTP/1.0\r\n", b"OPTIONS * HTTP/1.1\r\n",
         b"GET http://b/c HTTP/1.1\r\n", b"HEAD / HTTP/1.2\r\n", b"GET / HTTP/2.0\r\n"]  # fmt: skip
STATUS_LINES = [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404 \r\n", b"HTTP/1.1 100 C\r\n", b"HTTP/1.1 204 N\r\n",
                b"HTTP/1.1 304 N\r\n", b"HTTP/1.1 099 N\r\n"]  # fmt: skip
FIELDS = [b"Host: a\r\n", b"Host: b:80\r\n", b"Content-Length: 5\r\n", b"content-length: 0\r\n",
          b"Content-Length: 5, 5\r\n", b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:CHUNKED \r\n",
          b"Transfer-Encoding: gzip, chunked\r\n", b"X: \xff\ty \r\n", b"X:\r\n", b"Connection: close\r\n",
          b"Connection: keep-alive\r\n", b" folded\r\n", b"X : y\r\n", b"Expect: 100-continue\r\n",
          b"Transfer-Encoding\x0b: chunked\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n"]  # fmt: skip
BODIES = [b"hello", b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"5;a=b\r\nhello\r\n",
          b"0005\r\nhello\r\n", b"5 \r\nhello\r\n", b"5\nhello\r\n", b"0;a\r\nHost: c\r\n\r\n", b"\r\n", b"\n",
          b"\r", b"00\r\n\r\n"]  # fmt: skip


def messages(lines: list[bytes]) -> st.SearchStrategy[bytes]:
    fields = st.lists(st.sampled_from(FIELDS), max_size=4).map(b"".join)
    bodies = st.lists(st.sampled_from(BODIES), max_size=4).map(b"".join)
    first = st.sampled_from(FIELDS[:1] * 3 + [b""])
    parts = st.tuples(st.sampled_from(lines), first, fields, st.sampled_from([b"\r\n"] * 5 + [b"\n", b""]), bodies)
    return st.lists(parts.map(b"".join), min_size=1, max_size=3).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    """Whole, or with one byte lost, doubled or replaced."""
    data = draw(source)
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    byte = draw(st.sampled_from(b"\r\n\0\t :;,0a\x7f\xff"))
    before, behind = data[:at], data[at + 1 :]
    changed = [data, before + behind, data[: at + 1] + data[at:], before + bytes([byte]) + behind]
    return draw(st.sampled_from(changed))


def parser_of(name: str) -> HeadParser:
    return PLAIN_PARSER if name == "plain" else find_parser(name)


def by_codec(parser: HeadParser, data: bytes, step: int) -> list[Request]:
    codec, found, body = ServerCodec(parser, DEFAULT_LIMITS), list[Request](), b""
    pieces = [data[start : start + step] for start in range(0, len(data), step)]
    head: RequestHead | None = None
    try:
        while True:
            event = codec.next_event()
            if isinstance(event, RequestHead):
                head, body = event, b""
            elif isinstance(event, Body):
                body += event.data
            elif event is Signal.NEED_DATA and pieces:
                codec.receive_data(pieces.pop(0))
            elif isinstance(event, Signal):
                return found
            else:
                assert head is not None
                assert isinstance(event, End)
                found.append(Request(head.method, head.target, head.version, head.fields, body, event.trailers))
                codec.encode_head(ResponseHead(204, []))
                codec.encode_end()
                if not codec.keep_alive:
                    return found
                codec.start_next_cycle()
    except HeadError:
        return found


@pytest.mark.parametrize("name", [*NAMES, "plain"])
@given(
    data=damaged(st.one_of(messages(LINES), st.sampled_from([case.wire for case in CASES]))),
    step=st.sampled_from([1, 7, 9999]),
)
def test_requests(name: str, data: bytes, step: int) -> None:
    wanted = read_requests(data).messages
    for ours, reading in zip(by_codec(parser_of(name), data, step), [*wanted, None], strict=False):
        assert reading is not None, ours
        assert (ours.method, ours.target, ours.body) == (reading.method, reading.target, reading.body)
        assert [(name, value.lower()) for name, value in ours.fields] == [
            (name, value.lower()) for name, value in reading.fields
        ]
        assert all(field in reading.trailers for field in ours.trailers)


def answer_by_codec(parser: HeadParser, data: bytes, method: bytes, *, ended: bool) -> Response | None:
    codec = ClientCodec(parser, DEFAULT_LIMITS)
    codec.encode_head(RequestHead(method, b"/", [(b"Host", b"a")]))
    codec.encode_end()
    codec.receive_data(data)
    response, body = None, b""
    try:
        while True:
            event = codec.next_event()
            if isinstance(event, ResponseHead):
                response = Response(event.status, event.reason, event.version, event.fields)
            elif isinstance(event, Body):
                body += event.data
            elif event is Signal.NEED_DATA and ended and not codec.eof:
                codec.receive_data(b"")
            elif isinstance(event, Signal):
                return None
            else:
                assert response is not None
                assert isinstance(event, End)
                response.body, response.trailers = body, event.trailers
                return response
    except HeadError:
        return None


@pytest.mark.parametrize("name", [*NAMES, "plain"])
@given(
    data=damaged(st.one_of(messages(STATUS_LINES), st.sampled_from([answer.data for answer in ANSWERS]))),
    method=st.sampled_from([b"GET", b"HEAD"]),
    then=st.sampled_from(Then),
)
def test_responses(name: str, data: bytes, method: bytes, then: Then) -> None:
    ended = then is Then.ENDS
    ours = answer_by_codec(parser_of(name), data, method, ended=ended)
    if ours is not None:
        wanted = read_responses(data, [method], ended=ended).messages
        assert wanted, ours
        assert (ours.status, ours.reason, ours.body) == (wanted[0].status, wanted[0].reason, wanted[0].body)
        assert all(field in wanted[0].trailers for field in ours.trailers)
