"""The tunnel server's public face: assembles the parts, starts, reloads, drains, closes. No protocol logic."""

from __future__ import annotations

import logging
import random
import secrets
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskStatus

from .admission import Admission, Authorise
from .config import DEFAULT_LIMITS, Limits
from .core.budget import Budget
from .core.credentials import Credentials, password_table, withdrawn
from .core.locate import make_session_id
from .core.registry import Registry
from .core.routing import NotFound, Reserved, RoutingConfig, ToTunnel, is_loopback, normalise_base_path, route
from .core.tokens import check_token, token_digest
from .core.trust import TrustedProxies
from .errors import ConfigError, HeadError
from .forwarding import answers_itself, client_address
from .gateway import Gateway, TunnelRegistry
from .heads import RequestHead, ResponseHead
from .http.caller import FrontRequest
from .http.dates import Dates
from .http.front import Front
from .http.h11_codec import H11_PARSER
from .http.mounted import Mounted
from .http.plain_codec import PlainBelow
from .lifetime import run_beside, run_to_the_end
from .logs import AccessLog
from .names import HostNames
from .net.contexts import TlsFiles
from .net.crowd import Crowd
from .net.listen import Listener
from .net.peer import Peer
from .net.stream import ByteStream
from .net.timers import Timers
from .pages import Pages, refuse
from .problem import problem
from .sessions import ServerSession, SessionTable
from .stats import ServerSnapshot
from .transports.base import Transport
from .transports.lookup import find_transports

__all__ = ["Passwords", "TunnelServer"]

logger = logging.getLogger("tunnelkit.server")

# Tokens with their passwords (plain or "scrypt$..."), or what reads them anew at each reload.
Passwords: TypeAlias = Mapping[str, str] | Callable[[], Mapping[str, str]]

NODE = "n0"  # the routing tag in session ids; one node today
CLOSE_TIMEOUT = 1.0


