from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from tunnelkit.config import KIB
from tunnelkit.core.budget import Budget
from tunnelkit.core.credit import CreditPool
from tunnelkit.core.frames import (
    CREDIT_SIZE,
    DATA,
    DATA_FIN,
    HEAD,
    HEAD_FIN,
    HEAD_MORE,
    HEADER_SIZE,
    MAX_PAYLOAD,
    OPEN,
    RESET,
    RESET_SIZE,
    Buffer,
    Frame,
    FrameDecoder,
    encode_goaway,
    encode_open,
    parse_number,
)
from tunnelkit.core.scheduler import SCRAP, ControlQueue, TurnQueue, take_turn
from tunnelkit.core.streams import Half, Stream

from .mux_pair import SMALL, join

TURN = 100
POOL = CreditPool(SMALL, Budget(SMALL.max_buffered_bytes))


def a_stream(stream_id: int, *out: tuple[int, bytes], opened: bool = True, limit: int = 1 << 20) -> Stream:
    window = POOL.open_window(first=False)
    assert window is not None
    window.close()  # the pool is not what is tested here
    stream = Stream(stream_id, window, limit, None if opened else encode_open(stream_id, 1, 5))
    stream.out.extend(out)
    stream.buffered = sum(len(data) for _code, data in out)
    return stream


def frames(pieces: list[Buffer]) -> list[Frame]:
    flow = join(pieces)
    decoded = FrameDecoder().feed(flow)
    assert sum(HEADER_SIZE + len(payload) for _code, _stream, payload in decoded) == len(flow)  # all were whole
    return decoded


def turn(stream: Stream, room: int = 64 * KIB, size: int = TURN) -> list[Frame]:
    pieces: list[Buffer] = []
    used = take_turn(stream, pieces, room, size)
    assert used == len(join(pieces)) <= room
    return frames(pieces)


# -- control -----------------------------------------------------------------------------------


def test_control_is_empty_at_first() -> None:
    control = ControlQueue()
    assert not control.waiting
    assert control.pull([], 1000) == 0


def test_the_order_of_control_and_its_size() -> None:
    control = ControlQueue()
    control.add_credit(a_stream(4))
    control.add_reset(6, 2)
    control.add_goaway(encode_goaway(8, 0))
    assert (control.waiting, control.resets) == (True, 1)
    pieces: list[Buffer] = []
    assert control.pull(pieces, 1000) == 2 * RESET_SIZE + CREDIT_SIZE
    assert [(code >> 8, stream) for code, stream, _payload in frames(pieces)] == [(6, 8), (5, 6), (4, 4)]
    assert (control.waiting, control.resets) == (False, 0)


def test_credit_is_written_with_the_limit_of_the_moment_and_once() -> None:
    control = ControlQueue()
    stream = a_stream(4)
    control.add_credit(stream)
    stream.window.limit = 77_777
    control.add_credit(stream)
    pieces: list[Buffer] = []
    control.pull(pieces, 1000)
    assert [parse_number(payload) for _code, _stream, payload in frames(pieces)] == [77_777]


def test_control_that_does_not_fit_waits() -> None:
    control = ControlQueue()
    control.add_goaway(encode_goaway(0, 0))
    for stream_id in (2, 4, 6):
        control.add_reset(stream_id, 1)
        control.add_credit(a_stream(stream_id))
    sizes = []
    while control.waiting:
        pieces: list[Buffer] = []
        sizes.append(control.pull(pieces, 39))
        frames(pieces)
    assert control.pull([], 39) == 0
    assert sizes == [2 * RESET_SIZE, 2 * RESET_SIZE, CREDIT_SIZE, CREDIT_SIZE, CREDIT_SIZE]
    control.add_goaway(encode_goaway(0, 0))
    assert control.pull([], RESET_SIZE - 1) == 0
    assert control.waiting


def test_credit_that_is_not_needed_any_more() -> None:
    control = ControlQueue()
    one, other = a_stream(2), a_stream(4)
    control.add_credit(one)
    control.drop_credit(other)
    waiting = [control.waiting]
    control.drop_credit(one)
    waiting.append(control.waiting)
    assert waiting == [True, False]


