"""RFC 6455 frames: what comes in, whole and in pieces, well-formed and not, and what goes out."""

from __future__ import annotations

import struct
from itertools import count

import pytest
import wsproto.events
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection
from wsproto.frame_protocol import XorMaskerSimple

from tunnelkit.net.stream import READ_AHEAD
from tunnelkit.transports.websocket import frames as websocket_frames
from tunnelkit.transports.websocket import masking
from tunnelkit.transports.websocket.decoder import FrameError
from tunnelkit.transports.websocket.frames import (
    MAX_MESSAGE,
    PAUSE,
    TURN,
    Close,
    Event,
    FrameReader,
    FrameWriter,
    Ping,
)

KEY = b"\x12\x34\x56\x78"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def mask(payload: bytes) -> bytes:
    return bytes(byte ^ KEY[i % 4] for i, byte in enumerate(payload))


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, reserved: int = 0, length: int = -1
) -> bytes:
    """A frame by hand, wrong ones too. ``length`` lies about the payload's."""
    length = len(payload) if length < 0 else length
    bit = 0x80 if masked else 0
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    if length < 126:
        head = bytes((first, bit | length))
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, bit | 127, length)
    return head + (KEY + mask(payload) if masked else payload)


def read(data: bytes, *, step: int = 0, client: bool = False, max_message: int = MAX_MESSAGE) -> list[Event]:
    reader = FrameReader(client=client, max_message=max_message)
    return feed(reader, data, step=step)


def feed(reader: FrameReader, data: bytes, *, step: int = 0) -> list[Event]:
    events: list[Event] = []
    for start in range(0, len(data), step or len(data)):
        reader.feed(data[start : start + (step or len(data))])
        while (event := reader.next_event()) is not None:
            events.append(event)
    return events


# -- well-formed ---------------------------------------------------------------------------------

GOOD: list[tuple[str, bytes, list[Event]]] = [
    ("empty message", frame(BINARY), [b""]),
    ("short message", frame(BINARY, b"hello"), [b"hello"]),
    ("7-bit length", frame(BINARY, b"x" * 125), [b"x" * 125]),
    ("16-bit length", frame(BINARY, b"x" * 126), [b"x" * 126]),
    ("two messages", frame(BINARY, b"1") + frame(BINARY, b"2" * 300), [b"1", b"2" * 300]),
    ("fragments", frame(BINARY, b"a", fin=False) + frame(CONTINUATION, b"b"), [b"ab"]),
    (
        "empty fragments",
        frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION, b"b", fin=False) + frame(0),
        [b"b"],
    ),
    ("ping", frame(PING, b"are you there"), [Ping(b"are you there")]),
    ("largest ping", frame(PING, b"p" * 125), [Ping(b"p" * 125)]),
    ("pong unasked for", frame(PONG, b"here"), []),
    (
        "control between fragments",
        frame(BINARY, b"a", fin=False) + frame(PING, b"!") + frame(PONG) + frame(CONTINUATION, b"b"),
        [Ping(b"!"), b"ab"],
    ),
    ("message behind a ping", frame(PING) + frame(BINARY, b"m") + frame(PING, b"2"), [Ping(b""), b"m", Ping(b"2")]),
    ("close without a code", frame(CLOSE), [Close(None, "")]),
    ("close", frame(CLOSE, b"\x03\xe8bye"), [Close(1000, "bye")]),
    ("close with a private code", frame(CLOSE, struct.pack("!H", 4999)), [Close(4999, "")]),
    ("nothing counts behind a close", frame(CLOSE) + frame(BINARY, b"late") + b"\xff\xff\xff", [Close(None, "")]),
]


@pytest.mark.parametrize(("data", "events"), [case[1:] for case in GOOD], ids=[case[0] for case in GOOD])
@pytest.mark.parametrize("step", [0, 1, 2, 7])
def test_frames_give_events_however_they_are_split(data: bytes, events: list[Event], step: int) -> None:
    assert read(data, step=step) == events


def test_a_client_takes_unmasked_frames() -> None:
    data = frame(BINARY, b"1" * 200, masked=False) + frame(BINARY, b"2", masked=False, fin=False)
    assert read(data + frame(CONTINUATION, b"3", masked=False), client=True) == [b"1" * 200, b"23"]


