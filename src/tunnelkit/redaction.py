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
# Services have names of their own for theirs: X-Auth-Token, Private-Token, apikey, X-Amz-Security-Token.
_SECRET_WORD: Final = re.compile(
    r"(?:^|[-_])(?:authorization|auth|cookie|(?:api|access|auth|subscription)[-_]?key|passw(?:or)?d|secret|"
    r"session[-_]?id|signature|token)(?:$|[-_])"
)

_TOKEN = re.compile(r"((?:/|%2[Ff])(?:_|%5[Ff])token(?:/|%2[Ff]))[^/?#]+")
_USERINFO = re.compile(r"(?<=://)[^/?#@\s]+(?=@)")


def redacted(fields: Fields) -> list[tuple[str, str]]:
    """Names and values as text. Whole values of ``SECRET_FIELDS`` go, and of what is named as such fields are; in the
    others tokens in paths and the user of a URL, wherever they stand (Referer, Location)."""
    return [_redacted(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def _redacted(name: str, value: str) -> tuple[str, str]:
    lowered = name.lower()
    if lowered in SECRET_FIELDS or _SECRET_WORD.search(lowered):
        return name, REDACTED
    return name, _USERINFO.sub(REDACTED, redacted_path(value))


def redacted_target(target: bytes) -> str:
    return redacted_path(target.decode("latin-1"))


def redacted_path(text: str) -> str:
    return _TOKEN.sub(rf"\1{REDACTED}", text)
