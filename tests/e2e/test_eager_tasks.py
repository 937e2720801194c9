"""Eager tasks run inside the call that starts them (hazard 7): nothing of a tunnel may mind."""

from __future__ import annotations

import asyncio
import sys

import anyio
import pytest

from .transfers import Download, Upload
from .tunnel import SHORT, gather, open_tunnel

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 brought eager tasks"),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # trio has no such tasks


@pytest.fixture(autouse=True)
async def _eager_tasks() -> None:
    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)


async def test_requests_and_a_cut_with_eager_tasks() -> None:
    async with open_tunnel(relay=True, limits=SHORT) as tunnel:
        relay = tunnel.relay
        assert relay is not None

        async def cut() -> None:
            await relay.until(lambda: relay.carried > 1_000_000)
            relay.cut()

        async def status() -> int:
            return (await tunnel.get("/status/200"))[0]

        with anyio.fail_after(40):
            moved = [Download(tunnel, 3_000_000).run, Upload(tunnel, 3_000_000).run]
            results = await gather(cut, *moved, *[status] * 20)
        assert results[3:] == [200] * 20
