"""Where a caller's request goes: a pure decision over its head (design, section 8, "Routes" and "Reserved").

Paths are compared and cut as bytes and passed on as they came: decoding, or cleaning "//" and "..", would make
a second reading of the target that checks elsewhere do not have.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from ..errors import ConfigError, HeadError
from ..heads import Fields, RequestHead, effective_host, split_target
from .allowlist import X_HOST_LIMIT
from .naming import BaseDomain, is_label, may_be_claimed
from .tokens import is_token

__all__ = [
    "NotFound",
    "Reserved",
    "Route",
    "RoutingConfig",
    "ToDestination",
    "ToName",
    "ToTunnel",
    "details_allowed",
    "is_loopback",
    "is_named",
    "normalise_base_path",
    "route",
    "without_token",
]


# -- answers -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reserved:
    """A path of the server's own. ``name`` is its first segment ("_stats"), ``rest`` the path below it ("" or
    with its leading slash; only ``_tunnel`` and ``_sessions`` have one), ``query`` what follows "?"."""

    name: str
    rest: bytes = b""
    query: bytes = b""


@dataclass(slots=True, init=False)  # one a request, and frozen ones take three times as long to make
class ToTunnel:
    """To the tunnel of the first of ``tokens`` that is known (as sent, then percent-decoded)."""

    tokens: tuple[str, ...]
    target: bytes
    x_host: bytes | None
    by_destination: bool  # wsp's way: x_host and target are the URL that was asked for

    def __init__(
        self, tokens: tuple[str, ...], target: bytes, x_host: bytes | None = None, by_destination: bool = False
    ) -> None:
        self.tokens = tokens
        self.target = target
        self.x_host = x_host
        self.by_destination = by_destination

    def __repr__(self) -> str:  # tokens are secrets, and the target may hold some
        return f"<ToTunnel x_host={self.x_host!r}>"


@dataclass(frozen=True, slots=True)
class ToName:
    """To the tunnel that has claimed ``name`` under the base domain."""

    name: str
    target: bytes
    x_host: bytes | None = None


@dataclass(frozen=True, slots=True)
class ToDestination:
    """wsp's way: a URL in ``X-PROXY-DESTINATION``, fetched through the tunnel of a token."""

    tokens: tuple[str, ...]
    destination: bytes

    def __repr__(self) -> str:
        return "<ToDestination>"


@dataclass(frozen=True, slots=True)
class NotFound:
    """404; ``detail`` says what is missing."""

    detail: str


Route: TypeAlias = Reserved | ToTunnel | ToName | ToDestination | NotFound


# -- configuration -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingConfig:
    """Which routes are open. ``base_path`` stands in front of all: "" or "/one/two"."""

    base_path: str = ""
    health: bool = True
    stats: bool = True
    metrics: bool = True
    sessions: bool = True
    transports: bool = True
    token_path: bool = True
    token_header: bool = True
    base_domain: BaseDomain | None = None  # <name>.<base domain>
    own_host: str = ""  # below the base domain, and no name: where the server itself is reached
    wsp_path: str | None = None  # "/request"
    wsp_token: str | None = None  # the tunnel of such requests without X-Token
    own_paths: Mapping[str, str] = field(default_factory=dict)  # transports' own, with what they are below /_tunnel

    def __post_init__(self) -> None:
        if self.base_path != normalise_base_path(self.base_path):
            raise ConfigError("base_path", "must be normalised", "pass it through normalise_base_path")
        if self.wsp_token is not None and not is_token(self.wsp_token):
            raise ConfigError("wsp_token", "can be no token", "give the token of a tunnel client")
        if self.wsp_path in self.own_paths:
            raise ConfigError("wsp_path", f"{self.wsp_path} is a transport's path", "give another")

    def __repr__(self) -> str:
        domain = self.base_domain.host if self.base_domain is not None else None
        return f"<RoutingConfig base_path={self.base_path!r} base_domain={domain!r}>"

    def reserves(self, name: str) -> bool:
        return {
            "_health_check": self.health,
            "_stats": self.stats,
            "_metrics": self.metrics,
            "_sessions": self.sessions,
            "_tunnel": self.transports,
        }.get(name, False)


