from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.addresses import is_public


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "2a00:1450::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ],
)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1"),
        *("127.255.255.255", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1"),
        *("198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fe80::1%2", "fec0::1", "fc00::1", "fd00::1", "fd00:ec2::254"),
        *("ff02::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "3fff::1", "4000::1"),
        # IPv4 inside IPv6: mapped, NAT64, and the local use of NAT64, whose prefix tells nothing (RFC 8215).
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b:1::8.8.8.8", "::127.0.0.1", "::8.8.8.8"),
        # No addresses, or spellings that a resolver never gives.
        *("", "localhost", "0", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "1.1.1.1 ", "[::1]", "1.1.1.1/8"),
        *("/run/x.sock", "%", "::1::"),
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses())
def test_never_more_than_the_library_of_python_allows(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(str(address)):
        assert not address.is_loopback
        assert not address.is_link_local
        assert not address.is_multicast
        assert not address.is_unspecified
        inner = int(address) & 0xFFFF_FFFF
        carried = address in ipaddress.ip_network("64:ff9b::/96") or getattr(address, "ipv4_mapped", None)
        assert not (ipaddress.IPv4Address(inner) if carried else address).is_private


@given(st.ip_addresses(v=4))
def test_inside_ipv6_an_address_is_judged_alike(address: ipaddress.IPv4Address) -> None:
    assert is_public(f"::ffff:{address}") == is_public(f"64:ff9b::{address}") == is_public(str(address))


@given(st.text(max_size=50))
def test_anything_is_judged(text: str) -> None:
    assert is_public(text) in (True, False)