def test_clear() -> None:
    control = ControlQueue()
    control.add_goaway(encode_goaway(0, 0))
    control.add_reset(2, 1)
    control.add_credit(a_stream(2))
    control.clear()
    assert not control.waiting
    assert control.pull([], 1000) == 0


# -- one turn ----------------------------------------------------------------------------------


def test_a_small_get_leaves_in_one_turn() -> None:
    stream = a_stream(2, (HEAD, b"GET"), opened=False)
    stream.local = Half.ENDING
    assert [(code, payload[-3:]) for code, _stream, payload in turn(stream)] == [
        (OPEN, b"\0\0\5"),
        (HEAD_FIN, b"GET"),
    ]
    assert (stream.local, stream.remote, stream.sent, stream.buffered) == (Half.CLOSED, Half.OPEN, 3, 0)


def test_nothing_passes_a_piece_that_was_cut() -> None:
    stream = a_stream(2, (DATA, bytes(150)), (HEAD, b""))
    stream.local = Half.ENDING
    assert [(code, len(payload)) for code, _stream, payload in turn(stream)] == [(DATA, 100)]
    assert [(code, len(payload)) for code, _stream, payload in turn(stream)] == [(DATA, 50), (HEAD_FIN, 0)]


def test_pieces_are_slices_of_what_was_given() -> None:
    data = bytes(150)
    stream = a_stream(2, (DATA, data), (DATA, data))
    pieces: list[Buffer] = []
    take_turn(stream, pieces, 64 * KIB, TURN)
    assert isinstance(pieces[1], memoryview)
    assert pieces[1].obj is data
    pieces.clear()
    take_turn(stream, pieces, 64 * KIB, 200)
    assert isinstance(pieces[1], memoryview)
    assert pieces[1].obj is data
    assert pieces[3] is data


def test_an_open_that_does_not_fit_is_not_cut() -> None:
    stream = a_stream(2, (DATA, b"x"), opened=False)
    assert turn(stream, room=21) == []
    assert stream.opening is not None
    assert [code for code, _stream, _payload in turn(stream, room=22)] == [OPEN]
    assert [code for code, _stream, _payload in turn(stream, room=13)] == [DATA]


def test_a_turn_ends_at_its_size_at_the_credit_and_at_the_room() -> None:
    assert [payload for _code, _stream, payload in turn(a_stream(2, (DATA, b"a" * 70), (DATA, b"b" * 70)))] == [
        b"a" * 70,
        b"b" * 30,
    ]
    assert turn(a_stream(2, (DATA, b"abcdef"), limit=4)) == [(DATA, 2, b"abcd")]
    assert turn(a_stream(2, (DATA, b"abcdef")), room=HEADER_SIZE + 5) == [(DATA, 2, b"abcde")]
    assert turn(a_stream(2, (DATA, b"abcdef")), room=HEADER_SIZE) == []
    assert turn(a_stream(2, (DATA, b"abcdef")), room=HEADER_SIZE - 1) == []


def test_a_piece_is_not_cut_for_a_scrap_of_the_message() -> None:
    """A message that holds one piece nearly whole is left so: the next begins with a whole one too."""
    first, second = b"x" * 5000, b"y" * 5000
    for rest, cut in ((SCRAP - 1, 0), (SCRAP, SCRAP)):
        stream = a_stream(1, (DATA, first), (DATA, second))
        given = turn(stream, len(first) + rest + 2 * HEADER_SIZE, MAX_PAYLOAD)
        assert [len(payload) for _, _, payload in given] == [len(first), cut][: 1 + bool(cut)]
        assert sum(len(payload) for _, _, payload in turn(stream, size=MAX_PAYLOAD)) == len(second) - cut


def messages(queue: TurnQueue, size: int, turn: int = MAX_PAYLOAD) -> Iterator[list[int]]:
    """The payloads of each message of ``size`` bytes, as the multiplexer fills them."""
    while queue.size:
        pieces: list[Buffer] = []
        room = size
        while queue.size and (used := queue.serve(pieces, room, turn, size)[1]):
            room -= used
        yield [len(payload) for _, _, payload in frames(pieces)]


