"""httpx is optional: whoever has none loses the transport for it, and is told what to install."""

from __future__ import annotations

import sys

import pytest

from tunnelkit import ConfigError, TunnelServer


def test_without_httpx_its_transport_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "tunnelkit.inside.httpx_transport", raising=False)
    server = TunnelServer("127.0.0.1:0")
    with pytest.raises(ConfigError, match=r"httpx_transport: httpx is not installed; .*tunnelkit\[httpx\]"):
        server.httpx_transport("a-token-for-the-tests")
