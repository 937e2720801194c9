"""Which peers are proxies of the operator's own, believed about their callers."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from ..errors import ConfigError

__all__ = ["TrustedProxies"]


class TrustedProxies:
    """Networks or addresses, as text. Calling it with an address tells whether it is one of them."""

    def __init__(self, networks: Sequence[str] = (), *, field: str = "trusted_proxies") -> None:
        self._networks = [_parse(network, field) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __repr__(self) -> str:
        return f"<TrustedProxies {', '.join(map(str, self._networks))}>"

    def __call__(self, address: str) -> bool:
        if not self._networks:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self._networks)


def _parse(text: str, field: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ConfigError(field, f"{text!r} is no address or network", "give something like 10.0.0.0/8") from None
