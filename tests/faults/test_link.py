"""The link between the ends goes down and up, in network namespaces, while callers run: short forms."""

from __future__ import annotations

import anyio
import pytest

from .callers import crowd
from .ends import Tunnel
from .places import Surroundings
from .scenarios import SHORT_FORM, leaves_nothing, link_lost

pytestmark = [pytest.mark.anyio, pytest.mark.programs]


@pytest.mark.parametrize("seconds", [SHORT_FORM.brief, SHORT_FORM.long], ids=["within-the-grace", "for-longer"])
async def test_callers_are_told_the_truth_and_served_again(
    linked: tuple[Tunnel, Surroundings], seconds: float
) -> None:
    tunnel, around = linked
    with anyio.fail_after(45):
        await crowd(tunnel)
        start = await tunnel.at_rest()
        report = await leaves_nothing(tunnel, start, link_lost(around.link, seconds), SHORT_FORM)
        print(report)
