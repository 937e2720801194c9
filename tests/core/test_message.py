from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunnelkit.core.message import (
    BYE_CODE_LIMIT,
    HEADER_SIZE,
    IGNORABLE,
    Kind,
    build,
    check_known,
    decode_bye,
    encode_bye,
    split_header,
)
from tunnelkit.errors import LocalProtocolError, RemoteProtocolError

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "vectors" / "messages.json").read_text())[
    "messages"
]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, Any]) -> None:
    message = bytes.fromhex(vector["hex"])
    kind, flags, reserved, epoch, offset, ack = header = split_header(message)
    assert (kind, flags, reserved) == (vector["kind"], vector["flags"], vector["reserved"])
    assert (epoch, offset, ack) == (vector["epoch"], vector["offset"], vector["ack"])
    assert message[HEADER_SIZE:].hex() == vector["payload"]
    if "error" in vector:
        with pytest.raises(RemoteProtocolError) as caught:
            check_known(header)
        assert caught.value.code == vector["error"]
    else:
        assert check_known(header) is not vector.get("skipped", False)
    if not flags and not reserved:
        assert build(kind, epoch, offset, ack, [message[HEADER_SIZE:]]) == message


@pytest.mark.parametrize("size", range(HEADER_SIZE))
def test_a_message_without_a_whole_header(size: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        split_header(build(Kind.ACK, 1, 0, 0)[:size])
    assert caught.value.code == "short_message"


def test_pieces_become_one_message() -> None:
    message = build(Kind.DATA, 7, 1, 2, [b"ab", memoryview(b"cd"), bytearray(b"ef")])
    assert message[HEADER_SIZE:] == b"abcdef"
    assert split_header(memoryview(message)) == (Kind.DATA, 0, 0, 7, 1, 2)


@pytest.mark.parametrize("kind", Kind)
def test_the_ignorable_flag_means_nothing_in_a_known_kind(kind: Kind) -> None:
    assert check_known((kind, IGNORABLE, 0, 1, 0, 0))


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("bit", range(7))
def test_other_flags_are_reserved(kind: Kind, bit: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        check_known((kind, 1 << bit, 0, 1, 0, 0))
    assert caught.value.code == "reserved_bits"


@pytest.mark.parametrize("kind", Kind)
def test_the_reserved_field_is_zero(kind: Kind) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        check_known((kind, 0, 1, 1, 0, 0))
    assert caught.value.code == "reserved_bits"


@pytest.mark.parametrize("kind", set(Kind) - {Kind.DATA})
def test_only_data_has_an_offset(kind: Kind) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        check_known((kind, 0, 0, 1, 1, 0))
    assert caught.value.code == "bad_offset"


@pytest.mark.parametrize("kind", [0, 7, 255])
def test_an_unknown_kind_is_skipped_only_when_it_may_be(kind: int) -> None:
    assert not check_known((kind, IGNORABLE | 1, 0xFFFF, 1, 5, 0))
    with pytest.raises(RemoteProtocolError) as caught:
        check_known((kind, 0, 0, 1, 0, 0))
    assert caught.value.code == "unknown_message"


@pytest.mark.parametrize("code", ["a", "shutdown", "x" * BYE_CODE_LIMIT])
def test_bye_codes(code: str) -> None:
    assert decode_bye(encode_bye(code)) == code
    assert decode_bye(memoryview(code.encode())) == code


@pytest.mark.parametrize("code", ["", "two words", "line\n", "\x7f", "é", "x" * (BYE_CODE_LIMIT + 1), "x" * 100_000])
def test_what_is_no_bye_code(code: str) -> None:
    with pytest.raises(LocalProtocolError):
        encode_bye(code)
    with pytest.raises(RemoteProtocolError) as caught:
        decode_bye(code.encode())
    assert caught.value.code == "bad_bye"
