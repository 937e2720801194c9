"""HTTP heads: what they are, which are valid, and how a gateway rewrites them (RFC 9110, 9112). A leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Fields", "RequestHead", "ResponseHead"]

# Field lines in order, names in the sender's case, values without surrounding whitespace.
Fields: TypeAlias = list[tuple[bytes, bytes]]


@dataclass(slots=True, eq=True)
class RequestHead:
    method: bytes
    target: bytes  # as it stood on the request line
    fields: Fields
    version: bytes = b"1.1"  # "1.0" or "1.1"


@dataclass(slots=True, eq=True)
class ResponseHead:
    status: int  # 1xx: an interim response
    fields: Fields
    reason: bytes = b""
    version: bytes = b"1.1"
