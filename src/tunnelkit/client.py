"""The tunnel client's public face: assembles the parts, starts, drains, closes. No protocol logic."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Final
from urllib.parse import unquote, urlsplit

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskStatus

from . import __version__
from .agent import Agent
from .client_inspection import InspectedOrigin, sender
from .client_middleware import AroundOrigin, around_origins
from .config import DEFAULT_LIMITS, Limits
from .core.addresses import is_public
from .core.allowlist import HostAllowlist
from .core.guard import Guard
from .core.naming import check_name
from .core.routing import normalise_base_path
from .core.rules import Rule, RuleSet
from .core.tokens import check_token, mask_token, token_tag
from .errors import AppError, ConfigError, LocalProtocolError, RegistrationRefused, SessionGone
from .event_stream import Events, EventStream
from .events import Closed
from .handshake import Handshake, to_fields
from .http.keeper import IdleKeeper
from .http.parsers import find_parser
from .inspector import Inspector
from .lifetime import run_beside, run_to_the_end
from .middleware import Middleware
from .net.contexts import ClientCertificate, client_context
from .net.dial import Dial
from .origins.base import Origin
from .origins.choose import App, app_origin
from .origins.tcp import TcpOrigin
from .origins.url import NamedOrigins, OriginUrl, UrlOrigin
from .regexp_engine import find_engine
from .supervisor import Supervisor, Way
from .transports.base import Transport
from .transports.lookup import find_transports

__all__ = ["TunnelClient"]

logger = logging.getLogger("tunnelkit.client")

CLOSE_TIMEOUT = 1.0
_TOKEN_PATH: Final = "/_token/"

# What transport="auto" means, the best first.
AUTO_TRANSPORTS: Final = ("websocket", "longpoll")
# What it may also mean where ``allow_legacy`` says so.
LEGACY_TRANSPORTS: Final = ("wstunnel",)


class TunnelClient(AsyncContextManagerMixin):
    """Serves an origin through a tunnel server.

    ``url``
        Of the tunnel server: ``ws://`` or ``wss://`` (``http://`` and ``https://`` mean the same), with an optional
        base path. A userinfo in it is sent as Authorization, to a proxy in front of the server.
    ``token``, ``password``
        The rendezvous key, and the password where the server asks for one.
    ``origin``
        A URL (``http://``, ``https://``, ``unix:``); an app that is served in this process, without a port: ASGI 3,
        WSGI, or an asynchronous function from ``Request`` to ``Response``; or an ``Origin``, such as ``AsgiOrigin``
        with options. Optional with ``allow``.
    ``allow``
        Regular expressions that match, whole, the origins that callers may name in X-Host; one that begins with
        ``tcp://`` is for the streams of ``TunnelServer.connect`` alone (``tcp://host:port``).
    ``blacklist``, ``whitelist``
        ``Rule`` objects that judge requests by method, URL and fields. What one of ``blacklist`` matches is refused,
        whatever else allows it; X-Host and X-PROXY-DESTINATION may name what one of ``whitelist`` matches, beside
        what ``allow`` allows. Without ``allow`` and ``whitelist`` a destination may be ``origin`` alone.
    ``refuse_private``
        Refuse an X-Host that ``allow`` allows, but whose name or address leads to this machine, its networks, or
        another place that is not on the public Internet (``core.addresses``). A name is resolved once, each of its
        addresses is judged, and only those judged are connected to. ``origin`` itself is not judged: it is the word
        of whoever runs the client.
    ``name``
        The name that callers are to reach the origin by, where the server gives names: "myapp" for
        ``myapp.tunnel.example.com``. None for one that is made from the token. ``RegistrationRefused`` with the code
        ``name_taken`` ends the client when the name is another's.
    ``host``
        The Host that the origin is sent: its own (None), the caller's ("preserve"), or a fixed one. An app has none
        of its own, and is sent the caller's.
    ``transport``
        How messages are carried: "auto" for whatever passes (websocket, else long-poll; a session moves back to the
        better one while it lives), one transport's name, a ``Transport``, or several of these, the best first.
        "wstunnel" and "wsp" are for servers of those programs; a wsp server is shown ``password`` as its secret key,
        and ``token`` stays here.
    ``allow_legacy``
        Let "auto" also register with a WStunnel server, if the server answers a handshake without a token exactly as
        those do. By their wire the token is shown in the clear, unless the URL is ``wss://``.
    ``ssl_context``, or ``cafile``, ``insecure``, ``client_certificate``
        For ``wss://``. Certificate and name of the server are verified against the system's CAs, and those of
        ``cafile`` (PEM); ``insecure`` turns that off. ``client_certificate`` is shown to a server that asks for one.
        A context of your own stands for all of these.
    ``origin_cafile``, ``origin_insecure``
        The same for an ``https://`` origin.
    ``instance``
        What tells this client from others of its token, 1 to 64 letters, digits, "_", "." or "-"; random by default.
        One that comes again with the same ends its own sessions of before.
    ``proxy``
        A proxy's URL, "" for none, None for what the environment says (HTTPS_PROXY, NO_PROXY and so on).
    ``local_ports``
        Dial from the first of these that is free, where a firewall lets only some ports out.
    ``middleware``
        Asynchronous functions around each request, the first outermost (``tunnelkit.middleware``).
    ``inspector``
        Keeps the last requests, for people to look at and to send again (``tunnelkit.inspector``).
    ``limits``
        Every limit and clock (``Limits``).
    ``parser``
        What reads the heads of the origin's answers: "auto" (httptools where it is installed, else h11), "httptools"
        or "h11".

    Raises ConfigError naming the argument. Use it as ``async with`` or by ``await group.start(client.run)``.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str,
        password: str | None = None,
        origin: str | Origin | App | None = None,
        allow: Sequence[str] = (),
        blacklist: Sequence[Rule] = (),
        whitelist: Sequence[Rule] = (),
        refuse_private: bool = False,
        name: str | None = None,
        host: str | None = None,
        transport: str | Transport | Sequence[str | Transport] = "auto",
        allow_legacy: bool = False,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        cafile: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        client_certificate: ClientCertificate | None = None,
        origin_cafile: str | os.PathLike[str] | None = None,
        origin_insecure: bool = False,
        instance: str | None = None,
        local_ports: Sequence[int] = (),
        middleware: Sequence[Middleware] = (),
        inspector: Inspector | None = None,
        limits: Limits = DEFAULT_LIMITS,
        parser: str = "auto",
    ) -> None:
        check_token(token)
        self.limits = limits
        self._server, authorization = _parse_url(url)
        self._token = token
        # With no file to read, the context is made by the first dial that needs it: to load the system's authorities
        # takes longer than all the rest of this.
        if ssl_context is None and (cafile is not None or insecure or client_certificate is not None):
            ssl_context = client_context(cafile=cafile, insecure=insecure, certificate=client_certificate)
        self._origin_tls = _once(
            lambda: client_context(cafile=origin_cafile, insecure=origin_insecure, field="origin_cafile")
        )
        if origin_cafile is not None:
            self._origin_tls()  # a mistake shows at once
        if origin is None and not (allow or whitelist):
            raise ConfigError("origin", "there is nothing to serve", "give origin, or allow for callers' X-Host")
        self._host = host
        self._parser = find_parser(parser)
        self._keeper = IdleKeeper(logger)
        self._origin = self._find_origin(origin)
        permits = is_public if refuse_private else None
        self._named = NamedOrigins(lambda url: self._make_origin(url, permits), limits=limits)
        dial = Dial(
            ssl_context=ssl_context,
            proxy=proxy,
            environ=os.environ,
            timeout=limits.dial_timeout,
            local_ports=local_ports,
        )
        self._events = Events()
        self._agent = Agent(
            limits=limits,
            origin=self._origin,
            named=self._named,
            tcp=TcpOrigin(limits=limits, permits=permits),
            guard=_make_guard(allow, blacklist, whitelist, self._origin),
            own=self._without_prefix(self._origin),
            events=self._events,
            around=self._surroundings(tuple(middleware), inspector, dial),
        )
        announce = Handshake(
            token=token,
            password=password,
            authorization=authorization,
            client_version=_USER_AGENT,
            instance=instance or secrets.token_hex(16),
            name=check_name(name) if name is not None else None,
        )
        _check_handshake(announce)
        guessed = LEGACY_TRANSPORTS if allow_legacy and transport == "auto" else ()
        wanted = (*AUTO_TRANSPORTS, *guessed) if transport == "auto" else transport
        self._supervisor = Supervisor(
            way=Way(
                url=self._server,
                transports=find_transports(wanted, limits=limits),
                dialler=dial,
                user_agent=_USER_AGENT,
                guessed=frozenset(guessed),
                ssl_context=ssl_context,
            ),
            announce=announce,
            limits=limits,
            accept=self._agent.accept,
            events=self._events,
        )
        self._begun = False
        self._over = anyio.Event()
        self._refusal: RegistrationRefused | AppError | None = None

    def __repr__(self) -> str:
        return f"<TunnelClient {self._server} token={mask_token(self._token)} transport={self.transport or 'none'}>"

    # -- facts ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where callers reach the origin. It may hold the token: do not log it; ``masked_url`` is for showing. What
        the server says of it is known once the client was connected."""
        return self._url_with(self._token)

    @property
    def masked_url(self) -> str:
        """``url`` with the token masked; the URL of a name holds none."""
        return self._url_with(mask_token(self._token))

    def _url_with(self, token: str) -> str:
        grant = self._supervisor.grant
        told = grant.public_url if grant is not None else ""
        if told.endswith(_TOKEN_PATH):
            return f"{told}{token}/"
        return told or f"{self._server}{_TOKEN_PATH}{token}/"

    @property
    def transport(self) -> str | None:
        """The name of the transport in use; None while there is no connection."""
        connection = self._supervisor.connection
        return connection.transport if connection is not None else None

    @property
    def round_trip(self) -> float | None:
        """Of the session, smoothed, in seconds; None while nothing is known of it."""
        return self._supervisor.round_trip

    @property
    def requests_active(self) -> int:
        """Requests that are being answered."""
        return len(self._agent.active)

    @property
    def requests_served(self) -> int:
        """Requests that are over, however they ended."""
        return self._agent.answered

    def events(self, *, requests: bool = False) -> EventStream:
        """What happens from now on, as an async iterator (``tunnelkit.events``); the last one is ``Closed``.
        ``requests``: those of each request too. A listener that lags loses the oldest, and is told how many."""
        return self._events.listen(requests=requests)

    # -- life ----------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, closed or refused for good.

        Raises RegistrationRefused, plain, when the server's word is final; everything else is tried again for ever.
        Raises AppError when the origin is an ASGI app that does not start: before that it does not count as started.
        Cancelled, it ends the session, for which it takes at most a second; an app then gets the limits'
        ``app_shutdown_timeout`` for its shutdown. An object serves once: RuntimeError.
        """
        if self._begun:
            raise RuntimeError("this TunnelClient runs or ran already: make another")
        self._begun = True
        try:
            async with nullcontext() if self._origin is None else self._origin.lifespan():
                task_status.started()
                await run_to_the_end(self._work, stop=self._supervisor.close, timeout=CLOSE_TIMEOUT)
        except (RegistrationRefused, AppError) as error:
            self._refusal = error
            raise
        finally:
            self._over.set()
            self._events.tell(Closed(reason=str(self._refusal or "closed")))

    async def _work(self) -> None:
        try:
            async with run_beside(self._keeper.run), run_beside(self._agent.run):
                await self._supervisor.run()
        finally:
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                for origin in dict.fromkeys((self._origin, self._named, self._agent.own)):
                    if origin is not None:
                        await origin.aclose()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[TunnelClient, None]:
        async with run_beside(self.run):
            yield self

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Return after one verified round trip of the session. Raises TimeoutError after ``timeout`` seconds, with
        what the last dial ran into; when there never will be one, what ``run`` raises, or SessionGone if the client
        was closed. Cancelling changes nothing."""
        with anyio.move_on_after(timeout) as waiting:
            async with anyio.create_task_group() as group:
                group.start_soon(_first, self._over, group.cancel_scope)
                await self._supervisor.ready.wait()
                group.cancel_scope.cancel()
        if waiting.cancelled_caught:
            trouble = self._supervisor.trouble or "the server has not answered yet"
            raise TimeoutError(f"the tunnel was not ready within {timeout:g} s: {trouble}")
        if self._over.is_set():
            raise self._refusal or SessionGone("closed")

    async def drain(self, timeout: float | None = None) -> None:
        """Take nothing new, and return when what runs is finished, or ``timeout`` seconds (default: the limits'
        ``drain_timeout``) are over. The session ends with it. Cancelled, it is not taken back."""
        self._agent.drain()
        self._supervisor.goaway()
        with anyio.move_on_after(self.limits.drain_timeout if timeout is None else timeout):
            await self._agent.idle.wait()
            await self._supervisor.settle()
        self._supervisor.close()

    def close(self) -> None:
        """End the session at once; ``run`` returns."""
        self._supervisor.close()

    async def check_origin(self) -> None:
        """Connect to the origin once. Raises DialError when it cannot be reached. An app needs no connection."""
        if isinstance(self._origin, UrlOrigin):
            await self._origin.check()

    def _find_origin(self, origin: str | Origin | App | None) -> Origin | None:
        if isinstance(origin, str):
            return self._make_origin(OriginUrl.parse(origin))
        if origin is None:
            return None
        return app_origin(origin, host=None if self._host == "preserve" else self._host, limits=self.limits)

    def _without_prefix(self, origin: Origin | None) -> Origin | None:
        """The origin for those that name it by a whole URL: it is judged no more than the configured one."""
        if not isinstance(origin, UrlOrigin) or not origin.url.prefix:
            return origin
        return self._make_origin(replace(origin.url, prefix=b""))

    def _surroundings(
        self, middleware: tuple[Middleware, ...], inspector: Inspector | None, dial: Dial
    ) -> Callable[[Origin], Origin] | None:
        """What stands around origins; None where nothing is configured, and each request goes straight to its own."""
        limits = self.limits
        if inspector is None:
            return around_origins(middleware, limits=limits) if middleware else None
        replay, tunnel = sender(dial, lambda: self.url, limits=limits), token_tag(self._token)

        def inspected(origin: Origin) -> Origin:
            inner = AroundOrigin(origin, middleware, limits=limits) if middleware else origin
            return InspectedOrigin(inner, inspector, replay, tunnel=tunnel)

        return inspected

    def _make_origin(self, url: OriginUrl, permits: Callable[[str], bool] | None = None) -> UrlOrigin:
        return UrlOrigin(
            url,
            limits=self.limits,
            host=self._host,
            ssl_context=self._origin_tls,
            keeper=self._keeper,
            permits=permits,
            parser=self._parser,
        )


_ARGUMENTS = {"Tunnelkit-Password": "password", "Authorization": "url", "Tunnelkit-Instance": "instance"}


def _check_handshake(announce: Handshake) -> None:
    """What cannot be sent shows at once, not at the first dial."""
    try:
        to_fields(announce)
    except LocalProtocolError as error:  # "Tunnelkit-Instance must be ...", without the value
        name, _, rule = str(error).partition(" ")
        raise ConfigError(_ARGUMENTS.get(name, name), rule) from None


def _make_guard(
    allow: Sequence[str], blacklist: Sequence[Rule], whitelist: Sequence[Rule], origin: Origin | None
) -> Guard:
    engine = find_engine()
    allowlist = HostAllowlist.compile(allow, engine=engine, name="allow")
    rules = RuleSet.compile(blacklist, whitelist, engine=engine)
    for warning in allowlist.warnings + rules.warnings:
        logger.warning("%s", warning)
    url = origin.url if isinstance(origin, UrlOrigin) else None
    return Guard(
        allowlist=allowlist,
        rules=rules,
        own=url.origin if url is not None else None,
        prefix=url.prefix if url is not None else b"",
        serves=origin is not None,
    )


_USER_AGENT = f"tunnelkit/{__version__} python/{platform.python_version()} {platform.system().lower()}"


async def _first(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _once(make: Callable[[], ssl.SSLContext]) -> Callable[[], ssl.SSLContext]:
    made: list[ssl.SSLContext] = []

    def get() -> ssl.SSLContext:
        if not made:
            made.append(make())
        return made[0]

    return get


_SCHEMES = {"ws": "http", "http": "http", "wss": "https", "https": "https"}


def _parse_url(url: str) -> tuple[str, str | None]:
    """The server's URL without userinfo and trailing slash, and the Authorization that the userinfo asks for."""
    try:
        parts = urlsplit(url)
    except ValueError:  # whose words may hold the userinfo
        parts = urlsplit("")
    scheme = _SCHEMES.get(parts.scheme.lower())
    # What urlsplit drops, or other readers take for something else, is in no address.
    if scheme is None or not parts.hostname or not url.isprintable() or set(" \\") & set(url):
        raise ConfigError("url", "is no tunnel server's address", "give something like wss://tunnel.example.com")
    if parts.query or parts.fragment:
        raise ConfigError("url", "must not have a query or fragment")
    try:
        port = parts.port
    except ValueError:
        raise ConfigError("url", "has no valid port", "a port is a number from 1 to 65535") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    try:
        base = normalise_base_path(parts.path)
    except ConfigError:  # its words hold the path, and somebody may have put a token there
        raise ConfigError("url", "has a path that is no plain base path", "give the tunnel server's own") from None
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + b64encode(pair.encode()).decode("ascii")
    return f"{scheme}://{host}{f':{port}' if port else ''}{base}", authorization
