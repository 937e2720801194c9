from __future__ import annotations

import pytest

from tunnelkit.http.client import OriginConnection
from tunnelkit.http.keeper import BACKLOG
from tunnelkit.net.memory import MemoryStream, memory_pair

from .helpers import keeping, read_until

pytestmark = pytest.mark.anyio


def connection() -> tuple[OriginConnection, MemoryStream]:
    near, far = memory_pair()
    return OriginConnection(near), far


async def test_many_are_closed_in_order_one_after_the_other() -> None:
    made = [connection() for _ in range(3)]
    async with keeping() as keeper:
        for ours, _ in made:
            keeper.retire(ours)
        assert [await read_until(far) for _, far in made] == [b""] * 3


async def test_more_than_the_backlog_are_broken_off() -> None:
    made = [connection() for _ in range(BACKLOG + 1)]
    async with keeping() as keeper:
        for ours, _ in made:
            keeper.retire(ours)
        assert await read_until(made[-1][1]) == b"<reset>"
        assert await read_until(made[-2][1]) == b""


async def test_nothing_is_left_open_at_the_end() -> None:
    (first, first_end), (later, later_end) = connection(), connection()
    async with keeping() as keeper:
        keeper.retire(first)
    keeper.retire(later)
    assert await read_until(first_end) in (b"", b"<reset>")
    assert await read_until(later_end) == b"<reset>"


@pytest.mark.interpreted
async def test_one_that_cannot_be_closed_costs_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise RuntimeError("a bug")

    (broken, broken_end), (fine, fine_end) = connection(), connection()
    monkeypatch.setattr(broken, "aclose", fail)
    async with keeping() as keeper:
        keeper.retire(broken)
        keeper.retire(fine)
        assert await read_until(fine_end) == b""
        assert await read_until(broken_end) == b"<reset>"
    assert [record.getMessage() for record in caplog.records] == ["a connection to an origin could not be closed"]
