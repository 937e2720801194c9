"""A peer that sends whatever it likes: the cores end its session with one kind of error, and hold no more than they
may, whatever came before."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS, KIB
from tunnelkit.core.budget import Budget
from tunnelkit.core.events import Data, HeadBlock, Opened
from tunnelkit.core.frames import StreamKind, pack_header
from tunnelkit.core.message import HEADER_SIZE, build, check_known, decode_bye, split_header
from tunnelkit.core.opening import ClientOpening, ServerOpening
from tunnelkit.core.session import Session, State
from tunnelkit.errors import RemoteProtocolError

from .mux_model import LIMITS as SMALL
from .mux_pair import make
from .session_pair import ByteSource

EPOCH = 3
TAG = b"t" * 32
NEAR = st.integers(0, 40) | st.sampled_from([8192, 2**31, 2**32 - 1, 2**63, 2**64 - 1])


def message_of(kind: int, flags: int, reserved: int, epoch: int, offset: int, ack: int, payload: bytes) -> bytes:
    return bytes((kind, flags)) + reserved.to_bytes(2) + build(0, epoch, offset, ack, (payload,))[4:]


MESSAGES = st.binary(max_size=40) | st.builds(
    message_of,
    st.integers(0, 8),
    st.sampled_from([0, 0, 0, 1, 128, 255]),
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([0, EPOCH, EPOCH, EPOCH, EPOCH + 1, 2**32 - 1]),
    NEAR,
    NEAR,
    st.binary(max_size=40) | st.just(TAG) | st.just(bytes(9000)),
)


@given(MESSAGES)
def test_any_message(message: bytes) -> None:
    with suppress(RemoteProtocolError):
        check_known(split_header(message))
        assert decode_bye(message[HEADER_SIZE:]).isprintable()


def asking() -> ClientOpening:
    opening = ClientOpening(EPOCH, TAG, DEFAULT_LIMITS)
    opening.attach_message(0)
    return opening


@given(st.booleans(), st.lists(MESSAGES, max_size=12))
def test_any_opening(as_server: bool, messages: list[bytes]) -> None:
    """Only who repeats the handshake's epoch and proof is attached."""
    opening: ServerOpening | ClientOpening = (ServerOpening if as_server else ClientOpening)(
        EPOCH, TAG, DEFAULT_LIMITS
    )
    if isinstance(opening, ClientOpening):
        opening.attach_message(0)
    for message in messages:
        try:
            result = opening.receive_message(message)
        except RemoteProtocolError:
            return
        if result.attached is not None:
            assert split_header(message)[3] == EPOCH
            assert message[HEADER_SIZE:] == TAG or not as_server
            return


@given(st.booleans(), st.lists(MESSAGES, max_size=30))
def test_any_messages_to_a_session(ordered: bool, messages: list[bytes]) -> None:
    limits = replace(DEFAULT_LIMITS, replay_limit=8 * KIB, control_reserve=2 * KIB, min_message=256)
    source = ByteSource()
    session = Session(source=source, limits=limits, peer_window=limits.replay_limit, budget=None)
    session.attach(EPOCH, 0, 0.0, max_message=64 * KIB, ordered=ordered, pings=True)
    source.bulk += bytes(100)
    read = 0
    for now, message in enumerate(messages):
        try:
            read += sum(map(len, session.receive_message(message, now / 1000)))
        except RemoteProtocolError:
            return
        assert session.received == read
        assert session.acked <= session.sent <= 100
        if session.state is not State.ATTACHED:
            return
        session.handle_timer(now / 1000, now / 1000)
        assert len(session.data_to_send(now / 1000, 1000)) <= 1000


FRAMES = st.binary(max_size=30) | st.builds(
    lambda code, flags, stream, payload: bytes((code, flags)) + pack_header(0, len(payload), stream)[2:] + payload,
    st.integers(0, 9) | st.sampled_from([127, 255]),
    st.sampled_from([0, 0, 0, 1, 2, 128]),
    st.integers(0, 9) | st.sampled_from([2**63, 2**64 - 1]),
    st.binary(max_size=30) | NEAR.map(lambda number: number.to_bytes(8)) | st.just(bytes(600)),
)


@given(st.booleans(), st.lists(FRAMES, max_size=30), st.integers(1, 50))
def test_any_frames_to_a_multiplexer(client: bool, frames: list[bytes], cut: int) -> None:
    budget = Budget(SMALL.max_buffered_bytes)
    mux = make(client=client, limits=SMALL, budget=budget)
    mux.open_stream(StreamKind.HTTP)
    flow, waiting = b"".join(frames), 0
    for start in range(0, len(flow), cut):
        try:
            events = mux.receive_data(flow[start : start + cut], 0.0)
        except RemoteProtocolError:
            break
        waiting += sum(len(event.data) for event in events if isinstance(event, Data))
        waiting += sum(len(event.block) for event in events if isinstance(event, HeadBlock))
        assert len([event for event in events if isinstance(event, Opened)]) <= SMALL.max_streams
        assert waiting <= SMALL.receive_budget, "nothing was consumed"
        assert mux.active_streams <= 2 * SMALL.max_streams
        assert budget.used <= budget.capacity
        mux.frames_to_send(1000)
    mux.close()
    assert budget.used == 0
