"""Whose a name is: bound to the digest of the token that claimed it, as long as that is known (design, section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..config import Limits
from ..errors import LocalProtocolError
from .naming import is_derived

__all__ = ["NameTable"]

_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})


@dataclass(slots=True)
class _Holder:
    token: bytes
    claims: int = 0  # sessions, and openings of some
    served: bool = False  # one of them had a connection
    until: float = 0.0  # without a claim: when others may have it


class NameTable:
    """Synchronous, without clock. A claim is made before a session comes to life, and released once.

    A name outlives its claims by ``Limits.known_token_time`` if it was ever served, so that nobody takes it over
    while its client restarts; of such names ``Limits.known_tokens`` are kept, and the one left first goes first. Of
    each token only the one that was served last is kept: nobody holds names back by claiming one after the other.
    """

    def __init__(self, limits: Limits, *, bound: Mapping[str, bytes] = _NONE) -> None:
        """``bound``: names that the configuration gives to tokens (their digests), which no other may ever have."""
        self._limits = limits
        self._bound = bound
        self._holders: dict[str, _Holder] = {}
        self._left: dict[str, None] = {}  # names without claims, in the order in which they were left
        self._last: dict[bytes, str] = {}  # by token, the name that was served last; none that is made from a token

    def __repr__(self) -> str:
        return f"<NameTable names={len(self._holders)} bound={len(self._bound)}>"

    def owner(self, name: str, now: float) -> bytes | None:
        """The digest of the token that has ``name``."""
        if name in self._bound:
            return self._bound[name]
        holder = self._holders.get(name)
        return holder.token if holder is not None and (holder.claims or holder.until > now) else None

    def bound_to(self, token: bytes) -> str | None:
        """The name that the configuration gives to ``token``, the first of several."""
        return next((name for name, owner in self._bound.items() if owner == token), None)

    def claim(self, name: str, token: bytes, now: float) -> bool:
        """One more session or opening of ``token`` wants ``name``. False: it is another's."""
        owner = self.owner(name, now)
        if owner is not None and owner != token:
            return False
        holder = self._holders.get(name)
        if holder is None or holder.token != token:
            if holder is not None and holder.claims:
                return False
            if holder is not None:
                self._drop(name)
            holder = self._holders[name] = _Holder(token)
        self._left.pop(name, None)
        holder.claims += 1
        return True

    def serve(self, name: str) -> None:
        """A session that claimed ``name`` is attached."""
        holder = self._claimed(name)
        holder.served = True
        if not is_derived(name):
            before, self._last[holder.token] = self._last.get(holder.token, name), name
            if before != name and before in self._left:
                self._drop(before)

    def release(self, name: str, now: float) -> None:
        """A session or opening that claimed ``name`` is over."""
        holder = self._claimed(name)
        holder.claims -= 1
        if holder.claims:
            return
        if not holder.served or not (is_derived(name) or self._last.get(holder.token) == name):
            self._drop(name)
            return
        holder.until = now + self._limits.known_token_time
        self._left[name] = None
        self._forget(now)

    def bind(self, bound: Mapping[str, bytes]) -> None:
        """The configuration was read again. What others claimed of it is to be released before it is claimed anew."""
        self._bound = bound

    def withdraw(self, token: bytes) -> None:
        """The token is not served any more: what it left is free. Its sessions were ended before."""
        for name in [name for name in self._left if self._holders[name].token == token]:
            self._drop(name)

    def _claimed(self, name: str) -> _Holder:
        holder = self._holders.get(name)
        if holder is None or not holder.claims:
            raise LocalProtocolError("this name was never claimed, or was released")
        return holder

    def _forget(self, now: float) -> None:
        """The one that was left just now stays, whatever the limits."""
        while self._is_old(oldest := next(iter(self._left)), now):
            self._drop(oldest)

    def _is_old(self, name: str, now: float) -> bool:
        return len(self._left) > self._limits.known_tokens or self._holders[name].until <= now

    def _drop(self, name: str) -> None:
        self._left.pop(name, None)
        token = self._holders.pop(name).token
        if self._last.get(token) == name:
            del self._last[token]
