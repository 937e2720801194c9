"""The conformance kit's own tools, for tests of what a transport does beyond the contract. ``tests/testing`` runs the
kit itself on every transport."""

from __future__ import annotations

from collections.abc import Awaitable

from tunnelkit.errors import ConnectionLost
from tunnelkit.testing.checks.base import clogged, expect_lost, pump, receive_all

__all__ = ["clogged", "lost", "pump", "receive_all"]


async def lost(call: Awaitable[object]) -> ConnectionLost:
    """How the connection ended, as this call raises it."""
    return await expect_lost(call, "a call")
