"""The conformance kit itself: every broken transport fails it, and its words are clear."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from tunnelkit.errors import DialError
from tunnelkit.handshake import Grant
from tunnelkit.testing import kit
from tunnelkit.testing.broken import BROKEN, BrokenTransport, Dropping, Truncating
from tunnelkit.testing.checks.base import Check, ContractBroken, NotApplicable, within
from tunnelkit.testing.kit import CHECKS, check_named, check_transport, run_check
from tunnelkit.testing.wires import Wires, wired
from tunnelkit.transports.base import Connection, DialRequest
from tunnelkit.transports.memory import MemoryTransport

pytestmark = pytest.mark.anyio


def over_memory() -> AbstractAsyncContextManager[Wires]:
    return wired(MemoryTransport())


# -- it finds what is broken -------------------------------------------------------------------


@pytest.mark.parametrize(("broken", "name"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
async def test_a_broken_transport_fails_the_check_that_is_meant_for_it(
    broken: type[BrokenTransport], name: str
) -> None:
    check = check_named(name)
    with anyio.fail_after(30), pytest.raises(ContractBroken) as caught:
        await run_check(check, lambda: wired(broken()))
    assert str(caught.value).startswith(f"{name}: ")
    assert check.promise in str(caught.value)


async def test_a_wrapped_transport_that_is_not_broken_passes() -> None:
    """What fails is the fault, and not the wrapping."""
    for _, name in BROKEN:
        await run_check(check_named(name), lambda: wired(BrokenTransport()))


async def test_all_failures_are_told_together() -> None:
    names = ["names_itself", "every_size_arrives_whole", "ready_tells_what_send_takes"]
    with pytest.raises(ExceptionGroup, match="2 of 3 checks failed") as caught:
        await check_transport(lambda: wired(Truncating()), [check_named(name) for name in names])
    assert [getattr(each, "check", "") for each in caught.value.exceptions] == names[1:]
    assert all(isinstance(each, ContractBroken) for each in caught.value.exceptions)


async def test_without_failures_there_are_outcomes() -> None:
    checks = [check_named("names_itself"), check_named("a_cut_at_each_point_loses_all_or_nothing")]
    outcomes = await check_transport(lambda: wired(Dropping()), checks)
    assert [outcome.check for outcome in outcomes] == checks
    assert not outcomes[0].not_applicable
    assert "no relay" in outcomes[1].not_applicable


# -- a check itself ----------------------------------------------------------------------------


async def run(wires: Wires) -> None:
    raise AssertionError("replaced")


def check_of(run: object) -> Check:
    return Check("a_check", "something holds", run)  # type: ignore[arg-type]


async def test_an_unexpected_error_names_the_check() -> None:
    async def fail(wires: Wires) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, wires)

    with pytest.raises(ContractBroken, match="a_check: unexpected AssertionError: replaced"):
        await run_check(check_of(fail), over_memory)


async def test_what_a_task_of_a_check_says_counts() -> None:
    async def skip(wires: Wires) -> None:
        raise NotApplicable("no wire")

    async def in_a_task(wires: Wires) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(skip, wires)

    assert (await run_check(check_of(in_a_task), over_memory)).not_applicable == "no wire"


async def test_no_check_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "CHECK_TIMEOUT", 0.05)

    async def hang(wires: Wires) -> None:
        await anyio.sleep_forever()

    with anyio.fail_after(10), pytest.raises(ContractBroken, match="did not come to its end"):
        await run_check(check_of(hang), over_memory)


async def test_a_call_that_shields_itself_ends_with_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "CHECK_TIMEOUT", 0.05)

    async def hang(wires: Wires) -> None:
        client, _ = await wires.connect()
        with anyio.CancelScope(shield=True):
            await client.receive()

    with anyio.fail_after(10), pytest.raises(ContractBroken, match="a_check"):
        await run_check(check_of(hang), over_memory)


async def test_a_deadline_says_what_was_expected() -> None:
    words = r"the sun should have risen: not within 0\.01 s"
    with pytest.raises(ContractBroken, match=words), within("the sun should have risen", 0.01):
        await anyio.sleep_forever()


class Late(MemoryTransport):
    """Its first dial is over before it has said a word."""

    said = False

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        if not self.said:
            self.said = True
            await anyio.sleep(request.timeout)
            raise DialError("connect", "too late")
        return await super().dial(request)


async def test_a_dial_that_was_over_before_the_server_heard_of_it_is_no_fault() -> None:
    await run_check(check_named("a_dial_is_bounded"), lambda: wired(Late()))


class Mute(MemoryTransport):
    """No dial of it says a word."""

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        raise DialError("connect", "never")


async def test_a_dial_that_never_reaches_the_server_is_one() -> None:
    with pytest.raises(ContractBroken, match="no offer was made"):
        await run_check(check_named("a_dial_is_bounded"), lambda: wired(Mute()))


def test_every_check_has_a_promise_and_a_name_of_its_own() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(len(check.promise) > 20 for check in CHECKS)


def test_each_kind_of_fault_that_the_kit_promises_to_find_is_there() -> None:
    named = {broken.__name__ for broken, _ in BROKEN}
    assert named >= {"Dropping", "Reordering", "Doubling", "Truncating", "Swallowing", "Hoarding"}