def queue_of(*sizes: int) -> TurnQueue:
    queue = TurnQueue()
    queue.add_new(a_stream(1, *((DATA, bytes(size)) for size in sizes)))
    return queue


def test_what_nearly_fills_a_message_is_not_cut_behind_others() -> None:
    """One rest, of a piece that credit had cut say, would otherwise have every later piece cut in two."""
    assert list(messages(queue_of(3_000, 7_500, 7_500), 10_000)) == [[3_000], [7_500], [7_500]]
    rest = 10_000 - 2 * HEADER_SIZE - 3_000
    assert list(messages(queue_of(3_000, 7_499, 7_499), 10_000)) == [[3_000, rest], [7_499 - rest, 7_499]]


def test_what_fits_no_message_is_cut_for_the_rest_of_one() -> None:
    rest = 10_000 - 2 * HEADER_SIZE - 3_000
    assert next(messages(queue_of(3_000, 10_001 - HEADER_SIZE), 10_000)) == [3_000, rest]


def test_beside_others_everything_is_cut_to_fill_the_message() -> None:
    queue = TurnQueue()
    for stream_id in (1, 3, 5):
        queue.add_new(a_stream(stream_id, (DATA, bytes(7_500)), (DATA, bytes(7_500))))
    cut = 10_000 - 2 * HEADER_SIZE - 7_500
    assert next(messages(queue, 10_000, 7_500)) == [7_500, cut]


def test_what_waits_for_the_next_message_goes_ahead_of_new_streams_there() -> None:
    """Each new one would otherwise send a message of its own, until a turn's worth of them had left."""
    queue = TurnQueue()
    queue.add(a_stream(1, (DATA, bytes(10)), *[(DATA, bytes(9_900))] * 20))
    filled = []
    for stream_id in range(3, 43, 2):
        queue.add_new(a_stream(stream_id, (HEAD, bytes(100)), opened=False))
        filled.append(sum(next(messages(queue, 10_000))))
    assert all(first + second > 9_900 for first, second in pairwise(filled))


def test_fin_rides_on_the_last_frame_only() -> None:
    stream = a_stream(2, (DATA, b"abcdef"), (DATA, b"gh"))
    stream.local = Half.ENDING
    assert turn(stream, size=4) == [(DATA, 2, b"abcd")]
    assert turn(stream, size=4) == [(DATA, 2, b"ef"), (DATA_FIN, 2, b"gh")]
    assert stream.local is Half.CLOSED


def test_fin_alone() -> None:
    stream = a_stream(2, limit=0)
    assert turn(stream) == []
    stream.local = Half.ENDING
    assert turn(stream, room=11) == []
    assert turn(stream, room=12) == [(DATA_FIN, 2, b"")]


def test_a_head_in_pieces_says_more() -> None:
    stream = a_stream(2, (HEAD, b"abcdef"))
    stream.local = Half.ENDING
    assert turn(stream, size=4) == [(HEAD_MORE, 2, b"abcd")]
    assert turn(stream, size=4) == [(HEAD_FIN, 2, b"ef")]


def test_an_empty_head_needs_no_credit() -> None:
    assert turn(a_stream(2, (HEAD, b""), limit=0)) == [(HEAD, 2, b"")]


# -- turns -------------------------------------------------------------------------------------


def serve_all(queue: TurnQueue, *, rounds: int = 1000, room: int = 64 * KIB) -> list[tuple[int, int]]:
    """(stream, payload bytes) of each turn."""
    turns: list[tuple[int, int]] = []
    while queue.size and len(turns) < rounds:
        pieces: list[Buffer] = []
        stream, used = queue.serve(pieces, room, TURN)
        assert used == len(join(pieces))
        if stream is None:
            break
        turns.append((stream.id, sum(len(payload) for _code, _stream, payload in frames(pieces))))
    return turns


