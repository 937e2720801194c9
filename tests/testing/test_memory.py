"""The memory transport keeps the contract, with its faults and without."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from tunnelkit.testing import Check, Wires, wired
from tunnelkit.transports.memory import Faults, MemoryTransport

from .keeping import UNORDERED, WITHOUT_RELAY, each_check, keeps

pytestmark = pytest.mark.anyio


def over_memory(faults: Faults | None = None) -> AbstractAsyncContextManager[Wires]:
    transport = MemoryTransport(faults=faults)
    return wired(transport, faults=transport)


@each_check
async def test_as_it_is(check: Check) -> None:
    await keeps(check, over_memory, not_for=WITHOUT_RELAY)


@each_check
async def test_with_faults_that_it_tells(check: Check) -> None:
    faults = Faults(reorder=True, duplicate=True, delay=0.001)
    await keeps(check, lambda: over_memory(faults), not_for=WITHOUT_RELAY + UNORDERED)
