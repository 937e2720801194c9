"""Whether small exchanges come beside transfers in a session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import KIB
from tunnelkit.core.company import LASTS, SMALL, Company
from tunnelkit.core.events import Data
from tunnelkit.core.multiplexer import Multiplexer

from .mux_pair import Pair

LARGE = SMALL + 1


def beside_a_transfer() -> Company:
    company = Company()
    company.moved(LARGE)
    company.ended(1, alone=False)
    return company


def test_there_is_none_at_first_nor_of_one_kind_alone() -> None:
    transfers, small = Company(), Company()
    assert not transfers.present
    transfers.moved(LARGE)
    transfers.ended(LARGE, alone=False)
    small.moved(SMALL)
    small.ended(SMALL, alone=False)
    assert (transfers.present, small.present) == (False, False)


@given(st.lists(st.integers(0, LASTS // 4), max_size=20))
def test_it_lasts_until_so_many_bytes_moved_since_the_last_small_one(sizes: list[int]) -> None:
    company = beside_a_transfer()
    company.moved(LASTS - 1)
    company.ended(1, alone=False)
    company.moved(LARGE)
    moved = LARGE
    for size in sizes:
        company.moved(size)
        moved += size
        assert company.present is (moved < LASTS)


def test_it_lasts_until_so_many_moved_since_the_last_large_piece() -> None:
    company = beside_a_transfer()
    for _ in range(LASTS // SMALL):
        assert company.present
        company.ended(1, alone=False)
        company.moved(SMALL)
    assert not company.present
    company.moved(LARGE)
    assert company.present


def test_it_is_over_with_the_last_stream() -> None:
    company = beside_a_transfer()
    company.ended(LARGE, alone=True)
    seen = [company.present]
    company.ended(1, alone=False)
    seen.append(company.present)
    company.moved(LARGE)
    seen.append(company.present)
    assert seen == [False, False, True]


@pytest.mark.parametrize(("up", "down"), [(10, 0), (0, 10), (SMALL // 2, SMALL // 2), (SMALL, 0), (0, SMALL)])
def test_a_small_one_beside_a_transfer_is_company_at_both_ends(up: int, down: int) -> None:
    """Whoever opened it, and not only while it is there: a caller leaves gaps."""
    pair = with_a_transfer()
    exchange(pair, pair.opened(), up, down)
    assert in_company(pair)


@pytest.mark.parametrize(("up", "down"), [(SMALL // 2 + 1, SMALL // 2), (SMALL + 1, 0), (0, SMALL + 1)])
def test_a_larger_one_is_none(up: int, down: int) -> None:
    """Several transfers gain by large pieces as one does."""
    pair = with_a_transfer()
    exchange(pair, pair.opened(), up, down)
    assert not in_company(pair)


def test_one_that_was_withdrawn_is_company_too() -> None:
    pair = with_a_transfer()
    pair.client.reset(pair.opened(), 1)
    settle(pair)
    assert in_company(pair)


def test_those_that_follow_one_another_have_none() -> None:
    pair = Pair()
    for size in (200 * KIB, 1, 200 * KIB, 1):
        exchange(pair, pair.opened(), 0, size)
        assert not in_company(pair)


def in_company(pair: Pair) -> bool:
    at_client, at_server = pair.client.in_company, pair.server.in_company
    assert at_client is at_server
    return at_client


def with_a_transfer() -> Pair:
    pair = Pair()
    transmit(pair, pair.client, pair.opened(), 200 * KIB)
    return pair


def exchange(pair: Pair, stream: int, up: int, down: int) -> None:
    """So many bytes each way, and the end."""
    for end, size in ((pair.server, up), (pair.client, down)):
        transmit(pair, end, stream, size)
        end.send_fin(stream)
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
