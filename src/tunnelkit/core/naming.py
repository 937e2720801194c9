"""Names under a base domain: which there can be, and the URLs by which callers reach them (design, section 8).

A name is one DNS label (RFC 1123 2.1) in front of the base domain. It is compared without case, and never changed
into another: what cannot be one is refused. No list of public suffixes is needed, because the base domain says where
names begin.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from ..errors import ConfigError
from .tokens import check_token, token_digest

__all__ = [
    "NAME_LIMIT",
    "RESERVED_NAMES",
    "BaseDomain",
    "PublicAddress",
    "bound_names",
    "check_name",
    "derived_name",
    "is_derived",
    "is_label",
    "may_be_claimed",
    "name_key",
]

NAME_LIMIT: Final = 63  # RFC 1035 2.3.4: octets of a label
_HOST_LIMIT: Final = 253
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

# Hosts that browsers, mail programs and systems ask by themselves, in whatever domain they find themselves, and
# believe (WPAD, ISATAP, mail's autoconfiguration, RFC 8461); and those that visitors take for the operator's own.
RESERVED_NAMES: Final = frozenset({"autoconfig", "autodiscover", "isatap", "localhost", "mta-sts", "wpad", "www"})

# A derived name has a form of its own, so that nobody claims one that is another token's while that is away.
_DERIVED = re.compile(r"t-[a-z2-7]{16}")
_DERIVED_BYTES: Final = 10
# Whoever sees a name may try tokens on it; with this each try costs about a millisecond.
_DERIVED_ROUNDS: Final = 2000

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


# -- names ---------------------------------------------------------------------------------------


def is_label(text: str) -> bool:
    """Whether ``text``, in lower case, is a DNS label that may be a host's."""
    return _LABEL.fullmatch(text) is not None


def _is_encoded(label: str) -> bool:
    """RFC 5890 2.3.1: "xn--" and others, which stand for something else than they show."""
    return label[2:4] == "--"


def may_be_claimed(label: str) -> bool:
    """Whether a label in lower case can be anybody's name."""
    return not _is_encoded(label) and label not in RESERVED_NAMES


def check_name(name: str, *, field: str = "name") -> str:
    """The name in lower case. Raises ``ConfigError`` naming ``field`` for what cannot be claimed."""
    if not name or len(name) > NAME_LIMIT:
        raise ConfigError(field, f"must have 1 to {NAME_LIMIT} characters", _FIX)
    lowered = name.lower() if name.isascii() else ""
    if not is_label(lowered):
        raise ConfigError(field, "may hold letters, digits and '-' only, and neither begin nor end with '-'", _FIX)
    if _is_encoded(lowered):
        raise ConfigError(field, "must not have '--' as its third and fourth character", _FIX)
    if lowered in RESERVED_NAMES:
        raise ConfigError(field, f"{lowered!r} is reserved", "choose another")
    return lowered


_FIX: Final = "give one DNS label, such as myapp"


def derived_name(token: str, base_domain: str) -> str:
    """The name that a token has under ``base_domain`` when its client asks for none: always the same."""
    salt = f"tunnelkit name\0{base_domain}".encode()
    raw = hashlib.pbkdf2_hmac("sha256", token.encode("ascii"), salt, _DERIVED_ROUNDS, _DERIVED_BYTES)
    return "t-" + base64.b32encode(raw).decode("ascii").lower()


def is_derived(name: str) -> bool:
    """Whether ``name`` has the form of derived ones, which belong to their tokens alone."""
    return _DERIVED.fullmatch(name) is not None


def name_key(name: str) -> bytes:
    """What stands for a name where a token's digest does otherwise; none is one, as no token holds a NUL."""
    return hashlib.sha256(b"name\0" + name.encode("ascii")).digest()


def bound_names(names: Mapping[str, str], domain: BaseDomain | None, *, field: str = "names") -> dict[str, bytes]:
    """Names that belong to tokens, with the digests of these. Raises ``ConfigError``, which shows no token."""
    if names and domain is None:
        raise ConfigError(field, "there are none without a base domain", "give base_domain too")
    bound: dict[str, bytes] = {}
    for name, token in names.items():
        checked = check_name(name, field=field)
        if checked in bound or is_derived(checked):
            raise ConfigError(field, f"{checked!r} is given twice, or made from a token", "choose another")
        check_token(token)
        bound[checked] = token_digest(token)
    return bound


# -- the base domain -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BaseDomain:
    """What names stand in front of: ``host`` in lower case, and the port that callers see, where one was given."""

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str, *, field: str = "base_domain") -> BaseDomain:
        """``tunnel.example.com``, ``localhost:8080``. Raises ``ConfigError`` naming ``field``."""
        host, colon, port = text.rpartition(":")
        if not colon:
            host, port = text, ""
        elif not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65_535):
            raise ConfigError(field, f"{text!r} has no valid port", "give tunnel.example.com, or localhost:8080")
        return cls(_domain(host, field), int(port) if port else None)

    def name_of(self, host: str) -> str | None:
        """What stands in front of the domain in ``host`` (lower case, without port and trailing dot): maybe a name,
        maybe nothing that can be one; None for a host that is not below the domain."""
        suffix = f".{self.host}"
        return host.removesuffix(suffix) if host.endswith(suffix) else None


def _domain(text: str, field: str) -> str:
    host = text.removesuffix(".")
    if not host.isascii():
        raise ConfigError(field, f"{text!r} is not ASCII", "write it as DNS has it, with xn--")
    host = host.lower()
    labels = host.split(".")
    if labels[-1].isdigit() or ":" in host:  # no browser and no resolver takes app.127.0.0.1 for a host
        problem = f"{text!r} is an address, and there are no names below one"
        raise ConfigError(field, problem, "give a domain; names below localhost lead to the caller's own machine")
    if len(host) > _HOST_LIMIT - NAME_LIMIT - 1 or not all(map(is_label, labels)):
        raise ConfigError(field, f"{text!r} is no domain", "give one such as tunnel.example.com, without '*'")
    return host


# -- URLs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Where callers come to, as they see it: through a proxy in front of the server that may not be where it is."""

    scheme: str
    host: str
    port: int
    path: str  # "" or "/base"

    @classmethod
    def parse(cls, url: str, *, field: str = "public_url") -> PublicAddress:
        """``https://tunnel.example.com[:port][/base]``. Raises ``ConfigError`` naming ``field``."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ConfigError(field, "is no URL", _URL_FIX) from None
        plain = url.isascii() and url.isprintable() and not set(' \\@?#"<>^`{|}') & set(url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or port == 0 or not plain:
            raise ConfigError(field, "is no http:// or https:// URL without user, query and fragment", _URL_FIX)
        return cls(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"))

    def at(self, host: str, port: int | None = None) -> str:
        """The URL of ``host`` here, with a slash at its end; ``port`` in place of this one's."""
        shown = port or self.port
        authority = f"[{host}]" if ":" in host else host
        if shown != _DEFAULT_PORTS[self.scheme]:
            authority += f":{shown}"
        return f"{self.scheme}://{authority}{self.path}/"


_URL_FIX: Final = "give something like https://tunnel.example.com"
