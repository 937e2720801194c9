"""Either end is killed, or the server is started again in order, while callers run: short forms."""

from __future__ import annotations

import anyio
import pytest

from .ends import Figures, Tunnel
from .scenarios import SHORT_FORM, Fault, client_killed, leaves_nothing, server_killed, server_restarted

pytestmark = [pytest.mark.anyio, pytest.mark.programs]


@pytest.mark.parametrize("fault", [server_killed, client_killed, server_restarted])
async def test_callers_are_told_the_truth_and_served_again(
    tunnel: Tunnel, start: dict[str, Figures], fault: Fault
) -> None:
    with anyio.fail_after(45):
        report = await leaves_nothing(tunnel, start, fault, SHORT_FORM)
        print(report)
