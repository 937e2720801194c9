"""What the runs of the conformance kit have in common."""

from __future__ import annotations

import pytest

from tunnelkit.testing import CHECKS, Check, Maker, run_check

__all__ = ["UNORDERED", "WITHOUT_RELAY", "close_timeout", "each_check", "keeps"]

each_check = pytest.mark.parametrize("check", CHECKS, ids=str)

# Checks that say nothing of a transport which does not dial through the kit, or keeps no order.
WITHOUT_RELAY = ("a_cut_at_each_point_loses_all_or_nothing", "a_half_open_connection_fails_where_it_is_told")
UNORDERED = ("order_is_kept", "nothing_is_repeated")


def close_timeout(check: Check, short: float) -> float:
    """Seconds for a transport to close in. ``short`` where the peer does nothing for it; where it answers, a machine
    that was busy for a moment must not decide."""
    return 4.0 if check.name == "a_close_arrives_behind_the_messages" else short


async def keeps(check: Check, maker: Maker, *, not_for: tuple[str, ...] = ()) -> None:
    """It passes, and is left out only where that is known."""
    outcome = await run_check(check, maker)
    assert bool(outcome.not_applicable) == (check.name in not_for), outcome.not_applicable
