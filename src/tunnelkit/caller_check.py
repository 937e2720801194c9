"""Asks callers for credentials where a tunnel wants them, before anything of their request goes anywhere.

The Authorization field is the tunnel's then, and never reaches the origin. Where nobody is asked it is the origin's,
and passes as it came.
"""

from __future__ import annotations

import logging

import anyio
import anyio.to_thread

from .config import Limits
from .core.callers import CallerCredentials, Users, parse_basic
from .core.credentials import FailureLimiter, NeedsHash, Verified, attempts_from, verify_hash
from .heads import field_values
from .http.own_answers import refuse, send_whole
from .http.request import CallerRequest
from .problem import problem

__all__ = ["CallerCheck"]

logger = logging.getLogger("tunnelkit.server")


class CallerCheck:
    """``hashing`` bounds how many passwords are hashed at a time, whoever gave them."""

    def __init__(self, *, limits: Limits, credentials: CallerCredentials, hashing: anyio.CapacityLimiter) -> None:
        self.credentials = credentials
        self._failures = FailureLimiter(limits.failed_registrations_per_minute)
        self._hashing = hashing

    async def passes(self, request: CallerRequest, digest: bytes, name: str | None, tag: str) -> bool:
        """Whether the request may go to the tunnel of a token (its digest), reached by ``name`` where it came to one;
        then without its credentials. Otherwise it was answered. ``tag`` stands for the tunnel in log lines. May take
        a while (hashing)."""
        users = self.credentials.users(digest, name)
        if users is None:
            return True
        source = f"{attempts_from(request.peer.forwarded_for or request.peer.address)} {digest.hex()}"
        if self._refused(request, source):
            return False
        values = field_values(request.head.fields, b"authorization")
        if values and await self._is_right(values, users, source):
            request.head.fields = [each for each in request.head.fields if each[0].lower() != b"authorization"]
            return True
        if values:  # nothing at all is how every browser begins
            self._failures.failed(source, anyio.current_time())
            peer = request.peer
            logger.warning("wrong credentials of a caller: token=%s addr=%s", tag, peer.forwarded_for or peer.address)
        _ask(request, name)
        return False

    def _refused(self, request: CallerRequest, source: str) -> bool:
        wait = self._failures.blocked(source, anyio.current_time())
        if wait is not None:
            refuse(request, 429, "rate_limited", "too many wrong passwords", retry_after=wait)
        return wait is not None

    async def _is_right(self, values: list[bytes], users: Users, source: str) -> bool:
        basic = parse_basic(values)
        if basic is None:
            return False
        plan = self.credentials.check_plan(users, basic)
        if not isinstance(plan, NeedsHash):
            return isinstance(plan, Verified)
        async with self._hashing:
            # Many guesses at once would all be let through before the first of them has failed.
            if self._failures.blocked(source, anyio.current_time()) is not None:
                return False
            # Not abandoned when cancelled: callers that break off would put any number of threads to work.
            if not await anyio.to_thread.run_sync(verify_hash, plan):
                return False
        self.credentials.remember(plan)
        return True


def _ask(request: CallerRequest, name: str | None) -> None:
    """A realm of its own: what a browser was told for the server's own pages is not for tunnels."""
    head, body = problem(401, "unauthorized", "this tunnel asks its callers for credentials", request.head)
    realm = b'Basic realm="%b", charset="UTF-8"' % (b"tunnel" if name is None else name.encode("ascii"))
    head.fields = [(field, realm if field == b"WWW-Authenticate" else value) for field, value in head.fields]
    send_whole(request, head, body)
