"""What exists only while a tunnel server runs: its parts, joined, and where each request goes.

``server`` has the face; what it was given and checked comes as a ``ServerState``.
"""

from __future__ import annotations

import logging
import random
import secrets
import ssl
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from .admission import Admission
from .caller_check import CallerCheck
from .config import Limits
from .core.balance import Balance
from .core.budget import Budget
from .core.locate import make_session_id
from .core.metrics import Metrics
from .core.naming import BaseDomain, PublicAddress
from .core.registry import Registry
from .core.routing import RoutingConfig, is_loopback, is_named
from .core.rules import RuleSet
from .core.trust import TrustedProxies
from .dispatch import Dispatcher
from .errors import ConfigError, HeadError
from .event_stream import Events
from .gateway import Gateway
from .heads import RequestHead, ResponseHead
from .http.codec import HeadParser
from .http.dates import Dates
from .http.front import Beginner, Front, Handler
from .http.plain_codec import PlainBelow
from .inspector import Inspector
from .logs import AccessLog
from .middleware import Middleware
from .names import HostNames
from .net.crowd import Crowd
from .net.listen import Listener
from .net.peer import Peer
from .net.stream import ByteStream
from .net.timers import Timers
from .pages import Pages
from .problem import CODES, problem
from .public_names import PublicNames
from .server_inspection import InspectedRequests
from .server_middleware import AroundRequests, Handle
from .server_session import ServerSession
from .sessions import SessionTable
from .transports.base import Transport

__all__ = ["ServerState", "Serving"]

logger = logging.getLogger("tunnelkit.server")

NODE = "n0"  # the routing tag in session ids; one node today


@dataclass(kw_only=True)
class ServerState:
    """The configuration, checked. What a reload may change is replaced here."""

    limits: Limits
    listen: tuple[str, ...]
    admin_listen: str | None
    context: ssl.SSLContext | None
    routing: RoutingConfig
    rules: RuleSet
    domain: BaseDomain | None  # what names stand in front of
    public: PublicAddress | None
    names: Mapping[str, bytes]  # that belong to tokens, with their digests
    trusts: TrustedProxies
    transports: Mapping[str, Transport]
    admission: Admission
    callers: CallerCheck
    admin_password: str | None
    half_close_answers: bool
    balance: Balance
    parser: HeadParser
    events: Events
    middleware: tuple[Middleware, ...]
    inspector: Inspector | None

    @property
    def listed(self) -> frozenset[bytes]:
        """Digests of the tokens in the configuration."""
        return self.admission.listed

    @property
    def listed_only(self) -> bool:
        return self.admission.listed_only


