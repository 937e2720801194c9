"""What the core of an idle tunnel takes: a server has thousands of them, and its memory bounds their number."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

from tunnelkit.config import DEFAULT_LIMITS, KIB
from tunnelkit.core.budget import Budget
from tunnelkit.core.frames import StreamKind
from tunnelkit.core.message import Kind, build
from tunnelkit.core.multiplexer import Multiplexer
from tunnelkit.core.session import Session
from tunnelkit.transports.websocket.frames import FrameReader, FrameWriter

COUNT = 100


def each(make: Callable[[], object]) -> float:
    """Bytes that one takes, of many."""
    make()  # what is made once for all
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = [make() for _ in range(COUNT)]
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(made) == COUNT
    return taken / COUNT


def a_core() -> tuple[Multiplexer, Session]:
    limits, budget = DEFAULT_LIMITS, Budget(DEFAULT_LIMITS.max_buffered_bytes)
    mux = Multiplexer(
        client=False,
        limits=limits,
        peer_floor=limits.stream_floor,
        peer_max_streams=limits.max_streams,
        budget=budget,
    )
    session = Session(source=mux, limits=limits, peer_window=limits.replay_limit, budget=budget)
    session.attach(1, 0, 0.0, max_message=65536)
    return mux, session


def a_core_that_was_used() -> tuple[Multiplexer, Session]:
    mux, session = a_core()
    ids = [mux.open_stream(StreamKind.HTTP) for _ in range(20)]
    for stream_id in ids:
        mux.send_data(stream_id, bytes(2000), fin=True)
    while session.data_to_send(0.0, 4096):
        session.receive_message(acknowledgement(session), 0.0)
    for stream_id in ids:
        mux.reset(stream_id, 1)
    while session.data_to_send(0.0, 4096):
        session.receive_message(acknowledgement(session), 0.0)
    assert session.acked == session.sent > 40_000
    assert not mux.active_streams
    return mux, session


def acknowledgement(session: Session) -> bytes:
    return build(Kind.ACK, session.epoch, 0, session.sent, (b"",))


def test_before_its_first_exchange() -> None:
    assert each(a_core) < 4 * KIB


def test_after_many_exchanges_at_once() -> None:
    assert each(a_core_that_was_used) < 5 * KIB


def test_the_frames_of_its_websocket() -> None:
    """wsproto's way of reading is made for who needs it."""
    assert each(lambda: (FrameReader(client=False), FrameWriter(client=False))) < KIB
