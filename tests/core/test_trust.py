from __future__ import annotations

import pytest

from tunnelkit.core.trust import TrustedProxies
from tunnelkit.errors import ConfigError


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.0.0.1", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("::ffff:10.1.2.3", True),  # how a dual-stack socket names an IPv4 peer
        ("::ffff:11.0.0.1", False),
        ("2001:db8::5", True),
        ("2001:db9::5", False),
        ("", False),  # a unix socket's peer
        ("proxy.example.com", False),
    ],
)
def test_who_is_trusted(address: str, trusted: bool) -> None:
    assert TrustedProxies(["10.0.0.0/8", " 192.0.2.7 ", "2001:db8::/32"])(address) is trusted


def test_nobody_is_trusted_by_default() -> None:
    trusts = TrustedProxies()
    assert not trusts
    assert not trusts("127.0.0.1")


def test_it_shows_what_it_trusts() -> None:
    trusts = TrustedProxies(["10.1.2.3/8"])
    assert trusts
    assert repr(trusts) == "<TrustedProxies 10.0.0.0/8>"


def test_what_is_no_network() -> None:
    with pytest.raises(ConfigError, match="'here' is no address or network") as raised:
        TrustedProxies(["here"], field="trusted_proxy")
    assert raised.value.field == "trusted_proxy"
