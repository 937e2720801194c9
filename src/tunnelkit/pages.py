"""The server's own pages: health, statistics and metrics. What they show, and to whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import anyio

from .admin_access import Access, AdminAccess
from .config import Limits
from .core.budget import Budget
from .core.metrics import CONTENT_TYPE, Gauges, Metrics, render
from .core.registry import Registry
from .core.routing import Reserved
from .gateway import Gateway
from .heads import ResponseHead, field_values
from .http.own_answers import respond, send_whole
from .http.request import CallerRequest
from .server_session import ServerSession
from .session_page import SessionPage
from .stats import ServerSnapshot, TokenClients, TunnelRow, render_stats

__all__ = ["Pages"]

HEALTHY = b"WSTUNSRV RUNNING\n"


class Pages:
    """``sessions`` gives all that there are now, ``admin_password`` the one that counts now."""

    def __init__(
        self,
        *,
        limits: Limits,
        gateway: Gateway,
        registry: Registry,
        metrics: Metrics,
        budget: Budget,
        sessions: Callable[[], Iterable[ServerSession]],
        admin_password: Callable[[], str | None],
    ) -> None:
        self._limits = limits
        self._gateway = gateway
        self._registry = registry
        self._sessions = sessions
        self._metrics = metrics
        self._budget = budget
        self._access = AdminAccess(limits=limits, password=admin_password)
        self._session_page = SessionPage(sessions=sessions, gateway=gateway, access=self._access)

    async def answer(self, request: CallerRequest, page: Reserved, *, admin: bool = False) -> None:
        """Answer a request for a reserved page. ``admin``: it came in by the admin listener."""
        if page.name == "_health_check":
            await self._health(request)
        elif page.name == "_sessions":
            await self._session_page.answer(request, page.rest)
        elif (access := self._access.see(request, admin=admin)) is Access.ANSWERED:
            pass
        elif page.name == "_stats":
            await self._stats(request, details=access is Access.ALLOWED)
        elif access is Access.ALLOWED:
            await respond(request, 200, CONTENT_TYPE, render(self._metrics, self._gauges()))
        else:
            self._access.deny(request, "metrics are for loopback and the admin listener")

    def options(self, request: CallerRequest) -> None:
        """Answer OPTIONS in the origin's place (``forwarding.answers_itself``)."""
        send_whole(request, ResponseHead(204, [(b"Allow", ALLOWED), (b"Cache-Control", b"no-store")]), b"")

    async def _health(self, request: CallerRequest) -> None:
        if self._gateway.draining:
            await respond(request, 503, b"text/plain; charset=utf-8", b"draining\n")
        else:
            await respond(request, 200, b"text/plain; charset=utf-8", HEALTHY)

    async def _stats(self, request: CallerRequest, *, details: bool) -> None:
        accept = b", ".join(field_values(request.head.fields, b"accept")).decode("latin-1")
        kind, body = render_stats(self.snapshot(), accept=accept, details=details)
        await respond(request, 200, kind.encode("ascii"), body)

    def _gauges(self) -> Gauges:
        sessions = list(self._sessions())
        return Gauges(
            tunnels=len({session.digest for session in sessions}),
            sessions=Counter(session.transport for session in sessions if session.attached),
            detached=sum(not session.attached for session in sessions),
            active=len(self._gateway.active),
            queues=self._registry.queue_lengths(),
            buffered=self._budget.used,
            buffered_limit=self._limits.max_buffered_bytes,
        )

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
