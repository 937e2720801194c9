from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import HeadError
from tunnelkit.http.reading import CHUNK_EXCESS_LIMIT, ChunkDecoder, HeadScanner, Input


@given(st.lists(st.one_of(st.binary(max_size=8), st.integers(0, 10))))
def test_input_is_a_queue_of_bytes(steps: list[bytes | int]) -> None:
    source, model = Input(), b""
    for step in steps:
        if isinstance(step, bytes):
            source.feed(step)
            model += step
        else:
            assert source.take(step) == model[:step]
            model = model[step:]
        assert (len(source), source.peek()) == (len(model), model)
        assert source.find(b"\x00") == model.find(b"\x00")
        assert source.find(b"\x00", 1, 3) == model.find(b"\x00", 1, 3)
        assert source.startswith(model[:2])


def test_whole_pieces_are_not_copied() -> None:
    data = b"x" * 1000
    source = Input()
    source.feed(data)
    assert source.take(1000) is data


@given(st.integers(1, 30), st.booleans())
def test_heads_are_cut_out_whatever_the_pieces(size: int, skips: bool) -> None:
    wire = (b"\r\n" if skips else b"") + b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest"
    source, scanner = Input(), HeadScanner(DEFAULT_LIMITS, skips_empty_line=skips)
    block = None
    for start in range(0, len(wire), size):
        source.feed(wire[start : start + size])
        block = block or scanner.scan(source)
    assert block == b"GET / HTTP/1.1\r\nA: b\r\n\r\n"
    assert source.peek() == b"rest"


def test_an_empty_line_is_passed_over_before_each_head() -> None:
    source, scanner = Input(), HeadScanner(DEFAULT_LIMITS, skips_empty_line=True)
    source.feed(b"\r\nA\r\n\r\n\r\nB\r\n\r\n\r\n\r\n")
    assert scanner.scan(source) == b"A\r\n\r\n"
    assert scanner.scan(source) == b"B\r\n\r\n"
    assert scanner.scan(source) is None


@given(st.lists(st.binary(min_size=1, max_size=20)), st.data())
def test_chunks_decode_to_what_was_encoded(pieces: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(b"%X;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nA:  b \r\n\r\nrest"
    source, decoder = Input(), ChunkDecoder(DEFAULT_LIMITS)
    body = b""
    while wire:
        count = data.draw(st.integers(1, len(wire)))
        source.feed(wire[:count])
        wire = wire[count:]
        while piece := decoder.decode(source, data.draw(st.integers(1, 30))):
            body += piece
    assert body == b"".join(pieces)
    assert decoder.done
    assert decoder.trailers == [(b"A", b"b")]
    assert source.peek() == b"rest"


def test_extensions_are_bounded_in_sum() -> None:
    """Not by the chunk: signed uploads have one in each, beside their data."""
    chunk = b"1;" + b"a" * 1016 + b"\r\nx\r\n"  # 1,000 beyond the usual
    source, decoder = Input(), ChunkDecoder(DEFAULT_LIMITS)
    source.feed(chunk * (CHUNK_EXCESS_LIMIT // 1000))
    assert len(decoder.decode(source, 100)) == CHUNK_EXCESS_LIMIT // 1000
    source.feed(chunk)
    with pytest.raises(HeadError) as caught:
        decoder.decode(source, 100)
    assert (caught.value.status, caught.value.code) == (400, "bad_chunk")


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"40;chunk-signature=" + b"0" * 64 + b"\r\n" + b"x" * 64 + b"\r\n"])
def test_what_is_usual_is_not_counted(chunk: bytes) -> None:
    source, decoder = Input(), ChunkDecoder(DEFAULT_LIMITS)
    source.feed(chunk * 1000)
    assert set(decoder.decode(source, 100_000)) == set(b"x")
    assert not source


def test_chunks_are_joined_up_to_what_is_asked() -> None:
    source, decoder = Input(), ChunkDecoder(DEFAULT_LIMITS)
    source.feed(b"1\r\na\r\n" * 10)
    assert decoder.decode(source, 4) == b"aaaa"
    assert decoder.decode(source, 100) == b"aaaaaa"
    assert not decoder.done


@given(st.binary())
def test_garbage_is_refused_or_awaited(data: bytes) -> None:
    source = Input()
    source.feed(data)
    with suppress(HeadError):
        HeadScanner(DEFAULT_LIMITS, skips_empty_line=True).scan(source)
        ChunkDecoder(DEFAULT_LIMITS).decode(source, 100)


def test_a_peer_that_speaks_tls_is_told_at_once() -> None:
    source = Input()
    source.feed(b"\x16")
    with pytest.raises(HeadError) as caught:
        HeadScanner(DEFAULT_LIMITS, skips_empty_line=True).scan(source)
    assert caught.value.code == "tls_on_plain_port"
