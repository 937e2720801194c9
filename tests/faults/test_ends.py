"""What the fault tests stand on: processes that are measured from outside, and callers that check bytes."""

from __future__ import annotations

import anyio
import pytest

from .callers import Pace, crowd, traffic
from .ends import Tunnel

pytestmark = [pytest.mark.anyio, pytest.mark.programs]


async def test_traffic_leaves_nothing_behind(tunnel: Tunnel) -> None:
    with anyio.fail_after(40):
        await crowd(tunnel)
        start = await tunnel.at_rest()
        async with traffic(tunnel, Pace(time=0.5)) as callers:
            await callers.whole_again(0)
        assert set(callers.told()) == {"whole"}
        await tunnel.back_at(start)


async def test_what_stays_is_seen(tunnel: Tunnel) -> None:
    with anyio.fail_after(40):
        start = await tunnel.at_rest()
        stream = tunnel.server.place.connect(tunnel.port)
        with stream:
            # A connection that asks for nothing ends soon; one in the middle of a head is waited for.
            stream.sendall(b"GET /_health_check HTTP/1.1\r\n")
            await tunnel.changed_from(start)
            with pytest.raises(AssertionError, match="but at the start"):
                await tunnel.back_at(start, timeout=0.5)
        await tunnel.back_at(start)
