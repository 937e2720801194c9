"""How several clients share a token: who may join, and which of them are given requests (design, section 8); which of
those gets the next is ``balance``'s to say.

Plain decisions without state. Two clients never fight for a token: whoever is *superseded* ends for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeVar

from ..errors import ConfigError
from .tokens import check_token, token_digest

__all__ = ["POLICIES", "POOL", "POOLS", "Policies", "Policy", "parse_policies", "policy_named"]


P = TypeVar("P")  # a session


@dataclass(frozen=True, slots=True)
class Policy:
    """``pool``: every client is welcome."""

    name: str = "pool"

    def admits(self, clients: int, limit: int, *, secret: bool) -> bool:
        """May one more client register beside ``clients``? ``limit`` 0 means unlimited; ``secret`` tells that it
        showed more than the token, which callers know too."""
        return limit == 0 or clients < limit

    def replaces(self, *, secret: bool) -> bool:
        """Does a client that registers take the place of all others?"""
        return False

    def serving(self, attached: Sequence[P]) -> Sequence[P]:
        """Those of ``attached`` that may be given requests, of which there is one if there is any. The one that is
        attached longest comes first."""
        return attached


class _Reject(Policy):
    """The first client keeps the token for as long as it is there."""

    __slots__ = ()

    def admits(self, clients: int, limit: int, *, secret: bool) -> bool:
        return clients == 0


class _Replace(Policy):
    """The last client gets the token. Without a registration secret any caller could take it: such a newcomer is
    treated as by ``reject``."""

    __slots__ = ()

    def admits(self, clients: int, limit: int, *, secret: bool) -> bool:
        return secret or clients == 0

    def replaces(self, *, secret: bool) -> bool:
        return secret


class _Standby(Policy):
    """Every client is welcome, but the one that is attached longest gets all requests: the next when it is gone."""

    __slots__ = ()

    def serving(self, attached: Sequence[P]) -> Sequence[P]:
        return attached[:1]


POOL: Final = Policy()
POLICIES: Final[Mapping[str, Policy]] = MappingProxyType(
    {policy.name: policy for policy in (POOL, _Replace("replace"), _Reject("reject"), _Standby("standby"))}
)


def policy_named(name: str, *, setting: str = "policy") -> Policy:
    """Raises ``ConfigError`` naming ``setting``."""
    policy = POLICIES.get(name)
    if policy is None:
        raise ConfigError(setting, f"{name[:40]!r} is unknown", f"give one of {', '.join(POLICIES)}")
    return policy


@dataclass(frozen=True, slots=True)
class Policies:
    """What the configuration says: of single tokens (by their digests), and of all others, None where nothing."""

    default: Policy | None = None
    by_token: Mapping[bytes, Policy] = field(default_factory=dict)

    def of(self, token: bytes, *, named: bool = False) -> Policy:
        """``named``: for a client that asks for a public name, which is one's unless somebody said otherwise."""
        return self.by_token.get(token) or self.default or (POLICIES["reject"] if named else POOL)

    def check(self, with_secret: frozenset[bytes]) -> None:
        """Raises ``ConfigError`` where ``replace`` is wanted and no secret could back it; ``with_secret``: the tokens
        that have a password."""
        if self.default is POLICIES["replace"] and not with_secret:
            raise ConfigError("policy", _NEEDS_SECRET, "give passwords, or choose another policy")
        for number, (token, policy) in enumerate(self.by_token.items(), 1):
            if policy is POLICIES["replace"] and token not in with_secret:
                raise ConfigError("policies", f"of token {number}: {_NEEDS_SECRET}", "give it a password")


POOLS: Final = Policies()

_NEEDS_SECRET: Final = (
    "'replace' needs a registration secret: without one, whoever may make requests could also take the client's place"
)


def parse_policies(default: str | None, by_token: Mapping[str, str]) -> Policies:
    """From names. Raises ``ConfigError`` for one that is unknown, and for a bad token, which it does not show."""
    found: dict[bytes, Policy] = {}
    for number, (token, name) in enumerate(by_token.items(), 1):
        try:
            check_token(token)
        except ConfigError as error:
            raise ConfigError("policies", f"token {number} {error.problem}", error.fix) from None
        found[token_digest(token)] = policy_named(name, setting="policies")
    return Policies(None if default is None else policy_named(default), found)
