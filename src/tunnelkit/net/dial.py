"""The way out: TCP, then a proxy where there is one, then TLS. Implements ``transports.base.Dialler``."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

import anyio

from ..config import DEFAULT_LIMITS
from ..errors import ConfigError, DialError, ProxyError
from ..heads import Fields
from .proxy import Proxy, choose_proxy
from .proxy_handshake import connect_through
from .stream import ByteStream
from .tcp import connect_tcp, connect_unix
from .tls import TlsFailure, TlsStream
from .tls_errors import tls_dial_error

__all__ = ["Dial", "ForwardProxy", "connect_tcp", "connect_unix"]

_NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})


class Dial:
    """Dials as it is configured; one object serves any number of dials.

    ``proxy`` is a proxy's URL, "" for none, or None to choose by ``environ`` (the caller passes ``os.environ`` where
    the environment counts; by default it does not). ``ssl_context`` is for the server (default: verifying, with the
    system's authorities), ``proxy_ssl_context`` for an ``https://`` proxy. ``timeout`` covers the whole way.
    ``local_ports``: dial from the first of these that is free. ``permits`` judges the addresses that a name resolves
    to (``connect_tcp``); what a proxy resolves is out of sight, so ConfigError where there may be one.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | Proxy | None = None,
        environ: Mapping[str, str] = _NO_ENVIRONMENT,
        proxy_ssl_context: ssl.SSLContext | None = None,
        timeout: float = DEFAULT_LIMITS.dial_timeout,
        local_ports: Sequence[int] = (),
        permits: Callable[[str], bool] | None = None,
    ) -> None:
        if permits is not None and (proxy or environ):
            raise ConfigError("proxy", "resolves names itself, so that no address can be judged", "leave it out")
        self._ssl_context = ssl_context
        # Parsed here, so that a mistake in it shows at once.
        self._proxy = Proxy.parse(proxy) if isinstance(proxy, str) and proxy else proxy
        self._environ = environ
        self._proxy_ssl_context = proxy_ssl_context
        self._timeout = timeout
        self._local_ports = tuple(local_ports)
        self._permits = permits

    async def __call__(self, host: str, port: int, *, tls: bool) -> ByteStream:
        """Raises ``DialError``, and ``ConfigError`` for a broken variable of the environment. Nothing stays open when
        it fails or is cancelled."""
        host = _ascii_host(host)
        deadline = anyio.current_time() + self._timeout
        proxy = self._proxy_for(host, port, tls)
        if proxy is None:
            stream = await connect_tcp(
                host, port, timeout=self._timeout, local_ports=self._local_ports, permits=self._permits
            )
        else:
            stream = await self._connect_through(proxy, host, port, deadline)
        return await _start_tls(stream, self._context(), host, deadline) if tls else stream

    def forward_proxy(self, host: str, port: int) -> ForwardProxy | None:
        """The proxy that plain requests for ``http://host:port`` are to be sent to, in absolute form; None for a
        direct way, and for a proxy that only tunnels (SOCKS): then a call of this object gives the stream.

        Raises ``DialError`` for what is no host name, and ``ConfigError`` for a broken variable of the environment.
        """
        proxy = self._proxy_for(_ascii_host(host), port, tls=False)
        if proxy is None or proxy.scheme not in ("http", "https"):
            return None

        async def dial() -> ByteStream:
            return await self._connect_to(proxy, anyio.current_time() + self._timeout)

        return ForwardProxy(proxy, dial)

    def _proxy_for(self, host: str, port: int, tls: bool) -> Proxy | None:
        url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        return choose_proxy(url, self._proxy, self._environ)

    async def _connect_through(self, proxy: Proxy, host: str, port: int, deadline: float) -> ByteStream:
        stream = await self._connect_to(proxy, deadline)
        try:
            with anyio.fail_after(_rest(deadline)):
                return await connect_through(stream, proxy, host, port)
        except TimeoutError as exc:
            stream.abort()
            raise ProxyError(f"the proxy {proxy} gave no answer in time") from exc
        except BaseException:
            stream.abort()
            raise

    async def _connect_to(self, proxy: Proxy, deadline: float) -> ByteStream:
        try:
            rest = _rest(deadline)
            stream = await connect_tcp(proxy.host, proxy.port, timeout=rest, local_ports=self._local_ports)
            if proxy.scheme == "https":
                stream = await _start_tls(stream, self._proxy_context(), proxy.host, deadline)
        except DialError as exc:
            raise ProxyError(f"no connection to the proxy {proxy}: {exc}") from exc
        return stream

    def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context

    def _proxy_context(self) -> ssl.SSLContext:
        if self._proxy_ssl_context is None:
            self._proxy_ssl_context = ssl.create_default_context()
        return self._proxy_ssl_context


class ForwardProxy:
    """An HTTP proxy that takes requests for ``http`` URLs in absolute form (RFC 9112 3.2.2): it needs no CONNECT,
    which many allow for port 443 alone. Implements ``transports.base.ForwardProxy``."""

    def __init__(self, proxy: Proxy, dial: Callable[[], Awaitable[ByteStream]]) -> None:
        self._proxy = proxy
        self._dial = dial

    def __repr__(self) -> str:
        return f"<ForwardProxy {self._proxy}>"

    @property
    def fields(self) -> Fields:
        """What each request carries for the proxy alone."""
        value = self._proxy.authorization
        return [(b"Proxy-Authorization", value.encode("ascii"))] if value else []

    async def dial(self) -> ByteStream:
        """A connection to the proxy, with TLS where its URL says so. Raises ``ProxyError``. Nothing stays open when
        it fails or is cancelled."""
        return await self._dial()


async def _start_tls(stream: ByteStream, context: ssl.SSLContext, host: str, deadline: float) -> ByteStream:
    try:
        return await TlsStream.client(stream, context, server_hostname=host, timeout=_rest(deadline))
    except TlsFailure as exc:
        raise tls_dial_error(exc, host) from exc
    except TimeoutError as exc:
        hint = "something that does not speak TLS may be listening there"
        raise DialError("tls", f"{host} did not finish the TLS handshake in time", hint=hint) from exc
    except ValueError as exc:
        raise DialError("tls", f"{host!r} cannot be verified: it is no host name") from exc


def _rest(deadline: float) -> float:
    return max(0.0, deadline - anyio.current_time())


def _ascii_host(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as exc:
        raise DialError("resolve", f"{host!r} is no host name") from exc
