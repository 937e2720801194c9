"""Who sees details of the server, and who may act on it (design, section 8, "Reserved")."""

from __future__ import annotations

import enum
import hashlib
import hmac
from base64 import b64decode
from collections.abc import Callable

import anyio

from .config import Limits
from .core.credentials import FailureLimiter, attempts_from
from .core.routing import details_allowed
from .heads import RequestHead, field_values
from .http.own_answers import refuse
from .http.request import CallerRequest

__all__ = ["Access", "AdminAccess"]


class Access(enum.Enum):
    """The outcome of a look at a request."""

    ALLOWED = enum.auto()
    DENIED = enum.auto()
    ANSWERED = enum.auto()  # too many wrong passwords: it was told


class AdminAccess:
    """``password`` gives the one that counts now, None where there is none."""

    def __init__(self, *, limits: Limits, password: Callable[[], str | None]) -> None:
        self._password = password
        self._failures = FailureLimiter(limits.failed_registrations_per_minute)

    def see(self, request: CallerRequest, *, admin: bool) -> Access:
        """May it see details? ``admin``: it came in by the admin listener."""
        if admin or (not request.mounted and details_allowed(request.head, request.peer.address)):
            return Access.ALLOWED
        return self.act(request)

    def act(self, request: CallerRequest) -> Access:
        """May it change something? Nobody may without the password, wherever it comes from."""
        password = self._given(request.head)
        if password is None:
            return Access.DENIED
        source, now = attempts_from(request.peer.forwarded_for or request.peer.address), anyio.current_time()
        wait = self._failures.blocked(source, now)
        if wait is not None:
            refuse(request, 429, "rate_limited", "too many wrong passwords", retry_after=wait)
            return Access.ANSWERED
        if self._is_right(password):
            return Access.ALLOWED
        self._failures.failed(source, now)
        return Access.DENIED

    def deny(self, request: CallerRequest, what: str) -> None:
        """Tell the caller how it would be let in."""
        if self._password() is None:
            refuse(request, 403, "forbidden", f"{what}; this server has no admin password")
        else:
            refuse(request, 401, "unauthorized", f"{what}; the admin password opens it")

    def _given(self, head: RequestHead) -> bytes | None:
        """By Basic authentication, whatever the user name; None where no password could be right."""
        values = field_values(head.fields, b"authorization")
        if not self._password() or len(values) != 1 or values[0][:6].lower() != b"basic ":
            return None
        try:
            return b64decode(values[0][6:].strip(), validate=True).partition(b":")[2]
        except ValueError:
            return b""

    def _is_right(self, password: bytes) -> bool:
        """Digests are compared: how long that takes says nothing of the length either."""
        wanted = (self._password() or "").encode("utf-8", "surrogatepass")  # PEP 383: of the environment
        return hmac.compare_digest(hashlib.sha256(password).digest(), hashlib.sha256(wanted).digest())
