"""The disk of the server's log and pid file is full for a while, while callers run: the short form."""

from __future__ import annotations

import anyio
import pytest

from .callers import crowd
from .ends import Tunnel
from .places import Surroundings
from .scenarios import SHORT_FORM, disk_full, leaves_nothing

pytestmark = [pytest.mark.anyio, pytest.mark.programs]


async def test_no_caller_notices_and_the_log_goes_on(linked: tuple[Tunnel, Surroundings]) -> None:
    tunnel, around = linked
    with anyio.fail_after(45):
        assert around.disk.text("pid") == f"{tunnel.server.pid}\n"
        await crowd(tunnel)
        start = await tunnel.at_rest()
        report = await leaves_nothing(tunnel, start, disk_full(around.disk), SHORT_FORM)
        print(report)
