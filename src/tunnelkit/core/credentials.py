"""Passwords of tokens: the table, plain or hashed secrets, what was verified before, and who failed too often.

Nothing here hashes by itself: scrypt takes tens of milliseconds, so ``check_plan`` says when it is needed and the
runtime runs ``verify_hash`` in a thread. Comparisons take constant time; no secret appears in ``repr`` or an error.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address
from typing import Final, TypeAlias

from ..errors import ConfigError
from .tokens import check_token, token_digest

__all__ = [
    "PASSWORD_LIMIT",
    "Credentials",
    "FailureLimiter",
    "NeedsHash",
    "Password",
    "PlainPassword",
    "Plan",
    "Refused",
    "ScryptHash",
    "Verified",
    "attempts_from",
    "hash_password",
    "parse_password",
    "parse_password_lines",
    "parse_passwords",
    "parse_secret",
    "password_table",
    "verify_hash",
]

PASSWORD_LIMIT: Final = 1024  # bytes of UTF-8
VERIFIED_LIMIT: Final = 10_000  # results kept; the oldest goes first
ADDRESS_LIMIT: Final = 10_000  # sources of failures kept; the oldest goes first
FAILURE_PERIOD: Final = 60.0
# What one verification may cost: memory is 128 * n * r bytes, and p multiplies the time.
SCRYPT_MEMORY_LIMIT: Final = 128 * 1024 * 1024
SCRYPT_P_LIMIT: Final = 16


# -- secrets -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlainPassword:
    """Kept as a digest: equal lengths for the comparison, and nothing to read in a core dump's strings."""

    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str) -> PlainPassword:
        return cls(hashlib.sha256(_encode(password)).digest())

    def matches(self, password: str) -> bool:
        return hmac.compare_digest(self.digest, hashlib.sha256(_encode(password)).digest())


@dataclass(frozen=True, slots=True)
class ScryptHash:
    """``scrypt$n$r$p$salt$hash``, salt and hash in base64 (RFC 7914; the padding may be left out)."""

    n: int
    r: int
    p: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> ScryptHash:
        """Raises ``ValueError`` saying what is wrong, without the text."""
        parts = text.split("$")
        if len(parts) != 6 or parts[0] != "scrypt":
            raise ValueError("a hash must read scrypt$n$r$p$salt$hash")
        n, r, p = (_number(part) for part in parts[1:4])
        if n < 2 or n & (n - 1) or r < 1 or not 1 <= p <= SCRYPT_P_LIMIT or 128 * n * r > SCRYPT_MEMORY_LIMIT:
            raise ValueError(
                f"scrypt's n must be a power of two, p at most {SCRYPT_P_LIMIT}, and 128 * n * r at most 128 MiB"
            )
        salt, digest = _unbase64(parts[4]), _unbase64(parts[5])
        if not 8 <= len(salt) <= 64 or not 16 <= len(digest) <= 64:
            raise ValueError("the salt must be 8 to 64 bytes and the hash 16 to 64, in base64")
        return cls(n, r, p, salt, digest)

    def __str__(self) -> str:
        salt, digest = (base64.b64encode(part).rstrip(b"=").decode() for part in (self.salt, self.digest))
        return f"scrypt${self.n}${self.r}${self.p}${salt}${digest}"

    def matches(self, password: str) -> bool:
        """Slow, and meant to be."""
        return hmac.compare_digest(
            self.digest, _scrypt(password, self.salt, self.n, self.r, self.p, len(self.digest))
        )


Password: TypeAlias = PlainPassword | ScryptHash


def hash_password(password: str, salt: bytes, *, n: int = 2**15, r: int = 8, p: int = 1) -> ScryptHash:
    """For whoever writes a passwords file. ``salt``: 16 random bytes. Slow."""
    return ScryptHash(n, r, p, salt, _scrypt(password, salt, n, r, p, 32))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int, size: int) -> bytes:
    # OpenSSL counts some more than the algorithm's 128 * r * (n + p) bytes, and refuses above maxmem.
    maxmem = 128 * r * (n + p + 2) + 1024 * 1024
    return hashlib.scrypt(_encode(password), salt=salt, n=n, r=r, p=p, dklen=size, maxmem=maxmem)


