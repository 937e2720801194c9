"""The long-poll transport keeps the contract, in both modes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.testing import Check, wired
from tunnelkit.transports.longpoll import LongPollTransport
from tunnelkit.transports.longpoll import client_connection as longpoll_client_connection
from tunnelkit.transports.longpoll import server_connection as longpoll_server_connection

from .keeping import UNORDERED, close_timeout, each_check, keeps

pytestmark = pytest.mark.anyio

# A peer that vanished is noticed within the ten seconds of a check; one that nobody receives from for a while, on a
# busy machine, is not taken for one.
SHORT = replace(DEFAULT_LIMITS, poll_hold_idle=1.0, poll_hold_active=1.0, poll_absence=6.0, poll_answer_timeout=4.0)


@pytest.fixture(autouse=True)
def _short_close(monkeypatch: pytest.MonkeyPatch, check: Check) -> None:
    for module in (longpoll_client_connection, longpoll_server_connection):
        monkeypatch.setattr(module, "CLOSE_TIMEOUT", close_timeout(check, 0.3))


@pytest.mark.parametrize("mode", ["strict", pytest.param("streamed", marks=pytest.mark.full)])
@each_check
async def test_over_tcp(check: Check, mode: str) -> None:
    await keeps(check, lambda: wired(LongPollTransport(mode=mode, limits=SHORT), detection=20), not_for=UNORDERED)
