"""The tunnel server's public face: assembles the parts, starts, reloads, drains, closes. No protocol logic."""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskStatus

from .admission import Admission
from .caller_check import CallerCheck
from .config import DEFAULT_LIMITS, Limits
from .core.balance import balance_named
from .core.callers import CallerCredentials, Callers, caller_table
from .core.credentials import Credentials, parse_secret, password_table
from .core.naming import BaseDomain, PublicAddress, bound_names
from .core.policies import Policies, parse_policies
from .core.routing import RoutingConfig, normalise_base_path
from .core.rules import Rule, RuleSet
from .core.tokens import check_token, token_digest
from .core.trust import TrustedProxies
from .errors import ConfigError
from .event_stream import Events, EventStream
from .http.parsers import find_parser
from .inside.connecting import TunnelStream, connect
from .inspector import Inspector
from .lifetime import run_beside, run_to_the_end
from .middleware import Middleware
from .mount import MountedServer
from .net.contexts import TlsFiles
from .regexp_engine import find_engine
from .registration import Authorise
from .server_events import Stopped
from .server_session import ServerSession
from .serving import ServerState, Serving
from .stats import ServerSnapshot
from .transports.base import Transport
from .transports.lookup import find_transports, own_paths

if TYPE_CHECKING:
    from .inside.httpx_transport import TunnelTransport

__all__ = ["KnownTokens", "Passwords", "Rules", "TunnelServer"]

logger = logging.getLogger("tunnelkit.server")

# WStunnel's clients show the same tokens and passwords as ours, and are judged by the same rules: to turn them away
# by default would protect nothing, and would cost those who replace a server its live clients.
DEFAULT_TRANSPORTS: Final = ("websocket", "longpoll", "wstunnel")

# Tokens with their passwords (plain or "scrypt$..."), or what reads them anew at each reload.
Passwords: TypeAlias = Mapping[str, str] | Callable[[], Mapping[str, str]]

# Tokens, or what reads them anew at each reload.
KnownTokens: TypeAlias = Collection[str] | Callable[[], Collection[str]]

# Rules, or what reads them anew at each reload.
Rules: TypeAlias = Sequence[Rule] | Callable[[], Sequence[Rule]]

CLOSE_TIMEOUT = 1.0


