"""What ``/_stats`` says, rendered from a plain snapshot: WStunnel's text, or JSON for who asks for it.

``docs/stats.md`` explains every field. Nothing here knows a full token: rows carry them masked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from .logs import printable

__all__ = [
    "ServerSnapshot",
    "TokenClients",
    "TunnelRow",
    "prefers_json",
    "render_json",
    "render_stats",
    "render_text",
]

DEAD_AFTER = 60.0  # seconds of silence that make a tunnel count as dead, as WStunnel counts
MORE = "More stats available when called from localhost..."


@dataclass(frozen=True, kw_only=True, slots=True)
class TunnelRow:
    """One session."""

    token: str  # masked: "my_token..."
    req_pending: int
    tun_addr: str
    tun_dns: str = ""
    client_version: str = ""
    idle_secs: float = 0.0
    cli_addr: str = ""  # of the caller that is being served, where there is one


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenClients:
    """How many clients a token has now."""

    prefix: str  # the token's first 8 characters
    digest: str  # 6 hex digits of its digest
    clients: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSnapshot:
    """The server at one moment."""

    tunnels: int  # tokens with a session
    total_clients: int  # attached sessions
    max_requests_per_tunnel: int
    max_clients_per_token: int  # 0: unlimited
    req_pending: int = 0
    token_clients: Sequence[TokenClients] = ()
    rows: Sequence[TunnelRow] = ()


def render_stats(snapshot: ServerSnapshot, *, accept: str = "", details: bool) -> tuple[str, bytes]:
    """(content type, body). Without ``details`` nothing is told that belongs to a single token."""
    if prefers_json(accept):
        return "application/json", render_json(snapshot, details=details)
    return "text/plain; charset=utf-8", render_text(snapshot, details=details)


# -- text -------------------------------------------------------------------------------------


def render_text(snapshot: ServerSnapshot, *, details: bool) -> bytes:
    return "".join(f"{line}\n" for line in _lines(snapshot, details)).encode()


def _lines(snapshot: ServerSnapshot, details: bool) -> Iterator[str]:
    yield f"tunnels={snapshot.tunnels}"
    yield f"max_requests_per_tunnel={snapshot.max_requests_per_tunnel}"
    yield f"max_clients_per_token={snapshot.max_clients_per_token}"
    if details:
        yield from (f"token_clients_{name}={count}" for name, count in _token_clients(snapshot).items())
    yield f"total_clients={snapshot.total_clients}"
    if not details:
        yield MORE
        return
    for number, row in enumerate(snapshot.rows):
        yield ""
        yield from _row_lines(f"tunnel{number:02d}", row)
    yield ""
    yield f"req_pending={snapshot.req_pending}"
    yield f"dead_tunnels={_dead(snapshot)}"


def _row_lines(name: str, row: TunnelRow) -> Iterator[str]:
    yield f"{name}_token={printable(row.token)}"
    yield f"{name}_req_pending={row.req_pending}"
    yield f"{name}_tun_addr={printable(row.tun_addr)}"
    if row.tun_dns:
        yield f"{name}_tun_dns={printable(row.tun_dns)}"
    if row.client_version:
        yield f"{name}_client_version={printable(row.client_version)}"
    yield f"{name}_idle_secs={row.idle_secs:.1f}"
    if row.cli_addr:
        yield f"{name}_cli_addr={printable(row.cli_addr)}"


def _token_clients(snapshot: ServerSnapshot) -> dict[str, int]:
    """The clients of each token by a key of its own; only where there is a limit to compare them with."""
    if not snapshot.max_clients_per_token:
        return {}
    seen = Counter(entry.prefix for entry in snapshot.token_clients)
    counts: dict[str, int] = {}
    for entry in snapshot.token_clients:
        name = entry.prefix if seen[entry.prefix] == 1 else f"{entry.prefix}_{entry.digest}"
        counts[printable(name).replace("=", "%3D")] = entry.clients
    return counts


def _dead(snapshot: ServerSnapshot) -> int:
    return sum(row.idle_secs > DEAD_AFTER for row in snapshot.rows)


# -- JSON -------------------------------------------------------------------------------------


def render_json(snapshot: ServerSnapshot, *, details: bool) -> bytes:
    document: dict[str, object] = {
        "tunnels": snapshot.tunnels,
        "max_requests_per_tunnel": snapshot.max_requests_per_tunnel,
        "max_clients_per_token": snapshot.max_clients_per_token,
        "total_clients": snapshot.total_clients,
    }
    if details:
        document["token_clients"] = _token_clients(snapshot)
        document["sessions"] = [_members(row) for row in snapshot.rows]
        document["req_pending"] = snapshot.req_pending
        document["dead_tunnels"] = _dead(snapshot)
    return json.dumps(document, indent=1).encode() + b"\n"


def _members(row: TunnelRow) -> dict[str, object]:
    members = {field.name: getattr(row, field.name) for field in fields(row)}
    return members | {"idle_secs": round(row.idle_secs, 1)}


def prefers_json(accept: str) -> bool:
    """Whether an Accept header (RFC 9110 12.5.1) likes JSON better than plain text; text wins a tie."""
    ranges = [_media_range(part) for part in accept.split(",")]
    return _quality(ranges, "application", "json") > _quality(ranges, "text", "plain")


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = part.split(";")
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.strip().partition("=")
        if key.lower() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return name.strip().lower(), quality


def _quality(ranges: Sequence[tuple[str, float]], kind: str, subtype: str) -> float:
    """The quality of the most specific range that matches."""
    for pattern in (f"{kind}/{subtype}", f"{kind}/*", "*/*"):
        for name, quality in ranges:
            if name == pattern:
                return quality
    return 0.0
