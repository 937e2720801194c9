"""Which proxy to dial through, if any: from an argument, or from the environment with ``NO_PROXY``.

Decisions only; ``proxy_handshake`` speaks to the proxy. Userinfo is a secret: it appears in no repr and no error.
"""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import ConfigError

__all__ = ["Proxy", "bypasses_proxy", "choose_proxy"]

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_FIX = "give http://[user:password@]host[:port], https://, socks5://, socks5h://, socks4:// or socks4a://"


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """A proxy. ``scheme`` is http, https (TLS to the proxy), socks4 or socks5."""

    scheme: str
    host: str
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    remote_dns: bool = True  # False: names are resolved on this side (socks4://, socks5://)

    def __str__(self) -> str:
        """The URL without userinfo, for messages."""
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"

    @property
    def authorization(self) -> str:
        """The value of Proxy-Authorization for an HTTP proxy (RFC 7617), "" where the URL has no userinfo."""
        if not (self.username or self.password):
            return ""
        return f"Basic {b64encode(f'{self.username}:{self.password}'.encode()).decode('ascii')}"

    @classmethod
    def parse(cls, url: str, *, field: str = "proxy") -> Proxy:
        """Raises ``ConfigError`` naming ``field``, without the URL's text: it may hold a password."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            raise ConfigError(field, "is no URL of a proxy", _FIX) from None
        if parts.scheme not in _DEFAULT_PORTS:
            raise ConfigError(field, "has a scheme that is no proxy's", _FIX)
        if not parts.hostname or port == 0:
            raise ConfigError(field, "names no host", _FIX)
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigError(field, "must end after the port", "percent-encode /, ?, # and @ in its password")
        return cls(
            scheme=parts.scheme.removesuffix("a").removesuffix("h"),
            host=parts.hostname,
            port=port or _DEFAULT_PORTS[parts.scheme],
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            remote_dns=parts.scheme not in ("socks4", "socks5"),
        )


def choose_proxy(url: str, explicit: str | Proxy | None, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for a connection to ``url``'s host, or None for a direct one.

    ``explicit`` goes before the environment; "" means: none, whatever the environment says. ``NO_PROXY`` and the
    exception for loopback belong to the environment alone. Raises ``ConfigError``.
    """
    if isinstance(explicit, Proxy):
        return explicit
    if explicit is not None:
        return Proxy.parse(explicit) if explicit else None
    parts = urlsplit(url)
    name = _variable_for(parts.scheme, environ)
    if name is None or _goes_direct(parts, environ):
        return None
    return Proxy.parse(environ[name], field=name)


def _variable_for(scheme: str, environ: Mapping[str, str]) -> str | None:
    """The name of the environment's variable that counts, lower case first, as curl has it."""
    names = ["https_proxy", "HTTPS_PROXY"] if scheme in ("https", "wss") else ["http_proxy", "HTTP_PROXY"]
    if "REQUEST_METHOD" in environ and "HTTP_PROXY" in names:
        # Under CGI a caller sets HTTP_PROXY by a header named Proxy (httpoxy, CVE-2016-5385).
        names = names[:1]
    return next((name for name in (*names, "all_proxy", "ALL_PROXY") if environ.get(name)), None)


def _goes_direct(parts: SplitResult, environ: Mapping[str, str]) -> bool:
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    return _is_loopback(host) or bypasses_proxy(host, port, environ.get("no_proxy") or environ.get("NO_PROXY", ""))


def _is_loopback(host: str) -> bool:
    name = host.lower().rstrip(".")
    address = _address(name)
    return address.is_loopback if address else name == "localhost" or name.endswith(".localhost")


def bypasses_proxy(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``NO_PROXY``'s value covers the host: names with all names below them, addresses, networks (CIDR),
    each with an optional port, and ``*`` for everything."""
    name = host.lower().rstrip(".")
    return any(_covers(entry, name, port) for entry in no_proxy.lower().replace(",", " ").split())


def _covers(entry: str, name: str, port: int) -> bool:
    if entry == "*":
        return True
    pattern, only_port = _split_port(entry)
    if only_port and only_port != str(port):
        return False
    address = _address(name)
    if address is not None:
        network = _network(pattern)
        return network is not None and address in network
    suffix = pattern.removeprefix("*").removeprefix(".").rstrip(".")
    return bool(suffix) and (name == suffix or name.endswith(f".{suffix}"))


def _split_port(entry: str) -> tuple[str, str]:
    """("host", "port" or ""): of host:port, [v6]:port, [v6] or a bare v6 address or network."""
    if entry.startswith("["):
        inside, _, rest = entry[1:].partition("]")
        return inside, rest.removeprefix(":")
    if entry.count(":") > 1:
        return entry, ""
    pattern, _, port = entry.partition(":")
    return pattern, port


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
