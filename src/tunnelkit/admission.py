"""Who may register: everything that is asked of a handshake before a session is given out.

In this order: the address may still try, the token is known where it must be, the password is right, the
operator's own hook agrees. A resume passes here again: a token withdrawn since, or a password changed, ends it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
import anyio.to_thread

from .config import Limits
from .core.credentials import Credentials, FailureLimiter, NeedsHash, Refused, verify_hash
from .core.tokens import check_token, token_digest
from .errors import ConfigError
from .handshake import Handshake, Refusal
from .net.peer import Peer

__all__ = ["UNLISTED", "Admission", "Authorise"]

# Hashing a password takes 87 ms of a core and 16 MiB: never more than this many at a time (design, section 11).
HASHES_AT_ONCE = 2

Authorise: TypeAlias = Callable[[Handshake, Peer], Awaitable[Refusal | None]]


class Admission:
    """``listed``: digests of the tokens in the configuration. With ``listed_only`` no other token may register."""

    def __init__(
        self,
        *,
        limits: Limits,
        credentials: Credentials,
        listed: frozenset[bytes],
        listed_only: bool,
        trusts_proxies: bool,
        authorise: Authorise | None = None,
    ) -> None:
        self.credentials = credentials
        self.listed = listed
        self.listed_only = listed_only
        self._trusts_proxies = trusts_proxies
        self._authorise = authorise
        self._failures = FailureLimiter(limits.failed_registrations_per_minute)
        self._hashing = anyio.CapacityLimiter(HASHES_AT_ONCE)

    def replace(self, credentials: Credentials, *, listed: frozenset[bytes]) -> None:
        """The configuration was read again. Sessions are not touched by it."""
        self.credentials = credentials
        self.listed = listed

    async def check(self, handshake: Handshake, peer: Peer) -> Refusal | None:
        """None when the handshake may have a session, else the refusal. May take a while (hashing, the hook)."""
        try:
            check_token(handshake.token)
        except ConfigError as error:
            return Refusal(status=400, code="bad_request", detail=error.problem)
        digest = token_digest(handshake.token)
        source = self._source(peer, digest)
        refusal = self._blocked(source) or await self._judge(handshake, peer, digest, source)
        if refusal is not None and refusal.code != "rate_limited":
            self._failures.failed(source, anyio.current_time())
        return refusal

    def _blocked(self, source: str) -> Refusal | None:
        wait = self._failures.blocked(source, anyio.current_time())
        if wait is None:
            return None
        return Refusal(status=429, code="rate_limited", detail="too many failed registrations", retry_after=wait)

    def _source(self, peer: Peer, digest: bytes) -> str:
        """What failures are counted by: the address, but the token where every client seems to come from loopback
        because a proxy stands in between that is not declared (design, section 8)."""
        address = peer.forwarded_for or peer.address
        if not self._trusts_proxies and (address.startswith("127.") or address in ("::1", "")):
            return "token " + digest.hex()
        return address

    async def _judge(self, handshake: Handshake, peer: Peer, digest: bytes, source: str) -> Refusal | None:
        if self.listed_only and digest not in self.listed:
            return UNLISTED
        plan = self.credentials.check_plan(handshake.token, handshake.password)
        if isinstance(plan, NeedsHash):
            refusal = await self._verify(plan, source)
        else:
            refusal = _WRONG_PASSWORD if isinstance(plan, Refused) else None
        if refusal is None and self._authorise is not None:
            return await self._authorise(handshake, peer)
        return refusal

    async def _verify(self, plan: NeedsHash, source: str) -> Refusal | None:
        async with self._hashing:
            # Many guesses at once would all be let through before the first of them has failed.
            refusal = self._blocked(source)
            if refusal is not None:
                return refusal
            # Not abandoned when cancelled: handshakes that break off would put any number of threads to work.
            if not await anyio.to_thread.run_sync(verify_hash, plan):
                return _WRONG_PASSWORD
        self.credentials.remember(plan)
        return None


UNLISTED = Refusal(status=403, code="forbidden", detail="this token is not listed at the server")
_WRONG_PASSWORD = Refusal(status=401, code="unauthorized", detail="wrong or missing password for this token")
