"""The server's gateway: takes callers' requests to tunnels. Here: placing them; ``gateway_exchange`` carries them.

The registry decides where a request goes, when it waits and when it has waited too long; this module carries its
decisions out, and keeps the one alarm that they need.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeAlias

import anyio

from .caller_check import CallerCheck
from .config import Limits
from .core.decisions import Decision, Dispatch, Expired, Move, Rejected
from .core.known_heads import HeadReader
from .core.metrics import Metrics
from .core.naming import name_key
from .core.registry import Registry
from .core.routing import ToName, ToTunnel
from .core.tokens import token_names
from .event_stream import Events
from .gateway_exchange import GatewayExchange
from .gateway_request import Addressed
from .http.request import CallerRequest
from .logs import AccessLog
from .net.loop import loop_clock
from .net.timeouts import Timeouts
from .net.timers import Timer, Timers
from .request_events import RequestFinished, RequestStarted

if TYPE_CHECKING:
    from .server_session import ServerSession

__all__ = ["Gateway", "TunnelDecision"]

logger = logging.getLogger("tunnelkit.server")

# Tokens whose digests are remembered: most requests have the same few.
TOKENS_KEPT = 256

TunnelDecision: TypeAlias = Expired | Decision


_NOT_ASKED = Rejected(401, "unauthorized", "this tunnel asks its callers for credentials: ask again")


class Gateway:
    """One a server. ``trusts(address)`` tells which peers are proxies that are believed about their callers,
    ``owner(name)`` the digest of the token that has a name. ``callers`` asks for credentials."""

    def __init__(
        self,
        *,
        limits: Limits,
        registry: Registry,
        timers: Timers,
        trusts: Callable[[str], bool],
        access: AccessLog,
        base_path: str,
        owner: Callable[[str], bytes | None],
        callers: CallerCheck,
        metrics: Metrics,
        events: Events,
    ) -> None:
        self.limits = limits
        self.registry = registry
        self.timers = timers
        self.trusts = trusts
        self.access = access
        self.base_path = base_path
        self.now = loop_clock()
        self.reader = HeadReader(limits)
        self.heads = Timeouts(timers, limits.response_head_timeout, GatewayExchange.head_late)
        self._owner = owner
        self._names = lru_cache(maxsize=TOKENS_KEPT)(token_names)
        self._callers = callers
        self.metrics = metrics
        self.events = events
        self.draining = False
        self.active: set[GatewayExchange] = set()
        self.idle = anyio.Event()  # set when drained
        self._numbers = itertools.count(1)
        self._alarm: Timer | None = None

    async def handle(self, request: CallerRequest, route: ToTunnel | ToName) -> None:
        """Carry one request to its tunnel and the answer back; returns when the caller has it or is gone.

        When cancelled, the exchange is cancelled at the other end too.
        """
        where = self._where(request, route)
        if self._asks(request) and not await self._callers.passes(request, where.digest, where.name, where.tag):
            self.metrics.unauthorised += 1
            return
        await self._begin(request, where).finish()

    def begin(self, request: CallerRequest, route: ToTunnel | ToName) -> GatewayExchange | None:
        """``handle`` as far as it goes without waiting; None where that is nowhere."""
        return None if self._asks(request) else self._begin(request, self._where(request, route))

    def _begin(self, request: CallerRequest, where: Addressed) -> GatewayExchange:
        self.metrics.requests += 1
        exchange = GatewayExchange(self, request, where, next(self._numbers))
        self.active.add(exchange)
        exchange.begin()
        return exchange

    def _asks(self, request: CallerRequest) -> bool:
        """Whether callers have to say who they are, which takes time to check."""
        return self._callers.credentials.asks and not request.inside

    def _where(self, request: CallerRequest, route: ToTunnel | ToName) -> Addressed:
        if isinstance(route, ToName):
            return self._by_name(route)
        if len(route.tokens) == 1:  # whatever is known of it
            return request.plan(Addressed, partial(self._by_token, route))
        return self._by_token(route)

    def over(self, exchange: GatewayExchange) -> None:
        self.active.discard(exchange)
        if self.draining and not self.active:
            self.idle.set()

    def _by_token(self, route: ToTunnel) -> Addressed:
        """To the first candidate that is known; else to the first, so that it waits or fails under its name."""
        digest, tag = self._names(route.tokens[0])
        if len(route.tokens) > 1:
            now, digests = self.now(), [self._names(token)[0] for token in route.tokens]
            digest = next((one for one in digests if self.registry.is_known(one, now)), digest)
        return Addressed(
            digest=digest,
            tag=tag,
            target=route.target,
            x_host=route.x_host,
            by_destination=route.by_destination,
        )

    def _by_name(self, route: ToName) -> Addressed:
        """To the token that has the name. Nobody's, it waits or fails under a key of its own, and may be adopted."""
        owner = self._owner(route.name)
        return Addressed(
            digest=name_key(route.name) if owner is None else owner,
            tag=route.name if owner is None else f"{route.name}#{owner.hex()[:6]}",
            target=route.target,
            x_host=route.x_host,
            name=route.name,
            unknown="no tunnel has this name, or not for a long time",
        )

    def tell_started(self, exchange: GatewayExchange, x_host: bytes | None) -> None:
        peer = exchange.request.peer
        self.events.tell_request(
            RequestStarted(
                number=exchange.number,
                tunnel=exchange.masked,
                method=exchange.head.method.decode("latin-1"),
                target=exchange.head.target.decode("latin-1"),
                x_host=(x_host or b"").decode("latin-1"),
                caller=peer.forwarded_for or peer.address,
                at=time.time(),
            )
        )

    def tell_finished(
        self, exchange: GatewayExchange, outcome: str, *, received: int, sent: int, seconds: float
    ) -> None:
        self.events.tell_request(
            RequestFinished(
                number=exchange.number,
                tunnel=exchange.masked,
                method=exchange.head.method.decode("latin-1"),
                target=exchange.head.target.decode("latin-1"),
                status=exchange.status or None,
                outcome=outcome,
                received=received,
                sent=sent,
                at=time.time(),
                seconds=seconds,
            )
        )

    def drain(self) -> None:
        """Take nothing new. ``idle`` is set when what runs is over."""
        self.draining = True
        if not self.active:
            self.idle.set()

    def execute(self, decisions: Iterable[TunnelDecision]) -> None:
        """Carry out what the registry decided, in order."""
        for decision in decisions:
            try:
                self._carry_out(decision)
            except Exception:  # a bug of ours: whoever asked, an attaching client say, is not to pay for it
                logger.exception("a request could not be placed")
                decision.exchange.collapse()
        self.set_alarm()

    def _carry_out(self, decision: TunnelDecision) -> None:
        exchange: GatewayExchange = decision.exchange
        if isinstance(decision, Expired):
            exchange.reject(decision.rejected)
        elif isinstance(decision, (Dispatch, Move)) and self._was_not_asked(exchange, decision.session):
            exchange.reject(_NOT_ASKED)
        elif isinstance(decision, Dispatch):
            exchange.dispatch(decision.session)
        else:
            exchange.withdraw()
            if isinstance(decision, Move):
                exchange.dispatch(decision.session)

    def _was_not_asked(self, exchange: GatewayExchange, session: ServerSession) -> bool:
        """It waited for a name that was nobody's and asks for none itself, and whose token turns out to ask."""
        if exchange.digest == session.digest:
            return False
        users = self._callers.credentials.users
        return users(exchange.digest, exchange.name) is None and users(session.digest, None) is not None

    @property
    def alarm_is_set(self) -> bool:
        """The registry is looked at no later than ``queue_timeout`` from now."""
        return self._alarm is not None and self._alarm.active

    def set_alarm(self) -> None:
        """Be called back when the registry's next deadline is due; one timer serves all that waits."""
        due = self.registry.next_timer()
        alarm = self._alarm
        if due is None or (alarm is not None and alarm.active and alarm.when <= due):
            return
        if alarm is not None:
            alarm.cancel()
        self._alarm = self.timers.at(due, self._expire)

    def _expire(self) -> None:
        self.execute(self.registry.expire(self.now()))
