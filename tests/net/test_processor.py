"""The processor is offered to others, but not for ever to those that compute."""

from __future__ import annotations

import sys

import pytest

from tunnelkit.net import processor
from tunnelkit.net.processor import LONG, MOST_OWED, OWED, RETURNS, RETURNS_OF_LONG, ProcessorOffer

pytestmark = pytest.mark.interpreted  # the clock and the system's call are replaced


class Machine:
    """A clock, and others that take ``taken`` seconds of each offer."""

    def __init__(self) -> None:
        self.time = 100.0
        self.taken = 0.0
        self.offers = 0

    def monotonic(self) -> float:
        return self.time

    def sched_yield(self) -> None:
        self.offers += 1
        self.time += self.taken


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(processor, "monotonic", machine.monotonic)
    monkeypatch.setattr(processor, "_yield", machine.sched_yield)
    return machine


def given(machine: Machine, offer: ProcessorOffer, *, seconds: float) -> float:
    """The share of its time that a program gives away, if it works for 0.1 ms between its offers."""
    began, before = machine.time, machine.offers
    while machine.time < began + seconds:
        offer.make()
        machine.time += 0.0001
    return (machine.offers - before) * machine.taken / (machine.time - began)


def test_each_offer_is_made_while_those_before_were_short(machine: Machine) -> None:
    offer = ProcessorOffer()
    machine.taken = 0.00002
    assert given(machine, offer, seconds=1) == pytest.approx(1 / 6)
    assert machine.offers == pytest.approx(1 / 0.00012, rel=0.01)


@pytest.mark.parametrize("taken", [0.0002, 0.001, 0.9 * LONG])
def test_a_quarter_of_the_time_is_given_away_at_most_in_however_small_pieces(machine: Machine, taken: float) -> None:
    offer = ProcessorOffer()
    machine.taken = taken
    assert given(machine, offer, seconds=10) == pytest.approx(1 / (1 + RETURNS), rel=0.05)


@pytest.mark.parametrize("taken", [1.1 * LONG, 2 * LONG])
def test_a_twentieth_of_it_to_those_that_compute(machine: Machine, taken: float) -> None:
    offer = ProcessorOffer()
    machine.taken = taken
    assert given(machine, offer, seconds=10) == pytest.approx(1 / (1 + RETURNS_OF_LONG), rel=0.05)


def test_after_a_long_one_none_is_made_until_the_work_is_done_that_it_is_owed(machine: Machine) -> None:
    offer = ProcessorOffer()
    machine.taken = 2 * LONG
    offer.make()
    machine.time += RETURNS_OF_LONG * 2 * LONG - OWED - 0.001
    offer.make()
    assert machine.offers == 1
    machine.time += 0.002
    offer.make()
    assert machine.offers == 2


def test_a_machine_that_stood_still_is_forgotten_soon(machine: Machine) -> None:
    offer = ProcessorOffer()
    machine.taken = 3600.0
    offer.make()
    machine.taken = 0.0
    machine.time += MOST_OWED
    offer.make()
    assert machine.offers == 2


def test_where_the_system_refuses_none_is_made_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse() -> None:
        asked.append(machine.time)
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(processor, "_yield", refuse)
    offer = ProcessorOffer()
    for _ in range(3):
        offer.make()
    assert len(asked) == 1


def test_where_the_system_has_no_such_call_none_is_made(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_yield", None)
    ProcessorOffer().make()
    assert machine.offers == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sched_yield")
def test_the_systems_own_call_comes_back() -> None:
    offer = ProcessorOffer()
    for _ in range(3):
        offer.make()
    assert processor._yield is not None
