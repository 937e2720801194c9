"""Websocket messages over bytes: whole ones out of any fragments, bounded, and closed as RFC 6455 says."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.heads import ResponseHead
from tunnelkit.http.websocket import (
    NO_STATUS,
    Close,
    Event,
    Message,
    MessageCodec,
    Ping,
    accept_key,
    answers_key,
    new_key,
)

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MESSAGES = st.lists(st.one_of(st.text(max_size=300), st.binary(max_size=70_000)), max_size=4)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """As a server sends it: not masked."""
    assert len(payload) < 126
    return struct.pack("!BB", opcode | (0x80 if fin else 0), len(payload)) + payload


def client(max_message: int = 1000) -> MessageCodec:
    return MessageCodec(client=True, max_message=max_message)


def server(max_message: int = 1000) -> MessageCodec:
    return MessageCodec(client=False, max_message=max_message)


@given(MESSAGES, st.booleans(), st.integers(1, 5000))
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    messages: list[Message], is_client: bool, piece: int
) -> None:
    sender = MessageCodec(client=is_client, max_message=100_000)
    receiver = MessageCodec(client=not is_client, max_message=100_000)
    wire = b"".join(sender.message(message) for message in messages)
    events: list[Event] = []
    for start in range(0, len(wire), piece):
        events += receiver.receive(wire[start : start + piece])
    assert events == messages


@pytest.mark.parametrize(("opcode", "whole"), [(TEXT, "abcé"), (BINARY, "abcé".encode())])
def test_fragments_make_one_message_with_pings_between_them(opcode: int, whole: Message) -> None:
    wire = frame(opcode, b"ab", fin=False) + frame(PING, b"p") + frame(0, b"c\xc3", fin=False) + frame(0, b"\xa9")
    assert list(client().receive(wire)) == [Ping(b"p"), whole]


def test_empty_messages_and_empty_last_fragments_count() -> None:
    wire = frame(TEXT) + frame(BINARY) + frame(BINARY, b"x", fin=False) + frame(0)
    assert list(client().receive(wire)) == ["", b"", b"x"]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_the_largest_message_passes_and_one_more_byte_ends_it(opcode: int) -> None:
    codec = client(max_message=100)
    (message,) = codec.receive(frame(opcode, b"x" * 100))
    assert isinstance(message, (str, bytes))
    assert len(message) == 100
    assert list(codec.receive(frame(opcode, b"x" * 60, fin=False) + frame(0, b"x" * 41) + frame(PING))) == [
        Close(1009, "a message above 100", by_peer=False)
    ]
    assert list(codec.receive(frame(TEXT, b"more"))) == []
    assert codec.close(1009)[:1] == b"\x88"


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(3), 1002),  # no such opcode
        (frame(0, b"x"), 1002),  # continues nothing
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(CLOSE, b"x"), 1002),
        (frame(CLOSE, struct.pack("!H", 1005)), 1002),
        (b"\x82\x81" + bytes(5), 1002),  # a server masks nothing
    ],
)
def test_what_breaks_the_protocol_ends_with_the_code_to_be_told(wire: bytes, code: int) -> None:
    (close,) = client().receive(wire)
    assert isinstance(close, Close)
    assert (close.code, close.by_peer) == (code, False)


def test_a_server_refuses_frames_that_are_not_masked() -> None:
    (close,) = server().receive(frame(TEXT, b"a"))
    assert isinstance(close, Close)
    assert close.code == 1002


def test_the_peers_close_is_answered_once_and_ends_both_directions() -> None:
    codec = client()
    assert list(codec.receive(frame(CLOSE, struct.pack("!H", 4001) + b"why") + frame(TEXT, b"late"))) == [
        Close(4001, "why", by_peer=True)
    ]
    assert codec.message("late") == codec.pong(b"") == b""
    answer = codec.close(4001, "why")
    assert list(server().receive(answer)) == [Close(4001, "why", by_peer=True)]
    assert codec.closed
    assert codec.close(1000) == b""
    assert list(codec.receive(frame(TEXT, b"later"))) == []


def test_a_close_without_a_code_is_told_as_1005_which_is_never_sent() -> None:
    codec = client()
    assert list(codec.receive(frame(CLOSE))) == [Close(NO_STATUS, "", by_peer=True)]
    assert list(server().receive(codec.close(NO_STATUS))) == [Close(NO_STATUS, "", by_peer=True)]


@pytest.mark.parametrize("code", [0, 999, 1005, 1006, 1015, 5000])
def test_codes_that_must_not_be_sent_go_out_as_none(code: int) -> None:
    assert list(server().receive(client().close(code, "x"))) == [Close(NO_STATUS, "", by_peer=True)]


def test_after_our_close_the_peers_completes_it() -> None:
    ours, theirs = client(), server()
    (close,) = theirs.receive(ours.close(1000, "bye"))
    assert close == Close(1000, "bye", by_peer=True)
    before = ours.closed
    assert list(ours.receive(theirs.close(1000))) == [Close(1000, "", by_peer=True)]
    assert (before, ours.closed, theirs.closed) == (False, True, True)


def test_an_unasked_pong_is_passed_over_and_a_ping_can_be_answered() -> None:
    codec = server()
    assert list(codec.receive(b"\x8a\x80" + bytes(4))) == []
    assert list(client().receive(codec.pong(b"p") + codec.message("m"))) == ["m"]


def test_keys_are_fresh_and_an_answer_belongs_to_its_key() -> None:
    key = new_key()
    assert key != new_key()
    fields = [(b"upgrade", b"WebSocket"), (b"Sec-WebSocket-Accept", accept_key(key))]
    assert answers_key(ResponseHead(101, fields), key)
    assert not answers_key(ResponseHead(101, fields), new_key())
    assert not answers_key(ResponseHead(101, fields[1:]), key)
    assert not answers_key(ResponseHead(200, fields), key)