def _encode(password: str) -> bytes:
    # Arguments and environment variables that are no UTF-8 hold surrogates (PEP 383).
    return password.encode("utf-8", "surrogatepass")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError("scrypt's n, r and p must be whole numbers")
    return int(text)


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


# -- the table -----------------------------------------------------------------------------------


def parse_passwords(text: str, *, name: str = "passwords") -> dict[str, str]:
    """``token:password,token:password,...`` as one argument gives it: the passwords by their tokens, checked, for
    ``TunnelServer(passwords=...)``. A password cannot contain a comma here.

    Raises ``ConfigError`` naming the field ``name`` and the pair by its number, never by its contents.

        >>> parse_passwords("a-secret-of-16-letters:open sesame")
        {'a-secret-of-16-letters': 'open sesame'}
    """
    pairs = [(f"pair {number}", pair) for number, pair in enumerate(text.split(","), 1)]
    return _checked(name, [_split(name, where, pair) for where, pair in pairs])


def parse_password_lines(text: str, *, name: str = "passwords_file") -> dict[str, str]:
    """The same of ``token:password``, one a line; empty lines and those that begin with ``#`` are skipped.

    >>> parse_password_lines("# the wiki's\\na-secret-of-16-letters:open, sesame\\n")
    {'a-secret-of-16-letters': 'open, sesame'}
    """
    lines = [(f"line {number}", line.lstrip()) for number, line in enumerate(text.splitlines(), 1)]
    return _checked(name, [_split(name, where, line) for where, line in lines if line and not line.startswith("#")])


def _checked(name: str, pairs: list[tuple[str, str, str]]) -> dict[str, str]:
    _table(name, pairs)
    return {token: password for _, token, password in pairs}


def password_table(passwords: Mapping[str, str], *, name: str = "passwords") -> dict[bytes, Password]:
    """The table from a mapping of tokens to passwords, plain or hashed. Raises ``ConfigError`` as the parsers do."""
    return _table(name, [(f"pair {number}", *pair) for number, pair in enumerate(passwords.items(), 1)])


def _split(name: str, where: str, pair: str) -> tuple[str, str, str]:
    token, colon, password = pair.lstrip().partition(":")
    if not colon:
        raise ConfigError(name, f"{where} {'has no colon' if token else 'is empty'}", _PAIR_FIX)
    return where, token, password


_PAIR_FIX: Final = "give token:password"


def _table(name: str, pairs: list[tuple[str, str, str]]) -> dict[bytes, Password]:
    table: dict[bytes, Password] = {}
    for where, token, password in pairs:
        digest = _parse_token(name, where, token)
        if digest in table:
            raise ConfigError(name, f"{where} repeats the token of an earlier one")
        table[digest] = parse_password(name, where, password)
    return table


def _parse_token(name: str, where: str, token: str) -> bytes:
    if not token:
        raise ConfigError(name, f"{where} has no token", _PAIR_FIX)
    try:
        check_token(token)
    except ConfigError as error:
        raise ConfigError(name, f"the token of {where}: {error.problem}", error.fix) from None
    return token_digest(token)


def parse_password(name: str, where: str, password: str) -> Password:
    """A secret, plain or hashed. Raises ``ConfigError`` naming the field ``name`` and the place, never the secret."""
    if not password:
        raise ConfigError(name, f"{where} has no password", _PAIR_FIX)
    return parse_secret(password, name=name, what=f"the password of {where}")


def parse_secret(secret: str, *, name: str = "secretkey", what: str = "it") -> Password:
    """Plain or ``scrypt$...``. Raises ``ConfigError`` naming the field ``name``, without the secret."""
    if not secret:
        raise ConfigError(name, "must not be empty", "leave it out if there is none")
    if len(_encode(secret)) > PASSWORD_LIMIT:
        raise ConfigError(name, f"{what} is longer than {PASSWORD_LIMIT} bytes")
    if not secret.startswith("scrypt$"):
        return PlainPassword.of(secret)
    try:
        return ScryptHash.parse(secret)
    except ValueError as error:
        raise ConfigError(name, f"{what}: {error}") from None


