"""Either end is stopped (SIGSTOP), for less and for more than the grace, while callers run: short forms."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from .ends import Figures, Tunnel
from .scenarios import SHORT_FORM, LongFault, client_paused, leaves_nothing, server_paused

pytestmark = [pytest.mark.anyio, pytest.mark.programs]


@pytest.mark.parametrize("seconds", [SHORT_FORM.brief, SHORT_FORM.long], ids=["within-the-grace", "for-longer"])
@pytest.mark.parametrize("fault", [server_paused, client_paused])
async def test_callers_are_told_the_truth_and_served_again(
    tunnel: Tunnel, start: dict[str, Figures], fault: LongFault, seconds: float
) -> None:
    with anyio.fail_after(45):
        report = await leaves_nothing(tunnel, start, partial(fault, seconds=seconds), SHORT_FORM)
        print(report)
