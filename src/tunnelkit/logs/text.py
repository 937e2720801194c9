"""Text that peers sent, as it may stand in a log line: escaped, cut, and without secrets."""

from __future__ import annotations

import re
from typing import TypeAlias

__all__ = ["MAX_VALUE", "PLAIN_ASCII", "Value", "mask_target", "mask_userinfo", "printable", "quoted"]

Value: TypeAlias = str | bytes | int | float | bool | None

MAX_VALUE = 1024  # characters of one value

PLAIN_ASCII = re.compile(r"[!#-<>-\[\]-~]{0,1024}\Z").match  # bare, printable and short: most values are
_PLAIN_WORDS = re.compile(r"[ !#-\[\]-~]{0,1024}\Z").match  # the same with spaces: wants quotes, and no escapes
_QUOTED = {"\\": "\\\\", '"': '\\"'}
# The first path segment after /_token/ is a secret, whoever sent it and whether or not it is known; so it is
# where pages put a path into a query (?next=%2F_token%2F...).
_TOKEN_PATH = re.compile(r"((?:/|%2[Ff])(?:_|%5[Ff])token(?:/|%2[Ff]))([^/?#\s]*)")
_BARE = re.compile(r"[^\s\"=\\]*\Z")


def printable(value: Value, limit: int = MAX_VALUE) -> str:
    """``value`` as one line of printable text of at most about ``limit`` characters; the rest is counted.

    Control characters, ANSI escapes, line separators, and what reorders or hides text (bidirectional and zero-width
    characters) are written as escapes.
    """
    text, rest = _cut(value, limit)
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escape(char) for char in text)
    return text + rest


def quoted(value: Value) -> str:
    """``printable``, in quotes and with escapes where it could be taken for something else on its line."""
    text = value if type(value) is str else _text(value)
    if PLAIN_ASCII(text):
        return text
    if _PLAIN_WORDS(text):
        return f'"{text}"'
    text, rest = _cut(text, MAX_VALUE)
    if _BARE.match(text) and text.isprintable():
        return text + rest
    escaped = (_QUOTED.get(char) or (char if char.isprintable() else _escape(char)) for char in text)
    return f'"{"".join(escaped)}{rest}"'


def _cut(value: Value, limit: int) -> tuple[str, str]:
    """The text of a value, at most ``limit`` characters of it, and how many were left out."""
    text = _text(value)
    cut = len(text) - limit
    return (text[:limit], f"[+{cut}]") if cut > 0 else (text, "")


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value)


def _escape(char: str) -> str:
    number = ord(char)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def mask_target(target: str | bytes) -> str:
    """A request target with the token in its path masked: its first 8 characters, never more than half of it.

    >>> mask_target("/_token/a-secret-of-16-letters/page?x=1")
    '/_token/a-secret.../page?x=1'
    """
    text = target.decode("latin-1") if isinstance(target, bytes) else target
    if "token" not in text:
        return text
    return _TOKEN_PATH.sub(_masked, text)


def _masked(match: re.Match[str]) -> str:
    before, token = match.groups()
    return f"{before}{token[: min(8, len(token) // 2)]}..."


def mask_userinfo(url: str | bytes) -> str | bytes:
    """A URL, or what somebody gave for one, without what stands before "@": there may be a password in it.

    >>> mask_userinfo("http://user:password@proxy.example:3128")
    'http://...@proxy.example:3128'
    """
    text = url.decode("latin-1") if isinstance(url, bytes) else url
    before, at, rest = text.rpartition("@")
    if not at:
        return url
    scheme = re.match("[A-Za-z]{1,8}://", before)
    return f"{scheme[0] if scheme else ''}...@{rest}"