class Serving:
    """See the module. Bound at once: raises ConfigError when an address cannot be. ``run`` it once."""

    def __init__(self, state: ServerState) -> None:
        limits = state.limits
        self._state = state
        self._scope = anyio.CancelScope()
        self.timers = Timers(logger)
        self.registry = Registry(
            limits,
            started_at=anyio.current_time(),
            pick=random.randrange,
            listed=state.listed,
            listed_only=state.listed_only,
            balance=state.balance,
            policies=state.admission.policies,
        )
        self.metrics = Metrics(CODES)
        self.budget = Budget(limits.max_buffered_bytes)
        self.public_names = PublicNames(
            limits=limits,
            base=state.domain,
            public=state.public,
            bound=state.names,
            base_path=state.routing.base_path,
        )
        self.gateway = Gateway(
            limits=limits,
            registry=self.registry,
            timers=self.timers,
            trusts=state.trusts,
            access=AccessLog(),
            base_path=state.routing.base_path,
            owner=self.public_names.owner,
            callers=state.callers,
            metrics=self.metrics,
            events=state.events,
        )
        self.host_names = HostNames()
        self.table = SessionTable(
            limits=limits,
            admission=state.admission,
            registry=self.registry,
            timers=self.timers,
            budget=self.budget,
            execute=self.gateway.execute,
            make_id=lambda: make_session_id(NODE, secrets.token_hex(16)),
            make_key=lambda: secrets.token_bytes(32),
            started=self._look_up,
            names=self.public_names,
            metrics=self.metrics,
            events=state.events,
        )
        self.pages = Pages(
            limits=limits,
            gateway=self.gateway,
            registry=self.registry,
            metrics=self.metrics,
            budget=self.budget,
            sessions=lambda: self.table,
            admin_password=lambda: state.admin_password,
        )
        self.crowd = Crowd(limits.connections_per_address, exempt=self._stands_for_many)
        handle = self._handler()
        dispatcher = Dispatcher(
            routing=state.routing,
            rules=lambda: state.rules,
            trusts=state.trusts,
            transports=state.transports,
            gateway=self.gateway,
            pages=self.pages,
            offer=self.table.offer,
            handle=handle,
        )
        self.dispatch = dispatcher.public
        self.to_tunnel = dispatcher.to_tunnel
        self._tasks: TaskGroup | None = None
        self.calls: set[anyio.CancelScope] = set()  # of the ASGI mount
        # What stands around the gateway waits, so that nothing can be begun past it.
        self.front = self._make_front(dispatcher.public, dispatcher.begin if handle == self.gateway.handle else None)
        self.admin_front = self._make_front(dispatcher.admin)
        secure = state.context is not None
        self.listener = Listener.bind(*state.listen, ssl_context=self._current_context if secure else None)
        try:
            self.admin = (
                Listener.bind(state.admin_listen, field="admin_listen") if state.admin_listen is not None else None
            )
        except ConfigError:
            self.listener.close()
            raise
        if self.urls:
            self.public_names.listener = PublicAddress.parse(self.urls[0])

    def _handler(self) -> Handle:
        """The gateway's, and nothing around it where nothing is configured."""
        state = self._state
        handle: Handle = self.gateway.handle
        if state.middleware:
            handle = AroundRequests(handle, state.middleware, limits=state.limits)
        if state.inspector is not None:
            handle = InspectedRequests(handle, state.inspector, self)
        return handle

    @property
    def urls(self) -> list[str]:
        """One a listener, with the base path."""
        return [url + self._state.routing.base_path for url in self.listener.urls]

    @property
    def admin_urls(self) -> list[str]:
        return self.admin.urls if self.admin is not None else []

    def _stands_for_many(self, address: str) -> bool:
        return self._state.trusts(address) or is_loopback(address)

    def _make_front(self, handler: Handler, begin: Beginner | None = None) -> Front:
        return Front(
            handler,
            begin=begin,
            timers=self.timers,
            limits=self._state.limits,
            # A poll and a post for every answer: theirs are most of the heads where clients come by long-poll.
            parser=PlainBelow(
                self._state.routing.base_path.encode() + b"/_tunnel/",
                self._state.parser,
                passed_on=lambda head: is_named(head, self._state.routing),
            ),
            error_responder=_error_answer,
            half_close_answers=self._state.half_close_answers,
            dates=Dates(),
        )

    def _current_context(self) -> ssl.SSLContext:
        context = self._state.context
        assert context is not None
        return context

    def _look_up(self, session: ServerSession) -> None:
        def found(name: str) -> None:
            session.host_name = name

        self.host_names.look_up(session.peer.forwarded_for or session.peer.address, found)

    # -- life ----------------------------------------------------------------------------------

    async def run(self, task_status: TaskStatus[list[str]]) -> None:
        try:
            with self._scope:
                await self._run_all(task_status)
        except ExceptionGroup as failures:
            # One part failed (a transport that cannot listen, say); the others were cancelled for that alone.
            raise _first_of(failures) from None

    async def _run_all(self, task_status: TaskStatus[list[str]]) -> None:
        async with anyio.create_task_group() as group:
            self._tasks = group
            await group.start(self.timers.run)
            await group.start(self.host_names.run)
            for transport in self._state.transports.values():
                await group.start(self._listen, transport)
            if self.admin is not None:
                await group.start(self.admin.serve, self._serve_admin)
            await group.start(self.listener.serve, self._serve_caller)
            task_status.started(self.urls)
            await anyio.sleep_forever()

    async def _listen(self, transport: Transport, *, task_status: TaskStatus[None]) -> None:
        await transport.listen(self.table.offer, task_status=task_status)

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``work``, which must not raise, in a task that ends with the server."""
        if self._tasks is None:
            raise RuntimeError("the server does not run yet")
        self._tasks.start_soon(work)

    def stop(self) -> None:
        """End all sessions with a word, then everything else in a moment: links may stand on connections of the
        front, which are broken off once the word is out."""
        self.close()
        self.front.drain()
        self.table.end_all("server_closing")
        self.table.all_left(self._break_off)

    def _break_off(self) -> None:
        self.front.abort()
        self.admin_front.abort()
        for call in self.calls:
            call.cancel()
        self._scope.cancel()

    def close(self) -> None:
        self.listener.close()
        if self.admin is not None:
            self.admin.close()

    def drain(self) -> None:
        self.gateway.drain()
        self.front.drain()
        self.table.drain()

    def relist(self, gone: frozenset[bytes]) -> None:
        """The configuration was read again, and does not hold ``gone`` (digests of tokens) any more."""
        self.registry.relist(self._state.listed, listed_only=self._state.listed_only)
        self.gateway.execute(self.registry.follow(self._state.admission.policies, anyio.current_time()))
        self.public_names.bind(self._state.names)
        self.table.end_tokens(gone, "token_withdrawn")
        self.table.end_wrongly_named(self.public_names.owner, "name_taken")
        for digest in gone:
            self.gateway.execute(self.registry.withdraw(digest, anyio.current_time()))
            self.public_names.withdraw(digest)

    # -- connections ---------------------------------------------------------------------------

    async def _serve_caller(self, stream: ByteStream) -> None:
        peer = _peer_of(stream)
        with self.crowd.place(peer.address) as there_is_one:
            if there_is_one:
                await self.front.serve_connection(stream, peer)
            else:
                stream.abort()

    async def _serve_admin(self, stream: ByteStream) -> None:
        await self.admin_front.serve_connection(stream, _peer_of(stream))


def _peer_of(stream: ByteStream) -> Peer:
    address, port = stream.peer_address
    return Peer(
        address=address, port=port, tls=stream.tls, certificate=stream.peer_certificate, forwarded_for=address
    )


def _first_of(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _error_answer(head: RequestHead | None, error: HeadError) -> tuple[ResponseHead, bytes]:
    return problem(error.status, error.code, error.detail, head)
