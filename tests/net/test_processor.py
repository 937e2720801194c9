"""The processor is yielded to others, but not for ever to those that compute."""

from __future__ import annotations

import sys

import pytest

from tunnelkit.net import processor
from tunnelkit.net.processor import LONG, MOST_OWED, OWED, RETURNS, RETURNS_OF_LONG, Processor

pytestmark = pytest.mark.interpreted  # the clock and the system's call are replaced


class Machine:
    """A clock, and others that take ``taken`` seconds each time."""

    def __init__(self) -> None:
        self.time = 100.0
        self.taken = 0.0
        self.yielded = 0

    def monotonic(self) -> float:
        return self.time

    def sched_yield(self) -> None:
        self.yielded += 1
        self.time += self.taken


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(processor, "monotonic", machine.monotonic)
    monkeypatch.setattr(processor, "_yield", machine.sched_yield)
    return machine


def given(machine: Machine, here: Processor, *, seconds: float) -> float:
    """The share of its time that a program gives away, if it works for 0.1 ms in between."""
    began, before = machine.time, machine.yielded
    while machine.time < began + seconds:
        here.yield_now()
        machine.time += 0.0001
    return (machine.yielded - before) * machine.taken / (machine.time - began)


def test_it_is_yielded_each_time_while_the_others_are_short(machine: Machine) -> None:
    here = Processor()
    machine.taken = 0.00002
    assert given(machine, here, seconds=1) == pytest.approx(1 / 6)
    assert machine.yielded == pytest.approx(1 / 0.00012, rel=0.01)


@pytest.mark.parametrize("taken", [0.0002, 0.001, 0.9 * LONG])
def test_a_quarter_of_the_time_is_given_away_at_most_in_however_small_pieces(machine: Machine, taken: float) -> None:
    here = Processor()
    machine.taken = taken
    assert given(machine, here, seconds=10) == pytest.approx(1 / (1 + RETURNS), rel=0.05)


@pytest.mark.parametrize("taken", [1.1 * LONG, 2 * LONG, 0.1, 0.2])
def test_a_twentieth_of_it_to_those_that_compute(machine: Machine, taken: float) -> None:
    here = Processor()
    machine.taken = taken
    assert given(machine, here, seconds=100) == pytest.approx(1 / (1 + RETURNS_OF_LONG), rel=0.05)


def test_after_a_long_one_it_is_not_yielded_until_the_work_is_done_that_it_is_owed(machine: Machine) -> None:
    here = Processor()
    machine.taken = 2 * LONG
    here.yield_now()
    machine.time += RETURNS_OF_LONG * 2 * LONG - OWED - 0.001
    here.yield_now()
    assert machine.yielded == 1
    machine.time += 0.002
    here.yield_now()
    assert machine.yielded == 2


def test_a_machine_that_stood_still_is_forgotten_soon(machine: Machine) -> None:
    here = Processor()
    machine.taken = 3600.0
    here.yield_now()
    machine.taken = 0.0
    machine.time += MOST_OWED
    here.yield_now()
    assert machine.yielded == 2


def test_where_the_system_refuses_it_is_not_asked_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse() -> None:
        asked.append(machine.time)
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(processor, "_yield", refuse)
    here = Processor()
    for _ in range(3):
        here.yield_now()
    assert len(asked) == 1


def test_where_the_system_has_no_such_call(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_yield", None)
    Processor().yield_now()
    assert machine.yielded == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sched_yield")
def test_the_systems_own_call_comes_back() -> None:
    here = Processor()
    for _ in range(3):
        here.yield_now()
    assert processor._yield is not None
