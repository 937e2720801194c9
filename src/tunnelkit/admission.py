"""Who may register: everything that is asked of a handshake before a session is given out.

In this order: the address may still try, the token is known where it must be, the password is right, the
operator's own hook agrees. A resume passes here again: a token withdrawn since, or a password changed, ends it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import anyio
import anyio.to_thread

from .config import Limits
from .core.credentials import Credentials, FailureLimiter, NeedsHash, Refused, attempts_from, verify_hash
from .core.policies import POOLS, Policies, policy_named
from .core.tokens import check_token, token_digest, token_tag
from .errors import ConfigError
from .handshake import Handshake, Refusal
from .net.peer import Peer
from .registration import Authorise, Permit, Registration, checked

__all__ = ["UNLISTED", "Admission"]

logger = logging.getLogger("tunnelkit.server")

# Hashing a password takes 87 ms of a core and 16 MiB: never more than this many at a time (design, section 11).
HASHES_AT_ONCE = 2


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
        policies: Policies = POOLS,
        authorise: Authorise | None = None,
    ) -> None:
        self.credentials = credentials
        self.listed = listed
        self.listed_only = listed_only
        self.policies = policies
        self._trusts_proxies = trusts_proxies
        self._authorise = authorise
        self._failures = FailureLimiter(limits.failed_registrations_per_minute)
        self.hashing = anyio.CapacityLimiter(HASHES_AT_ONCE)

    def replace(self, credentials: Credentials, *, listed: frozenset[bytes], policies: Policies = POOLS) -> None:
        """The configuration was read again. Sessions are not touched by it."""
        self.credentials = credentials
        self.policies = policies
        self.listed = listed

    async def check(self, handshake: Handshake, peer: Peer) -> Permit | Refusal:
        """Whether the handshake may have a session. May take a while (hashing, the hook)."""
        try:
            check_token(handshake.token)
        except ConfigError as error:
            return Refusal(status=400, code="bad_request", detail=error.problem)
        digest = token_digest(handshake.token)
        source = self._source(peer, digest)
        answer = self._blocked(source) or await self._judge(handshake, peer, digest, source)
        if isinstance(answer, Refusal) and answer.code not in _NOT_COUNTED:
            self._failures.failed(source, anyio.current_time())
        return answer

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
        return attempts_from(address)

    async def _judge(self, handshake: Handshake, peer: Peer, digest: bytes, source: str) -> Permit | Refusal:
        if self.listed_only and digest not in self.listed:
            return UNLISTED
        plan = self.credentials.check_plan(handshake.token, handshake.password)
        if isinstance(plan, NeedsHash):
            refusal = await self._verify(plan, source)
        else:
            refusal = _WRONG_PASSWORD if isinstance(plan, Refused) else None
        if refusal is not None:
            return refusal
        secret = self.credentials.required(handshake.token)
        own = self.policies.of(digest, named=True) if handshake.name is not None else None
        if self._authorise is None:
            return Permit(policy=own, secret=secret)
        return await self._ask(self._authorise, Registration.of(handshake, peer), Permit(policy=own, secret=secret))

    async def _ask(self, authorise: Authorise, registration: Registration, permit: Permit) -> Permit | Refusal:
        try:
            answer = checked(await authorise(registration))
        except Exception:
            return _undecided(registration)
        except anyio.get_cancelled_exc_class():
            if anyio.get_current_task().has_pending_cancellation():  # the client's connection went
                raise
            return _undecided(registration)  # a task of the hook's own was cancelled, say
        if isinstance(answer, Refusal):
            return answer
        if answer.policy is None:
            return replace(permit, name=answer.name)
        # Who grants "replace" has decided that the client may take others' place.
        secret = permit.secret or answer.policy == "replace"
        return Permit(policy=policy_named(answer.policy), name=answer.name, secret=secret)

    async def _verify(self, plan: NeedsHash, source: str) -> Refusal | None:
        async with self.hashing:
            # Many guesses at once would all be let through before the first of them has failed.
            refusal = self._blocked(source)
            if refusal is not None:
                return refusal
            # Not abandoned when cancelled: handshakes that break off would put any number of threads to work.
            if not await anyio.to_thread.run_sync(verify_hash, plan):
                return _WRONG_PASSWORD
        self.credentials.remember(plan)
        return None


def _undecided(registration: Registration) -> Refusal:
    logger.exception("the authorisation hook failed: token=%s", token_tag(registration.token))
    return _UNDECIDED


UNLISTED = Refusal(status=403, code="forbidden", detail="this token is not listed at the server")
_WRONG_PASSWORD = Refusal(status=401, code="unauthorized", detail="wrong or missing password for this token")
_UNDECIDED = Refusal(
    status=503, code="authorisation_failed", detail="the server could not decide whether this may register"
)
# Failures that are not the client's.
_NOT_COUNTED = frozenset({"rate_limited", "authorisation_failed"})
