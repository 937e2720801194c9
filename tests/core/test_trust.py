"""Which peers are believed about their callers."""

from __future__ import annotations

import pytest

from tunnelkit.core.trust import TrustedProxies
from tunnelkit.errors import ConfigError


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("::ffff:10.1.2.3", True),  # an IPv4 peer on a socket of both families
        ("", False),
        ("10.1.2.3.evil", False),
    ],
)
def test_addresses(address: str, trusted: bool) -> None:
    trusts = TrustedProxies(["10.0.0.0/8", " 192.0.2.7", "2001:db8::/32"])
    assert trusts(address) is trusted


def test_nobody_is_trusted_by_default() -> None:
    trusts = TrustedProxies()
    assert not trusts
    assert not trusts("127.0.0.1")


def test_what_it_says_of_itself() -> None:
    trusts = TrustedProxies(["10.1.2.3/8"])
    assert trusts
    assert repr(trusts) == "<TrustedProxies 10.0.0.0/8>"


def test_garbage_names_the_field() -> None:
    with pytest.raises(ConfigError, match=r"trusted_proxies: 'proxy.example' is no address"):
        TrustedProxies(["proxy.example"])
