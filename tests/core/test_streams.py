from __future__ import annotations

from itertools import product

import pytest

from tunnelkit.core.budget import Budget
from tunnelkit.core.credit import CreditPool
from tunnelkit.core.frames import CREDIT, DATA, DATA_FIN, GOAWAY, HEAD, HEAD_FIN, HEAD_MORE, OPEN, RESET
from tunnelkit.core.streams import AFTER_FIN, AFTER_OPEN, LOCAL_MOVES, REMOTE_MOVES, Half, Send, Stream, move_local
from tunnelkit.errors import LocalProtocolError

from .mux_pair import SMALL

# Written out a second time, as the wire format tells it: (state, input) -> state. What is not here is illegal.
LOCAL = {
    (Half.IDLE, Send.OPEN): Half.OPEN,
    (Half.OPEN, Send.SEND): Half.OPEN,
    (Half.OPEN, Send.SEND_FIN): Half.ENDING,
    (Half.OPEN, Send.RESET): Half.GONE,
    (Half.ENDING, Send.FIN_SENT): Half.CLOSED,
    (Half.ENDING, Send.RESET): Half.GONE,
    (Half.CLOSED, Send.RESET): Half.GONE,
}
REMOTE = {
    (Half.IDLE, OPEN): Half.OPEN,
    (Half.OPEN, HEAD): Half.OPEN,
    (Half.OPEN, HEAD_MORE): Half.IN_HEAD,
    (Half.OPEN, HEAD_FIN): Half.CLOSED,
    (Half.OPEN, DATA): Half.OPEN,
    (Half.OPEN, DATA_FIN): Half.CLOSED,
    (Half.OPEN, CREDIT): Half.OPEN,
    (Half.OPEN, RESET): Half.GONE,
    (Half.IN_HEAD, HEAD): Half.OPEN,
    (Half.IN_HEAD, HEAD_MORE): Half.IN_HEAD,
    (Half.IN_HEAD, HEAD_FIN): Half.CLOSED,
    (Half.IN_HEAD, CREDIT): Half.IN_HEAD,
    (Half.IN_HEAD, RESET): Half.GONE,
    (Half.CLOSED, CREDIT): Half.CLOSED,
    (Half.CLOSED, RESET): Half.GONE,
}
FRAMES = [OPEN, HEAD, HEAD_FIN, HEAD_MORE, DATA, DATA_FIN, CREDIT, RESET, GOAWAY]


def a_stream(opening: bytes | None = None) -> Stream:
    window = CreditPool(SMALL, Budget(SMALL.max_buffered_bytes)).open_window(first=False)
    assert window is not None
    return Stream(2, window, 100, opening)


@pytest.mark.parametrize(("half", "move"), list(product(set(Half) - {Half.IN_HEAD}, Send)))
def test_local_half(half: Half, move: Send) -> None:
    stream = a_stream()
    stream.local = half
    if (half, move) in LOCAL:
        move_local(stream, move)
        assert stream.local is LOCAL[half, move]
    else:
        with pytest.raises(LocalProtocolError, match=rf"{move.name} on stream 2, whose own half is {half.name}"):
            move_local(stream, move)
        assert stream.local is half


@pytest.mark.parametrize(("half", "code"), list(product(set(Half) - {Half.ENDING}, FRAMES)))
def test_remote_half(half: Half, code: int) -> None:
    assert REMOTE_MOVES[half].get(code) is REMOTE.get((half, code))


def test_the_shortcuts_are_what_the_tables_say() -> None:
    assert AFTER_OPEN is REMOTE[Half.IDLE, OPEN]
    assert AFTER_FIN is LOCAL[Half.ENDING, Send.FIN_SENT]
    assert sum(map(len, LOCAL_MOVES.values())) == len(LOCAL)
    assert sum(map(len, REMOTE_MOVES.values())) == len(REMOTE)


def test_the_peer_does_not_know_a_stream_before_its_open_is_sent() -> None:
    assert (a_stream(b"open").local, a_stream(b"open").remote) == (Half.OPEN, Half.IDLE)
    assert (a_stream().local, a_stream().remote) == (Half.OPEN, Half.OPEN)
    assert a_stream(b"open").mine
    assert not a_stream().mine


def test_sendable() -> None:
    stream = a_stream(b"open")
    seen = [stream.sendable]
    stream.opening = None
    seen.append(stream.sendable)
    stream.out.append((DATA, b"x"))
    seen.append(stream.sendable)
    stream.sent = stream.send_limit
    seen.append(stream.sendable)
    stream.out[0] = (HEAD, b"")  # an empty block needs no credit
    seen.append(stream.sendable)
    stream.out.clear()
    stream.local = Half.ENDING  # nor does the end
    seen.append(stream.sendable)
    assert seen == [True, False, True, False, True, True]


def test_finished() -> None:
    stream = a_stream()
    stream.local = Half.CLOSED
    seen = [stream.finished]
    stream.remote = Half.CLOSED
    seen.append(stream.finished)
    stream.window.receive(1)
    seen.append(stream.finished)
    assert seen == [False, True, False]


def test_repr() -> None:
    assert repr(a_stream()) == "Stream(2, local=OPEN, remote=OPEN)"
