"""Messages over a byte stream: what is kept for a subclass, whatever its encoding (the kit runs it as an example)."""

from __future__ import annotations

import anyio
import pytest

from tunnelkit.errors import ConnectionLost, LocalProtocolError
from tunnelkit.net.memory import memory_pair
from tunnelkit.testing.checks.base import receive_all
from tunnelkit.transports.over_stream import StreamConnection

pytestmark = pytest.mark.anyio


class Lines(StreamConnection):
    """A message a line; one that begins with a point is a close."""

    transport = "lines"
    max_message = 4096

    def encode(self, message: bytes) -> bytes:
        return message + b"\n"

    def encode_close(self, code: int, reason: str) -> bytes:
        return b".%d\n" % code

    def decode(self, received: bytearray) -> bytes | None:
        line, end, _ = bytes(received).partition(b"\n")
        if not end:
            if len(line) > self.max_message:
                raise ConnectionLost("a line without end", code=1009)
            return None
        del received[: len(line) + 1]
        if line.startswith(b"."):
            raise ConnectionLost("closed", clean=True, code=int(line[1:]))
        return line


async def test_messages_come_one_by_one_though_they_arrive_together() -> None:
    near, far = memory_pair()
    one, other = Lines(near), Lines(far)
    assert await one.ready() == 4096
    await one.send(b"first")
    await one.send(b"second")
    assert [await other.receive(), await other.receive()] == [b"first", b"second"]
    assert other.last_received == far.last_received


async def test_a_close_tells_its_code_and_the_first_reason_lasts() -> None:
    near, far = memory_pair()
    one, other = Lines(near), Lines(far)
    await one.aclose(1001, "bye")
    for _ in range(2):
        with pytest.raises(ConnectionLost) as end:
            await other.receive()
        assert (end.value.clean, end.value.code) == (True, 1001)
    with pytest.raises(ConnectionLost, match="closed at this end"):
        await one.send(b"x")
    assert end.value.__traceback__ is not None


async def test_each_call_raises_an_exception_of_its_own() -> None:
    near, _ = memory_pair()
    connection = Lines(near)
    connection.abort()
    raised = []
    for _ in range(2):
        with pytest.raises(ConnectionLost) as end:
            await connection.ready()
        raised.append(end.value)
    assert raised[0] is not raised[1]


async def test_a_message_that_is_too_large_changes_nothing() -> None:
    near, far = memory_pair()
    one, other = Lines(near), Lines(far)
    with pytest.raises(LocalProtocolError):
        await one.send(b"x" * 4097)
    await one.send(b"x" * 4096)
    assert len(await other.receive()) == 4096


@pytest.mark.parametrize(("sent", "reason"), [(b"torn", "without a close"), (b"x" * 5000, "a line without end")])
async def test_what_ends_or_lies_is_no_clean_end(sent: bytes, reason: str) -> None:
    near, far = memory_pair()
    await near.send(sent)
    await near.send_eof()
    with pytest.raises(ConnectionLost, match=reason) as end:
        await Lines(far).receive()
    assert not end.value.clean


async def test_a_broken_stream_is_a_loss_for_sender_and_receiver() -> None:
    near, far = memory_pair()
    far.abort()
    connection = Lines(near)
    with pytest.raises(ConnectionLost):
        await connection.receive()
    near, far = memory_pair()
    far.abort()
    with pytest.raises(ConnectionLost):
        await Lines(near).send(b"x")


async def test_a_cancelled_send_leaves_the_connection_dead_and_no_close_inside_a_message() -> None:
    near, far = memory_pair()
    one = Lines(near)
    with anyio.move_on_after(0.02):
        while True:
            await one.send(b"x" * 4096)  # until the way is full
    with pytest.raises(ConnectionLost):
        await one.send(b"y")
    await one.aclose()
    got, end = await receive_all(Lines(far))
    assert set(got) <= {b"x" * 4096}  # whole ones, as far as they got
    assert not end.clean
