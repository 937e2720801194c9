from __future__ import annotations

from dataclasses import replace

import pytest

from tunnelkit.config import KIB
from tunnelkit.core.budget import Budget
from tunnelkit.core.frames import DATA, StreamKind
from tunnelkit.core.streams import Half, Stream
from tunnelkit.core.table import StreamTable
from tunnelkit.errors import LocalProtocolError

from .mux_pair import SMALL

LIMITS = replace(SMALL, head_limit=KIB, head_block_limit=KIB)


def a_table(*, client: bool = False, capacity: int = 1 << 24) -> StreamTable:
    return StreamTable(client=client, limits=LIMITS, budget=Budget(capacity))


def mine(table: StreamTable) -> Stream:
    window = table.pool.open_window(first=True)
    assert window is not None
    return table.active[table.add_mine(StreamKind.HTTP, b"", window, 1 << 20)]


def peers(table: StreamTable, stream_id: int) -> Stream:
    window = table.pool.open_window(first=False)
    assert window is not None
    table.highest_peer = stream_id
    table.add_peers(stream_id, window, 1 << 20)
    return table.active[stream_id]


def sent(table: StreamTable, stream: Stream) -> None:
    table.turns.serve([], 64 * KIB, 16 * KIB)
    table.highest_sent = stream.id


@pytest.mark.parametrize(("client", "ids"), [(True, [1, 3, 5]), (False, [2, 4, 6])])
def test_ids_are_never_used_again(client: bool, ids: list[int]) -> None:
    table = a_table(client=client)
    seen = []
    for _ in ids:
        stream = mine(table)
        seen.append(stream.id)
        table.remove(stream)
    assert seen == ids
    assert table.mine == 0


def test_find() -> None:
    table = a_table()
    stream = mine(table)
    peer = peers(table, 5)
    assert table.find(2) is stream
    assert table.find(5) is peer
    table.remove(stream)
    assert table.find(2) is None
    assert table.find(3) is None  # the peer skipped it: it counts as over
    for never in (0, 4, 7, -2, -1):
        with pytest.raises(LocalProtocolError, match=f"stream {never} was never opened"):
            table.find(never)


def test_was_sent() -> None:
    table = a_table()
    first, second = mine(table), mine(table)
    peers(table, 1)
    assert [table.was_sent(stream_id) for stream_id in (0, 1, 2, 3, 4, 6)] == [
        False,
        True,
        False,
        False,
        False,
        False,
    ]
    sent(table, first)
    assert [table.was_sent(stream_id) for stream_id in (2, 4)] == [True, False]
    table.remove(first)
    table.remove(second)
    assert [table.was_sent(stream_id) for stream_id in (2, 4)] == [True, False]


def test_a_stream_that_ended_in_order() -> None:
    table = a_table()
    stream = mine(table)
    table.starved[stream.id] = None
    table.turns.drop(stream)
    table.finish(stream)
    assert not table.active
    assert not table.starved
    peer = peers(table, 1)
    table.finish(peer)
    assert (table.mine, table.budget.used) == (0, 0)


def test_remove_leaves_nothing_behind() -> None:
    table = a_table()
    stream = mine(table)
    sent(table, stream)
    stream.out.append((DATA, bytes(40 * KIB)))
    stream.buffered = 40 * KIB
    table.count_sending(stream)
    table.turns.add(stream)
    table.control.add_credit(stream)
    assert table.keep_head(stream.id, b"half a head")
    table.starved[stream.id] = None
    table.remove(stream)
    assert (stream.local, stream.remote) == (Half.GONE, Half.GONE)
    assert (table.turns.size, table.control.waiting, table.heads, table.starved) == (0, False, {}, {})
    assert table.budget.used == 0


def test_sending_is_counted_above_its_floor() -> None:
    table = a_table()
    stream = mine(table)
    used = table.budget.used
    counted = []
    for buffered in (LIMITS.frame_payload, 40 * KIB, 64 * KIB, 20 * KIB, 100, 0):
        stream.buffered = buffered
        table.count_sending(stream)
        counted.append(table.budget.used - used)
    assert counted == [0, 24 * KIB, 48 * KIB, 4 * KIB, 0, 0]


def test_abandon_tells_the_peer_what_it_can_know() -> None:
    table = a_table()
    unsent = mine(table)
    table.abandon(unsent, 1)
    assert table.control.resets == 0
    stream = mine(table)
    sent(table, stream)
    table.abandon(stream, 1)
    assert table.control.resets == 1
    stream = mine(table)
    sent(table, stream)
    stream.local = stream.remote = Half.CLOSED  # over, but for what was not consumed
    table.abandon(stream, 1)
    assert table.control.resets == 1
    stream = mine(table)
    sent(table, stream)
    stream.local = Half.CLOSED
    table.abandon(stream, 1)
    assert table.control.resets == 2


def test_heads_in_pieces() -> None:
    table = a_table()
    assert table.drop_head(2) == b""
    assert table.keep_head(2, b"he")
    assert table.keep_head(2, b"ad")
    assert table.budget.used == 4
    assert table.drop_head(2) == b"head"
    assert table.budget.used == 0


def test_a_head_too_large_for_the_limit_or_the_budget() -> None:
    table = a_table()
    assert table.keep_head(2, bytes(KIB))
    assert not table.keep_head(2, b"x")
    assert table.drop_head(2) == bytes(KIB)
    table = a_table(capacity=100)
    assert not table.keep_head(2, bytes(101))
    assert table.budget.used == 0
