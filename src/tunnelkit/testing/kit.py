"""The conformance kit: whether a transport keeps the contract of ``tunnelkit.transports.base``.

Give it a *maker*, which wires up a fresh transport for each check::

    def maker():
        return wired(MyTransport())

    await check_transport(maker)

or, under pytest with anyio's plugin, each check as a test of its own::

    @pytest.mark.parametrize("check", CHECKS, ids=str)
    async def test_my_transport(check):
        await run_check(check, maker)

No check takes longer than ``CHECK_TIMEOUT``, whatever the transport does short of blocking the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import anyio

from .checks import ending, faults, opening, sending, waiting
from .checks.base import Check, ContractBroken, NotApplicable
from .wires import Maker, Wires

__all__ = ["CHECKS", "CHECK_TIMEOUT", "Outcome", "check_named", "check_transport", "run_check"]

CHECK_TIMEOUT: Final = 50.0

# All promises of the contract, each by itself: for ``pytest.mark.parametrize("check", CHECKS, ids=str)``.
CHECKS: Final[tuple[Check, ...]] = (
    *opening.CHECKS,
    *sending.CHECKS,
    *waiting.CHECKS,
    *ending.CHECKS,
    *faults.CHECKS,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a check that did not fail. ``not_applicable`` is why it says nothing of this transport, or ""."""

    check: Check
    not_applicable: str = ""


def check_named(name: str) -> Check:
    """Raises ``KeyError`` when there is none of that name."""
    return {check.name: check for check in CHECKS}[name]


async def run_check(check: Check, maker: Maker) -> Outcome:
    """Run one check on a fresh transport. Raises ``ContractBroken``."""
    reason = ""
    try:
        async with maker() as wires, anyio.create_task_group() as tasks:
            tasks.start_soon(_watch, wires)
            with anyio.move_on_after(CHECK_TIMEOUT) as scope:
                await check.run(wires)
            if scope.cancelled_caught:
                raise ContractBroken(f"it did not come to its end within {CHECK_TIMEOUT:g} s")
            tasks.cancel_scope.cancel()
    except NotApplicable as exc:
        reason = exc.reason
    except Exception as exc:
        first = _first_of(exc)
        if isinstance(first, NotApplicable):
            reason = first.reason
        elif isinstance(first, ContractBroken):
            raise first.of(check) from first.__cause__
        else:
            raise ContractBroken(f"unexpected {type(first).__name__}: {first}").of(check) from exc
    return Outcome(check, reason)


async def check_transport(maker: Maker, checks: Iterable[Check] = CHECKS) -> list[Outcome]:
    """Run all, one after another. Raises an ``ExceptionGroup`` with one ``ContractBroken`` for each that failed."""
    outcomes: list[Outcome] = []
    failures: list[ContractBroken] = []
    for check in checks:
        try:
            outcomes.append(await run_check(check, maker))
        except ContractBroken as broken:
            failures.append(broken)
    if failures:
        total = len(failures) + len(outcomes)
        raise ExceptionGroup(f"the transport breaks its contract: {len(failures)} of {total} checks failed", failures)
    return outcomes


async def _watch(wires: Wires) -> None:
    """A call that shields itself from cancellation ends with its connection."""
    await anyio.sleep(CHECK_TIMEOUT + 1)
    wires.abort()


def _first_of(error: BaseException) -> BaseException:
    """Of a group: what a check found, rather than what came of it."""
    leaves = list(_leaves(error))
    return next((leaf for leaf in leaves if isinstance(leaf, (ContractBroken, NotApplicable))), leaves[0])


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