_BASE_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*")


def normalise_base_path(path: str, *, field: str = "base_path") -> str:
    """ "base", "/base/" and "/base" are the same; raises ``ConfigError`` for what is no plain path."""
    stripped = path.strip("/")
    normal = f"/{stripped}" if stripped else ""
    if _BASE_PATH.fullmatch(normal) is None or len(normal) > 256 or {".", ".."} & set(normal.split("/")):
        raise ConfigError(field, f"{path!r} is not a plain path", "give something like /tunnels")
    return normal


# -- the decision ------------------------------------------------------------------------------


def route(head: RequestHead, config: RoutingConfig) -> Route:
    """Where a validated request goes. Raises ``HeadError`` for one that names its tunnel twice."""
    _, target = split_target(head.target, head.method)
    below = _below_base(target, config.base_path.encode("ascii"))
    if below is None:
        return NotFound(f"everything here is below {config.base_path}/")
    names = [name.lower() for name, _ in head.fields]
    x_host = _x_host(head, names) if b"x-host" in names else None
    name = _name_of(head, config)
    if name is not None:  # on a name's host no path is ours
        return ToName(name, below, x_host) if may_be_claimed(name) else NotFound(_NOBODYS)
    return _reserved(below, config) or _by_token(head, names, below, x_host, config)


def _x_host(head: RequestHead, names: list[bytes]) -> bytes | None:
    """As it was sent: what it may name is the client's to judge. But a stream's OPEN has no room for anything."""
    value = _only(head, names, b"x-host", "X-Host")
    if value is not None and len(value) > X_HOST_LIMIT:
        raise HeadError(400, "bad_x_host", "X-Host is too long")
    return value


def _below_base(target: bytes, base: bytes) -> bytes | None:
    """The target without the base path; None when it is not below it."""
    if not base or target == b"*":
        return target
    if not target.startswith(base):
        return None
    below = target[len(base) :]
    if below[:1] in (b"", b"?"):
        return b"/" + below
    return below if below[:1] == b"/" else None


_WITH_PATHS = ("_tunnel", "_sessions")


def _reserved(target: bytes, config: RoutingConfig) -> Reserved | None:
    if not target.startswith(b"/_"):
        return None
    path, _, query = target.partition(b"?")
    first, slash, rest = path[1:].partition(b"/")
    name = first.decode("ascii", "replace")
    if not config.reserves(name) or (slash and name not in _WITH_PATHS):
        return None
    return Reserved(name, slash + rest, query)


def _by_token(
    head: RequestHead, names: list[bytes], target: bytes, x_host: bytes | None, config: RoutingConfig
) -> Route:
    if config.token_path and target.startswith(_TOKEN_PATH):
        return _by_token_path(target, x_host)
    header = _only(head, names, b"x-token", "X-Token") if config.token_header else None
    if config.wsp_path is not None and target.partition(b"?")[0] == config.wsp_path.encode("ascii"):
        destination = _only(head, names, b"x-proxy-destination", "X-PROXY-DESTINATION")
        if destination is not None:
            return _by_destination(destination, header, config)
        if header is None and config.wsp_token is not None:
            return NotFound("the X-PROXY-DESTINATION field is missing")
    if header is None:
        return _own(target, config) or NotFound(_MISSING)
    tokens = _candidates(header)
    return ToTunnel(tokens, target, x_host) if tokens else NotFound(_UNKNOWN)


def _own(target: bytes, config: RoutingConfig) -> Reserved | None:
    """A transport's path, where nobody is asked for."""
    mount = config.own_paths.get(target.partition(b"?")[0].decode("latin-1"))
    return Reserved("_tunnel", mount.encode("ascii")) if mount is not None and config.transports else None


_TOKEN_PATH = b"/_token/"
_MISSING = "the request names no tunnel: use /_token/<token>/<path> or the X-Token field"
_NOBODYS = "no tunnel can have the name of this host"
_UNKNOWN = "there is no tunnel with this token"  # said of malformed and of unknown ones alike


