from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.net.buffer import ReadBuffer


@given(st.lists(st.one_of(st.binary(max_size=20), st.integers(min_value=1, max_value=30))))
def test_what_comes_out_is_what_went_in(moves: list[bytes | int]) -> None:
    buffer = ReadBuffer()
    put, taken = b"", b""
    for move in moves:
        if isinstance(move, bytes):
            buffer.append(memoryview(bytearray(move)))
            put += move
        else:
            piece = buffer.take(move)
            assert type(piece) is bytes
            assert len(piece) <= move
            assert bool(piece) == (len(put) > len(taken))
            taken += piece
        assert len(buffer) == len(put) - len(taken)
    assert taken + buffer.take(len(put) + 1) == put
    assert not buffer


def test_one_piece_in_and_out_is_not_copied() -> None:
    buffer = ReadBuffer()
    piece = b"x" * 1000
    buffer.append(piece)
    assert buffer.take(1000) is piece


def test_clear() -> None:
    buffer = ReadBuffer()
    buffer.append(b"x")
    buffer.append(b"y")
    buffer.clear()
    assert buffer.take(10) == b""
