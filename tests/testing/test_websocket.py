"""The websocket transport keeps the contract."""

from __future__ import annotations

import ssl
from contextlib import AbstractAsyncContextManager

import pytest

from tunnelkit.testing import Check, Wires, wired
from tunnelkit.transports.websocket import WebSocketTransport
from tunnelkit.transports.websocket import connection as websocket_connection

from .keeping import close_timeout, each_check, keeps

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _short_close(monkeypatch: pytest.MonkeyPatch, check: Check) -> None:
    monkeypatch.setattr(websocket_connection, "CLOSE_TIMEOUT", close_timeout(check, 0.1))


@each_check
async def test_over_tcp(check: Check) -> None:
    await keeps(check, lambda: wired(WebSocketTransport()))


@each_check
async def test_over_tls(check: Check, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    def maker() -> AbstractAsyncContextManager[Wires]:
        return wired(WebSocketTransport(), server_ssl=server_ssl_context, client_ssl=client_ssl_context)

    await keeps(check, maker)