# -- checking ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verified:
    """The password is right, or none is needed."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The password is wrong, or missing."""


@dataclass(frozen=True, slots=True)
class NeedsHash:
    """Run ``verify_hash`` in a thread; if it says True, ``Credentials.remember`` this."""

    hash: ScryptHash
    password: str = field(repr=False)
    key: bytes = field(repr=False)


Plan: TypeAlias = Verified | Refused | NeedsHash


def verify_hash(plan: NeedsHash) -> bool:
    return plan.hash.matches(plan.password)


class Credentials:
    """Passwords by token digest, and one for all tokens without (wsp's secret key). The table never changes: a reload
    makes a new object.

    Verified results are kept by a keyed digest of hash and password, so that a reconnecting client does not cost a
    hash each time; ``key`` is random for each process.
    """

    def __init__(self, table: Mapping[bytes, Password], *, key: bytes, for_others: Password | None = None) -> None:
        self._table = dict(table)
        self._for_others = for_others
        self._key = key
        self._verified: OrderedDict[bytes, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Credentials tokens={len(self._table)}>"

    @property
    def tokens(self) -> frozenset[bytes]:
        """Digests of the tokens that have a password."""
        return frozenset(self._table)

    def required(self, token: str) -> bool:
        """Must a client of this token show a password?"""
        return self._for_others is not None or token_digest(token) in self._table

    @property
    def required_of_all(self) -> bool:
        """Must every client show one?"""
        return self._for_others is not None

    def check_plan(self, token: str, password: str | None) -> Plan:
        """What it takes to check ``password``."""
        secret = self._table.get(token_digest(token), self._for_others)
        return Verified() if secret is None else self.plan(secret, password)

    def plan(self, secret: Password, password: str | None) -> Plan:
        """What it takes to check ``password`` against ``secret``, which need not stand in the table."""
        if password is None or len(_encode(password)) > PASSWORD_LIMIT:
            return Refused()
        if isinstance(secret, PlainPassword):
            return Verified() if secret.matches(password) else Refused()
        key = self._cache_key(secret, password)
        if key in self._verified:
            self._verified.move_to_end(key)
            return Verified()
        return NeedsHash(secret, password, key)

    def remember(self, plan: NeedsHash) -> None:
        """``plan`` was verified: the same needs no hash for as long as there is room. Failures are never kept."""
        self._verified[plan.key] = None
        if len(self._verified) > VERIFIED_LIMIT:
            self._verified.popitem(last=False)

    def _cache_key(self, secret: ScryptHash, password: str) -> bytes:
        return hmac.digest(self._key, f"{secret}\0".encode() + _encode(password), "sha256")


def attempts_from(address: str) -> str:
    """What attempts are counted by: the address, but an IPv6 one's network of 2**64, all of which one host may use
    (RFC 4291 2.5.4), another for each try. An IPv4 address inside an IPv6 one is itself."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except AddressValueError:
        return address
    return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))


class FailureLimiter:
    """Failed registrations of each source (an address, or whatever the runtime counts by) in the last minute.

    A success never counts. Whoever waits for a hash must ask again when its turn comes, or many guesses at once
    would all be asked about before the first has failed.
    """

    def __init__(self, limit: int, *, max_sources: int = ADDRESS_LIMIT) -> None:
        self._limit = limit
        self._max_sources = max_sources
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()  # the one that failed last is at the end

    def __repr__(self) -> str:
        return f"<FailureLimiter sources={len(self._failures)}>"

    def blocked(self, source: str, now: float) -> float | None:
        """Seconds until ``source`` may try again; None when it may now."""
        failures = self._failures.get(source)
        if failures is None or len(failures) < self._limit:
            return None
        wait = failures[0] + FAILURE_PERIOD - now
        return wait if wait > 0 else None

    def failed(self, source: str, now: float) -> None:
        # Only the newest ``limit`` count: when the oldest of these is a minute old, one more try is free.
        failures = self._failures.setdefault(source, deque(maxlen=self._limit))
        failures.append(now)
        self._failures.move_to_end(source)
        if len(self._failures) > self._max_sources:
            self._failures.popitem(last=False)
