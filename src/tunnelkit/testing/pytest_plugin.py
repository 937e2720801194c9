"""Fixtures for pytest, found by it where tunnelkit is installed. They run in the event loop of the test, by anyio's
plugin: mark the test with ``pytest.mark.anyio``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import anyio
import pytest
from anyio.abc import TaskStatus

from .pair import TunnelPair, tunnel_pair

__all__ = ["OpenPair", "PublicUrl", "tunnelkit_pair", "tunnelkit_url"]

# What ``tunnelkit_pair`` is: called like ``tunnelkit.testing.tunnel_pair``.
OpenPair: TypeAlias = "Callable[..., AbstractAsyncContextManager[TunnelPair]]"
# What ``tunnelkit_url`` is: given what ``TunnelClient`` takes as ``origin``, it returns a URL, without a last slash.
PublicUrl: TypeAlias = "Callable[[Any], Awaitable[str]]"


@pytest.fixture
def tunnelkit_pair() -> OpenPair:
    """``async with tunnelkit_pair(origin) as pair``: see ``tunnelkit.testing.tunnel_pair``."""
    return tunnel_pair


@pytest.fixture
async def tunnelkit_url(anyio_backend: Any) -> AsyncIterator[PublicUrl]:
    """``url = await tunnelkit_url(app)``: where a caller reaches the app under test, until the test ends."""

    async def hold(origin: Any, *, task_status: TaskStatus[str]) -> None:
        async with tunnel_pair(origin) as pair:
            task_status.started(pair.url)
            await anyio.sleep_forever()

    # In tasks of the fixture's own: what a test opens in its task, a fixture may not close in another.
    async with anyio.create_task_group() as group:

        async def open_url(origin: Any) -> str:
            url: str = await group.start(hold, origin)
            return url

        yield open_url
        group.cancel_scope.cancel()
