"""The masker that is installed against wsproto's own."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import XorMaskerSimple

from tunnelkit.transports.websocket.masking import PieceMasker, find_mask, mask_by_wsproto, name_of

KEYS = st.binary(min_size=4, max_size=4)


def test_websockets_is_taken_where_it_is_installed() -> None:
    speedups = pytest.importorskip("websockets.speedups", reason="websockets is not installed")
    assert find_mask() is speedups.apply_mask
    assert name_of(find_mask()) == "websockets"


def test_wsproto_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    assert find_mask() is mask_by_wsproto
    assert name_of(find_mask()) == "wsproto"


@given(KEYS, st.binary(max_size=300))
def test_a_payload_at_once(key: bytes, data: bytes) -> None:
    expected = bytes(XorMaskerSimple(key).process(bytearray(data)))
    for mask in (mask_by_wsproto, find_mask()):
        assert mask(data, key) == mask(memoryview(data), key) == expected


@given(KEYS, st.lists(st.binary(max_size=40)))
def test_a_payload_in_pieces(key: bytes, pieces: list[bytes]) -> None:
    theirs = XorMaskerSimple(key)
    expected = [bytes(theirs.process(bytearray(piece))) for piece in pieces]
    for mask in (mask_by_wsproto, find_mask()):
        ours = PieceMasker(mask, key)
        assert [bytes(ours.process(bytearray(piece))) for piece in pieces] == expected
