"""Heads that come again on a connection: read as if each came on a connection of its own, and less often parsed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import HeadError
from tunnelkit.heads import Fields, RequestHead, ResponseHead
from tunnelkit.http.client_codec import ClientCodec
from tunnelkit.http.codec import Body, End, HeadParser
from tunnelkit.http.parsers import find_parser
from tunnelkit.http.repeats import REPEATED_SIZE
from tunnelkit.http.server_codec import ServerCodec

H11 = find_parser("h11")


class Counting:
    """A parser that counts."""

    def __init__(self) -> None:
        self.parsed = 0

    def parse_request(self, block: bytes) -> RequestHead:
        self.parsed += 1
        return H11.parse_request(block)

    def parse_response(self, block: bytes) -> ResponseHead:
        self.parsed += 1
        return H11.parse_response(block)


def requests(parser: HeadParser, wire: bytes, limits: Limits = DEFAULT_LIMITS) -> Iterator[RequestHead | str]:
    """The heads on one connection, and at last the code of a refusal."""
    codec = ServerCodec(parser, limits)
    codec.receive_data(wire)
    while codec.buffered:
        try:
            head = codec.next_event()
            assert isinstance(head, RequestHead)
            yield head
            while not isinstance(codec.next_event(), End):
                pass
        except HeadError as error:
            yield f"{error.status} {error.code} {error.detail}"
            return
        codec.encode_head(ResponseHead(204, []))
        codec.encode_end()
        if not codec.keep_alive:
            return
        codec.start_next_cycle()


def responses(parser: HeadParser, wire: bytes) -> Iterator[ResponseHead | str]:
    """Interim ones: they may follow one another."""
    codec = ClientCodec(parser, DEFAULT_LIMITS)
    codec.encode_head(RequestHead(b"GET", b"/", [(b"Host", b"a")]))
    codec.encode_end()
    codec.receive_data(wire)
    while codec.buffered:
        try:
            head = codec.next_event()
        except HeadError as error:
            yield f"{error.status} {error.code} {error.detail}"
            return
        assert isinstance(head, (ResponseHead, Body, End))
        if isinstance(head, ResponseHead):
            yield head


SECTION = b"\r\nHost: a\r\nX-B:  c \r\nx-b: d\r\n\r\n"
FIELDS: Fields = [(b"Host", b"a"), (b"X-B", b"c"), (b"x-b", b"d")]


def test_the_same_fields_are_parsed_once() -> None:
    parser = Counting()
    lines = [b"GET /a HTTP/1.1", b"GET /b?c HTTP/1.1", b"QUACK /d HTTP/1.1"]
    heads = list(requests(parser, b"".join(line + SECTION for line in lines)))
    assert heads == [
        RequestHead(b"GET", b"/a", FIELDS),
        RequestHead(b"GET", b"/b?c", FIELDS),
        RequestHead(b"QUACK", b"/d", FIELDS),
    ]
    assert parser.parsed == 1


def test_a_head_is_its_receivers_own() -> None:
    heads = list(requests(H11, (b"GET / HTTP/1.1" + SECTION) * 3))
    for head in heads:
        assert isinstance(head, RequestHead)
        assert head.fields == FIELDS
        head.fields.clear()


@pytest.mark.parametrize(
    "other",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX-B:  c \r\nx-b: e\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y" + SECTION,
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0" + SECTION.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
        b"GET / HTTP/1.2" + SECTION,
    ],
)
def test_other_fields_or_another_version_are_parsed(other: bytes) -> None:
    parser = Counting()
    assert len(list(requests(parser, b"GET / HTTP/1.1" + SECTION + other))) == 2
    assert parser.parsed == 2


def test_posts_are_not_remembered() -> None:
    parser = Counting()
    assert len(list(requests(parser, (b"POST / HTTP/1.1" + SECTION) * 2))) == 2
    assert parser.parsed == 2


def test_large_heads_are_not_remembered() -> None:
    parser = Counting()
    large = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * REPEATED_SIZE + b"\r\n\r\n"
    assert len(list(requests(parser, large * 2))) == 2
    assert parser.parsed == 2
    long = b"GET /" + b"y" * REPEATED_SIZE + b" HTTP/1.1" + SECTION
    assert len(list(requests(parser, b"GET / HTTP/1.1" + SECTION + long))) == 2
    assert parser.parsed == 4


def test_a_longer_first_line_does_not_pass_with_fields_that_were_small_enough_beside_a_short_one() -> None:
    fields = b" HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 80 + b"\r\n\r\n"
    first, second = requests(H11, b"GET /" + fields + b"GET /" + b"a" * 60 + fields, Limits(head_limit=150))
    assert isinstance(first, RequestHead)
    assert second == "431 head_too_large the head is larger than 150 bytes"


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"GET /#a HTTP/1.1", "400 bad_target the request target is malformed"),
        (b"CONNECT  HTTP/1.1", "400 bad_head the request line is malformed"),
        (b"TRACE / HTTP/1.1", "405 method_not_allowed TRACE is refused"),
        (b"GET / HTTP/2.0", "505 http_version only HTTP/1.1 and HTTP/1.0 are spoken here"),
        (b"GET /" + b"a" * 200 + b" HTTP/1.1", "414 uri_too_long the first line is longer than 100 bytes"),
    ],
)
def test_a_first_line_is_judged_each_time(line: bytes, refusal: str) -> None:
    limits = Limits(request_line_limit=100)
    assert list(requests(H11, b"GET / HTTP/1.1" + SECTION + line + SECTION, limits))[1:] == [refusal]


def test_nothing_is_remembered_of_an_upgraded_connection() -> None:
    """Tunnels are such connections, and many."""
    asked = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    server, client = ServerCodec(H11, DEFAULT_LIMITS), ClientCodec(H11, DEFAULT_LIMITS)
    server.receive_data(asked)
    head = server.next_event()
    assert isinstance(head, RequestHead)
    assert isinstance(server.next_event(), End)
    assert server._repeats.request(asked) is not None
    client.encode_head(head)
    client.encode_end()
    answer = server.encode_switch(ResponseHead(101, [(b"Connection", b"Upgrade"), (b"Upgrade", b"x")]))
    client.receive_data(answer)
    assert isinstance(client.next_event(), ResponseHead)
    assert server._repeats.request(asked) is None
    assert client._repeats.response(answer) is None


METHODS = st.sampled_from([b"GET", b"GET", b"HEAD", b"POST", b"Q", b"CONNECT", b"", b"G T", b"\x01"])
TARGETS = st.sampled_from([b"/", b"/a", b"*", b"", b"http://b/c", b"/ b", b"/\x7f", b"/\xff"])
VERSIONS = st.sampled_from(
    [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.3", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 "]
)
SECTIONS = st.sampled_from(
    [
        b"Host: a\r\n\r\n",
        b"Host: a\r\nConnection: keep-alive\r\n\r\n",
        b"Host: a\r\nContent-Length: 0\r\n\r\n",
        b"X: y\r\nHost: a\r\n\r\n",
        b"X: y\r\n\r\n",
        b"\r\n",
    ]
)


@given(st.lists(st.tuples(METHODS, TARGETS, VERSIONS, SECTIONS), min_size=2, max_size=5))
def test_requests_are_read_as_if_each_came_alone(parts: list[tuple[bytes, bytes, bytes, bytes]]) -> None:
    wires = [b" ".join(first) + b"\r\n" + section for *first, section in parts]
    together = list(requests(H11, b"".join(wires)))
    alone = [head for wire in wires for head in requests(H11, wire)]
    assert together == alone[: len(together)]
    assert len(together) == len(alone) or isinstance(together[-1], str) or closes(together[-1])


def closes(head: RequestHead) -> bool:
    return head.version == b"1.0" and (b"Connection", b"keep-alive") not in head.fields


def test_answers_with_the_same_fields_are_parsed_once() -> None:
    parser = Counting()
    section = b"\r\nLink: a\r\n\r\n"
    wire = b"".join(line + section for line in (b"HTTP/1.1 103 Early", b"HTTP/1.1 100", b"HTTP/1.1 102 A  b"))
    fields = [(b"Link", b"a")]
    assert list(responses(parser, wire)) == [
        ResponseHead(103, fields, b"Early"),
        ResponseHead(100, fields, b""),
        ResponseHead(102, fields, b"A  b"),
    ]
    assert parser.parsed == 1


@pytest.mark.parametrize("line", [b"HTTP/1.1 600 A", b"HTTP/1.1 099 A", b"HTTP/1.1 102 A\x01"])
def test_a_status_line_is_judged_each_time(line: bytes) -> None:
    section = b"\r\nLink: a\r\n\r\n"
    [good, refusal] = responses(H11, b"HTTP/1.1 102 A" + section + line + section)
    assert good == ResponseHead(102, [(b"Link", b"a")], b"A")
    assert isinstance(refusal, str)
    assert refusal.startswith("502 bad_response ")


STATUSES = st.sampled_from(
    [b"103", b"103 A", b"100 ", b"199", b"1x3", b"10", b"1033", b"099", b"600", b"103  \x01", b""]
)


@given(st.lists(st.tuples(VERSIONS, STATUSES, SECTIONS), min_size=2, max_size=5))
def test_answers_are_read_as_if_each_came_alone(parts: list[tuple[bytes, bytes, bytes]]) -> None:
    wires = [b" ".join(first) + b"\r\n" + section for *first, section in parts]
    together = list(responses(H11, b"".join(wires)))
    alone = [head for wire in wires for head in responses(H11, wire)]
    assert together == alone[: len(together)]
    assert len(together) == len(alone) or isinstance(together[-1], str)


def test_what_was_made_of_a_head_that_comes_again_is_kept() -> None:
    codec = ServerCodec(H11, DEFAULT_LIMITS)
    made: list[int] = []

    def ask(wire: bytes, change: Callable[[RequestHead], object] = id) -> int:
        codec.receive_data(wire)
        head = codec.next_event()
        assert isinstance(head, RequestHead)
        assert isinstance(codec.next_event(), End)
        change(head)
        made.append(len(made))
        number = made[-1] if codec.again is None else codec.again.plan(head, "number", lambda: made[-1])
        codec.encode_head(ResponseHead(204, []))
        codec.encode_end()
        codec.start_next_cycle()
        return number

    one, other = b"GET / HTTP/1.1" + SECTION, b"GET /b HTTP/1.1" + SECTION
    assert [ask(one), ask(one), ask(one), ask(one)] == [0, 1, 1, 1]
    # Whoever changed it has another head.
    assert ask(one, lambda head: head.fields.append((b"X-New", b"1"))) == 4
    assert ask(one, lambda head: setattr(head, "target", b"/b")) == 5
    assert ask(one, lambda head: setattr(head, "method", b"PUT")) == 6
    assert [ask(one), ask(other), ask(other), ask(other), ask(one)] == [1, 8, 9, 9, 11]


def test_a_head_that_comes_again_does_not_show_what_was_done_to_the_one_before() -> None:
    codec = ServerCodec(H11, DEFAULT_LIMITS)
    for version in (b"1.1", b"1.0"):
        wire = b"PUT / HTTP/%b\r\nExpect: 100-continue\r\nContent-Length: 1\r\n" % version + SECTION[2:]
        for turn in range(4):
            codec.receive_data(wire + b"x")
            head = codec.next_event()
            assert isinstance(head, RequestHead)
            assert (head.fields[2:], codec.body_left) == (FIELDS, 1)
            assert codec.expects_continue is (version == b"1.1")
            codec.encode_info(ResponseHead(100, []))
            head.fields.clear()
            head.method = b"GET"
            assert codec.next_event() == Body(b"x")
            assert isinstance(codec.next_event(), End)
            codec.encode_head(ResponseHead(204, []), close=version == b"1.0" or turn == 3)
            codec.encode_end()
            if not codec.keep_alive:
                codec = ServerCodec(H11, DEFAULT_LIMITS)
                break
            codec.start_next_cycle()


def test_an_answer_that_comes_again_is_framed_by_what_was_asked() -> None:
    codec = ClientCodec(H11, DEFAULT_LIMITS)
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    for method in (b"GET", b"GET", b"GET", b"HEAD", b"HEAD", b"GET"):
        codec.encode_head(RequestHead(method, b"/", [(b"Host", b"a")]))
        codec.encode_end()
        codec.receive_data(wire + (b"ok" if method == b"GET" else b""))
        head = codec.next_event()
        assert head == ResponseHead(200, [(b"Content-Length", b"2")], b"OK")
        head.fields.clear()
        if method == b"GET":
            assert codec.next_event() == Body(b"ok")
        assert isinstance(codec.next_event(), End)
        codec.start_next_cycle()


def test_a_shared_head_is_written_for_each_connection_as_it_needs_it() -> None:
    fields = [(b"Content-Type", b"a/b")]  # and no length: it is framed as the caller can read it
    shared = ResponseHead(200, fields, b"OK", written={})
    ways = list(product((b"GET", b"HEAD"), (b"1.1", b"1.0"), (b"", b"Connection: close\r\n"), (False, True)))
    for method, version, wish, close in ways * 2:
        blocks, bodies, persists = [], [], []
        for head in (shared, ResponseHead(200, fields, b"OK")):
            codec = ServerCodec(H11, DEFAULT_LIMITS)
            codec.receive_data(method + b" / HTTP/" + version + b"\r\n" + wish + SECTION[2:])
            codec.next_event()
            blocks.append(codec.encode_head(head, close=close))
            bodies.append(b"".join(codec.encode_body(b"ok")))
            persists.append(codec.persists)
        assert blocks[0] == blocks[1]
        assert bodies[0] == bodies[1]
        assert persists[0] == persists[1]
    assert shared.written is not None
    assert len(shared.written) == 12  # HTTP/1.0 does not persist here, whatever it says