@pytest.mark.parametrize("client", [False, True])
@pytest.mark.parametrize("step", [0, 61, 1000])
def test_the_largest_message_passes(client: bool, step: int) -> None:
    message = bytes(i % 251 for i in range(MAX_MESSAGE))
    halves = frame(BINARY, message[:1000], masked=not client, fin=False) + frame(0, message[1000:], masked=not client)
    assert read(frame(BINARY, message, masked=not client) + halves, step=step, client=client) == [message] * 2


def test_in_message_tells_a_torn_end() -> None:
    reader = FrameReader(client=False)
    data = frame(BINARY, b"ab", fin=False) + frame(CONTINUATION, b"c")
    states = []
    for i in range(len(data)):
        feed(reader, data[i : i + 1])
        states.append(reader.in_message)
    assert states == [True] * (len(data) - 1) + [False]


def test_in_message_is_false_behind_a_control_frame() -> None:
    reader = FrameReader(client=False)
    feed(reader, frame(PING, b"x"), step=1)
    assert not reader.in_message


# -- malformed -----------------------------------------------------------------------------------

BAD: list[tuple[str, bytes, int]] = [
    ("reserved bit 1", frame(BINARY, b"x", reserved=4), 1002),
    ("reserved bit 2", frame(BINARY, b"x", reserved=2), 1002),
    ("reserved bit 3", frame(BINARY, b"x", reserved=1), 1002),
    *((f"reserved opcode {op:#x}", frame(op, b"x"), 1002) for op in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)),
    ("unmasked from a client", frame(BINARY, b"x", masked=False), 1002),
    ("unmasked 126 from a client", frame(BINARY, b"x" * 126, masked=False), 1002),
    ("unmasked ping from a client", frame(PING, b"x", masked=False), 1002),
    ("text", frame(TEXT, b"hello"), 1003),
    ("text that is not UTF-8", frame(TEXT, b"\xff"), 1003),
    ("start of a fragmented text", frame(TEXT, b"hel", fin=False), 1003),
    ("oversize ping", frame(PING, b"x" * 126), 1002),
    ("oversize close", frame(CLOSE, b"x" * 126), 1002),
    ("fragmented ping", frame(PING, b"x", fin=False), 1002),
    ("fragmented close", frame(CLOSE, fin=False), 1002),
    ("continuation of nothing", frame(CONTINUATION, b"x"), 1002),
    ("message inside a message", frame(BINARY, b"x", fin=False) + frame(BINARY, b"y"), 1002),
    ("overlong 16-bit length", b"\x82\xfe\x00\x7d" + KEY + b"x" * 125, 1002),
    ("overlong 64-bit length", b"\x82\xff" + struct.pack("!Q", 0xFFFF) + KEY, 1002),
    ("64-bit length with the top bit", b"\x82\xff" + struct.pack("!Q", 1 << 63) + KEY, 1002),
    ("close with one byte", frame(CLOSE, b"\x03"), 1002),
    *(
        (f"close with code {code}", frame(CLOSE, struct.pack("!H", code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    ),
    ("close reason not UTF-8", frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ("close reason cut in a character", frame(CLOSE, b"\x03\xe8\xc3"), 1007),
]


@pytest.mark.parametrize(("data", "code"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
@pytest.mark.parametrize("step", [0, 1])
def test_malformed_frames_are_refused_with_their_code(data: bytes, code: int, step: int) -> None:
    reader = FrameReader(client=False)
    with pytest.raises(FrameError) as caught:
        feed(reader, data, step=step)
    assert caught.value.close_code == code
    assert feed(reader, frame(BINARY, b"nothing more is read")) == []


def test_a_masked_frame_from_a_server_is_refused() -> None:
    with pytest.raises(FrameError) as caught:
        read(frame(BINARY, b"x"), client=True)
    assert caught.value.close_code == 1002


# -- sizes: judged from the header on ------------------------------------------------------------


def header_only(data: bytes, payload: bytes) -> bytes:
    return data[: len(data) - len(payload)]


@pytest.mark.parametrize("length", [MAX_MESSAGE + 1, 1 << 16, 1 << 40, (1 << 63) - 1])
def test_an_oversize_frame_is_refused_by_its_header_alone(length: int) -> None:
    with pytest.raises(FrameError) as caught:
        read(frame(BINARY, length=length))
    assert caught.value.close_code == 1009


def test_fragments_count_together() -> None:
    reader = FrameReader(client=False, max_message=10)
    assert feed(reader, frame(BINARY, b"x" * 6, fin=False)) == []
    with pytest.raises(FrameError) as caught:
        feed(reader, frame(CONTINUATION, length=5, fin=False))
    assert caught.value.close_code == 1009


def test_each_message_has_its_own_room() -> None:
    part, rest = frame(BINARY, b"x" * 6, fin=False), frame(CONTINUATION, b"y" * 4)
    assert read((part + rest) * 3, max_message=10) == [b"xxxxxxyyyy"] * 3


def test_the_limit_holds_on_the_fast_path() -> None:
    assert read(frame(BINARY, b"x" * 10), max_message=10) == [b"x" * 10]
    with pytest.raises(FrameError):
        read(frame(BINARY, b"x" * 11), max_message=10)


def test_a_message_that_comes_by_the_byte_takes_no_object_for_each() -> None:
    frame = FrameWriter(client=False).message(b"x" * 60_000)
    reader = FrameReader(client=True)
    reader.feed(frame[:10])
    assert reader.next_event() is None
    for start in range(10, len(frame)):
        assert 0 < len(reader._begun) <= 2
        reader.feed(frame[start : start + 1])
    assert reader.next_event() == b"x" * 60_000


@pytest.mark.parametrize("client", [False, True])
def test_bulk_is_read_frame_by_frame_wherever_it_began(client: bool) -> None:
    """A small frame between two large ones costs two reads that are not whole frames, not every later one."""
    writer, reader = FrameWriter(client=not client), FrameReader(client=client)
    large = writer.message(bytes(60_000))
    data = writer.message(b"x") + large * 3 + writer.message(b"y") + large * 6
    reads: list[int] = []
    messages = 0
    while data:
        read, data = data[: reader.wanted], data[reader.wanted :]
        reads.append(len(read))
        messages += len(feed(reader, read))
    assert messages == 11
    assert reads[-4:] == [len(large)] * 4
    assert len(reads) <= 9 + 3


def test_nothing_more_is_wanted_of_small_frames_than_before() -> None:
    reader = FrameReader(client=True)
    feed(reader, FrameWriter(client=False).message(bytes(READ_AHEAD // 2 - 1)))
    assert reader.wanted == READ_AHEAD


@pytest.mark.parametrize("size", [0, 125, 126, 60_000])
@pytest.mark.parametrize("client", [False, True])
def test_a_frame_in_two_is_the_same_frame(client: bool, size: int) -> None:
    payload = bytes(size)
    header, rest = FrameWriter(client=client).headed(payload)
    assert len(header) == 2 + 2 * (size > 125) + 4 * client
    assert read(header + bytes(rest), client=not client) == [payload]
    assert client or rest is payload  # without a copy


def test_the_largest_frame_fits_in_one_read() -> None:
    assert len(FrameWriter(client=True).message(bytes(MAX_MESSAGE))) == 64 * 1024


# -- random input --------------------------------------------------------------------------------

payloads = st.binary(max_size=300)
any_frame = st.builds(
    frame,
    st.integers(0, 15),
    payloads,
    fin=st.booleans(),
    masked=st.integers(0, 9).map(bool),
    reserved=st.sampled_from([0] * 9 + [1, 2, 4]),
    length=st.sampled_from([-1] * 9 + [0, 5, 126, 70_000]),
)


def outcome(data: bytes, step: int, max_message: int = 400) -> tuple[list[Event], int | None]:
    reader = FrameReader(client=False, max_message=max_message)
    events: list[Event] = []
    try:
        for start in range(0, len(data), step):
            reader.feed(data[start : start + step])
            while (event := reader.next_event()) is not None:
                events.append(event)
    except FrameError as exc:
        return events, exc.close_code
    return events, None


@given(st.binary(max_size=200), st.integers(1, 9))
def test_random_bytes_raise_nothing_else_and_splits_do_not_matter(data: bytes, step: int) -> None:
    assert outcome(data, step) == outcome(data, max(len(data), 1))


def wsprotos_outcome(data: bytes) -> tuple[list[Event], int | None]:
    """What wsproto makes of it by itself."""
    peer = Connection(ConnectionType.SERVER)
    peer.receive_data(data)
    events: list[Event] = []
    partial = b""
    for event in peer.events():
        if isinstance(event, BytesMessage):
            partial += event.data
            if event.message_finished:
                events.append(partial)
                partial = b""
        elif isinstance(event, wsproto.events.Ping):
            events.append(Ping(bytes(event.payload)))
        elif isinstance(event, CloseConnection) and peer.state is ConnectionState.OPEN:
            return events, int(event.code)
        elif isinstance(event, CloseConnection):
            code = int(event.code)
            events.append(Close(None if code == 1005 else code, event.reason or ""))
    return events, None


small_frame = st.builds(
    frame,
    st.sampled_from([BINARY] * 4 + [CONTINUATION, CLOSE, PING, PONG, 0x3, 0xF]),
    payloads,
    fin=st.integers(0, 4).map(bool),
    masked=st.integers(0, 9).map(bool),
    reserved=st.sampled_from([0] * 9 + [1, 2, 4]),
)


@given(st.lists(small_frame, max_size=8).map(b"".join), st.integers(1, 50))
def test_the_fast_path_says_what_wsproto_says(data: bytes, step: int) -> None:
    assert outcome(data, step, MAX_MESSAGE) == wsprotos_outcome(data)


@given(st.lists(any_frame, max_size=8).map(b"".join), st.integers(1, 50))
def test_random_frames_raise_nothing_else_and_splits_do_not_matter(data: bytes, step: int) -> None:
    assert outcome(data, step) == outcome(data, max(len(data), 1))


@given(st.lists(payloads, max_size=20), st.booleans(), st.integers(1, 1000))
def test_what_is_written_is_read(messages: list[bytes], client: bool, step: int) -> None:
    writer = FrameWriter(client=client)
    data = b"".join(map(writer.message, messages))
    assert read(data, step=step, client=not client) == messages


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(frame(PING), id="pings"),
        pytest.param(frame(PONG), id="pongs"),
        pytest.param(frame(CONTINUATION, fin=False), id="empty fragments"),
    ],
)
def test_a_flood_of_odd_frames_is_read_in_turns(flood: bytes) -> None:
    reader = FrameReader(client=False)
    reader.feed(frame(BINARY, b"a", fin=False) + flood * 1000)
    turns = 0
    while (event := reader.next_event()) is not None:
        turns += event is PAUSE
    assert turns == 1001 // TURN
    assert feed(reader, frame(CONTINUATION, b"b")) == [b"ab"]


# -- writing -------------------------------------------------------------------------------------


def test_a_client_takes_a_fresh_mask_for_every_frame() -> None:
    writer = FrameWriter(client=True)
    keys = {writer.message(b"x" * 8)[2:6] for _ in range(20)} | {writer.pong(b"")[2:6] for _ in range(20)}
    assert len(keys) > 30


def test_no_mask_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn many at once; when all are used, others are drawn."""
    numbers = count()

    def draw(size: int) -> bytes:
        return b"".join(next(numbers).to_bytes(4) for _ in range(size // 4))

    monkeypatch.setattr("os.urandom", draw)
    writers = [FrameWriter(client=True) for _ in range(2)]
    keys = [writer.message(b"x")[2:6] for _ in range(400) for writer in writers]
    assert len(set(keys)) == len(keys)
    assert next(numbers) < 2 * len(keys)  # and few are drawn for nothing


def test_a_server_does_not_mask() -> None:
    writer = FrameWriter(client=False)
    assert writer.message(b"hello") == b"\x82\x05hello"
    assert writer.pong(b"p") == b"\x8a\x01p"
    assert writer.close(None) == b"\x88\x00"
    assert writer.close(1001, "bye") == b"\x88\x05\x03\xe9bye"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2000, 5000, 70_000])
def test_codes_that_must_not_be_sent_go_out_as_1000(code: int) -> None:
    assert FrameWriter(client=False).close(code) == b"\x88\x02\x03\xe8"


def test_an_overlong_close_reason_is_cut_between_characters() -> None:
    (close,) = read(FrameWriter(client=True).close(1011, "ü" * 100))
    assert close == Close(1011, "ü" * 61)


# -- masking -------------------------------------------------------------------------------------


@pytest.fixture(params=["wsproto", "websockets"])
def mask_with(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "websockets":
        pytest.importorskip("websockets.speedups", reason="websockets is not installed")
        mask = masking.find_mask()
    else:
        mask = masking.mask_by_wsproto
    monkeypatch.setattr(websocket_frames, "_mask", mask)


@pytest.mark.usefixtures("mask_with")
@pytest.mark.parametrize("step", [1, 3, 4, 5, 64, 1 << 20])
def test_every_masker_does_the_same(step: int) -> None:
    message = bytes(i % 253 for i in range(4099))
    data = FrameWriter(client=True).message(message)
    assert bytes(XorMaskerSimple(data[4:8]).process(bytearray(data[8:]))) == message
    assert read(data, step=step) == [message]
