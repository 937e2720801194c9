"""Who is at the other end of a socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Peer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Who is at the other end of a socket, as the server knows it."""

    address: str = ""  # the socket's peer
    port: int = 0
    tls: bool = False
    certificate: Mapping[str, object] | None = field(default=None, repr=False)
    forwarded_for: str = ""  # the address that counts for limits and logs after trusted proxies; else = address
    scheme: str = ""  # "http" or "https" as the other end sees it, where a trusted proxy said so
