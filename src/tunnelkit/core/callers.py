"""Credentials that callers are asked for, by token or by public name: what is configured, and what it takes to check.

Basic authentication (RFC 7617). Nothing here hashes by itself, as in ``core.credentials``, whose secrets these are.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from ..errors import ConfigError
from .credentials import Credentials, NeedsHash, Password, Plan, Refused, ScryptHash, parse_password
from .naming import check_name
from .tokens import check_token, token_digest

__all__ = [
    "BASIC_LIMIT",
    "Basic",
    "CallerCredentials",
    "Callers",
    "Users",
    "caller_table",
    "parse_basic",
    "parse_caller_lines",
]

BASIC_LIMIT: Final = 4096  # bytes of an Authorization field that are looked at
NAME_PREFIX: Final = "name:"  # of keys that are names: no token has a colon

# As it is configured: users and their passwords (plain, or "scrypt$..."), by token, or by "name:" and a public name.
Callers: TypeAlias = Mapping[str, Mapping[str, str]]
Users: TypeAlias = Mapping[str, Password]


@dataclass(frozen=True, slots=True)
class Basic:
    """What a caller gave."""

    user: str
    password: str = field(repr=False)


def parse_basic(values: Sequence[bytes]) -> Basic | None:
    """The user and password of Authorization fields; None where there are none that could be right."""
    if len(values) != 1 or len(values[0]) > BASIC_LIMIT or values[0][:6].lower() != b"basic ":
        return None
    try:
        user, colon, password = b64decode(values[0][6:].strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return None
    return Basic(user, password) if colon else None


# -- configuration -----------------------------------------------------------------------------


def caller_table(callers: Callers, *, names: bool = True, setting: str = "callers") -> dict[bytes, Users]:
    """Users by the key of their tunnel. ``names``: there are some, the server has a base domain. Raises
    ``ConfigError`` naming ``setting`` and the entry by its number: one that protects nothing is a mistake."""
    table: dict[bytes, Users] = {}
    for number, (place, users) in enumerate(callers.items(), 1):
        where = f"entry {number}"
        key = _key_of(setting, where, place, names=names)
        if key in table:
            raise ConfigError(setting, f"{where} is for the same tunnel as an earlier one", "join their users")
        if not users:
            raise ConfigError(setting, f"{where} has no user", "give user and password, or leave it out")
        table[key] = {user: _password(setting, where, user, password) for user, password in users.items()}
    return table


def parse_caller_lines(text: str, *, setting: str = "callers_file") -> dict[str, dict[str, str]]:
    """``TOKEN:USER:PASSWORD`` or ``name:NAME:USER:PASSWORD``, one a line: for ``TunnelServer(callers=...)``. Empty
    lines and those that begin with ``#`` are skipped. Raises ``ConfigError`` naming ``setting`` and the line.

        >>> parse_caller_lines("name:wiki:alice:a password\\na-secret-of-16-letters:bob:another\\n")
        {'name:wiki': {'alice': 'a password'}, 'a-secret-of-16-letters': {'bob': 'another'}}
    """
    callers: dict[str, dict[str, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        prefix = NAME_PREFIX if line.lstrip().startswith(NAME_PREFIX) else ""
        parts = line.lstrip()[len(prefix) :].split(":", 2)
        if len(parts) != 3:
            raise ConfigError(setting, f"line {number} is not complete", _LINE_FIX)
        users = callers.setdefault(prefix + parts[0], {})
        if parts[1] in users:
            raise ConfigError(setting, f"line {number} repeats the user of an earlier one")
        users[parts[1]] = parts[2]
    return callers


_LINE_FIX: Final = "give TOKEN:USER:PASSWORD or name:NAME:USER:PASSWORD"


def _key_of(setting: str, where: str, place: str, *, names: bool) -> bytes:
    named = place.startswith(NAME_PREFIX)
    if named and not names:
        raise ConfigError(setting, f"{where} is for a name, and there are none without a base domain", _NAMES_FIX)
    try:
        if named:
            return _name_key(check_name(place.removeprefix(NAME_PREFIX)))
        check_token(place)
    except ConfigError as error:
        what = "name" if named else "token"
        raise ConfigError(setting, f"the {what} of {where} {error.problem}", error.fix) from None
    return token_digest(place)


_NAMES_FIX: Final = "give base_domain too"


def _name_key(name: str) -> bytes:
    return (NAME_PREFIX + name).encode("ascii")


def _password(setting: str, where: str, user: str, password: str) -> Password:
    if not user or ":" in user:
        raise ConfigError(setting, f"{where} has a user that is empty or holds ':'", "RFC 7617 allows neither")
    return parse_password(setting, where, password)


# -- checking ----------------------------------------------------------------------------------


class CallerCredentials:
    """``table`` never changes: a reload makes a new object. ``key`` is random for each process."""

    def __init__(self, table: Mapping[bytes, Users], *, key: bytes) -> None:
        self._table = dict(table)
        self.asks = bool(table)  # anybody
        self._passwords = Credentials({}, key=key)

    def __repr__(self) -> str:
        return f"<CallerCredentials tunnels={len(self._table)}>"

    def users(self, digest: bytes, name: str | None) -> Users | None:
        """Those who may call the tunnel of a token (its digest), reached by ``name`` where there is one, whose own
        users come first. None: nobody is asked."""
        own = self._table.get(_name_key(name)) if name is not None else None
        return own or self._table.get(digest)

    def check_plan(self, users: Users, basic: Basic) -> Plan:
        """What it takes to check them. A user that there is not takes as long as one that there is."""
        secret = users.get(basic.user)
        if secret is not None:
            return self._passwords.plan(secret, basic.password)
        decoy = next((each for each in users.values() if isinstance(each, ScryptHash)), None)
        return Refused() if decoy is None else self._passwords.plan(_never(decoy), basic.password)

    def remember(self, plan: NeedsHash) -> None:
        """``plan`` was verified."""
        self._passwords.remember(plan)


def _never(secret: ScryptHash) -> ScryptHash:
    """As costly, and matched by nothing."""
    return replace(secret, digest=bytes(len(secret.digest)))
