"""How an exchange ends without an answer, seen through another that stands around it."""

from __future__ import annotations

import pytest

from tunnelkit.origins.passing import PassingExchange

from .fakes import FakeExchange

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("sent", "told"), [(False, (502, "refused")), (True, (502, "tunnel_lost"))])
async def test_one_that_cannot_tell_how_far_it_came_answers_with_a_problem(sent: bool, told: tuple[int, str]) -> None:
    exchange = FakeExchange()
    PassingExchange(exchange).withdraw(sent=sent)
    assert exchange.sent == [told]