def test_streams_take_turns() -> None:
    queue = TurnQueue()
    for stream_id in (2, 4, 6):
        queue.add(a_stream(stream_id, (DATA, bytes(250))))
    assert queue.size == 3
    # First turns ahead, but for one later turn after a turn's worth of them.
    assert serve_all(queue, rounds=6) == [(2, 100), (2, 100), (4, 100), (2, 50), (6, 100), (4, 100)]


def test_nobody_has_more_than_a_turn_ahead_of_another() -> None:
    queue = TurnQueue()
    for stream_id in (2, 4, 6):
        queue.add(a_stream(stream_id, (DATA, bytes(10_000))))
    given = dict.fromkeys((2, 4, 6), 0)
    serve_all(queue, rounds=5)
    for stream_id, size in serve_all(queue, rounds=60):
        given[stream_id] += size
    assert set(given.values()) == {20 * TURN}


def test_a_small_message_does_not_wait_for_everybodys_bulk() -> None:
    queue = TurnQueue()
    for stream_id in range(2, 42, 2):
        queue.add(a_stream(stream_id, (DATA, bytes(10_000))))
    serve_all(queue, rounds=40)
    queue.add(a_stream(42, (HEAD, b"GET"), opened=False))
    assert 42 in [stream_id for stream_id, _size in serve_all(queue, rounds=2)]


def test_small_messages_do_not_starve_bulk() -> None:
    queue = TurnQueue()
    queue.add(a_stream(2, (DATA, bytes(100_000))))
    serve_all(queue, rounds=1)
    for stream_id in range(4, 104, 2):
        queue.add(a_stream(stream_id, (HEAD, bytes(38))))  # 50 bytes each
    assert [stream_id == 2 for stream_id, _size in serve_all(queue, rounds=10)] == [True, *[False, False, True] * 3]


def test_a_stream_alone_is_not_cut_into_turns() -> None:
    queue = TurnQueue()
    queue.add(a_stream(2, (DATA, bytes(100_000))))
    assert serve_all(queue, room=1 << 20) == [(2, 65_535), (2, 34_465)]


def test_without_room_nobody_loses_its_turn() -> None:
    queue = TurnQueue()
    queue.add_new(a_stream(2, opened=False))
    queue.add_new(a_stream(4, opened=False))
    assert serve_all(queue, room=10) == []
    assert [stream_id for stream_id, _size in serve_all(queue)] == [2, 4]


def test_opens_leave_in_the_order_of_ids() -> None:
    queue = TurnQueue()
    bulk = a_stream(2, (DATA, bytes(10_000)), opened=False)
    queue.add(bulk)
    serve_all(queue, rounds=3)
    for stream_id in (4, 6, 8):
        queue.add(a_stream(stream_id, opened=False))
    assert [stream_id for stream_id, _size in serve_all(queue, rounds=8) if stream_id != 2] == [4, 6, 8]


def test_a_stream_is_queued_once_and_only_with_something_to_send() -> None:
    queue = TurnQueue()
    queue.add(a_stream(2))
    queue.add(a_stream(4, (DATA, b"x"), limit=0))
    assert queue.size == 0
    stream = a_stream(6, (DATA, b"x"))
    queue.add(stream)
    queue.add(stream)
    assert queue.size == 1
    assert serve_all(queue) == [(6, 1)]


def test_drop() -> None:
    queue = TurnQueue()
    fresh, served = a_stream(2, (DATA, bytes(500))), a_stream(4, (DATA, bytes(500)))
    queue.add(served)
    queue.add(a_stream(6, (DATA, bytes(500))))
    serve_all(queue, rounds=1)
    queue.add(fresh)
    for stream in (fresh, served, fresh):
        queue.drop(stream)
    assert queue.size == 1
    assert {stream_id for stream_id, _size in serve_all(queue)} == {6}


def test_codes() -> None:
    control = ControlQueue()
    control.add_reset(2, 65_535)
    pieces: list[Buffer] = []
    control.pull(pieces, 100)
    assert frames(pieces) == [(RESET, 2, b"\xff\xff")]
