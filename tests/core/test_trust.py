"""Which peers are believed about their callers."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunnelkit.core.trust import TrustedProxies
from tunnelkit.errors import ConfigError
from tunnelkit.forwarding import client_address


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


NETWORKS = ["10.0.0.0/8", "fd00::/8"]
ADDRESSES = st.ip_addresses().map(str) | st.integers(0, 255).map("10.0.0.{}".format)
HOPS = st.lists(ADDRESSES | ADDRESSES.map("[{}]:80".format) | st.text(max_size=12) | st.just(""), max_size=6)


@given(HOPS, st.sampled_from(["10.0.0.1", "::ffff:10.0.0.1", "203.0.113.9"]))
@example([",,,", ","], "10.0.0.1")  # CVE-2026-46527: commas alone
@example(["1.2.3.4%eth0", "fe80::1%eth0"], "10.0.0.1")
def test_whoever_is_believed_is_an_address(hops: list[str], peer: str) -> None:
    """X-Forwarded-For of any bytes gives the peer itself, or an address that trusted proxies vouch for."""
    trusted = TrustedProxies(NETWORKS)
    value = ", ".join(hops).encode("utf-8", "surrogatepass")
    found = client_address([(b"X-Forwarded-For", value)], peer, trusted)
    if found != peer:
        assert trusted(peer)
        ipaddress.ip_address(found)
    alone = client_address([(b"X-Forwarded-For", value), (b"X-Forwarded-For", b"203.0.113.7")], peer, trusted)
    assert alone == ("203.0.113.7" if trusted(peer) else peer), "what stands left of a stranger is not read"


@given(st.text(max_size=30))
def test_any_text_is_a_network_or_a_mistake(text: str) -> None:
    with suppress(ConfigError):
        assert TrustedProxies([text])
    TrustedProxies(NETWORKS)(text)
