from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.frames import (
    CREDIT,
    CREDIT_SIZE,
    DATA,
    DATA_FIN,
    GOAWAY,
    HEAD,
    HEAD_FIN,
    HEAD_MORE,
    HEADER_SIZE,
    IGNORABLE,
    MAX_PAYLOAD,
    OPEN,
    OPEN_PAYLOAD_LIMIT,
    RESET,
    RESET_SIZE,
    Frame,
    FrameDecoder,
    ResetCode,
    StreamKind,
    encode_credit,
    encode_fields,
    encode_goaway,
    encode_open,
    encode_reset,
    pack_header,
    parse_number,
    parse_open,
)
from tunnelkit.errors import LocalProtocolError, RemoteProtocolError

_FILE = Path(__file__).parent.parent / "vectors" / "frames.json"
VECTORS: list[dict[str, Any]] = json.loads(_FILE.read_text())["vectors"]
MARK = pack_header(DATA, 0, 9)
VALID = [vector for vector in VECTORS if "frames" in vector]
INVALID = [vector for vector in VECTORS if "error" in vector]


def name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def decode(data: bytes, cuts: list[int]) -> list[Frame]:
    decoder = FrameDecoder()
    frames: list[Frame] = []
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        frames += decoder.feed(data[start:stop])
    assert decoder.feed(MARK) == [(DATA, 9, b"")]  # no frame was half received
    return frames


def parse_opens(frames: list[Frame]) -> None:
    for code, _stream, payload in frames:
        if code == OPEN:
            parse_open(payload)


# -- vectors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VALID, ids=name)
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_valid_vectors(vector: dict[str, Any], step: int) -> None:
    data = bytes.fromhex(vector["hex"])
    expected = [((f["type"] << 8) | f["flags"], f["stream"], bytes.fromhex(f["payload"])) for f in vector["frames"]]
    assert decode(data, list(range(step, len(data), step))) == expected


@pytest.mark.parametrize("vector", VALID, ids=name)
def test_what_the_payloads_mean(vector: dict[str, Any]) -> None:
    for frame in vector["frames"]:
        payload = bytes.fromhex(frame["payload"])
        if "open" in frame:
            fields = {int(key): bytes.fromhex(value) for key, value in frame["open"]["fields"].items()}
            assert parse_open(payload) == (frame["open"]["kind"], frame["open"]["limit"], fields)
        if "number" in frame:
            assert parse_number(payload) == frame["number"]


@pytest.mark.parametrize("vector", INVALID, ids=name)
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_invalid_vectors(vector: dict[str, Any], step: int) -> None:
    data = bytes.fromhex(vector["hex"])
    with pytest.raises(RemoteProtocolError) as caught:
        parse_opens(decode(data, list(range(step, len(data), step))))
    assert caught.value.code == vector["error"]


# -- encoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoded", "vector"),
    [
        (encode_open(2, StreamKind.HTTP, 262_144), "open http"),
        (
            encode_open(1, StreamKind.BYTES, 16_384, encode_fields({1: b"tcp://db:5432", 2: b""})),
            "open bytes with fields",
        ),
        (encode_credit(2, 1_048_576), "credit"),
        (encode_reset(2, ResetCode.REFUSED), "reset refused"),
        (encode_reset(2, ResetCode.BROKEN_OFF), "reset broken off"),
        (encode_goaway(7, 0), "goaway"),
        (pack_header(HEAD_FIN, 4, 2) + b"head", "head that ends its half"),
        (pack_header(DATA_FIN, 3, 1) + b"bye", "data that ends its half"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_encoding_gives_the_vectors(encoded: bytes, vector: str) -> None:
    assert encoded.hex() == next(v["hex"] for v in VECTORS if v["name"] == vector)


def test_sizes() -> None:
    assert len(pack_header(DATA, 0, 1)) == HEADER_SIZE == 12
    assert len(encode_credit(1, 1)) == CREDIT_SIZE
    assert len(encode_reset(1, 1)) == len(encode_goaway(1, 1)) == RESET_SIZE


def test_fields_that_fit_and_that_do_not() -> None:
    room = OPEN_PAYLOAD_LIMIT - 10 - 4
    _kind, _limit, fields = parse_open(encode_open(1, 1, 1, encode_fields({7: bytes(room)}))[HEADER_SIZE:])
    assert fields == {7: bytes(room)}
    with pytest.raises(LocalProtocolError, match="too many"):
        encode_fields({7: bytes(room + 1)})


# -- splitting ---------------------------------------------------------------------------------

CODES = [HEAD, HEAD_FIN, HEAD_MORE, DATA, DATA_FIN]
FRAMES = st.one_of(
    st.tuples(st.sampled_from(CODES), st.integers(0, 2**64 - 1), st.binary(max_size=40)),
    st.tuples(st.just(CREDIT), st.integers(0, 2**64 - 1), st.binary(min_size=8, max_size=8)),
    st.tuples(st.sampled_from([RESET, GOAWAY]), st.integers(0, 2**64 - 1), st.binary(min_size=2, max_size=2)),
    st.tuples(st.just(OPEN), st.integers(0, 2**64 - 1), st.binary(min_size=10, max_size=40)),
)


@given(st.lists(FRAMES, max_size=12), st.data())
def test_any_split_gives_the_same_frames(frames: list[Frame], data: st.DataObject) -> None:
    flow = b"".join(pack_header(code, len(payload), stream) + payload for code, stream, payload in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(flow)), max_size=10)))
    assert decode(flow, cuts) == frames
    views = FrameDecoder()
    seen = [frame for start, stop in zip([0, *cuts], [*cuts, len(flow)], strict=True)
            for frame in views.feed(memoryview(flow)[start:stop])]  # fmt: skip
    assert seen == frames
    assert all(type(payload) is bytes for _code, _stream, payload in seen)


def test_the_largest_frame_byte_by_byte_is_held_once() -> None:
    payload = bytes(MAX_PAYLOAD)
    decoder = FrameDecoder()
    flow = pack_header(DATA, MAX_PAYLOAD, 1) + payload
    for position in range(len(flow) - 1):
        assert decoder.feed(flow[position : position + 1]) == []
    assert decoder.feed(flow[-1:]) == [(DATA, 1, payload)]


def test_a_large_frame_to_be_skipped_leaves_nothing_behind() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(pack_header(0x0900 | IGNORABLE, MAX_PAYLOAD, 0)) == []
    assert decoder.feed(bytes(MAX_PAYLOAD) + pack_header(DATA, 0, 1)) == [(DATA, 1, b"")]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_garbage_raises_only_our_own_error(garbage: bytes, cuts: list[int]) -> None:
    decoder = FrameDecoder()
    with suppress(RemoteProtocolError):
        for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 200], strict=True):
            parse_opens(decoder.feed(garbage[start:stop]))
