from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import HeadError, LocalProtocolError
from tunnelkit.heads import Fields, RequestHead, ResponseHead
from tunnelkit.http import codec_moves
from tunnelkit.http.client_codec import ClientCodec
from tunnelkit.http.codec import Body, End
from tunnelkit.http.codec_moves import TRANSITIONS, After, Move, Signal, State

from .. import parsers
from .helpers import Read, client, failure, read_all, server, splits

HOST = (b"Host", b"a")
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"

pytestmark = pytest.mark.usefixtures("each_parser")


def head(status: int = 200, *fields: tuple[bytes, bytes]) -> ResponseHead:
    return ResponseHead(status, list(fields), b"OK" if status == 200 else b"")


# -- reading requests ------------------------------------------------------------------------------

REQUESTS: list[tuple[str, bytes, list[Read]]] = [
    ("no body", GET, [RequestHead(b"GET", b"/", [HOST]), End([])]),
    ("sized", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
     [RequestHead(b"POST", b"/", [HOST, (b"Content-Length", b"5")]), Body(b"hello"), End([])]),
    ("empty", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
     [RequestHead(b"POST", b"/", [HOST, (b"Content-Length", b"0")]), End([])]),
    ("chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
     b"2\r\nhe\r\n003;x=\"\\\"\"\r\nllo\r\n0\r\nA: b\r\n\r\n",
     [RequestHead(b"POST", b"/", [HOST, (b"Transfer-Encoding", b"chunked")]), Body(b"hello"), End([(b"A", b"b")])]),
    ("chunked without anything", b"POST / HTTP/1.1\r\nHost: a\r\ntRANSFER-eNCODING: chunked\r\n\r\n0\r\n\r\n",
     [RequestHead(b"POST", b"/", [HOST, (b"tRANSFER-eNCODING", b"chunked")]), End([])]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "events"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_requests(name: str, data: bytes, events: list[Read]) -> None:
    for pieces in splits(data):
        assert read_all(server(), pieces) == [*events, Signal.PAUSED]


@pytest.mark.parametrize(("name", "data", "events"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_what_follows_a_request_stays(name: str, data: bytes, events: list[Read]) -> None:
    codec = server()
    assert read_all(codec, [data + b"GET /next"]) == [*events, Signal.PAUSED]
    assert codec.trailing_data == b"GET /next"
    assert codec.buffered == 9


@given(st.data())
def test_requests_in_any_pieces(data: st.DataObject) -> None:
    wire = b"".join(row[1] for row in REQUESTS)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1))))
    codec = server()
    seen: list[Read] = []
    for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        codec.receive_data(wire[start:stop])
        while (event := codec.next_event(data.draw(st.integers(1, 9)))) is not Signal.NEED_DATA:
            if event is Signal.PAUSED:
                codec.encode_head(head(204))
                codec.encode_end()
                codec.start_next_cycle()
            elif isinstance(event, Body) and isinstance(seen[-1], Body):
                seen[-1] = Body(seen[-1].data + event.data)
            else:
                seen.append(event)
    assert seen == [event for row in REQUESTS for event in row[2]]


def test_bodies_are_given_no_larger_than_asked() -> None:
    codec = server()
    codec.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
    codec.next_event()
    assert codec.body_left == 5
    assert [codec.next_event(2), codec.next_event(2)] == [Body(b"he"), Body(b"l")]
    assert codec.body_left == 2
    assert codec.next_event(2) is Signal.NEED_DATA


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HT",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_requests_cut_short(data: bytes) -> None:
    codec = server()
    assert read_all(codec, [data, b""])[-1] == (400, "incomplete_request")
    assert codec.eof


def test_closed_between_requests() -> None:
    codec = server()
    assert read_all(codec, [b""]) == [Signal.CLOSED]
    assert codec.next_event() is Signal.CLOSED
    assert "CLOSED" in repr(codec)