class TunnelServer(AsyncContextManagerMixin):
    """The public end: callers and tunnel clients connect to it, on one port.

    ``listen``
        "HOST:PORT", or several; port 0 picks one.
    ``tls``
        The files of certificate and key (read again at ``reload``), or a context of the caller's own.
    ``passwords``
        Tokens with the passwords that a client must give to register (plain, or ``scrypt$...``); or a function that
        reads them, which is asked again at ``reload``.
    ``known_tokens``, ``known_tokens_only``
        Tokens that are known though no client came yet; whether others are refused.
    ``trusted_proxies``
        Addresses or networks whose X-Forwarded-* is believed.
    ``admin_listen``, ``admin_password``
        A listener of its own for health and detailed statistics; the credential that shows them elsewhere, or a
        function that reads it and is asked again at ``reload``.
    ``half_close``
        "gone": a caller that ends its sending half has left; "answer": it still gets its answer.
    ``authorise``
        An async function asked at each registration and resume: None, or a ``Refusal``.

    Raises ConfigError naming the argument. Use it as ``async with`` or by ``await group.start(server.run)``.
    """

    def __init__(
        self,
        listen: str | Sequence[str] = "127.0.0.1:8080",
        *,
        limits: Limits = DEFAULT_LIMITS,
        tls: TlsFiles | ssl.SSLContext | None = None,
        passwords: Passwords | None = None,
        known_tokens: Collection[str] = (),
        known_tokens_only: bool = False,
        base_path: str = "",
        trusted_proxies: Sequence[str] = (),
        admin_listen: str | None = None,
        admin_password: str | Callable[[], str] | None = None,
        transports: str | Transport | Sequence[str | Transport] = ("websocket", "longpoll"),
        half_close: str = "gone",
        authorise: Authorise | None = None,
    ) -> None:
        if half_close not in ("gone", "answer"):
            raise ConfigError("half_close", f"{half_close!r} is unknown", 'give "gone" or "answer"')
        for token in known_tokens:
            check_token(token)
        self.limits = limits
        self._listen = [listen] if isinstance(listen, str) else list(listen)
        self._admin_listen = admin_listen
        self._tls = tls
        self._context = tls.load() if isinstance(tls, TlsFiles) else tls
        self._passwords = passwords
        self._named_tokens = frozenset(token_digest(token) for token in known_tokens)
        self._listed_only = known_tokens_only
        self._routing = RoutingConfig(base_path=normalise_base_path(base_path))
        self._trusts = TrustedProxies(trusted_proxies)
        self._transports = find_transports(transports, limits=limits, field="transports")
        self._half_close_answers = half_close == "answer"
        self._admin_source = admin_password
        self._admin_password = self._read_admin_password()
        self._key = secrets.token_bytes(32)
        credentials = self._read_passwords()
        self._admission = Admission(
            limits=limits,
            credentials=credentials,
            listed_only=known_tokens_only,
            listed=self._listed(credentials),
            trusts_proxies=bool(self._trusts),
            authorise=authorise,
        )
        self._urls: list[str] = []
        self._running: _Running | None = None

    def __repr__(self) -> str:
        return f"<TunnelServer {', '.join(self._urls or self._listen)}>"

    # -- facts ---------------------------------------------------------------------------------

    @property
    def urls(self) -> list[str]:
        """One a listener, with the base path: known once the server runs."""
        return [url + self._routing.base_path for url in self._urls]

    @property
    def url(self) -> str:
        """The first of ``urls``."""
        return self.urls[0]

    @property
    def admin_urls(self) -> list[str]:
        return self._running.admin_urls if self._running is not None else []

    def sessions(self) -> list[ServerSession]:
        """The sessions there are now, attached or in grace."""
        return list(self._running.table) if self._running is not None else []

    def snapshot(self) -> ServerSnapshot:
        """The numbers of the statistics page."""
        return self._need_running().pages.snapshot()

    def _need_running(self) -> _Running:
        if self._running is None:
            raise RuntimeError("the server does not run")
        return self._running

    # -- life ----------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[list[str]] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. ``started`` gets the URLs, once every listener is bound.

        Raises ConfigError when an address cannot be bound. Cancelled, it tells the clients, which takes at most a
        second; requests that run are broken off. It may run again afterwards, but not twice at a time: RuntimeError.
        """
        if self._running is not None:
            raise RuntimeError("this TunnelServer runs already")
        running = self._running = _Running(self)
        self._urls = running.listener.urls
        self._warn()
        try:
            await run_to_the_end(lambda: running.run(task_status), stop=running.stop, timeout=CLOSE_TIMEOUT)
        finally:
            running.close()
            self._running = None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[TunnelServer, None]:
        async with run_beside(self.run):
            yield self

    async def reload(self) -> None:
        """Read certificate, key and all passwords again. Sessions go on, but those of tokens that were withdrawn.

        Raises ConfigError when a file is bad: then everything stays as it was.
        """
        context = self._tls.load() if isinstance(self._tls, TlsFiles) else self._context
        credentials = self._read_passwords()
        admin_password = self._read_admin_password()
        gone = withdrawn(self._admission.credentials, credentials) - self._named_tokens
        self._context = context
        self._admin_password = admin_password
        self._admission.replace(credentials, listed=self._listed(credentials))
        if self._running is not None:
            self._running.relist(self._listed(credentials), gone)
        logger.info("reloaded: %d tokens have passwords, %d withdrawn", len(credentials.tokens), len(gone))

    async def drain(self, timeout: float | None = None) -> None:
        """Take nothing new and return when what runs is finished, or ``timeout`` seconds (default: the limits'
        ``drain_timeout``) are over. Afterwards leave the context, or cancel ``run``."""
        running = self._need_running()
        running.drain()
        with anyio.move_on_after(self.limits.drain_timeout if timeout is None else timeout):
            await running.gateway.idle.wait()
            await running.front.quiet()

    # -- configuration -------------------------------------------------------------------------

    def _read_passwords(self) -> Credentials:
        passwords = self._passwords() if callable(self._passwords) else self._passwords
        return Credentials(password_table(passwords or {}), key=self._key)

    def _read_admin_password(self) -> str | None:
        password = self._admin_source() if callable(self._admin_source) else self._admin_source
        if password == "":
            raise ConfigError("admin_password", "must not be empty", "leave it out if there is none")
        return password

    def _listed(self, credentials: Credentials) -> frozenset[bytes]:
        return self._named_tokens | credentials.tokens

    def _warn(self) -> None:
        protected = self._listed_only or bool(self._admission.credentials.tokens)
        hosts = [host for host, _ in self._need_running().listener.addresses]
        if not protected and not all(host.startswith("127.") or host == "::1" for host in hosts):
            logger.warning(
                "listening beyond loopback without passwords or known_tokens_only: whoever can make a request "
                "through a token can also register with it and receive its requests"
            )


class _Running:
    """What exists only while the server runs."""

    def __init__(self, server: TunnelServer) -> None:
        limits = server.limits
        self._server = server
        self._scope = anyio.CancelScope()
        self.timers = Timers(logger)
        self.registry: TunnelRegistry = Registry(
            limits,
            started_at=anyio.current_time(),
            pick=random.randrange,
            listed=server._listed(server._admission.credentials),
            listed_only=server._listed_only,
        )
        self.gateway = Gateway(
            limits=limits,
            registry=self.registry,
            timers=self.timers,
            trusts=server._trusts,
            access=AccessLog(),
            base_path=server._routing.base_path,
        )
        self.names = HostNames()
        self.table = SessionTable(
            limits=limits,
            admission=server._admission,
            registry=self.registry,
            timers=self.timers,
            budget=Budget(limits.max_buffered_bytes),
            execute=self.gateway.execute,
            make_id=lambda: make_session_id(NODE, secrets.token_hex(16)),
            make_key=lambda: secrets.token_bytes(32),
            started=self._look_up,
        )
        self.pages = Pages(
            limits=limits,
            gateway=self.gateway,
            registry=self.registry,
            sessions=lambda: self.table,
            admin_password=lambda: server._admin_password,
        )
        self.crowd = Crowd(limits.connections_per_address, exempt=self._stands_for_many)
        self.front = self._make_front(self._dispatch)
        self.admin_front = self._make_front(self._dispatch_admin)
        secure = server._context is not None
        self.listener = Listener.bind(*server._listen, ssl_context=self._current_context if secure else None)
        try:
            self.admin = (
                Listener.bind(server._admin_listen, field="admin_listen")
                if server._admin_listen is not None
                else None
            )
        except ConfigError:
            self.listener.close()
            raise

    @property
    def admin_urls(self) -> list[str]:
        return self.admin.urls if self.admin is not None else []

    def _stands_for_many(self, address: str) -> bool:
        return self._server._trusts(address) or is_loopback(address)

    def _make_front(self, handler: Callable[[FrontRequest], Awaitable[None]]) -> Front:
        return Front(
            handler,
            timers=self.timers,
            limits=self._server.limits,
            # A poll and a post for every answer: theirs are most of the heads where clients come by long-poll.
            parser=PlainBelow(self._server._routing.base_path.encode() + b"/_tunnel/", H11_PARSER),
            error_responder=_error_answer,
            half_close_answers=self._server._half_close_answers,
            dates=Dates(),
        )

    def _current_context(self) -> ssl.SSLContext:
        context = self._server._context
        assert context is not None
        return context

    def _look_up(self, session: ServerSession) -> None:
        def found(name: str) -> None:
            session.host_name = name

        self.names.look_up(session.peer.forwarded_for or session.peer.address, found)

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
            await group.start(self.timers.run)
            await group.start(self.names.run)
            for transport in self._server._transports.values():
                await group.start(self._listen, transport)
            if self.admin is not None:
                await group.start(self.admin.serve, self._serve_admin)
            await group.start(self.listener.serve, self._serve_caller)
            task_status.started(self._server.urls)
            await anyio.sleep_forever()

    async def _listen(self, transport: Transport, *, task_status: TaskStatus[None]) -> None:
        await transport.listen(self.table.offer, task_status=task_status)

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
        self._scope.cancel()

    def close(self) -> None:
        self.listener.close()
        if self.admin is not None:
            self.admin.close()

    def drain(self) -> None:
        self.gateway.drain()
        self.front.drain()
        self.table.drain()

    def relist(self, listed: frozenset[bytes], gone: frozenset[bytes]) -> None:
        self.registry.relist(listed, listed_only=self._server._listed_only)
        self.table.end_tokens(gone, "token_withdrawn")
        for digest in gone:
            self.gateway.execute(self.registry.withdraw(digest, anyio.current_time()))

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

    async def _dispatch(self, request: FrontRequest) -> None:
        where = route(request.head, self._server._routing)
        self._mark_forwarded(request)
        if isinstance(where, ToTunnel):
            await self._to_tunnel(request, where)
        elif isinstance(where, Reserved) and where.name == "_tunnel":
            await self._to_transport(request, where)
        elif isinstance(where, Reserved):
            self.pages.answer(request, where)
        elif isinstance(where, NotFound):
            refuse(request, 404, "no_tunnel", where.detail)
        else:
            refuse(request, 404, "no_tunnel", "this route is not switched on")

    async def _to_tunnel(self, request: FrontRequest, where: ToTunnel) -> None:
        if self.gateway.draining:
            refuse(request, 503, "draining", "the server is shutting down", retry_after=1)
        elif answers_itself(request.head):
            self.pages.options(request)
        else:
            await self.gateway.handle(request, where)

    async def _to_transport(self, request: FrontRequest, where: Reserved) -> None:
        path = where.rest.decode("ascii", "replace")
        request.be_link()
        for transport in self._server._transports.values():
            below = _below(transport.mount_path(), path)
            if below is not None:
                await transport.mounted(Mounted(request, below), self.table.offer)
                return
        refuse(request, 404, "unknown_transport", "no transport is mounted here")

    async def _dispatch_admin(self, request: FrontRequest) -> None:
        where = route(request.head, self._server._routing)
        if isinstance(where, Reserved) and where.name in ("_health_check", "_stats"):
            self.pages.answer(request, where, admin=True)
        else:
            refuse(request, 404, "not_found", "the admin listener has /_health_check and /_stats")

    def _mark_forwarded(self, request: FrontRequest) -> None:
        """Behind trusted proxies the address that counts is not the socket's."""
        peer, trusts = request.peer, self._server._trusts
        if trusts(peer.address):
            address = client_address(request.head.fields, peer.address, trusts)
            request.peer = replace(peer, forwarded_for=address)


def _below(mount: str | None, path: str) -> str | None:
    """What of ``path`` lies below a transport's mount path; None when it is not the transport's."""
    if mount is None or not path.startswith(mount):
        return None
    below = path[len(mount) :]
    return below if not below or (mount and below.startswith("/")) else None


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
