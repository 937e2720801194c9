"""What is shown of heads to people: without credentials. Pure."""

from __future__ import annotations

import re
from typing import Final

from .heads import Fields

__all__ = ["REDACTED", "SECRET_FIELDS", "redacted", "redacted_target"]

REDACTED: Final = "[redacted]"

# Fields whose values are credentials (RFC 9110 11, RFC 6265), or tunnelkit's own secrets.
SECRET_FIELDS: Final = frozenset(
    {
        *("authorization", "proxy-authorization", "authentication-info", "proxy-authentication-info"),
        *("cookie", "set-cookie", "x-token", "x-api-key", "x-csrf-token"),
        *("tunnelkit-token", "tunnelkit-password"),
    }
)

_TOKEN = re.compile(r"((?:/|%2[Ff])(?:_|%5[Ff])token(?:/|%2[Ff]))[^/?#]+")


def redacted(fields: Fields) -> list[tuple[str, str]]:
    """Names and values as text. Whole values of ``SECRET_FIELDS`` go, and tokens in paths wherever they stand
    (Referer, Location)."""
    return [_redacted(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def _redacted(name: str, value: str) -> tuple[str, str]:
    return name, REDACTED if name.lower() in SECRET_FIELDS else redacted_path(value)


def redacted_target(target: bytes) -> str:
    return redacted_path(target.decode("latin-1"))


def redacted_path(text: str) -> str:
    return _TOKEN.sub(rf"\1{REDACTED}", text)
