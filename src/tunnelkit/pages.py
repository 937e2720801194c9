"""The server's own pages: health and statistics. What they show, and to whom."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable

import anyio

from .config import Limits
from .core.credentials import FailureLimiter
from .core.routing import Reserved, details_allowed
from .gateway import Gateway, TunnelRegistry
from .heads import RequestHead, ResponseHead, field_values
from .http.own_answers import refuse, respond, send_whole
from .http.request import CallerRequest
from .server_session import ServerSession
from .stats import ServerSnapshot, TokenClients, TunnelRow, render_stats

__all__ = ["Pages", "refuse"]

HEALTHY = b"WSTUNSRV RUNNING\n"


class Pages:
    """``sessions`` gives all that there are now, ``admin_password`` the one that counts now."""

    def __init__(
        self,
        *,
        limits: Limits,
        gateway: Gateway,
        registry: TunnelRegistry,
        sessions: Callable[[], Iterable[ServerSession]],
        admin_password: Callable[[], str | None],
    ) -> None:
        self._limits = limits
        self._gateway = gateway
        self._registry = registry
        self._sessions = sessions
        self._admin_password = admin_password
        self._failures = FailureLimiter(limits.failed_registrations_per_minute)

    def answer(self, request: CallerRequest, page: Reserved, *, admin: bool = False) -> None:
        """Answer a request for a reserved page. ``admin``: it came in by the admin listener."""
        if page.name == "_health_check":
            self._health(request)
        else:
            self._stats(
                request,
                details=admin or (not request.mounted and details_allowed(request.head, request.peer.address)),
            )

    def options(self, request: CallerRequest) -> None:
        """Answer OPTIONS in the origin's place (``forwarding.answers_itself``)."""
        send_whole(request, ResponseHead(204, [(b"Allow", ALLOWED), (b"Cache-Control", b"no-store")]), b"")

    def _health(self, request: CallerRequest) -> None:
        if self._gateway.draining:
            respond(request, 503, b"text/plain; charset=utf-8", b"draining\n")
        else:
            respond(request, 200, b"text/plain; charset=utf-8", HEALTHY)

    def _stats(self, request: CallerRequest, *, details: bool) -> None:
        if not details and (password := self._password_given(request.head)) is not None:
            source, now = request.peer.forwarded_for or request.peer.address, anyio.current_time()
            wait = self._failures.blocked(source, now)
            if wait is not None:
                refuse(request, 429, "rate_limited", "too many wrong passwords", retry_after=wait)
                return
            details = self._is_right(password)
            if not details:
                self._failures.failed(source, now)
        accept = b", ".join(field_values(request.head.fields, b"accept")).decode("latin-1")
        kind, body = render_stats(self.snapshot(), accept=accept, details=details)
        respond(request, 200, kind.encode("ascii"), body)

    def _password_given(self, head: RequestHead) -> bytes | None:
        """By Basic authentication, whatever the user name; None where no password could be right."""
        values = field_values(head.fields, b"authorization")
        if not self._admin_password() or len(values) != 1 or values[0][:6].lower() != b"basic ":
            return None
        try:
            return b64decode(values[0][6:].strip(), validate=True).partition(b":")[2]
        except ValueError:
            return b""

    def _is_right(self, password: bytes) -> bool:
        """Digests are compared: how long that takes says nothing of the length either."""
        wanted = (self._admin_password() or "").encode("utf-8", "surrogatepass")  # PEP 383: of the environment
        return hmac.compare_digest(hashlib.sha256(password).digest(), hashlib.sha256(wanted).digest())

    def snapshot(self) -> ServerSnapshot:
        """The server at this moment."""
        now = anyio.current_time()
        sessions = list(self._sessions())
        attached = [session for session in sessions if session.attached]
        clients = Counter((session.token_prefix, session.digest.hex()[:6]) for session in attached)
        return ServerSnapshot(
            tunnels=len({session.digest for session in sessions}),
            total_clients=len(attached),
            max_requests_per_tunnel=self._limits.max_requests_per_tunnel,
            max_clients_per_token=self._limits.max_clients_per_token,
            req_pending=len(self._gateway.active),
            token_clients=[
                TokenClients(prefix=prefix, digest=digest, clients=count)
                for (prefix, digest), count in sorted(clients.items())
            ],
            rows=[self._row(session, now) for session in sessions],
        )

    def _row(self, session: ServerSession, now: float) -> TunnelRow:
        mine = [exchange for exchange in self._gateway.active if exchange.session is session]
        callers = sorted(mine, key=lambda exchange: exchange.number)
        return TunnelRow(
            token=session.masked,
            req_pending=len(mine),
            tun_addr=session.address,
            tun_dns=session.host_name,
            client_version=session.client_version,
            idle_secs=session.idle(now),
            cli_addr=callers[-1].request.peer.address if callers else "",
        )


# What a tunnel passes on. Which of them an origin knows is not ours to say (RFC 9110 9.3.7).
ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