def _by_token_path(target: bytes, x_host: bytes | None) -> Route:
    raw, slash, rest = target[len(_TOKEN_PATH) :].partition(b"/")
    if not slash or b"?" in raw:
        # A "?" ends the path, so that a slash behind it is no part of it; a token may hold one percent-encoded.
        return NotFound("the path after the token is missing: use /_token/<token>/<path>")
    tokens = _candidates(raw, decode=True)
    return ToTunnel(tokens, b"/" + rest, x_host) if tokens else NotFound(_UNKNOWN)


def _by_destination(destination: bytes, token: bytes | None, config: RoutingConfig) -> Route:
    if token is None and config.wsp_token is not None:
        return ToDestination((config.wsp_token,), destination)
    if token is None:
        return NotFound("the X-Token field is missing")
    tokens = _candidates(token)
    return ToDestination(tokens, destination) if tokens else NotFound(_UNKNOWN)


def _candidates(raw: bytes, *, decode: bool = False) -> tuple[str, ...]:
    """The tokens that ``raw`` may mean, best first, without those that cannot be one."""
    texts = [raw.decode("latin-1")]
    if decode and b"%" in raw:
        decoded = unquote_to_bytes(raw).decode("latin-1")
        if decoded != texts[0]:
            texts.append(decoded)
    return tuple([text for text in texts if is_token(text)])


def _only(head: RequestHead, names: list[bytes], name: bytes, shown: str) -> bytes | None:
    """The value of a field that may come once: two would be read differently by two readers. ``names`` are those of
    the head's fields, in lower case."""
    count = names.count(name)
    if count > 1:
        raise HeadError(400, "bad_request", f"there is more than one {shown} field")
    return head.fields[names.index(name)][1] if count else None


def without_token(fields: Fields, base_path: str) -> Fields:
    """Fields in which Referer names the page that it came from as the origin knows it: without base path and token,
    as in the target. X-Host may lead a request to an origin that is not to learn the token."""
    if _TOKEN_PATH not in b"\n".join([value for _, value in fields]):
        return fields
    pattern = rb"\A((?i:https?)://[^/?#]*)%b/_token/[^/?#]*" % re.escape(base_path.encode("ascii"))
    return [
        (name, re.sub(pattern, rb"\1", value)) if name.lower() == b"referer" else (name, value)
        for name, value in fields
    ]


# -- hosts -------------------------------------------------------------------------------------


def _host_name(head: RequestHead) -> str:
    """The host in lower case, without port, brackets and trailing dot."""
    host = effective_host(head).decode("latin-1").lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def is_named(head: RequestHead, config: RoutingConfig) -> bool:
    """Whether the request is for a name's host, on which nothing is the server's own."""
    return _name_of(head, config) is not None


def _name_of(head: RequestHead, config: RoutingConfig) -> str | None:
    """What cannot be a name ("a.b", "_x") is none: such a host is the server's own, as any other."""
    if config.base_domain is None:
        return None
    host = _host_name(head)
    name = config.base_domain.name_of(host)
    return name if name is not None and is_label(name) and host != config.own_host else None


_ADDED_BY_PROXIES = frozenset({b"forwarded", b"via", b"x-real-ip"})


def details_allowed(head: RequestHead, peer_address: str) -> bool:
    """Whether reserved pages may show details without a credential.

    A loopback peer alone proves nothing: behind a local reverse proxy every caller is one (so no field that a
    proxy adds), and a page in a local browser is one by DNS rebinding (so Host must be a loopback literal)."""
    if not (is_loopback(peer_address) and is_loopback(_host_name(head))):
        return False
    names = [name.lower().replace(b"_", b"-") for name, _ in head.fields]
    return not any(name in _ADDED_BY_PROXIES or name.startswith(b"x-forwarded-") for name in names)


def is_loopback(address: str) -> bool:
    """Of an address, or of what a Host field names."""
    if address == "localhost":  # RFC 6761 6.3: never looked up by a browser, so never rebound
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
