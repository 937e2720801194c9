"""Whether small exchanges come beside transfers in a session."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import KIB
from tunnelkit.core.company import FEW, LARGE, LASTS, MANY, SMALL, Company
from tunnelkit.core.events import Data
from tunnelkit.core.frames import StreamKind
from tunnelkit.core.multiplexer import Multiplexer

from .mux_pair import SMALL as SMALL_LIMITS
from .mux_pair import Pair


def exchanged(company: Company, *, size: int = 1, pieces: int = 1, others: int = 0) -> None:
    """One exchange beside another stream, while so many large pieces were moved and streams opened."""
    company.opened(alone=False)
    streams_before, pieces_before = company.streams, company.pieces
    for _ in range(others):
        company.opened(alone=False)
    company.pieces += pieces
    company.ended(size, streams_before, pieces_before)


@pytest.mark.parametrize(("size", "pieces", "present"), [(SMALL, 1, True), (SMALL + 1, 1, False), (1, 0, False)])
def test_it_is_a_small_exchange_during_which_large_pieces_were_moved(size: int, pieces: int, present: bool) -> None:
    company = Company()
    assert not company.present
    company.opened(alone=True)
    company.pieces += 1  # before: it had not to wait for that
    exchanged(company, size=size, pieces=pieces)
    assert company.present is present


@given(st.lists(st.integers(0, LASTS // 4), max_size=20))
def test_it_lasts_until_so_many_bytes_moved_since_the_last(sizes: list[int]) -> None:
    company = Company()
    company.moved(5)  # of before: it does not count
    exchanged(company)
    company.moved(LASTS - 1)
    exchanged(company)
    moved = 0
    for size in sizes:
        company.moved(size)
        moved += size
        assert company.present is (moved < LASTS)


def test_who_comes_when_all_are_gone_has_none() -> None:
    company = Company()
    exchanged(company)
    company.opened(alone=True)
    assert not company.present


def test_many_at_once_are_none_and_few_are_again() -> None:
    company = Company()
    seen = []
    for others in (FEW, FEW + 1, FEW, MANY, MANY + 10, MANY, FEW):
        for _ in range(200):
            exchanged(company, others=others)
        seen.append((company.of_few, company.present))
    little = (False, True)
    few, many = (True, True), (False, False)
    assert seen == [few, little, few, little, many, little, few]


def test_one_that_lasted_long_makes_no_crowd() -> None:
    """Streams were opened meanwhile, but not at once."""
    company = Company()
    for _ in range(100):
        exchanged(company)
    exchanged(company, others=100_000)
    assert company.present


# -- of a session ------------------------------------------------------------------------------


@pytest.mark.parametrize(("up", "down"), [(10, 0), (0, 10), (SMALL // 2, SMALL // 2), (SMALL, 0), (0, SMALL)])
def test_a_small_one_beside_a_transfer_is_company_at_both_ends(up: int, down: int) -> None:
    """And not only while it is there: a caller leaves gaps."""
    pair, transfer = with_a_transfer()
    stream = pair.opened()
    transmit(pair, pair.client, transfer, 64 * KIB)
    exchange(pair, stream, up, down)
    assert in_company(pair)


@pytest.mark.parametrize("down", [True, False])
def test_so_it_is_beside_an_upload(down: bool) -> None:
    pair, transfer = with_a_transfer()
    stream = pair.opened()
    transmit(pair, pair.client if down else pair.server, transfer, 64 * KIB)
    exchange(pair, stream, 1, 1)
    assert in_company(pair)


def test_a_larger_one_is_none() -> None:
    """Several transfers gain by large pieces as one does."""
    pair, transfer = with_a_transfer()
    stream = pair.opened()
    transmit(pair, pair.client, transfer, 64 * KIB)
    exchange(pair, stream, SMALL, 1)
    assert not in_company(pair)


def test_one_that_is_broken_off_is_none() -> None:
    pair, transfer = with_a_transfer()
    stream, unsent = pair.opened(), pair.server.open_stream(StreamKind.HTTP)
    transmit(pair, pair.client, transfer, 64 * KIB)
    pair.client.reset(stream, 1)
    pair.server.withdraw(unsent)
    settle(pair)
    assert not in_company(pair)


def test_those_that_follow_one_another_have_none_though_something_idle_is_open() -> None:
    pair, _idle = with_a_transfer()
    for size in (200 * KIB, 1, 200 * KIB, 1):
        exchange(pair, pair.opened(), 0, size)
        assert not in_company(pair)


def test_small_ones_that_share_a_message_are_no_large_piece() -> None:
    pair, _idle = with_a_transfer()
    streams = [pair.opened() for _ in range(6)]
    for stream in streams:
        pair.server.send_fin(stream)
        pair.client.send_data(stream, bytes(4 * KIB), fin=True)
    settle(pair)
    assert pair.client.active_streams == 1
    assert not in_company(pair)


def test_a_transfer_in_least_turns_is_large() -> None:
    """As on a slow machine, where a turn is no longer than that."""
    pair = Pair(replace(SMALL_LIMITS, turn_time=0.0))
    transfers = [pair.opened() for _ in range(2)]
    for transfer in transfers:
        transmit(pair, pair.client, transfer, 200 * KIB)
    small = pair.opened()
    for transfer in transfers:
        pair.client.send_data(transfer, bytes(64 * KIB))
    settle(pair)
    exchange(pair, small, 1, 1)
    assert SMALL_LIMITS.frame_payload == LARGE
    assert in_company(pair)


def in_company(pair: Pair) -> bool:
    at_client, at_server = pair.client.in_company, pair.server.in_company
    assert at_client is at_server
    return at_client


def with_a_transfer() -> tuple[Pair, int]:
    """One whose window is wide open, and which pauses."""
    pair = Pair()
    transfer = pair.opened()
    for end in (pair.client, pair.server):
        transmit(pair, end, transfer, 200 * KIB)
    return pair, transfer


def exchange(pair: Pair, stream: int, up: int, down: int) -> None:
    """So many bytes each way, and the end with the last of them."""
    for end, size in ((pair.server, up), (pair.client, down)):
        transmit(pair, end, stream, max(0, size - 1))
        end.send_data(stream, bytes(min(1, size)), fin=True)
        settle(pair)


def transmit(pair: Pair, end: Multiplexer, stream: int, size: int) -> None:
    while size:
        piece = min(size, end.send_room(stream))
        end.send_data(stream, bytes(piece))
        size -= piece
        settle(pair)


def settle(pair: Pair) -> None:
    """Pass all that the ends have, and use it."""
    while pair.server.has_output or pair.client.has_output:
        for end, events in ((pair.client, pair.to_client()), (pair.server, pair.to_server())):
            for event in events:
                if isinstance(event, Data):
                    end.consume(event.stream_id, len(event.data))
