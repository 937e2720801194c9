"""Which addresses lie on the public Internet: the refusal of all others keeps callers' X-Host out of networks that
only this machine can reach (server-side request forgery).

The tables are written out, from the IANA special-purpose address registries (RFC 6890), because ``ipaddress`` changed
its mind about several of these networks between Python's releases.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

__all__ = ["is_public"]

_NOT_PUBLIC_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # "this network": 0.0.0.0 connects to this machine
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT (RFC 6598), and some clouds' metadata
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; 169.254.169.254 tells clouds' credentials
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
# All else, such as fc00::/7, fe80::/10, fec0::/10 and ::1, is outside it.
_GLOBAL_UNICAST_V6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_V6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocols, among them Teredo, which carries an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries an IPv4 address too, and nobody needs it any more (RFC 7526)
        "3fff::/20",
    )
)
# NAT64 (RFC 6052 2.1): the last 32 bits are the IPv4 address that is reached.
_NAT64: Final = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address, as a resolver gives it (an IPv6 zone may follow), is anybody's to reach.

    What is no address is not public. An IPv4 address inside an IPv6 one is judged by itself.
    """
    text = address.partition("%")[0]
    try:
        parsed = IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError:
        return False
    if isinstance(parsed, IPv6Address):
        carried = _carried(parsed)
        if carried is None:
            return parsed in _GLOBAL_UNICAST_V6 and not any(parsed in network for network in _NOT_PUBLIC_V6)
        parsed = carried
    return not any(parsed in network for network in _NOT_PUBLIC_V4)


def _carried(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped
