from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import Limits
from tunnelkit.errors import HeadError, LocalProtocolError, RemoteProtocolError
from tunnelkit.heads import (
    ADDED_FIELDS,
    Fields,
    RequestHead,
    ResponseHead,
    Trailers,
    body_length,
    connection_options,
    content_length,
    decode_block,
    effective_host,
    encode_request,
    encode_response,
    encode_trailers,
    field_values,
    list_items,
    split_target,
    switches_as_offered,
    validate_fields,
    validate_request,
    validate_request_line,
    validate_response,
    validate_status_line,
    validate_trailers,
)
from tunnelkit.http.client_codec import request_block

VECTORS = Path(__file__).parent / "vectors" / "heads.json"
HOST = (b"Host", b"example.com")
LIMITS = Limits(head_limit=2000, request_line_limit=200, field_limit=10)


def request(
    *fields: tuple[bytes, bytes], target: bytes = b"/", method: bytes = b"GET", version: bytes = b"1.1"
) -> RequestHead:
    return RequestHead(method, target, list(fields), version)


# -- what passes -------------------------------------------------------------------------------

GOOD_REQUESTS = {
    "plain": request(HOST),
    "empty value": request(HOST, (b"X", b"")),
    "obs-text and tabs in a value": request(HOST, (b"X", b"caf\xe9 \xff\t\x80")),
    "every character of a token": request(HOST, (b"!#$%&'*+-.^_`|~09AZaz", b"x"), method=b"!#$%&'*+-.^_`|~09AZaz"),
    "duplicates": request(HOST, (b"Cookie", b"a=1"), (b"cookie", b"b=2")),
    "bytes that strict grammars refuse": request(HOST, target=b'/%zz//../a|b"<>{}^`\\[]?x=/?'),
    "length": request(HOST, (b"Content-Length", b"0"), method=b"POST"),
    "length of 18 digits": request(HOST, (b"content-length", b"9" * 18), method=b"POST"),
    "chunked": request(HOST, (b"Transfer-Encoding", b"Chunked"), method=b"POST"),
    "1.0 without Host": request(version=b"1.0"),
    "1.0 with Host": request(HOST, version=b"1.0"),
    "a higher minor version": request(HOST, version=b"1.9"),
    "port": request((b"Host", b"h:65535")),
    "empty port": request((b"Host", b"h:")),
    "IPv4": request((b"Host", b"127.0.0.1:80")),
    "IPv6": request((b"Host", b"[::1]:80")),
    "IPv6 with IPv4": request((b"Host", b"[::ffff:127.0.0.1]")),
    "sub-delims and escapes in a host": request((b"Host", b"a_b~c!$&'()*+,;=%41")),
    "asterisk": request(HOST, target=b"*", method=b"OPTIONS"),
    "absolute form": request(HOST, target=b"http://other:81/x?y"),
    "absolute form of https": request(HOST, target=b"HTTPS://[::1]"),
    "a method in lower case is another method": request(HOST, method=b"trace"),
    "limits, just": request(HOST, *[(b"A", b"")] * 9, target=b"/" + b"x" * (200 - 10 - 4)),
    "upgrade": request(HOST, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")),
}


@pytest.mark.parametrize("head", GOOD_REQUESTS.values(), ids=GOOD_REQUESTS.keys())
def test_good_requests_pass(head: RequestHead) -> None:
    before = head.copy()
    validate_request(head, LIMITS)
    assert head == before


def test_what_is_shown_of_heads_holds_no_credentials() -> None:
    asked = RequestHead(b"GET", b"/_token/s3cret/", [HOST, (b"Authorization", b"s3cret")])
    answered = ResponseHead(200, [(b"Set-Cookie", b"s3cret")], b"OK")
    assert repr(asked) == "<RequestHead GET fields=2>"
    assert repr(answered) == "<ResponseHead 200 fields=1>"
    assert "s3cret" not in repr(request_block(asked))


# -- what does not: the rows of the checklist that a parsed head still shows --------------------


def framed(*values: tuple[bytes, bytes], version: bytes = b"1.1") -> RequestHead:
    return request(HOST, *values, method=b"POST", version=version)


CL, TE = b"Content-Length", b"Transfer-Encoding"
BAD_REQUESTS: dict[str, tuple[int, str, RequestHead]] = {
    # length and coding
    "CL and TE": (400, "bad_framing", framed((CL, b"5"), (TE, b"chunked"))),
    "TE and CL": (400, "bad_framing", framed((TE, b"chunked"), (CL, b"5"))),
    "TE and CL without Host": (400, "bad_framing", request((CL, b"5"), (TE, b"chunked"), version=b"1.0")),
    "two CL": (400, "bad_framing", framed((CL, b"5"), (CL, b"6"))),
    "two equal CL": (400, "bad_framing", framed((CL, b"5"), (b"content-length", b"5"))),
    "CL list": (400, "bad_framing", framed((CL, b"5, 5"))),
    "CL +5": (400, "bad_framing", framed((CL, b"+5"))),
    "CL -1": (400, "bad_framing", framed((CL, b"-1"))),
    "CL 0x5": (400, "bad_framing", framed((CL, b"0x5"))),
    "CL 0_5": (400, "bad_framing", framed((CL, b"0_5"))),
    "CL with space": (400, "bad_framing", framed((CL, b" 5"))),
    "CL empty": (400, "bad_framing", framed((CL, b""))),
    "CL of 19 digits": (400, "bad_framing", framed((CL, b"1" * 19))),
    "TE xchunked": (501, "transfer_coding", framed((TE, b"xchunked"))),
    "TE gzip, chunked": (501, "transfer_coding", framed((TE, b"gzip, chunked"))),
    "TE chunked twice": (501, "transfer_coding", framed((TE, b"chunked, chunked"))),
    "two TE": (501, "transfer_coding", framed((TE, b"chunked"), (TE, b"chunked"))),
    "TE empty": (501, "transfer_coding", framed((TE, b""))),
    "TE identity": (501, "transfer_coding", framed((TE, b"identity"))),
    "TE with a parameter": (501, "transfer_coding", framed((TE, b"chunked;a=b"))),
    "TE with HTTP/1.0": (400, "bad_framing", framed((TE, b"chunked"), version=b"1.0")),
    # control characters
    **{
        f"value with {byte:#04x}": (400, "bad_field", request(HOST, (b"X", b"a" + bytes([byte]) + b"b")))
        for byte in [*range(9), *range(10, 32), 127]
    },
    **{
        f"name with {byte:#04x}": (400, "bad_field", request(HOST, (b"X" + bytes([byte]), b"a")))
        for byte in [*b'\0\t\n\r "(),/:;<=>?@[\\]{}\x7f\x80\xff']
    },
    "empty name": (400, "bad_field", request(HOST, (b"", b"a"))),
    "two names in one": (400, "bad_field", request(HOST, (b"X\nY", b"a"))),
    # versions
    "HTTP/9.9": (505, "http_version", request(HOST, version=b"9.9")),
    "HTTP/2.0": (505, "http_version", request(HOST, version=b"2.0")),
    "HTTP/0.9": (505, "http_version", request(HOST, version=b"0.9")),
    "HTTP/2 preface": (505, "http_version", request(target=b"*", method=b"PRI", version=b"2.0")),
    "version 1.10": (505, "http_version", request(HOST, version=b"1.10")),
    "version with LF": (505, "http_version", request(HOST, version=b"1.1\n")),
    "version of words": (505, "http_version", request(HOST, version=b"")),
    # Host
    "no Host": (400, "bad_host", request()),
    "no Host but fields": (400, "bad_host", request((b"X", b"y"))),
    "two Hosts": (400, "bad_host", request(HOST, (b"host", b"example.com"))),
    "two Hosts with 1.0": (400, "bad_host", request(HOST, HOST, version=b"1.0")),
    **{
        f"Host {value!r}": (400, "bad_host", request((b"Host", value)))
        for value in (
            *(
                b"",
                b"a/@b,c",
                b"u@h",
                b"u:p@h",
                b"a b",
                b" a",
                b"a ",
                b"a/b",
                b"a?b",
                b"a#b",
                b"a\\b",
                b"h:x",
                b"h:80:80",
            ),
            *(
                b"h:65536",
                b"h:123456",
                b":80",
                b"::1",
                b"[::1",
                b"[::1]x",
                b"[]",
                b"[1]",
                b"[::1%25eth0]",
                b"[::g]",
                b"[1::2::3]",
            ),
            *(b"%zz", b"a%4", b"a%", b"caf\xe9", b'a"b', b"<a>", b"x" * 256, b"http://h", b"h:+1"),
        )
    },
    # targets and methods
    **{
        f"target {target!r}": (400, "bad_target", request(HOST, target=target))
        for target in (
            *(b"", b"foo", b"*", b"/a#b", b"/a b", b"/\x00", b"/\x7f", b"/\xe9", b"/a\n", b"\\a", b"example.com:80"),
            *(b"ftp://h/", b"http:/h", b"http://", b"http:///x", b"http://u@h/", b"http://h:x/", b"http://h/#f"),
            *(b"http://[::1/", b"javascript:x", b"?x"),
        )
    },
    "asterisk but not OPTIONS": (400, "bad_target", request(HOST, target=b"*", method=b"POST")),
    "CONNECT": (501, "method_not_implemented", request(HOST, target=b"h:443", method=b"CONNECT")),
    "TRACE": (405, "method_not_allowed", request(HOST, method=b"TRACE")),
    "no method": (400, "bad_request", request(HOST, method=b"")),
    "method with a space": (400, "bad_request", request(HOST, method=b"GE T")),
    "method with LF": (400, "bad_request", request(HOST, method=b"GET\n")),
    # sizes
    "long line": (414, "uri_too_long", request(HOST, target=b"/" + b"x" * (200 - 10 - 3))),
    "many fields": (431, "head_too_large", request(HOST, *[(b"A", b"")] * 10)),
    "large value": (431, "head_too_large", request(HOST, (b"A", b"x" * 2000))),
    "large name": (431, "head_too_large", request(HOST, (b"A" * 2000, b""))),
}


@pytest.mark.parametrize(("status", "code", "head"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_bad_requests_are_refused(status: int, code: str, head: RequestHead) -> None:
    with pytest.raises(HeadError) as caught:
        validate_request(head, LIMITS)
    assert (caught.value.status, caught.value.code) == (status, code)


def test_the_other_end_leaves_room_for_added_fields() -> None:
    head = request(HOST, *[(b"A", b"")] * 17)
    validate_request(head, LIMITS, ADDED_FIELDS)
    with pytest.raises(HeadError):
        validate_request(head, LIMITS, ADDED_FIELDS - 1)


def test_size_is_that_on_the_wire() -> None:
    wire = b"GET / HTTP/1.1\r\nHost: example.com\r\nA: \r\n"
    value = b"x" * (LIMITS.head_limit - len(wire))
    validate_request(request(HOST, (b"A", value)), LIMITS)
    with pytest.raises(HeadError, match="larger than 2000 bytes"):
        validate_request(request(HOST, (b"A", value + b"x")), LIMITS)


# -- responses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "is_one"),
    [
        ([b"b/1"], True),
        ([b"A, B/1"], True),
        ([b"a", b"b/1"], True),
        ([b"b"], False),
        ([b"a, c"], False),
        ([b""], False),
        ([], False),
    ],
)
def test_a_switch_is_to_what_was_offered(taken: list[bytes], is_one: bool) -> None:
    offer = [(b"Upgrade", b"A"), (b"upgrade", b"b/1, ")]
    head = ResponseHead(101, [(b"Upgrade", value) for value in taken])
    assert switches_as_offered(head, offer) is is_one


GOOD_RESPONSES = {
    "plain": ResponseHead(200, [], b"OK"),
    "reason with obs-text": ResponseHead(404, [(b"Server", b"x")], b"pas trouv\xe9"),
    "no reason": ResponseHead(100, []),
    "largest status": ResponseHead(599, []),
    "an interim status that nobody knows": ResponseHead(199, []),
    "1.0": ResponseHead(200, [(CL, b"5")], b"OK", b"1.0"),
    "chunked": ResponseHead(200, [(TE, b"chunked")]),
    "cookies": ResponseHead(200, [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]),
    "no length for 204 is not judged here": ResponseHead(204, [(CL, b"0")]),
}
BAD_RESPONSES = {
    "status too small": ResponseHead(99, []),
    "status too large": ResponseHead(600, []),
    "a status of some library's own": ResponseHead(999, []),
    "version": ResponseHead(200, [], b"", b"2.0"),
    "reason with CR": ResponseHead(200, [], b"OK\rX"),
    "value with LF": ResponseHead(200, [(b"A", b"b\nc")]),
    "name with space": ResponseHead(200, [(b"A ", b"b")]),
    "CL and TE": ResponseHead(200, [(CL, b"5"), (TE, b"chunked")]),
    "two CL": ResponseHead(200, [(CL, b"5"), (CL, b"6")]),
    "TE gzip": ResponseHead(200, [(TE, b"gzip")]),
    "TE with 1.0": ResponseHead(200, [(TE, b"chunked")], b"", b"1.0"),
    "too many fields": ResponseHead(200, [(b"A", b"b")] * 11),
}


@pytest.mark.parametrize("head", GOOD_RESPONSES.values(), ids=GOOD_RESPONSES.keys())
def test_good_responses_pass(head: ResponseHead) -> None:
    validate_response(head, LIMITS)


@pytest.mark.parametrize("head", BAD_RESPONSES.values(), ids=BAD_RESPONSES.keys())
def test_bad_responses_are_the_origins_fault(head: ResponseHead) -> None:
    with pytest.raises(HeadError) as caught:
        validate_response(head, LIMITS)
    assert (caught.value.status, caught.value.code) == (502, "bad_response")


# -- fields and trailers -----------------------------------------------------------------------


def test_fields_alone() -> None:
    validate_fields([])
    validate_fields([(b"A", b"b")])
    with pytest.raises(HeadError):
        validate_fields([(b"A", b"\x07")])


def test_trailers_that_frame_or_route_are_dropped() -> None:
    kept = [(b"Checksum", b"1"), (b"Server-Timing", b"x")]
    dropped = [
        (name, b"1")
        for name in (
            *(
                b"Content-Length",
                b"HOST",
                b"Transfer-Encoding",
                b"Authorization",
                b"Cookie",
                b"Set-Cookie",
                b"Trailer",
            ),
            *(b"X-Forwarded-For", b"Forwarded", b"Tunnelkit-Token", b"X-Token", b"X-Host", b"Cache-Control", b"TE"),
        )
    ]
    assert validate_trailers([kept[0], *dropped, kept[1]]) == kept
    assert validate_trailers([]) == []
    with pytest.raises(HeadError):
        validate_trailers([(b"A", b"\r")])
    with pytest.raises(HeadError):
        validate_trailers([(b"A", b"b")] * 11, LIMITS)


def test_field_values_and_list_items() -> None:
    fields: Fields = [(b"A", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert field_values(fields, b"a") == [b"1", b"3"]
    assert field_values(fields, b"c") == []
    assert list_items([b"A, ,b\t", b"", b",C"]) == [b"a", b"b", b"c"]


# -- targets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "method", "expected"),
    [
        (b"/a?b", b"GET", (None, b"/a?b")),
        (b"//h/a", b"GET", (None, b"//h/a")),
        (b"*", b"OPTIONS", (None, b"*")),
        (b"http://h", b"GET", (b"h", b"/")),
        (b"http://h", b"OPTIONS", (b"h", b"*")),
        (b"http://h/", b"OPTIONS", (b"h", b"/")),
        (b"http://h?x", b"OPTIONS", (b"h", b"/?x")),
        (b"hTTps://h:1//a?b", b"GET", (b"h:1", b"//a?b")),
        (b"ftp://h/", b"GET", (None, b"ftp://h/")),
    ],
)
def test_split_target(target: bytes, method: bytes, expected: tuple[bytes | None, bytes]) -> None:
    assert split_target(target, method) == expected


def test_an_absolute_target_overrides_host() -> None:
    assert effective_host(request(HOST)) == b"example.com"
    assert effective_host(request(HOST, target=b"http://other:81/x")) == b"other:81"
    assert effective_host(request(version=b"1.0")) == b""


# -- lengths of bodies -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "method", "length"),
    [
        (request(HOST), None, 0),
        (framed((CL, b"5")), None, 5),
        (framed((TE, b"chunked")), None, None),
        (ResponseHead(200, []), b"GET", None),
        (ResponseHead(200, [(CL, b"7")]), b"GET", 7),
        (ResponseHead(200, [(CL, b"7")]), None, 7),
        (ResponseHead(200, [(TE, b"chunked")]), b"GET", None),
        (ResponseHead(200, [(CL, b"7")]), b"HEAD", 0),
        (ResponseHead(200, [(TE, b"chunked")]), b"HEAD", 0),
        (ResponseHead(304, [(CL, b"7")]), b"GET", 0),
        (ResponseHead(204, []), b"GET", 0),
        (ResponseHead(103, []), b"GET", 0),
        (ResponseHead(101, []), b"GET", 0),
    ],
)
def test_body_length(head: RequestHead | ResponseHead, method: bytes | None, length: int | None) -> None:
    assert body_length(head, method) == length


def test_content_length() -> None:
    assert content_length([HOST]) is None
    assert content_length([HOST, (CL, b"010")]) == 10


# -- blocks ------------------------------------------------------------------------------------

# Any bytes but LF: encoding does not depend on validity.
part = st.binary(max_size=12).map(lambda data: data.replace(b"\n", b""))
field_lists = st.lists(st.tuples(part, part), max_size=6)
requests = st.builds(RequestHead, part, part, field_lists, part)
responses = st.builds(ResponseHead, st.integers(100, 999), field_lists, part, part)


@given(requests)
def test_requests_round_trip(head: RequestHead) -> None:
    assert decode_block(encode_request(head)) == head


@given(responses)
def test_responses_round_trip(head: ResponseHead) -> None:
    block = encode_response(head)
    assert block[0] == (2 if head.status < 200 and head.status != 101 else 3)
    assert decode_block(block) == head


@given(field_lists)
def test_trailers_round_trip(fields: Fields) -> None:
    assert decode_block(encode_trailers(fields)) == Trailers(fields)


@given(st.binary() | st.builds(lambda kind, rest: bytes([kind]) + rest, st.integers(0, 5), st.binary()))
def test_decoding_never_crashes_and_is_canonical(block: bytes) -> None:
    try:
        head = decode_block(block)
    except RemoteProtocolError:
        return
    encoded = (
        encode_trailers(head.fields)
        if isinstance(head, Trailers)
        else encode_request(head)
        if isinstance(head, RequestHead)
        else encode_response(head)
    )
    assert encoded == block


@pytest.mark.parametrize(
    "block",
    [
        *(b"", b"\x00", b"\x05GET\n/\n1.1", b"\xff"),  # no type, or an unknown one
        *(b"\x01", b"\x01GET", b"\x01GET\n/", b"\x01GET\n/\n1.1\nHost"),  # a part missing
        *(b"\x02100\n", b"\x03200\nOK", b"\x03200\nOK\n1.1\nA"),
        *(b"\x03\n\n1.1", b"\x0320\n\n1.1", b"\x032000\n\n1.1", b"\x03+20\n\n1.1", b"\x03099\n\n1.1"),  # no status
        *(b"\x02200\n\n1.1", b"\x02101\n\n1.1", b"\x03100\n\n1.1"),  # a status that the type excludes
        *(b"\x04x", b"\x04\nA", b"\x04\nA\nb\nC", b"\x04x\nA\nb"),
    ],
)
def test_blocks_of_a_bad_shape(block: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_block(block)
    assert caught.value.code == "bad_head"


@pytest.mark.parametrize(
    "encode",
    [
        lambda: encode_request(request(target=b"/\nX")),
        lambda: encode_request(request((b"A", b"b\nInjected\nx"))),
        lambda: encode_response(ResponseHead(200, [], b"O\nK")),
        lambda: encode_trailers([(b"A\n", b"b")]),
    ],
)
def test_a_line_feed_is_never_encoded(encode: Any) -> None:
    with pytest.raises(LocalProtocolError):
        encode()


def test_vectors() -> None:
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    for vector in vectors["valid"]:
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in vector["fields"]]
        block = bytes.fromhex(vector["block"])
        head: RequestHead | ResponseHead | Trailers
        if vector["type"] == "request":
            head = RequestHead(
                vector["method"].encode(), vector["target"].encode(), fields, vector["version"].encode()
            )
            assert encode_request(head) == block, vector["name"]
        elif vector["type"] == "trailers":
            head = Trailers(fields)
            assert encode_trailers(fields) == block, vector["name"]
        else:
            head = ResponseHead(
                vector["status"], fields, vector["reason"].encode("latin-1"), vector["version"].encode()
            )
            assert encode_response(head) == block, vector["name"]
        assert decode_block(block) == head, vector["name"]
    for vector in vectors["invalid"]:
        with pytest.raises(RemoteProtocolError):
            decode_block(bytes.fromhex(vector["block"]))


# -- any bytes ---------------------------------------------------------------------------------

wild = st.binary(max_size=20)
wild_fields = st.lists(
    st.tuples(wild | st.sampled_from([b"Host", CL, TE, b"Connection", b"X"]), wild | st.sampled_from([b"5", b"h"])),
    max_size=12,
)


@given(st.builds(RequestHead, wild | st.just(b"GET"), wild | st.just(b"/"), wild_fields, wild | st.just(b"1.1")))
def test_validating_any_request_raises_nothing_else(head: RequestHead) -> None:
    try:
        validate_request(head)
    except HeadError:
        return
    wire = b"%b %b HTTP/%b\r\n" % (head.method, head.target, head.version)
    wire += b"".join(b"%b: %b\r\n" % field for field in head.fields)
    assert wire.count(b"\r") == wire.count(b"\n") == len(head.fields) + 1
    assert wire.split(b"\r\n")[0].count(b" ") == 2
    assert b"\0" not in wire
    assert decode_block(encode_request(head)) == head
    body_length(head)


@given(st.builds(ResponseHead, st.integers(), wild_fields, wild, wild | st.just(b"1.1")))
def test_validating_any_response_raises_nothing_else(head: ResponseHead) -> None:
    try:
        validate_response(head)
    except HeadError:
        return
    assert decode_block(encode_response(head)) == head
    body_length(head, b"GET")


# -- parts ---------------------------------------------------------------------------------------


def test_a_first_line_by_itself() -> None:
    validate_request_line(request(), LIMITS)
    validate_status_line(ResponseHead(200, [], b"OK"))
    with pytest.raises(HeadError) as caught:
        validate_request_line(request(target=b"/#"), LIMITS)
    assert (caught.value.status, caught.value.code) == (400, "bad_target")
    for head in (ResponseHead(600, []), ResponseHead(200, [], b"\n"), ResponseHead(200, [], version=b"2.0")):
        with pytest.raises(HeadError) as caught:
            validate_status_line(head)
        assert (caught.value.status, caught.value.code) == (502, "bad_response")


def test_connection_options() -> None:
    assert connection_options(b"Keep-Alive ,\tUPGRADE,,") == {b"keep-alive", b"upgrade"}
    assert connection_options(b"") == frozenset()


def test_the_host_is_found_wherever_it_stands() -> None:
    assert effective_host(request((b"A", b"b"), (b"hOST", b"c"), (b"Host", b"d"))) == b"c"
    assert effective_host(request((b"A", b"b"))) == b""


HEADS: list[RequestHead | ResponseHead] = [
    RequestHead(b"GET", b"/", [(b"Host", b"a")], b"1.0"),
    ResponseHead(404, [(b"X-A", b"b")], b"Not Found", b"1.0", written={}),
]


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_copied_and_pickled_by_their_values(head: RequestHead | ResponseHead) -> None:
    for other in (copy.copy(head), copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert other == head
        assert not isinstance(other, ResponseHead) or other.written is None


@pytest.mark.parametrize("head", HEADS)
def test_a_copy_has_fields_of_its_own(head: RequestHead | ResponseHead) -> None:
    other = head.copy()
    assert other == head
    other.fields.clear()
    assert len(head.fields) == 1
    assert not isinstance(other, ResponseHead) or other.written is None