class TunnelServer(AsyncContextManagerMixin):
    """The public end: callers and tunnel clients connect to it, on one port.

    ``listen``
        "HOST:PORT", or several; port 0 picks one. ``()`` for none, where ``asgi_app`` is mounted.
    ``base_path``
        What stands in front of all paths, where this server shares a host with others: "/tunnels".
    ``tls``
        The files of certificate and key (read again at ``reload``), or a context of the caller's own.
    ``passwords``
        Tokens with the passwords that a client must give to register (plain, or ``scrypt$...``); or a function that
        reads them, which is asked again at ``reload``.
    ``secretkey``
        The password of every token that has none of its own (plain, or ``scrypt$...``); or a function that reads it
        and is asked again at ``reload``.
    ``known_tokens``, ``known_tokens_only``
        Tokens that are known though no client came yet, or a function that reads them and is asked again at
        ``reload``; whether others are refused.
    ``base_domain``, ``public_url``, ``names``
        The domain below which tunnels have names: with "tunnel.example.com" callers reach the client that asked for
        the name "myapp" at ``myapp.tunnel.example.com``, whose paths are all the origin's. A port in it
        ("localhost:8080") is shown in the clients' URLs. Where callers come to, if not to where the server listens
        ("https://tunnel.example.com"): clients are told URLs made from it. Names that belong to tokens of the
        configuration, and never to another: a mapping of names to tokens, or a function that reads it and is asked
        again at ``reload``.
    ``wsp_path``, ``wsp_token``
        Where callers name a whole URL in X-PROXY-DESTINATION, "" turns that off; the token of the tunnel for those
        without X-Token, who then need no secret at all.
    ``blacklist``, ``whitelist``
        ``Rule`` objects for requests that name their origin, by X-PROXY-DESTINATION or X-Host: what one of
        ``blacklist`` matches is refused; where there is a ``whitelist``, so is what none of it matches. Or functions
        that read them, which are asked again at ``reload``.
    ``trusted_proxies``
        Addresses or networks whose X-Forwarded-* is believed.
    ``admin_listen``, ``admin_password``
        A listener of its own for health and detailed statistics; the credential that shows them elsewhere, or a
        function that reads it and is asked again at ``reload``.
    ``balance``
        Which of a token's clients gets the next request: "least-load" or "random".
    ``transports``
        How clients may come: names, or ``Transport`` objects. "wstunnel" is for WStunnel's own clients, who register
        under the same rules as ours; leave it out to turn them away.
    ``half_close``
        "gone": a caller that ends its sending half has left; "answer": it still gets its answer.
    ``policy``, ``policies``
        How several clients share a token: "pool", "replace" (which needs a password, or the hook's word), "reject" or
        "standby"; by default "pool", and "reject" for those that ask for a name. ``policies`` has it for single
        tokens, or is a function that reads it, which is asked again at ``reload``.
    ``callers``
        Users and their passwords (plain, or ``scrypt$...``) whom callers must name by Basic authentication: by token,
        or by "name:" and a public name; or a function that reads them, which is asked again at ``reload``. Where
        nobody is asked, a caller's Authorization is the origin's.
    ``authorise``
        An async function asked at each registration and resume: ``Granted``, or a ``Refusal`` (``registration``).
    ``middleware``
        Asynchronous functions around each request to a tunnel, the first outermost (``tunnelkit.middleware``).
    ``limits``
        Every limit and clock (``Limits``).
    ``inspector``
        Keeps the last requests to tunnels, for people to look at and to send again (``tunnelkit.inspector``).
    ``parser``
        What reads the heads of requests: "auto" (httptools where it is installed, else h11), "httptools" or "h11".

    Raises ConfigError naming the argument. Use it as ``async with`` or by ``await group.start(server.run)``.
    """

    def __init__(
        self,
        listen: str | Sequence[str] = "127.0.0.1:8080",
        *,
        limits: Limits = DEFAULT_LIMITS,
        tls: TlsFiles | ssl.SSLContext | None = None,
        passwords: Passwords | None = None,
        secretkey: str | Callable[[], str] | None = None,
        known_tokens: KnownTokens = (),
        known_tokens_only: bool = False,
        base_path: str = "",
        base_domain: str | None = None,
        public_url: str | None = None,
        names: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        wsp_path: str = "/request",
        wsp_token: str | None = None,
        blacklist: Rules = (),
        whitelist: Rules = (),
        trusted_proxies: Sequence[str] = (),
        admin_listen: str | None = None,
        admin_password: str | Callable[[], str] | None = None,
        transports: str | Transport | Sequence[str | Transport] = DEFAULT_TRANSPORTS,
        half_close: str = "gone",
        balance: str = "least-load",
        policy: str | None = None,
        policies: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        callers: Callers | Callable[[], Callers] | None = None,
        authorise: Authorise | None = None,
        middleware: Sequence[Middleware] = (),
        inspector: Inspector | None = None,
        parser: str = "auto",
    ) -> None:
        if half_close not in ("gone", "answer"):
            raise ConfigError("half_close", f"{half_close!r} is unknown", 'give "gone" or "answer"')
        self.limits = limits
        self._tls = tls
        self._passwords = passwords
        self._secretkey = secretkey
        self._known_tokens = known_tokens
        self._names = names
        self._blacklist = blacklist
        self._whitelist = whitelist
        self._domain = domain = BaseDomain.parse(base_domain) if base_domain is not None else None
        self._admin_source = admin_password
        self._key = secrets.token_bytes(32)
        self._policy = policy
        self._policies = policies
        self._callers = callers
        self._authorise = authorise
        by_name = find_transports(transports, limits=limits, field="transports")
        credentials = self._read_passwords()
        trusts = TrustedProxies(trusted_proxies)
        names_of_tokens = self._read_names()
        public = PublicAddress.parse(public_url) if public_url is not None else None
        admission = Admission(
            limits=limits,
            credentials=credentials,
            listed_only=known_tokens_only,
            listed=self._read_known_tokens() | credentials.tokens | frozenset(names_of_tokens.values()),
            trusts_proxies=bool(trusts),
            policies=self._read_policies(credentials),
            authorise=authorise,
        )
        self._events = Events()
        self._state = ServerState(
            limits=limits,
            listen=(listen,) if isinstance(listen, str) else tuple(listen),
            admin_listen=admin_listen,
            context=self._read_context(),
            routing=RoutingConfig(
                base_path=normalise_base_path(base_path),
                base_domain=domain,
                own_host=public.host if public is not None else "",
                wsp_path=normalise_base_path(wsp_path, field="wsp_path") or None,
                wsp_token=wsp_token,
                own_paths=own_paths(by_name),
            ),
            rules=self._read_rules(),
            domain=domain,
            public=public,
            names=names_of_tokens,
            trusts=trusts,
            transports=by_name,
            admission=admission,
            callers=CallerCheck(limits=limits, credentials=self._read_callers(), hashing=admission.hashing),
            admin_password=self._read_admin_password(),
            half_close_answers=half_close == "answer",
            balance=balance_named(balance),
            parser=find_parser(parser),
            events=self._events,
            middleware=tuple(middleware),
            inspector=inspector,
        )
        self._urls: list[str] = []
        self._running: Serving | None = None

    def __repr__(self) -> str:
        return f"<TunnelServer {', '.join(self._urls or self._state.listen)}>"

    # -- facts ---------------------------------------------------------------------------------

    @property
    def urls(self) -> list[str]:
        """One a listener, with the base path: known once the server runs."""
        return list(self._urls)

    @property
    def url(self) -> str:
        """The first of ``urls``."""
        return self.urls[0]

    @property
    def admin_urls(self) -> list[str]:
        """The same of ``admin_listen``; none without it, or while the server does not run."""
        return self._running.admin_urls if self._running is not None else []

    @property
    def asgi_app(self) -> MountedServer:
        """This server as an ASGI 3 app, for callers and tunnel clients of another program's HTTP server, beside its
        own listeners (``listen=()`` for none). docs/embedding.md tells what ASGI cannot carry."""
        return MountedServer(limits=self.limits, running=lambda: self._running, lifespan=lambda: self)

    def httpx_transport(self, token: str) -> TunnelTransport:
        """For ``httpx.AsyncClient(transport=...)``: requests of this program go to the tunnel of ``token``, streamed
        both ways, without a socket. In the event loop of the server, while it runs. It needs httpx (the extra
        ``httpx``), and raises ConfigError without it; docs/embedding.md tells the rest."""
        try:
            from .inside.httpx_transport import TunnelTransport
        except ImportError as error:
            fix = "install it with: pip install 'tunnelkit[httpx]'"
            raise ConfigError("httpx_transport", "httpx is not installed", fix) from error
        check_token(token)
        return TunnelTransport(lambda: self._running, token, limits=self.limits)

    def connect(self, token: str, host: str, port: int) -> AbstractAsyncContextManager[TunnelStream]:
        """A stream of bytes from this program to ``host``:``port``, made by the tunnel's client, which must allow
        ``tcp://host:port``: ``async with server.connect(...) as stream`` gives an anyio ByteStream, closed with the
        block. It waits for a client as requests do (``queue_timeout``). Raises ConnectRefused, and ConfigError for
        what is no destination. Cancelled, it is given up at the client, too."""
        check_token(token)
        return connect(lambda: self._running, token, host, port)

    def sessions(self) -> list[ServerSession]:
        """The sessions there are now, attached or in grace."""
        return list(self._running.table) if self._running is not None else []

    def events(self, *, requests: bool = False) -> EventStream:
        """What happens from now on, as an async iterator (``tunnelkit.server_events``); the last one is ``Stopped``.
        ``requests``: those of each request too. A listener that lags loses the oldest, and is told how many."""
        return self._events.listen(requests=requests)

    def snapshot(self) -> ServerSnapshot:
        """The numbers of the statistics page. Raises RuntimeError while the server does not run."""
        return self._need_running().pages.snapshot()

    def _need_running(self) -> Serving:
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
        running = self._running = Serving(self._state)
        self._events.begin()
        self._urls = running.urls
        self._warn()
        try:
            await run_to_the_end(lambda: running.run(task_status), stop=running.stop, timeout=CLOSE_TIMEOUT)
        finally:
            running.close()
            self._running = None
            self._events.tell(Stopped())

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[TunnelServer, None]:
        async with run_beside(self.run):
            yield self

    async def reload(self) -> None:
        """Read certificate, key, known tokens, their names, all passwords and the rules again. Sessions go on, but
        those of tokens that were withdrawn, and those with names that now belong to others.

        Raises ConfigError when a file is bad: then everything stays as it was.
        """
        context = self._read_context()
        credentials = self._read_passwords()
        policies = self._read_policies(credentials)
        callers = self._read_callers()
        admin_password = self._read_admin_password()
        names = self._read_names()
        rules = self._read_rules()
        listed = self._read_known_tokens() | credentials.tokens | frozenset(names.values())
        state = self._state
        gone = state.listed - listed
        state.context = context
        state.names = names
        state.rules = rules
        state.admin_password = admin_password
        state.callers.credentials = callers
        state.admission.replace(credentials, listed=listed, policies=policies)
        if self._running is not None:
            self._running.relist(gone)
        logger.info("reloaded: %d tokens have passwords, %d withdrawn", len(credentials.tokens), len(gone))

    async def drain(self, timeout: float | None = None) -> None:
        """Take nothing new and return when what runs is finished, or ``timeout`` seconds (default: the limits'
        ``drain_timeout``) are over. Afterwards leave the context, or cancel ``run``. Cancelled, it is not taken back.
        Raises RuntimeError while the server does not run."""
        running = self._need_running()
        running.drain()
        with anyio.move_on_after(self.limits.drain_timeout if timeout is None else timeout):
            await running.gateway.idle.wait()
            await running.front.quiet()

    # -- configuration -------------------------------------------------------------------------

    def _read_context(self) -> ssl.SSLContext | None:
        return self._tls.load() if isinstance(self._tls, TlsFiles) else self._tls

    def _read_passwords(self) -> Credentials:
        passwords = self._passwords() if callable(self._passwords) else self._passwords
        secretkey = self._secretkey() if callable(self._secretkey) else self._secretkey
        return Credentials(
            password_table(passwords or {}),
            key=self._key,
            for_others=parse_secret(secretkey) if secretkey is not None else None,
        )

    def _read_policies(self, credentials: Credentials) -> Policies:
        by_token = self._policies() if callable(self._policies) else self._policies
        policies = parse_policies(self._policy, by_token or {})
        if self._authorise is None and not credentials.required_of_all:  # it may grant to whom it likes
            policies.check(credentials.tokens)
        return policies

    def _read_names(self) -> dict[str, bytes]:
        names = self._names() if callable(self._names) else self._names
        return bound_names(names or {}, self._domain)

    def _read_rules(self) -> RuleSet:
        blacklist = self._blacklist() if callable(self._blacklist) else self._blacklist
        whitelist = self._whitelist() if callable(self._whitelist) else self._whitelist
        rules = RuleSet.compile(blacklist, whitelist, engine=find_engine())
        for warning in rules.warnings:
            logger.warning("%s", warning)
        return rules

    def _read_known_tokens(self) -> frozenset[bytes]:
        """Their digests."""
        known = self._known_tokens() if callable(self._known_tokens) else self._known_tokens
        for token in known:
            check_token(token)
        return frozenset(token_digest(token) for token in known)

    def _read_callers(self) -> CallerCredentials:
        callers = self._callers() if callable(self._callers) else self._callers
        return CallerCredentials(caller_table(callers or {}, names=self._domain is not None), key=self._key)

    def _read_admin_password(self) -> str | None:
        password = self._admin_source() if callable(self._admin_source) else self._admin_source
        if password == "":
            raise ConfigError("admin_password", "must not be empty", "leave it out if there is none")
        return password

    def _warn(self) -> None:
        admission = self._state.admission
        credentials = admission.credentials
        protected = admission.listed_only or credentials.required_of_all or bool(credentials.tokens)
        hosts = [host for host, _ in self._need_running().listener.addresses]
        if not protected and not all(host.startswith("127.") or host == "::1" for host in hosts):
            logger.warning(
                "listening beyond loopback without passwords or known_tokens_only: whoever can make a request "
                "through a token can also register with it and receive its requests"
            )
