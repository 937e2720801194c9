"""Tokens: which are valid, and how they may be shown."""

from __future__ import annotations

import hashlib
import re

from ..errors import ConfigError

__all__ = [
    "TOKEN_MAX",
    "TOKEN_MIN",
    "check_token",
    "is_token",
    "mask_token",
    "token_digest",
    "token_names",
    "token_tag",
]

TOKEN_MIN = 16
TOKEN_MAX = 256
SHOWN = 8

# Visible ASCII, without ":" (which separates a password) and "," (which separates tokens in lists).
_TOKEN = re.compile(rf"[!-+\--9;-~]{{{TOKEN_MIN},{TOKEN_MAX}}}")


def is_token(token: str) -> bool:
    """Whether ``token`` can be one at all."""
    return _TOKEN.fullmatch(token) is not None


def check_token(token: str) -> None:
    """Raise ``ConfigError``, which shows nothing of the token, unless it can be one: 16 to 256 visible ASCII
    characters without ``:`` and ``,``.

        >>> check_token("a-secret-of-16-letters")
        >>> check_token("too short")
        Traceback (most recent call last):
        tunnelkit.errors.ConfigError: token: is too short: it must have at least 16 characters; make one with: ...
    """
    if is_token(token):
        return
    if len(token) < TOKEN_MIN:
        raise ConfigError("token", f"is too short: it must have at least {TOKEN_MIN} characters", _FIX)
    if len(token) > TOKEN_MAX:
        raise ConfigError("token", f"is too long: it may have at most {TOKEN_MAX} characters", _FIX)
    raise ConfigError("token", "may hold visible ASCII characters only, without ':' and ','", _FIX)


_FIX = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def mask_token(token: str) -> str:
    """The first 8 characters and "..."; nothing of what is too short to be a token.

    >>> mask_token("a-secret-of-16-letters")
    'a-secret...'
    """
    return f"{token[:SHOWN]}..." if len(token) >= TOKEN_MIN else "..."


def token_digest(token: str) -> bytes:
    """What tokens are stored and compared by: looking a digest up tells nothing by its timing."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def token_tag(token: str) -> str:
    """``mask_token`` with "#" and 6 hex digits of the digest, so that logs tell equal beginnings apart."""
    return token_names(token)[1]


def token_names(token: str) -> tuple[bytes, str]:
    """``token_digest`` and ``token_tag``."""
    digest = token_digest(token)
    return digest, f"{mask_token(token)}#{digest[:3].hex()}"