@pytest.mark.parametrize(
    ("field", "version", "expects"),
    [
        ((b"Expect", b"100-Continue"), b"1.1", True),
        ((b"Expect", b"100-continue"), b"1.0", False),
        ((b"X", b"100-continue"), b"1.1", False),
    ],
)
def test_expect(field: tuple[bytes, bytes], version: bytes, expects: bool) -> None:
    codec = server()
    line = b"%b: %b\r\n" % field
    codec.receive_data(b"POST / HTTP/%b\r\nHost: a\r\nContent-Length: 1\r\n%b\r\n" % (version, line))
    codec.next_event()
    assert codec.expects_continue is expects
    assert codec.encode_info(head(100)) == (b"" if version == b"1.0" else b"HTTP/1.1 100 \r\n\r\n")
    assert not codec.expects_continue


def test_a_request_without_a_body_waits_for_no_100() -> None:
    codec = server()
    codec.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n")
    codec.next_event()
    assert not codec.expects_continue


# -- writing responses -----------------------------------------------------------------------------

# request line, request fields, response, body, bytes, whether the connection lives on
RESPONSES: list[tuple[bytes, bytes, ResponseHead, bytes, bytes, bool]] = [
    (b"GET / HTTP/1.1", b"", head(200, (b"Content-Length", b"2")), b"hi", OK + b"Content-Length: 2\r\n\r\nhi", True),
    (b"GET / HTTP/1.1", b"", head(), b"hi", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", True),
    (b"GET / HTTP/1.1", b"", head(200, (b"Transfer-Encoding", b"gzip")), b"",
     OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
    (b"GET / HTTP/1.1", b"Connection: close\r\n", head(200, (b"content-length", b"0")), b"",
     OK + b"content-length: 0\r\nConnection: close\r\n\r\n", False),
    (b"GET / HTTP/1.1", b"", head(200, (b"Content-Length", b"0"), (b"Connection", b"close")), b"",
     OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n", False),
    (b"GET / HTTP/1.0", b"", head(), b"hi", OK + b"Connection: close\r\n\r\nhi", False),
    (b"GET / HTTP/1.0", b"", head(200, (b"Content-Length", b"2")), b"hi",
     OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nhi", False),
    (b"GET / HTTP/1.0", b"Connection: Keep-Alive\r\n", head(200, (b"Content-Length", b"2")), b"hi",
     OK + b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\nhi", True),
    (b"GET / HTTP/1.0", b"Connection: keep-alive\r\n", head(), b"hi", OK + b"Connection: close\r\n\r\nhi", False),
    (b"HEAD / HTTP/1.1", b"", head(200, (b"Content-Length", b"9")), b"", OK + b"Content-Length: 9\r\n\r\n", True),
    (b"HEAD / HTTP/1.1", b"", head(), b"dropped", OK + b"\r\n", True),
    (b"HEAD / HTTP/1.0", b"Connection: keep-alive\r\n", head(), b"", OK + b"Connection: keep-alive\r\n\r\n", True),
    (b"GET / HTTP/1.1", b"", head(204, (b"Content-Length", b"0"), (b"A", b"b")), b"dropped",
     b"HTTP/1.1 204 \r\nA: b\r\n\r\n", True),
    (b"GET / HTTP/1.1", b"", head(304, (b"Content-Length", b"9")), b"",
     b"HTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n", True),
]  # fmt: skip


@pytest.mark.parametrize(("line", "fields", "response", "body", "wire", "lives"), RESPONSES)
def test_responses(line: bytes, fields: bytes, response: ResponseHead, body: bytes, wire: bytes, lives: bool) -> None:
    codec = server()
    read_all(codec, [line + b"\r\nHost: a\r\n" + fields + b"\r\n"])
    given = list(response.fields)
    written = codec.encode_head(response) + b"".join([*codec.encode_body(body), *codec.encode_body(b"")])
    assert written + codec.encode_end() == wire
    assert response.fields == given
    assert codec.keep_alive is lives


def test_trailers_are_written_where_there_is_place() -> None:
    codec = server()
    read_all(codec, [GET])
    codec.encode_head(head())
    assert codec.encode_end([(b"A", b"b"), (b"C", b"d")]) == b"0\r\nA: b\r\nC: d\r\n\r\n"
    codec.start_next_cycle()
    read_all(codec, [GET])
    codec.encode_head(head(200, (b"Content-Length", b"0")))
    assert codec.encode_end([(b"A", b"b")]) == b""


def test_close_on_demand() -> None:
    codec = server()
    read_all(codec, [GET])
    assert b"Connection: close\r\n" in codec.encode_head(head(), close=True)
    assert not codec.persists


@pytest.mark.parametrize("body", [b"long", b"s"])
def test_bodies_must_keep_to_their_length(body: bytes) -> None:
    codec = server()
    read_all(codec, [GET])
    codec.encode_head(head(200, (b"Content-Length", b"2")))
    with pytest.raises(LocalProtocolError, match="Content-Length"):  # noqa: PT012 - either may be where it shows
        codec.encode_body(body)
        codec.encode_end()
    assert not codec.keep_alive


@pytest.mark.parametrize("field", [(b"A\r\nB", b"c"), (b"A", b"b\nC: d"), (b"A", b"b\rc"), (b"A", b"\0")])
def test_no_line_breaks_into_two(field: tuple[bytes, bytes]) -> None:
    for write in (server().encode_head, server().encode_info):
        with pytest.raises(LocalProtocolError) as caught:
            write(head(200, field))
        assert caught.value.code == "bad_field"
    with pytest.raises(LocalProtocolError):
        client_codec().encode_head(RequestHead(b"GET", b"/", [field]))


def test_requests_after_the_first() -> None:
    codec = server()
    assert len(read_all(codec, [GET * 3])) == 3
    for _ in range(2):
        codec.encode_head(head(204))
        codec.encode_end()
        codec.start_next_cycle()
        assert isinstance(codec.next_event(), RequestHead)
        assert codec.next_event() == End([])
    assert codec.trailing_data == b""


def test_no_next_cycle_before_both_messages_are_complete() -> None:
    codec = server()
    read_all(codec, [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"])
    codec.encode_head(head(204))
    codec.encode_end()
    with pytest.raises(LocalProtocolError):
        codec.start_next_cycle()
    read_all(codec, [b"hello"])
    codec.start_next_cycle()


def test_switch() -> None:
    codec = server()
    read_all(codec, [b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nearly"])
    assert codec.encode_switch(head(101, (b"Upgrade", b"x"))) == b"HTTP/1.1 101 \r\nUpgrade: x\r\n\r\n"
    assert codec.trailing_data == b"early"
    assert codec.next_event() is Signal.PAUSED
    assert not codec.keep_alive


def test_no_switch_within_a_request() -> None:
    codec = server()
    read_all(codec, [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"])
    with pytest.raises(LocalProtocolError):
        codec.encode_switch(head(101))


def test_every_illegal_move_is_refused() -> None:
    for move in Move:
        after = getattr(codec_moves, f"AFTER_{move.name}")
        assert isinstance(after, After)
        for state in State:
            if (state, move) in TRANSITIONS:
                assert after[state] is TRANSITIONS[state, move]
            else:
                with pytest.raises(LocalProtocolError, match=f"{move.name} is not possible in state {state.name}"):
                    after[state]


# -- the client's end ------------------------------------------------------------------------------

LENGTH = (b"Content-Length", b"5")
RESULTS: list[tuple[str, bytes, list[Read], bool]] = [
    ("sized", OK + b"Content-Length: 5\r\n\r\nhello", [head(200, LENGTH), Body(b"hello"), End([])], True),
    ("chunked", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
     [head(200, (b"Transfer-Encoding", b"chunked")), Body(b"hello"), End([(b"A", b"b")])], True),
    ("chunks with padded sizes", OK + b"Transfer-Encoding: chunked\r\n\r\n5  \r\nhello\r\n0\r\n\r\n",
     [head(200, (b"Transfer-Encoding", b"chunked")), Body(b"hello"), End([])], True),
    ("no reason", b"HTTP/1.1 204\r\n\r\n", [head(204), End([])], True),
    ("304 with a length", b"HTTP/1.1 304 \r\nContent-Length: 5\r\n\r\n", [head(304, LENGTH), End([])], True),
    ("interim ones", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nA: b\r\n\r\nHTTP/1.1 204 \r\n\r\n",
     [ResponseHead(100, [], b"Continue"), head(103, (b"A", b"b")), head(204), End([])], True),
    ("close", OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n",
     [head(200, (b"Content-Length", b"0"), (b"Connection", b"close")), End([])], False),
    ("HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
     [ResponseHead(200, [LENGTH], b"OK", b"1.0"), Body(b"hello"), End([])], False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "events", "lives"), RESULTS, ids=[row[0] for row in RESULTS])
def test_results(name: str, data: bytes, events: list[Read], lives: bool) -> None:
    for pieces in splits(data):
        codec = client()
        assert read_all(codec, pieces) == [*events, Signal.PAUSED]
        assert codec.keep_alive is lives
        if lives:
            codec.start_next_cycle()


def test_until_close() -> None:
    for pieces in splits(OK + b"\r\nhello"):
        codec = client()
        assert read_all(codec, [*pieces, b""]) == [head(), Body(b"hello"), End([]), Signal.PAUSED]
        assert not codec.keep_alive


def test_head_has_no_body() -> None:
    codec = client(RequestHead(b"HEAD", b"/", [HOST]))
    assert read_all(codec, [OK + b"Content-Length: 5\r\n\r\n"]) == [head(200, LENGTH), End([]), Signal.PAUSED]


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_bytes_after_the_end_spoil_the_connection(method: bytes) -> None:
    codec = client(RequestHead(method, b"/", [HOST]))
    read_all(codec, [OK + b"Content-Length: 0\r\n\r\nmore"])
    assert codec.trailing_data == b"more"
    assert not codec.keep_alive


def test_an_end_spoils_the_connection() -> None:
    codec = client()
    read_all(codec, [OK + b"Content-Length: 0\r\n\r\n", b""])
    assert not codec.keep_alive


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "no_response"),
        (b"HTTP/1.1 200", "truncated_response"),
        (b"HTTP/1.1 100 \r\n\r\n", "no_response"),
        (OK + b"Content-Length: 5\r\n\r\nhell", "truncated_response"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "truncated_response"),
    ],
)
def test_results_cut_short(data: bytes, code: str) -> None:
    assert read_all(client(), [data, b""] if data else [b""])[-1] == (502, code)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\r\n" + OK + b"\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        OK + b"Content-Length: 5, 5\r\n\r\nhello",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
        OK + b"A: \x07\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 101 \r\nUpgrade: x\r\n\r\n",
        OK + b"A: b\r\n" * 101 + b"\r\n",
        OK + b"A: " + b"b" * 70_000,
        OK + b"Transfer-Encoding: chunked\r\n\r\nz\r\n",
    ],
)
def test_bad_results(data: bytes) -> None:
    """Whatever it is called when a caller does the same: this is the origin's fault."""
    refusal = failure(client(), data) or failure_at_the_end(data)
    assert refusal in {(502, "bad_response"), (502, "truncated_response")}


def failure_at_the_end(data: bytes) -> tuple[int, str]:
    last = read_all(client(), [data, b""])[-1]
    assert isinstance(last, tuple)
    return last


def client_codec() -> ClientCodec:
    return ClientCodec(parsers.used, DEFAULT_LIMITS)


def test_a_response_without_a_request() -> None:
    assert failure(client_codec(), OK + b"\r\n") == (502, "bad_response")
    assert read_all(client_codec(), [b""]) == [Signal.CLOSED]


def test_an_answer_before_the_request_is_complete() -> None:
    codec = client_codec()
    codec.encode_head(RequestHead(b"POST", b"/", [HOST]), has_body=True)
    assert read_all(codec, [b"HTTP/1.1 413 \r\nContent-Length: 0\r\n\r\n"])[-1] is Signal.PAUSED
    assert not codec.keep_alive
    codec.encode_body(b"a")
    codec.encode_end()
    assert codec.keep_alive


CHUNKED = (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    ("fields", "has_body", "written", "body"),
    [
        ([], False, b"", b""),
        ([LENGTH], True, b"Content-Length: 5\r\n", b"hello"),
        ([LENGTH], False, b"Content-Length: 5\r\n", b"hello"),
        ([], True, b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        ([CHUNKED], False, b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
def test_requests_written(fields: Fields, has_body: bool, written: bytes, body: bytes) -> None:
    codec = client_codec()
    wire = codec.encode_head(RequestHead(b"POST", b"/a?b", [HOST, *fields]), has_body=has_body)
    assert wire == b"POST /a?b HTTP/1.1\r\nHost: a\r\n" + written + b"\r\n"
    assert b"".join(codec.encode_body(b"hello")) + codec.encode_end() == body


def test_a_target_with_a_space() -> None:
    with pytest.raises(LocalProtocolError):
        client_codec().encode_head(RequestHead(b"GET", b"/ HTTP/1.1", [HOST]))


def test_upgrade() -> None:
    request = RequestHead(b"GET", b"/", [HOST, (b"Upgrade", b"x"), (b"Connection", b"keep-alive, Upgrade")])
    codec = client(request)
    events = read_all(codec, [b"HTTP/1.1 101 \r\nUpgrade: x\r\n\r\nearly"])
    assert events == [head(101, (b"Upgrade", b"x")), Signal.PAUSED]
    assert codec.trailing_data == b"early"
    assert not codec.keep_alive


@pytest.mark.parametrize("fields", [b"", b"Upgrade: y\r\n", b"Upgrade: x, y\r\n"])
def test_a_switch_to_what_was_not_offered(fields: bytes) -> None:
    """RFC 9110 7.8: a server must not. What followed would be taken for another protocol than the caller's."""
    request = RequestHead(b"GET", b"/", [HOST, (b"Upgrade", b"x"), (b"Connection", b"Upgrade")])
    assert failure(client(request), b"HTTP/1.1 101 \r\n" + fields + b"\r\nearly") == (502, "bad_response")


def test_two_cores_joined() -> None:
    """What a client writes is what a server reads, and the other way round."""
    near, far = client_codec(), server()
    for number in range(3):
        request = RequestHead(b"POST", b"/%d" % number, [HOST])
        wire = near.encode_head(request, has_body=True) + b"".join(near.encode_body(b"x" * number))
        wire += near.encode_end([(b"T", b"1")])
        request.fields.append(CHUNKED)
        assert read_all(far, [wire]) == [
            request, *([Body(b"x" * number)] if number else []), End([(b"T", b"1")]), Signal.PAUSED
        ]  # fmt: skip
        answer = head(200, LENGTH)
        wire = far.encode_info(head(103)) + far.encode_head(answer) + b"".join(far.encode_body(b"hello"))
        assert read_all(near, [wire + far.encode_end()]) == [
            head(103),
            answer,
            Body(b"hello"),
            End([]),
            Signal.PAUSED,
        ]
        near.start_next_cycle()
        far.start_next_cycle()


def test_errors_of_the_client_keep_their_cause() -> None:
    codec = client()
    codec.receive_data(b"nonsense\r\n\r\n")
    with pytest.raises(HeadError) as caught:
        codec.next_event()
    assert caught.value.status == 502
    assert isinstance(caught.value.__cause__, HeadError)
