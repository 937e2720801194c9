"""What a gateway must refuse or put right, against codec and validation together, whichever parser reads."""

from __future__ import annotations

import pytest

from tunnelkit.config import Limits
from tunnelkit.heads import RequestHead
from tunnelkit.http.codec import Body, End
from tunnelkit.http.codec_moves import Signal

from .helpers import failure, read_all, server, splits

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"

pytestmark = pytest.mark.usefixtures("each_parser")

# name, input, status
REFUSED: list[tuple[str, bytes, int]] = [
    ("length and chunked", POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("two lengths", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    ("the same length twice", POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", 400),
    ("a list of equal lengths", POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    ("a list of lengths", POST + b"Content-Length: 5, 6\r\n\r\n", 400),
    ("a signed length", POST + b"Content-Length: +5\r\n\r\n", 400),
    ("a hexadecimal length", POST + b"Content-Length: 0x5\r\n\r\n", 400),
    ("an underscore in the length", POST + b"Content-Length: 0_5\r\n\r\n", 400),
    ("a negative length", POST + b"Content-Length: -1\r\n\r\n", 400),
    ("an enormous length", POST + b"Content-Length: " + b"9" * 25 + b"\r\n\r\n", 400),
    ("another transfer coding", POST + b"Transfer-Encoding: xchunked\r\n\r\n", 501),
    ("two transfer codings", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ("chunked twice", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    ("chunked in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("a bare LF line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    ("bare LF throughout", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("a bare CR", GET + b"X: a\rb\r\n\r\n", 400),
    ("a folded line", GET + b"X: a\r\n b\r\n\r\n", 400),
    ("a tab-folded line", GET + b"X: a\r\n\tb\r\n\r\n", 400),
    ("a fold at the start", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    ("BEL in a value", GET + b"X: a\x07b\r\n\r\n", 400),
    ("DEL in a value", GET + b"X: a\x7fb\r\n\r\n", 400),
    ("NUL in a value", GET + b"X: a\x00b\r\n\r\n", 400),
    ("VT in a value", GET + b"X: a\x0bb\r\n\r\n", 400),
    ("HTTP/9.9", b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("no version", b"GET /\r\nHost: a\r\n\r\n", 400),
    ("a slash in Host", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("userinfo in Host", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    ("a list of hosts", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    ("an empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("no Host", b"GET / HTTP/1.1\r\nX: a\r\n\r\n", 400),
    ("two Hosts", GET + b"Host: a\r\n\r\n", 400),
    ("a space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ("a name that is no token", GET + b"X[]: a\r\n\r\n", 400),
    ("a line without a colon", GET + b"nonsense\r\n\r\n", 400),
    ("a relative target", b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("* with GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("a fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("an 8-bit target", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("two spaces in the request line", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("two empty lines first", b"\r\n\r\n" + GET + b"\r\n", 400),
    ("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
    ("CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ("TRACE", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ("a long request line", b"GET /" + b"a" * 16 * 1024 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    ("a request line without an end", b"GET /" + b"a" * 17 * 1024, 414),
    ("a large field", GET + b"X: " + b"a" * 64 * 1024 + b"\r\n\r\n", 431),
    ("a head without an end", GET + b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 3000, 431),
    ("101 fields", GET + b"X: a\r\n" * 100 + b"\r\n", 431),
]

CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED_BODIES: list[tuple[str, bytes, int]] = [
    ("a size with 0x", b"0x1\r\na\r\n0\r\n\r\n", 400),
    ("a signed size", b"+1\r\na\r\n0\r\n\r\n", 400),
    ("an underscore in the size", b"1_0\r\na", 400),
    ("no size", b"\r\na\r\n0\r\n\r\n", 400),
    ("a size of 20 digits", b"1" * 20 + b"\r\na", 400),
    ("a space before an extension", b"1 ;a\r\na\r\n0\r\n\r\n", 400),
    ("a space behind the size", b"1 \r\na\r\n0\r\n\r\n", 400),
    ("an empty extension", b"1;\r\na\r\n0\r\n\r\n", 400),
    ("LF in an extension", b"1;a\nb\r\na\r\n0\r\n\r\n", 400),
    ("CR in an extension", b"1;a\rb\r\na\r\n0\r\n\r\n", 400),
    ("an extension without an end", b"1;" + b"a" * 5000, 400),
    ("extensions without an end", (b"1;" + b"a" * 4000 + b"\r\na\r\n") * 5, 400),
    ("a size line that ends with LF", b"1\na\r\n0\r\n\r\n", 400),
    ("a chunk that is longer than its size", b"1\r\nab\r\n0\r\n\r\n", 400),
    ("a chunk that ends with LF", b"1\r\na\n0\r\n\r\n", 400),
    ("a chunk that ends with another byte", b"1\r\nab", 400),
    ("a trailer without a colon", b"0\r\nnonsense\r\n\r\n", 400),
    ("a trailer with a space before its colon", b"0\r\nA : b\r\n\r\n", 400),
    ("a folded trailer", b"0\r\nA: b\r\n c: d\r\n\r\n", 400),
    ("LF in the trailers", b"0\r\nA: b\nC: d\r\n\r\n", 400),
    ("LF at once in the trailers", b"0\r\n\n\r\n\r\n", 400),
    ("BEL in a trailer", b"0\r\nA: \x07\r\n\r\n", 400),
    ("101 trailers", b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
    ("a trailer section without an end", b"0\r\n" + b"A: bbbbbbbbbbbbbbbbbb\r\n" * 4000, 431),
]


def ids(rows: list[tuple[str, bytes, int]]) -> list[str]:
    return [row[0] for row in rows]


@pytest.mark.parametrize(("name", "data", "status"), REFUSED, ids=ids(REFUSED))
def test_refused(name: str, data: bytes, status: int) -> None:
    refusal = failure(server(), data)
    assert refusal is not None
    assert refusal[0] == status


@pytest.mark.parametrize(
    ("name", "data", "status"), [row for row in REFUSED if len(row[1]) < 1000], ids=lambda value: ""
)
def test_refused_the_same_however_it_comes(name: str, data: bytes, status: int) -> None:
    for pieces in splits(data):
        last = read_all(server(), pieces)[-1]
        assert isinstance(last, tuple)
        assert last[0] == status


@pytest.mark.parametrize(("name", "data", "status"), REFUSED_BODIES, ids=ids(REFUSED_BODIES))
def test_refused_body(name: str, data: bytes, status: int) -> None:
    for pieces in splits(CHUNKED + data):
        last = read_all(server(), pieces)[-1]
        assert isinstance(last, tuple), last
        assert last[0] == status


def test_nothing_is_read_after_a_refusal() -> None:
    codec = server()
    assert failure(codec, b"GET / HTTP/1.1\nHost: a\n\n" + GET + b"\r\n") is not None
    assert codec.next_event() is Signal.PAUSED
    assert not codec.keep_alive


def test_a_refusal_quotes_no_line() -> None:
    codec = server()
    codec.receive_data(GET + b"X-Token secret\r\n\r\n")
    with pytest.raises(Exception, match=r"^a line of the head is no field$") as refusal:
        codec.next_event()
    error: BaseException | None = refusal.value
    while error is not None:  # nor does what a log would show with it
        assert "secret" not in str(error)
        error = error.__cause__ or error.__context__


PASSED: list[tuple[str, bytes, RequestHead]] = [
    ("case, order, duplicates", GET + b"x-B: 1\r\nX-a:2\r\nX-B:  3 \r\n\r\n",
     RequestHead(b"GET", b"/", [(b"Host", b"a"), (b"x-B", b"1"), (b"X-a", b"2"), (b"X-B", b"3")])),
    ("obs-text", GET + b"X: \xe4\xff\r\n\r\n", RequestHead(b"GET", b"/", [(b"Host", b"a"), (b"X", b"\xe4\xff")])),
    ("an empty value", GET + b"X:\r\n\r\n", RequestHead(b"GET", b"/", [(b"Host", b"a"), (b"X", b"")])),
    ("one empty line first", b"\r\n" + GET + b"\r\n", RequestHead(b"GET", b"/", [(b"Host", b"a")])),
    ("a later minor version", b"GET / HTTP/1.7\r\nHost: a\r\n\r\n", RequestHead(b"GET", b"/", [(b"Host", b"a")])),
    ("HTTP/1.0 without Host", b"GET / HTTP/1.0\r\n\r\n", RequestHead(b"GET", b"/", [], b"1.0")),
    ("absolute form", b"GET http://b/c HTTP/1.1\r\nHost: a\r\n\r\n",
     RequestHead(b"GET", b"http://b/c", [(b"Host", b"a")])),
    ("* with OPTIONS", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", RequestHead(b"OPTIONS", b"*", [(b"Host", b"a")])),
    ("a path that is not normal", b"GET //a/../%2e?b=%zz HTTP/1.1\r\nHost: a\r\n\r\n",
     RequestHead(b"GET", b"//a/../%2e?b=%zz", [(b"Host", b"a")])),
    ("100 fields", GET + b"X: a\r\n" * 99 + b"\r\n",
     RequestHead(b"GET", b"/", [(b"Host", b"a")] + [(b"X", b"a")] * 99)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "head"), PASSED, ids=[row[0] for row in PASSED])
def test_passed(name: str, data: bytes, head: RequestHead) -> None:
    for pieces in splits(data):
        assert read_all(server(), pieces) == [head, End([]), Signal.PAUSED]


def test_forbidden_trailers_are_dropped() -> None:
    trailers = b"0\r\nContent-Length: 9\r\nHost: b\r\nTransfer-Encoding: x\r\nX-Sum: 1\r\nAuthorization: c\r\n\r\n"
    for pieces in splits(CHUNKED + b'1;a=b;c="d;"\r\nz\r\n' + trailers):
        events = read_all(server(), pieces)
        assert events[1:] == [Body(b"z"), End([(b"X-Sum", b"1")]), Signal.PAUSED]


def test_limits_are_the_configured_ones() -> None:
    limits = Limits(head_limit=200, request_line_limit=50, field_limit=3)
    assert failure(server(limits), b"GET /" + b"a" * 30 + b" HTTP/1.1\r\n") is None
    assert failure(server(limits), b"GET /" + b"a" * 60 + b" HTTP/1.1\r\n") == (414, "uri_too_long")
    assert failure(server(limits), GET + b"X: " + b"a" * 200) == (431, "head_too_large")
    assert failure(server(limits), GET + b"X: a\r\n" * 3 + b"\r\n") == (431, "head_too_large")
