from __future__ import annotations

import pytest

from tunnelkit.errors import LocalProtocolError
from tunnelkit.http.framing import CHUNKED, UNTIL_CLOSE
from tunnelkit.http.writing import BodyWriter, Outgoing, encode_block
from tunnelkit.net.memory import memory_pair

pytestmark = pytest.mark.anyio


def test_blocks() -> None:
    assert encode_block(b"X", [(b"A", b"b"), (b"C", b"")]) == b"X\r\nA: b\r\nC: \r\n\r\n"
    assert encode_block(b"X", []) == b"X\r\n\r\n"
    assert encode_block(b"", []) == b"\r\n"
    assert encode_block(b"", [(b"A", b"b")]) == b"A: b\r\n\r\n"


@pytest.mark.parametrize("bad", [b"a\rb", b"a\nb", b"a\r\nb", b"a\0b"])
def test_no_block_breaks_a_line(bad: bytes) -> None:
    for first, field in ((bad, (b"A", b"b")), (b"X", (bad, b"b")), (b"X", (b"A", bad)), (b"", (b"A", bad))):
        with pytest.raises(LocalProtocolError):
            encode_block(first, [field])


def test_bodies_by_framing() -> None:
    assert BodyWriter(None).data(b"x") == []
    assert BodyWriter(UNTIL_CLOSE).data(b"x") == [b"x"]
    assert BodyWriter(CHUNKED).data(b"x" * 16) == [b"10\r\n", b"x" * 16, b"\r\n"]
    assert BodyWriter(CHUNKED).data(b"") == []
    assert BodyWriter(UNTIL_CLOSE).end([(b"A", b"b")]) == b""
    assert BodyWriter(None).end(None) == b""


def test_lengths_are_kept_to() -> None:
    writer = BodyWriter(3)
    assert writer.data(b"ab") == [b"ab"]
    with pytest.raises(LocalProtocolError):
        writer.data(b"cd")
    with pytest.raises(LocalProtocolError):
        writer.end(None)
    assert writer.data(memoryview(b"c")) == [b"c"]
    assert writer.end(None) == b""


async def test_outgoing_gathers_and_keeps_the_rest() -> None:
    near, far = memory_pair(capacity=4)
    out = Outgoing()
    changing = bytearray(b"cd")
    for piece in (b"ab", changing, b"", b"ef"):
        out.add(piece)
    changing[:] = b"xx"
    assert (out.size, out.blocked) == (6, False)
    assert not out.flush(near)
    assert (out.size, out.taken, out.blocked) == (2, 4, True)
    assert not out.flush(near)
    assert far.receive_nowait() == b"abcd"
    out.add(b"gh")
    assert out.flush(near)
    assert far.receive_nowait() == b"efgh"
    assert (out.size, out.taken, out.blocked) == (0, 8, False)
    assert out.flush(near)


async def test_outgoing_forgets() -> None:
    near, far = memory_pair()
    out = Outgoing()
    out.add(b"ab")
    out.clear()
    assert out.flush(near)
    assert far.receive_nowait() is None
