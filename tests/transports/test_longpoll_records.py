"""The records of a streamed answer: however its bytes are cut, the same messages come out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.errors import RemoteProtocolError
from tunnelkit.transports.longpoll.records import END, KEEP_ALIVE, RecordReader, encode_record

LONG = b"m" * 100_000
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "longpoll.json").read_text())["records"]


def read(pieces: list[bytes], max_message: int = 1 << 20) -> tuple[list[bytes], bool]:
    """The messages, and whether their end was told."""
    reader, messages = RecordReader(max_message), []
    for piece in pieces:
        reader.feed(piece)
        while (message := reader.next_message()) is not None:
            messages.append(message)
    return messages, reader.ended


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_vectors(vector: dict[str, object]) -> None:
    body = bytes.fromhex(str(vector["body"]))
    wanted = [bytes.fromhex(message) for message in vector["messages"]]  # type: ignore[attr-defined]
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        assert read(pieces) == (wanted, vector["ended"])


@given(st.lists(st.binary(min_size=1, max_size=40)), st.lists(st.integers(1, 30)), st.booleans(), st.integers(1, 9))
def test_any_cut_gives_the_same_messages(messages: list[bytes], cuts: list[int], ended: bool, alive: int) -> None:
    records = [b"".join(encode_record(message)) for message in messages]
    body = (alive * KEEP_ALIVE).join([KEEP_ALIVE, *records, END if ended else b""])
    pieces = []
    for cut in cuts:
        pieces.append(body[:cut])
        body = body[cut:]
    assert read([*pieces, body]) == (messages, ended)


def test_a_long_message_is_not_copied_to_be_sent() -> None:
    length, message = encode_record(LONG)
    assert message is LONG
    assert read([length, LONG, END]) == ([LONG], True)


@pytest.mark.parametrize("body", [b"\0\0\0\x05", b"\xff\xff\xff\xfe", END + b"x", END + KEEP_ALIVE])
def test_what_no_server_sends_is_told_at_once(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read([body], max_message=4)
    assert caught.value.code == "bad_record"


def test_nothing_follows_the_end() -> None:
    reader = RecordReader(4)
    reader.feed(END)
    assert reader.next_message() is None
    reader.feed(b"")
    with pytest.raises(RemoteProtocolError):
        reader.feed(b"\0")
