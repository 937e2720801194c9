"""The processor is offered to others, but not for ever to those that compute."""

from __future__ import annotations

import sys

import pytest

from tunnelkit.net import processor
from tunnelkit.net.processor import LONG, REST, ProcessorOffer

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


def test_each_offer_is_made_while_they_are_short(machine: Machine) -> None:
    offer = ProcessorOffer()
    machine.taken = LONG / 2
    for _ in range(100):
        offer.make()
    assert machine.offers == 100


def test_after_one_that_was_long_none_is_made_for_many_times_as_long(machine: Machine) -> None:
    offer = ProcessorOffer()
    machine.taken = 2 * LONG
    offer.make()
    machine.time += REST * 2 * LONG * 0.99
    offer.make()
    assert machine.offers == 1
    machine.time += REST * 2 * LONG * 0.02
    offer.make()
    assert machine.offers == 2


def test_at_most_a_twentieth_of_the_time_is_given_to_who_computes(machine: Machine) -> None:
    offer = ProcessorOffer()
    machine.taken = 2 * LONG
    began = machine.time
    while machine.time < began + 10:
        offer.make()
        machine.time += 0.0001  # what a turn takes
    assert machine.offers * machine.taken <= 10 / REST


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
